"""Talking to one client until one side has enough: what all WebSockets and event streams share.

A client that does not keep up is closed, never waited for. Must not know what is said.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

from aiohttp import WSCloseCode, WSMsgType, web

from agent.gateway.following import Send
from agent.gateway.problems import problem
from agent.gateway.relay import GOING_AWAY
from contracts.errors import ErrorCode

NUMBER_DIGITS_MAX: Final = 12
HEARTBEAT_S: Final = 20.0
INCOMING_MAX_BYTES: Final = 4096
"""Nothing a client says is read; this only bounds what has to be thrown away."""
BUFFERED_MAX_BYTES: Final = 64 * 1024
"""What may wait in a connection before its client counts as behind: asyncio's own high water."""
CLOSE_PATIENCE_S: Final = 10.0
STOP_PATIENCE_S: Final = 1.0

Run = Callable[[], Awaitable[None]]


class Line(Protocol):
    """What a client has not been told yet. `end_code` is set once nothing more comes."""

    end_code: int | None
    on_end: Callable[[], None] | None

    def end(self, code: int) -> None:
        """End it and interrupt a sender that is stuck."""


def upgrade(request: web.Request) -> web.WebSocketResponse:
    """Return the socket of a request that asks for one. Raises: Problem."""
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
    return socket


async def converse(socket: web.WebSocketResponse, line: Line, run: Run) -> int:
    """Talk and listen until one side has enough, then close; return the code we closed with."""
    async with asyncio.TaskGroup() as group:
        hearing = group.create_task(_hear(socket, line), name="gateway-socket-hear")
        code = await tell(line, run)
        # While somebody listens, aiohttp would not wait for the client's goodbye but drop the line.
        hearing.cancel()
    patience_s = STOP_PATIENCE_S if code == GOING_AWAY else CLOSE_PATIENCE_S
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(patience_s):
            await socket.close(code=code, drain=False)
    return code


async def tell(line: Line, run: Run) -> int:
    """Send until there is no more to say or the line has ended; return the code to close with."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(None) as limit:
            # The sender may be stuck in sending to a client that does not read.
            line.on_end = lambda: limit.reschedule(loop.time())
            if line.end_code is None:
                await run()
    except TimeoutError:
        if line.end_code is None:
            raise
    except ConnectionResetError:
        return WSCloseCode.OK  # The client left while something was sent.
    finally:
        line.on_end = None
    return WSCloseCode.OK if line.end_code is None else line.end_code


async def _hear(socket: web.WebSocketResponse, line: Line) -> None:
    """Throw away what the client says, and notice when it leaves."""
    async for _ in socket:
        pass
    line.end(WSCloseCode.OK)


def sender(socket: web.WebSocketResponse, kind: WSMsgType = WSMsgType.TEXT) -> Send:
    """Return what sends bytes as they are: they are built once, whoever gets them."""

    async def send(data: bytes) -> None:
        await socket.send_frame(data, kind)

    return send


def straight(
    socket: web.WebSocketResponse, transport: asyncio.Transport | None
) -> Callable[[bytes], bool]:
    """Return what writes whole frames without aiohttp's frame by frame; False: no room for them.

    aiohttp writes each of its own frames without a pause inside (source: its writer), so these
    stand between two of them, never in one.
    """

    def write(data: bytes) -> bool:
        if socket.closed or transport is None or transport.is_closing():
            return True  # Who listens to it notices that, too.
        if transport.get_write_buffer_size() > BUFFERED_MAX_BYTES:
            return False
        transport.write(data)
        return True

    return write


def number(request: web.Request, name: str, most: int) -> int:
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
