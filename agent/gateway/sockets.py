"""WebSockets: one client follows one request, from the first link to the last.

Each frame is a link's own bytes. A client that does not keep up is closed, never waited for.
Must not read or change what passes through.
"""

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Final

import structlog
from aiohttp import WSCloseCode, WSMsgType, web

from agent.bus.connection import Bus
from agent.gateway.access import caller_of
from agent.gateway.following import Follower, Places, Sending
from agent.gateway.lookup import find, unknown
from agent.gateway.origin import check_origin
from agent.gateway.problems import SOCKET, bus_away, problem
from agent.gateway.relay import TOO_SLOW, Relay
from agent.gateway.settings import GatewaySettings
from agent.gateway.talking import converse, number, sender, upgrade
from contracts.errors import ErrorCode
from contracts.subjects import Identity

SOCKETS_MAX: Final = 1000
WAIT_MAX_S: Final = 60
AFTER_MAX: Final = 2**31
LOOK_EVERY_S: Final = 1.0
"""A bell may be early or lost: a waiting client's request is looked for this often as well."""
STOP_PATIENCE_S: Final = 1.0

log = structlog.get_logger()


class Sockets:
    """All WebSockets of one gateway."""

    def __init__(self, bus: Bus, relay: Relay, places: Places | None = None) -> None:
        """Begin with none; `places` tells where a request waits."""
        self._places = places
        self._bus = bus
        self._relay = relay
        self._open = 0
        self.opened = 0
        self.dropped = 0
        self._none_open = asyncio.Event()

    @property
    def count(self) -> int:
        """How many are open."""
        return self._open

    async def wait_closed(self, timeout_s: float) -> None:
        """Wait until no client is left, at most `timeout_s`. Order: after the relay was stopped."""
        if self._open:
            self._none_open.clear()
            await _wait(self._none_open, timeout_s)

    async def serve(self, request: web.Request, settings: GatewaySettings) -> web.StreamResponse:
        """Follow the request named in the path until it ends or the client leaves.

        Raises: Problem before the upgrade, for instance for an unknown id.
        """
        check_origin(request, settings)
        socket = upgrade(request)
        after = number(request, "after", AFTER_MAX)
        previews = bool(number(request, "previews", 1))
        with self.counted():
            who = await self._await_known(request)
            with self._relay.follow(who, previews=previews) as feed:
                transport = request.transport
                await socket.prepare(request)
                request[SOCKET] = socket
                binary = sender(socket, WSMsgType.BINARY) if previews else None
                sending = Sending(sender(socket), binary, self._places)
                follower = Follower(self._bus, who, feed, after, sending)
                code = await converse(socket, feed, follower.run)
                self.closed(socket, transport, code)
                log.info("gateway.socket", request=str(who), code=code, links=follower.sent)
        return socket

    @contextlib.contextmanager
    def counted(self) -> Iterator[None]:
        """Count one more while the block runs. Raises: Problem where there are too many."""
        if self._open >= SOCKETS_MAX:
            raise problem(
                ErrorCode.RATE_LIMITED, f"this gateway serves {SOCKETS_MAX} WebSockets already"
            )
        self._open += 1
        self.opened += 1
        try:
            yield
        finally:
            self._open -= 1
            if self._open == 0:
                self._none_open.set()

    def closed(
        self, socket: web.WebSocketResponse, transport: asyncio.Transport | None, code: int
    ) -> None:
        """Count a client that was too slow, and let go of one that has not said goodbye."""
        if socket.close_code == WSCloseCode.ABNORMAL_CLOSURE and transport is not None:
            transport.abort()  # It would be kept for as long as the client does not read.
        self.dropped += code == TOO_SLOW

    async def _await_known(self, request: web.Request) -> Identity:
        """Return whose request is meant; with `wait` hold until it appears."""
        request_id = request.match_info["request_id"]
        requester = caller_of(request).scope(request.query.get("requester"))
        loop = asyncio.get_running_loop()
        end = loop.time() + number(request, "wait", WAIT_MAX_S)
        with self._relay.listen(request_id) as bell:
            while True:
                if self._relay.stopping:
                    raise bus_away("this gateway stops")
                bell.clear()
                who = await find(self._bus, request_id, requester)
                if who is not None:
                    return who
                left_s = end - loop.time()
                if left_s <= 0 or request.transport is None:
                    raise unknown(request_id, requester)
                await _wait(bell, min(left_s, LOOK_EVERY_S))


async def _wait(bell: asyncio.Event, timeout_s: float) -> None:
    try:
        async with asyncio.timeout(timeout_s):
            await bell.wait()
    except TimeoutError:
        return
