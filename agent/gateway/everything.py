"""The operators' stream: every link, progress and alert as they come, and previews if wanted.

One ear on the relay. What is heard within a moment is made into bytes once and written to every
client that keeps up; one that does not is sent to by itself, and closed when it falls too far
behind. Must not read history: a client asks for queue and history itself.
"""

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Final

import msgspec
import structlog
from aiohttp import WSMsgType, web

from agent.gateway.describing import Described, Param, described, number
from agent.gateway.origin import check_origin
from agent.gateway.problems import SOCKET
from agent.gateway.relay import GOING_AWAY, Heard, Relay
from agent.gateway.settings import SOCKET_PATH, GatewaySettings
from agent.gateway.sockets import Sockets
from agent.gateway.talking import converse, sender, straight, upgrade
from agent.gateway.talking import number as asked_number
from agent.gateway.tap import Kept, Tap, frames
from agent.ledger import Ledger
from agent.ledger.database import LedgerError
from agent.ledger.reading import Trouble
from contracts.events import Alert

TICK_S: Final = 0.05
"""What comes sooner after the last write waits for the next: twenty writes a second are enough for
a person, and a thousand clients cost one loop over them each, not one for each event."""

log = structlog.get_logger()


class Hello(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="hello"):
    """The first frame: what is wrong now. Null: there is no ledger to say so."""

    alerts: tuple[Trouble, ...] | None


class AlertFrame(Alert, frozen=True, kw_only=True, tag_field="kind", tag="alert"):
    """An alert as it is raised or cleared."""


class Resync(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="resync"):
    """Something may have been missed: ask for queue and history again."""


class Everything:
    """The stream of everything. Order: before the relay starts."""

    def __init__(self, relay: Relay, sockets: Sockets, ledger: Ledger | None) -> None:
        """Nobody listens. `settings` are set before the first client."""
        self._sockets = sockets
        self._ledger = ledger
        self._taps: set[Tap] = set()
        self._heard = Kept()
        self._timer: asyncio.TimerHandle | None = None
        self._written_s = 0.0
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
                tap.straight = straight(socket, transport)
                while True:
                    what, frame = await tap.take()
                    await (binary if what == "preview" else text)(frame)

            code = await converse(socket, tap, run)
            self._sockets.closed(socket, transport, code)
            log.info("gateway.socket", request="everything", code=code)
        return socket

    def heard(self, one: Heard) -> None:
        """Keep what the bus says until it is written, at once if nothing was for a moment."""
        if not self._taps:
            return
        match one.what:
            case "link":
                self._heard.add(one.data, one.who)
            case "alert" if (frame := _alert(one.data)) is not None:
                self._heard.add(frame)
            case "lost":
                self._heard.add(msgspec.json.encode(Resync()))
            case "progress" | "preview" if one.who is not None:
                self._heard.renew(one.what, one.who, one.data)
        if self._timer is None and self._heard:
            loop = asyncio.get_running_loop()
            at_s = max(loop.time(), self._written_s + TICK_S)
            self._timer = loop.call_at(at_s, self._write)

    def stop(self) -> None:
        """End all streams."""
        for tap in list(self._taps):
            tap.end(GOING_AWAY)
        if self._timer is not None:
            self._timer.cancel()

    def _write(self) -> None:
        """Give everybody what was heard since the last time."""
        heard, self._heard, self._timer = self._heard, Kept(), None
        self._written_s = asyncio.get_running_loop().time()
        told = {wants: frames(heard, previews=wants) for wants in (False, True)}
        for tap in list(self._taps):
            tap.offer(heard, told[tap.previews])

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
