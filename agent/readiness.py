"""Whether a worker may take work now, and why not.

Looks every few seconds at what it depends on: the streams, their room, the disk, the clock, the
pause an operator set. A running job is never touched by it.
"""

import asyncio
from typing import Final, Literal

import msgspec
import structlog
from nats.aio.msg import Msg

from agent.alerts import Alerts
from agent.assets import room
from agent.bus import control
from agent.bus.connection import ApiError, BusError
from agent.tools import Tools
from contracts import subjects
from contracts.events import Instant, Pause

LOOK_EVERY_S: Final = 5.0
STREAMS_GONE_S: Final = 60.0
"""How long missing streams are waited for; they are never made anew by a worker."""
EVENTS_ALERT: Final = 0.80
EVENTS_CLOSED: Final = 0.90
CLOCK_ALERT_S: Final = 5.0
ENGINE_DOWN_ALERT_S: Final = 300.0

log = structlog.get_logger()


class StreamsGoneError(Exception):
    """The streams were deleted under the worker and did not come back."""


class _Config(msgspec.Struct):
    max_bytes: int = -1


class _State(msgspec.Struct):
    bytes: int = 0


class _Stream(msgspec.Struct):
    config: _Config
    state: _State
    ts: Instant | None = None


class Readiness:
    """Answers one question: may this worker take another request.

    `closed` is None, or the sentence that says why not.
    """

    def __init__(self, tools: Tools) -> None:
        """Open until the first look says otherwise."""
        self._bus = tools.bus
        self._assets = tools.assets
        self._clock = tools.clock
        self._worker = tools.worker
        self._engines = tools.engines
        self._down_since_s: dict[str, float] = {}
        self._reasons: dict[str, str] = {}
        self.alerts = Alerts(tools.bus, tools.worker, tools.clock)
        self._gone_since_s: float | None = None
        self._look = asyncio.Event()
        self.disk: tuple[int, int] | None = None
        """Bytes that are free on the disk of the assets, and its size, as last seen."""

    @property
    def closed(self) -> str | None:
        """Why nothing is taken now, or None."""
        return next(iter(self._reasons.values()), None)

    @property
    def paused(self) -> bool:
        """Whether an operator paused this worker."""
        return "pause" in self._reasons

    async def run(self) -> None:
        """Look for ever. Raises: StreamsGoneError."""
        heard = await self._bus.subscribe(control.pause_subject(self._worker), self._on_pause)
        try:
            while True:
                await self.run_once()
                try:
                    async with asyncio.timeout(LOOK_EVERY_S):
                        await self._look.wait()
                except TimeoutError:
                    continue
                finally:
                    self._look.clear()
        finally:
            await heard.unsubscribe()

    async def run_once(self) -> None:
        """Look once at everything. Raises: StreamsGoneError after 60 s without streams."""
        try:
            events = await self._stream(subjects.STREAM_EVENTS)
            requests = await self._stream(subjects.STREAM_REQUESTS)
            pause = await control.read_pause(self._bus, self._worker)
        except BusError as error:
            log.debug("readiness.no_answer", reason=str(error))
            return  # The connection has its own voice; what was true stays true.
        await self._judge_streams(events, requests)
        await self._judge_room(events)
        await self._judge_disk()
        await self._judge_engines()
        self._judge_pause(pause)
        await self._judge_clock(events)

    async def _stream(self, name: str) -> _Stream | None:
        try:
            data = await self._bus.api(f"STREAM.INFO.{name}")
        except ApiError as error:
            if error.not_found:
                return None
            raise
        return msgspec.json.decode(data, type=_Stream)

    async def _judge_streams(self, events: _Stream | None, requests: _Stream | None) -> None:
        gone = events is None or requests is None
        message = (
            "the streams are gone: somebody deleted them; restore them from the backup, or run"
            " `mmg provision` to begin with empty ones"
        )
        self._set("streams", message if gone else None)
        await self._alert("streams_gone", message if gone else None)
        if not gone:
            self._gone_since_s = None
            return
        now_s = self._clock.monotonic_s()
        if self._gone_since_s is None:
            self._gone_since_s = now_s
        elif now_s - self._gone_since_s >= STREAMS_GONE_S:
            raise StreamsGoneError(message)

    async def _judge_room(self, events: _Stream | None) -> None:
        if events is None or events.config.max_bytes <= 0:
            return
        share = events.state.bytes / events.config.max_bytes
        message = f"the event store is {share:.0%} full; a running job must find room for its links"
        self._set("events", message if share >= EVENTS_CLOSED else None)
        await self._alert("events_store", message if share >= EVENTS_ALERT else None)

    async def _judge_disk(self) -> None:
        try:
            free, total = await asyncio.to_thread(self._assets.free_bytes)
        except OSError as error:
            self.disk = None
            self._set("disk", f"the assets folder cannot be examined: {error.strerror}")
            return
        self.disk = (free, total)
        level: Literal["ok", "low", "full"] = room(free, total)
        message = f"the disk of the assets folder has {free / 1e9:.1f} GB left"
        self._set("disk", message if level == "full" else None)
        await self._alert("disk", message if level != "ok" else None)

    async def _judge_engines(self) -> None:
        """Take nothing while no engine is up; tell a person about one that stays down."""
        now_s = self._clock.monotonic_s()
        facts = [engine.facts for engine in self._engines.values()]
        down = "; ".join(f"{each.name} is down: {each.down}" for each in facts if not each.up)
        self._set("engines", None if any(each.up for each in facts) else down or "no engine")
        for each in facts:
            if each.up:
                self._down_since_s.pop(each.name, None)
            since_s = now_s if each.up else self._down_since_s.setdefault(each.name, now_s)
            late = now_s - since_s >= ENGINE_DOWN_ALERT_S
            message = f"{each.name} has been down for {(now_s - since_s) / 60:.0f} min: {each.down}"
            await self._alert(f"engine_{each.name}", message if late else None)

    def _judge_pause(self, pause: Pause | None) -> None:
        if pause is None or not pause.paused or control.is_over(pause, self._clock.now()):
            self._set("pause", None)
            return
        until = "" if pause.until is None else f", until {pause.until:%Y-%m-%d %H:%M:%SZ}"
        self._set("pause", f"paused by {pause.by}: {pause.reason}{until}")

    async def _judge_clock(self, events: _Stream | None) -> None:
        """Follow the server's clock: decisions about time are the same on every host."""
        if events is None or events.ts is None:
            return
        offset_s = (events.ts - self._clock.local_now()).total_seconds()
        self._clock.offset_s = offset_s
        late = abs(offset_s) > CLOCK_ALERT_S
        message = f"the clock here is {-offset_s:+.1f} s off the server's"
        await self._alert("clock", message if late else None)

    def _set(self, name: str, reason: str | None) -> None:
        """Note a reason to take nothing, or its end; each change is one log line."""
        before = self._reasons.get(name)
        if reason is None:
            if self._reasons.pop(name, None) is not None:
                log.info("worker.takes_again", after=before)
            return
        self._reasons[name] = reason
        if before is None:
            log.warning("worker.takes_nothing", reason=reason)

    async def _alert(self, name: str, message: str | None) -> None:
        """Raise or clear an alert, each once."""
        await self.alerts.set(name, message)

    async def _on_pause(self, _msg: Msg) -> None:
        self._look.set()
