"""What a page needs because it cannot send a key: tickets for sockets, addresses that are signed.

Must not open anything itself.
"""

from typing import Annotated, Final

import msgspec
from aiohttp import web
from msgspec import Meta

from agent.gateway.access import TICKET_S, Access, caller_of
from agent.gateway.asked import JSON, asked_once, body_of
from agent.gateway.describing import Described, Limit, described
from agent.gateway.problems import problem
from agent.gateway.settings import API
from agent.gateway.signing import VALID_S
from contracts.errors import ErrorCode

PATHS_MAX: Final = 1000
PER_MINUTE: Final = Limit(name="doors", per_minute=240)
"""Enough for a page that shows pictures; too little to use up the tickets of everybody else."""

AssetPath = Annotated[str, Meta(pattern="^/api/multimodal/assets/[!-~]{1,300}$")]


class Ticket(msgspec.Struct, frozen=True, kw_only=True):
    """A word that opens one WebSocket or event stream, once. Units: seconds."""

    ticket: str
    expires_in_s: int


class Paths(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Addresses of pictures as the history has them."""

    paths: Annotated[tuple[AssetPath, ...], Meta(max_length=PATHS_MAX)]


class Urls(msgspec.Struct, frozen=True, kw_only=True):
    """The same addresses, each of which opens by itself for a while. Units: seconds."""

    urls: tuple[str, ...]
    expires_in_s: int


class Doors:
    """The routes that hand out what stands for a key."""

    def __init__(self, access: Access) -> None:
        """Hand out in the name of this door."""
        self._access = access

    def routes(self) -> list[web.RouteDef]:
        """Return what to serve."""
        return [
            web.post(f"{API}/ws-ticket", self.ticket),
            web.post(f"{API}/assets/sign", self.sign),
        ]

    @described(
        Described(
            summary="A one-time ticket for a WebSocket or event stream, good for 30 s",
            limit=PER_MINUTE,
            answers={200: Ticket},
            tag="live",
        )
    )
    async def ticket(self, request: web.Request) -> web.Response:
        """Answer with a ticket in the caller's name. Raises: Problem."""
        asked_once(request, ())
        word = self._access.make_ticket(caller_of(request))
        answer = Ticket(ticket=word, expires_in_s=TICKET_S)
        return web.Response(body=msgspec.json.encode(answer), content_type=JSON)

    @described(
        Described(
            summary="Addresses of pictures that open by themselves for an hour",
            limit=PER_MINUTE,
            body=Paths,
            answers={200: Urls},
            statuses=(408, 413, 415),
            tag="assets",
        )
    )
    async def sign(self, request: web.Request) -> web.Response:
        """Sign what the caller may see. Raises: Problem."""
        asked_once(request, ())
        asked, caller = await body_of(request, Paths), caller_of(request)
        for path in asked.paths:
            agent = path.rpartition("/")[2].partition(".")[0]
            if not caller.is_operator and agent != (caller.agent or "").replace(".", "-"):
                raise problem(ErrorCode.FORBIDDEN, "that picture is somebody else's", "$.paths")
        urls = tuple(self._access.sign(path) for path in asked.paths)
        return web.Response(
            body=msgspec.json.encode(Urls(urls=urls, expires_in_s=VALID_S)), content_type=JSON
        )
