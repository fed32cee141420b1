"""WebSockets: one client follows one request, from the first link to the last.

Each frame is a link's own bytes. A client that does not keep up is closed, never waited for.
Must not read or change what passes through.
"""

import asyncio
import contextlib
from typing import Final

import structlog
from aiohttp import WSCloseCode, WSMsgType, web

from agent.bus.connection import Bus
from agent.gateway.following import Follower, Send
from agent.gateway.lookup import find, unknown
from agent.gateway.origin import check_origin
from agent.gateway.problems import SOCKET, bus_away, problem
from agent.gateway.relay import GOING_AWAY, Feed, Relay
from agent.gateway.settings import GatewaySettings
from contracts.errors import ErrorCode
from contracts.subjects import Identity

SOCKETS_MAX: Final = 1000
WAIT_MAX_S: Final = 60
AFTER_MAX: Final = 2**31
NUMBER_DIGITS_MAX: Final = 12
LOOK_EVERY_S: Final = 1.0
"""A bell may be early or lost: a waiting client's request is looked for this often as well."""
HEARTBEAT_S: Final = 20.0
INCOMING_MAX_BYTES: Final = 4096
"""Nothing a client says is read; this only bounds what has to be thrown away."""
CLOSE_PATIENCE_S: Final = 10.0
STOP_PATIENCE_S: Final = 1.0

log = structlog.get_logger()


class Sockets:
    """All WebSockets of one gateway."""

    def __init__(self, bus: Bus, relay: Relay) -> None:
        """Begin with none."""
        self._bus = bus
        self._relay = relay
        self._open = 0
        self._none_open = asyncio.Event()

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
        socket = web.WebSocketResponse(
            heartbeat=HEARTBEAT_S,
            timeout=CLOSE_PATIENCE_S,
            compress=False,
            max_msg_size=INCOMING_MAX_BYTES,
        )
        if not socket.can_prepare(request):
            raise problem(
                ErrorCode.INVALID_REQUEST,
                "this address is a WebSocket; ask for the upgrade",
                status=426,
                headers={"Upgrade": "websocket"},
            )
        after = _number(request, "after", AFTER_MAX)
        if self._open >= SOCKETS_MAX:
            raise problem(
                ErrorCode.RATE_LIMITED, f"this gateway serves {SOCKETS_MAX} WebSockets already"
            )
        self._open += 1
        try:
            who = await self._await_known(request)
            with self._relay.follow(who) as feed:
                transport = request.transport
                await socket.prepare(request)
                request[SOCKET] = socket
                follower = Follower(self._bus, who, feed, after, _sender(socket))
                code = await _converse(socket, feed, follower)
                if socket.close_code == WSCloseCode.ABNORMAL_CLOSURE and transport is not None:
                    transport.abort()  # It would be kept for as long as the client does not read.
                log.info("gateway.socket", request=str(who), code=code, links=follower.sent)
        finally:
            self._open -= 1
            if self._open == 0:
                self._none_open.set()
        return socket

    async def _await_known(self, request: web.Request) -> Identity:
        """Return whose request is meant; with `wait` hold until it appears."""
        request_id = request.match_info["request_id"]
        requester = request.query.get("requester")
        loop = asyncio.get_running_loop()
        end = loop.time() + _number(request, "wait", WAIT_MAX_S)
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


async def _converse(socket: web.WebSocketResponse, feed: Feed, follower: Follower) -> int:
    """Talk and listen until one side has enough, then close; return the code we closed with."""
    async with asyncio.TaskGroup() as group:
        hearing = group.create_task(_hear(socket, feed), name="gateway-socket-hear")
        code = await _tell(feed, follower)
        # While somebody listens, aiohttp would not wait for the client's goodbye but drop the line.
        hearing.cancel()
    patience_s = STOP_PATIENCE_S if code == GOING_AWAY else CLOSE_PATIENCE_S
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(patience_s):
            await socket.close(code=code, drain=False)
    return code


async def _tell(feed: Feed, follower: Follower) -> int:
    """Send until the terminal link or the end of the feed; return the code to close with."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(None) as limit:
            # The follower may be stuck in sending to a client that does not read.
            feed.on_end = lambda: limit.reschedule(loop.time())
            if feed.end_code is None:
                await follower.run()
    except TimeoutError:
        if feed.end_code is None:
            raise
    except ConnectionResetError:
        return WSCloseCode.OK  # The client left while something was sent.
    finally:
        feed.on_end = None
    return WSCloseCode.OK if feed.end_code is None else feed.end_code


async def _hear(socket: web.WebSocketResponse, feed: Feed) -> None:
    """Throw away what the client says, and notice when it leaves."""
    async for _ in socket:
        pass
    feed.end(WSCloseCode.OK)


def _sender(socket: web.WebSocketResponse) -> Send:
    async def send(data: bytes) -> None:
        await socket.send_frame(data, WSMsgType.TEXT)

    return send


async def _wait(bell: asyncio.Event, timeout_s: float) -> None:
    try:
        async with asyncio.timeout(timeout_s):
            await bell.wait()
    except TimeoutError:
        return


def _number(request: web.Request, name: str, most: int) -> int:
    """Read a whole number from the query, 0 where it is missing. Raises: Problem."""
    text = request.query.get(name, "0")
    if not (text.isascii() and text.isdigit() and len(text) < NUMBER_DIGITS_MAX):
        text = "-1"
    number = int(text)
    if not 0 <= number <= most:
        raise problem(
            ErrorCode.INVALID_REQUEST, f"?{name}= must be a whole number from 0 to {most}"
        )
    return number
