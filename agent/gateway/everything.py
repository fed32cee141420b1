"""The operators' stream: every link, progress and alert as they come, and previews if wanted.

One ear on the relay; a frame is built once, however many clients get it. A client that does not
keep up is closed. Must not read history: a client asks for queue and history itself.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Iterator
from typing import Final

import msgspec
import structlog
from aiohttp import WSMsgType, web

from agent.gateway.describing import Described, Param, described, number
from agent.gateway.origin import check_origin
from agent.gateway.problems import SOCKET
from agent.gateway.relay import GOING_AWAY, TOO_SLOW, Heard, Relay
from agent.gateway.settings import SOCKET_PATH, GatewaySettings
from agent.gateway.sockets import Sockets
from agent.gateway.talking import converse, sender, upgrade
from agent.gateway.talking import number as asked_number
from agent.ledger import Ledger
from agent.ledger.database import LedgerError
from agent.ledger.reading import Trouble
from contracts.events import Alert
from contracts.subjects import Identity

FRAMES_MAX: Final = 4096
BYTES_MAX: Final = 8 * 1024 * 1024
"""What one client may have ahead of it; one more and it is too slow."""
WAIT_S: Final = 30.0

log = structlog.get_logger()


class Hello(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="hello"):
    """The first frame: what is wrong now. Null: there is no ledger to say so."""

    alerts: tuple[Trouble, ...] | None


class AlertFrame(Alert, frozen=True, kw_only=True, tag_field="kind", tag="alert"):
    """An alert as it is raised or cleared."""


class Resync(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="resync"):
    """Something may have been missed: ask for queue and history again."""


class Tap:
    """What one client has not been sent: frames in order, and the newest progress and preview."""

    def __init__(self, *, previews: bool) -> None:
        """Begin empty."""
        self.previews = previews
        self.end_code: int | None = None
        self.on_end: Callable[[], None] | None = None
        self._frames: deque[bytes] = deque()
        self._bytes = 0
        self._newest: dict[tuple[str, Identity], bytes] = {}
        self._changed = asyncio.Event()

    def offer(self, frame: bytes) -> None:
        """Keep a frame, or end the stream of a client that is too slow."""
        if self.end_code is not None:
            return
        self._frames.append(frame)
        self._bytes += len(frame)
        if len(self._frames) > FRAMES_MAX or self._bytes > BYTES_MAX:
            self.end(TOO_SLOW)
        self._changed.set()

    def offer_newest(self, what: str, who: Identity, frame: bytes) -> None:
        """Keep a frame in place of the one before of this kind: only the newest is worth anything.

        Their number is bounded by what runs at once; a flood of them is cut.
        """
        if self.end_code is None and (what != "preview" or self.previews):
            self._newest[what, who] = frame
            if len(self._newest) > FRAMES_MAX:
                del self._newest[next(iter(self._newest))]
            self._changed.set()

    def end(self, code: int) -> None:
        """End the stream and interrupt a sender that is stuck."""
        if self.end_code is not None:
            return
        self.end_code = code
        self._frames.clear()
        self._newest.clear()
        self._changed.set()
        if self.on_end is not None:
            self.on_end()

    async def take(self) -> tuple[str, bytes]:
        """Wait for what is to be sent next: frames in order come before what is only newest."""
        while True:
            if self._frames:
                frame = self._frames.popleft()
                self._bytes -= len(frame)
                return "text", frame
            if self._newest:
                key = next(iter(self._newest))
                return key[0], self._newest.pop(key)
            self._changed.clear()
            await self._changed.wait()


class Everything:
    """The stream of everything. Order: before the relay starts."""

    def __init__(self, relay: Relay, sockets: Sockets, ledger: Ledger | None) -> None:
        """Nobody listens. `settings` are set before the first client."""
        self._sockets = sockets
        self._ledger = ledger
        self._taps: set[Tap] = set()
        self.settings = GatewaySettings()
        relay.hear(self.heard)

    def routes(self) -> list[web.RouteDef]:
        """Return what to serve."""
        return [web.get(SOCKET_PATH, self.serve, allow_head=False)]

    @described(
        Described(
            summary="Everything as it happens, for operators (WebSocket)",
            access="operator",
            ticket=True,
            params=(
                Param(name="previews", text="1: binary frames, too", shape=number(0, 1, 0)),
                Param(name="ticket", text="a one-time ticket instead of a key"),
            ),
            answers={101: None},
            statuses=(426,),
            tag="live",
        )
    )
    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Send what is heard until the client leaves. Raises: Problem before the upgrade."""
        check_origin(request, self.settings)
        previews = bool(asked_number(request, "previews", 1))
        socket = upgrade(request)
        with self._sockets.counted(), self._tapped(previews=previews) as tap:
            transport = request.transport
            await socket.prepare(request)
            request[SOCKET] = socket
            text, binary = sender(socket), sender(socket, WSMsgType.BINARY)

            async def run() -> None:
                await text(msgspec.json.encode(Hello(alerts=await self._alerts())))
                while True:
                    what, frame = await tap.take()
                    await (binary if what == "preview" else text)(frame)

            code = await converse(socket, tap, run)
            self._sockets.closed(socket, transport, code)
            log.info("gateway.socket", request="everything", code=code)
        return socket

    def heard(self, one: Heard) -> None:
        """Hand on what the bus says."""
        if not self._taps:
            return
        match one.what:
            case "link":
                self._offer(one.data)
            case "alert":
                self._offer(_alert(one.data))
            case "lost":
                self._offer(msgspec.json.encode(Resync()))
            case "progress" | "preview" if one.who is not None:
                for tap in list(self._taps):
                    tap.offer_newest(one.what, one.who, one.data)

    def stop(self) -> None:
        """End all streams."""
        for tap in list(self._taps):
            tap.end(GOING_AWAY)

    def _offer(self, frame: bytes | None) -> None:
        if frame is not None:
            for tap in list(self._taps):
                tap.offer(frame)

    @contextlib.contextmanager
    def _tapped(self, *, previews: bool) -> Iterator[Tap]:
        tap = Tap(previews=previews)
        self._taps.add(tap)
        try:
            yield tap
        finally:
            self._taps.discard(tap)

    async def _alerts(self) -> tuple[Trouble, ...] | None:
        if self._ledger is None:
            return None
        try:
            return await self._ledger.troubles()
        except LedgerError as error:
            log.info("gateway.alerts_unknown", reason=str(error))
            return None


def _alert(data: bytes) -> bytes | None:
    """Build the frame of an alert; None for one that cannot be read."""
    try:
        alert = msgspec.json.decode(data, type=Alert)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        log.info("gateway.alert_unreadable", reason=str(error))
        return None
    return msgspec.json.encode(AlertFrame(**msgspec.structs.asdict(alert)))
