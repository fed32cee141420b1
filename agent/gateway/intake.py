"""The door for requests: a JSON body in, 202 with the place to follow it out.

The body is the request contract and is judged by it. Must not decide where the work runs.
"""

import asyncio
from typing import Final

import msgspec
from aiohttp import web

from agent.bus.connection import Bus
from agent.bus.submit import submit
from agent.gateway.lookup import require
from agent.gateway.problems import problem
from agent.gateway.settings import GatewaySettings
from contracts import codec
from contracts.errors import ErrorCode
from contracts.events import Status

BODY_TIMEOUT_S: Final = 10.0
"""A client that sends its 64 KB more slowly than this is no client."""

JSON: Final = "application/json"


class Accepted(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a request that is stored. `joined`: it was known before."""

    request_id: str
    requester: str
    status: Status
    joined: bool
    websocket_url: str


async def generate(request: web.Request, bus: Bus, settings: GatewaySettings) -> web.Response:
    """Store the request in the body. Raises: ContractError, Problem, BusError."""
    if request.content_type != JSON:
        # Also what keeps pages of other sites out: with this type a browser asks first.
        raise problem(
            ErrorCode.INVALID_REQUEST,
            f"send the request as {JSON}, not as {request.content_type[:80]}",
            status=415,
        )
    body = await _body(request)
    asked = codec.decode_request(body)
    require(bus)
    stored = await submit(bus, asked)
    accepted = Accepted(
        request_id=stored.who.request_id,
        requester=stored.who.requester,
        status=stored.status,
        joined=stored.joined,
        websocket_url=settings.socket_url(stored.who),
    )
    return web.Response(status=202, body=msgspec.json.encode(accepted), content_type=JSON)


async def _body(request: web.Request) -> bytes:
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            return await request.read()
    except TimeoutError as error:
        raise problem(
            ErrorCode.INVALID_REQUEST,
            f"the body did not arrive within {BODY_TIMEOUT_S:.0f} s",
            status=408,
            headers={"Connection": "close"},
        ) from error
