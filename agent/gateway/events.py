"""Server-sent events: one request followed by a plain GET, resumed by the place in its chain.

The same follower as for WebSockets writes them. Must not read or change what passes through.
"""

import asyncio
import contextlib
from typing import Final

import msgspec
from aiohttp import WSCloseCode, web

from agent.bus import chain
from agent.bus.connection import Bus
from agent.gateway.asked import asked_once, number_of
from agent.gateway.describing import Described, Param, described, number
from agent.gateway.following import Follower, Places, Send, Sending
from agent.gateway.problems import STREAM
from agent.gateway.relay import Feed, Relay
from agent.gateway.requests import ONE, REQUESTER, find_own
from agent.gateway.sockets import Sockets
from agent.gateway.talking import tell
from contracts import codec
from contracts.errors import ErrorCode
from contracts.events import is_terminal

EVENT_STREAM: Final = "text/event-stream"
PING_EVERY_S: Final = 15.0
LOOK_EVERY_S: Final = 1.0
RETRY_MS: Final = 2000
AFTER_MAX: Final = 2**31
LAST: Final = "Last-Event-ID"
NAMES: Final = ("requester", "after", "ticket")


class Events:
    """The route of server-sent events; they count as sockets do."""

    def __init__(self, bus: Bus, relay: Relay, sockets: Sockets, places: Places) -> None:
        """Follow nothing yet."""
        self._bus = bus
        self._relay = relay
        self._sockets = sockets
        self._places = places

    def routes(self) -> list[web.RouteDef]:
        """Return what to serve."""
        return [web.get(f"{ONE}/events", self.events, allow_head=False)]

    @described(
        Described(
            summary="Follow a request as server-sent events until it ends",
            ticket=True,
            params=(
                REQUESTER,
                Param(name="after", text="begin behind this link", shape=number(0, AFTER_MAX, 0)),
                Param(name="ticket", text="a one-time ticket instead of a key"),
                Param(
                    name=LAST,
                    where="header",
                    text="the last link that was had; sent by EventSource itself",
                    shape={"type": "string", "pattern": "^[0-9]{0,9}$"},
                ),
            ),
            answers={200: EVENT_STREAM, 204: None},
            errors=(ErrorCode.NOT_FOUND, ErrorCode.AMBIGUOUS_ID),
            tag="requests",
        )
    )
    async def events(self, request: web.Request) -> web.StreamResponse:
        """Send links as they come; 204 once the client has the last one, so that it asks no more.

        Raises: ContractError, Problem, BusError.
        """
        after = _after(request)
        who = await find_own(self._bus, request, NAMES)
        with self._sockets.counted(), self._relay.follow(who) as feed:
            try:
                head = await chain.read_head(self._bus, who)
            except msgspec.DecodeError:
                head = None  # Of a newer version: it is passed on as it is.
            if head is not None and is_terminal(head.link) and head.link.n <= after:
                return web.Response(status=204)
            response = web.StreamResponse(
                headers={
                    "Content-Type": f"{EVENT_STREAM}; charset=utf-8",
                    "X-Accel-Buffering": "no",
                }
            )
            await response.prepare(request)
            request[STREAM] = response
            await response.write(f"retry: {RETRY_MS}\n\n".encode())
            sending = Sending(_writer(response), places=self._places)
            follower = Follower(self._bus, who, feed, after, sending)
            await _converse(response, request, feed, follower)
            transport = request.transport
            if feed.end_code is not None and transport is not None:
                transport.abort()  # It does not read, or we stop: nothing more can be said.
        return response


async def _converse(
    response: web.StreamResponse, request: web.Request, feed: Feed, follower: Follower
) -> None:
    """Send until the end, and a comment now and then, so that nobody takes the line for dead."""
    async with asyncio.TaskGroup() as group:
        pinging = group.create_task(_ping(response, request, feed), name="gateway-events-ping")
        await tell(feed, follower.run)
        pinging.cancel()


async def _ping(response: web.StreamResponse, request: web.Request, feed: Feed) -> None:
    """Say now and then that we are there, and notice when the client is not."""
    loop = asyncio.get_running_loop()
    said_at_s = loop.time()
    while True:
        await asyncio.sleep(min(LOOK_EVERY_S, PING_EVERY_S))
        transport = request.transport
        if transport is None or transport.is_closing():
            feed.end(WSCloseCode.OK)
            return
        if loop.time() - said_at_s >= PING_EVERY_S:
            said_at_s = loop.time()
            with contextlib.suppress(ConnectionResetError):
                await response.write(b": ping\n\n")


def _writer(response: web.StreamResponse) -> Send:
    async def send(data: bytes) -> None:
        head = codec.decode_head(data)
        # The links' own bytes are one line: JSON has no line breaks but escaped ones.
        known = f"id: {head.n}\n" if head.kind not in ("progress", "queued") else ""
        await response.write(f"{known}event: {head.kind}\ndata: ".encode() + data + b"\n\n")

    return send


def _after(request: web.Request) -> int:
    """Return the last link that the client has: what its browser says counts before the address."""
    asked = asked_once(request, NAMES)
    after = number_of(asked, "after", 0, (0, AFTER_MAX))
    last = request.headers.get(LAST, "").strip()
    if not last:
        return after
    return number_of({LAST: last}, LAST, 0, (0, AFTER_MAX))
