"""What the dashboard asks first: what is wrong, how the classes stand, who works, what is switched.

However many pages are open, the bus is asked at most once a second. It also switches what a person
on call switches: pause, resume, intake. Must not judge: `agent.core.incidents` does.
"""

import asyncio
from datetime import datetime, timedelta
from typing import Final

import msgspec
import structlog
from aiohttp import web

from agent.bus import control, dead, history, overview
from agent.bus.connection import Bus, BusError
from agent.clock import Clock, SystemClock
from agent.core.incidents import (
    Incident,
    Letterbox,
    Line,
    Raised,
    Seen,
    Waiting,
    judge,
    line,
)
from agent.gateway.access import caller_of
from agent.gateway.describing import Described, described
from agent.gateway.lookup import require
from agent.gateway.problems import problem
from agent.gateway.settings import API
from agent.gateway.strip import Strip, Track
from agent.ledger import Ledger
from agent.ledger.database import LedgerError
from contracts import subjects
from contracts.errors import ErrorCode
from contracts.events import Instant, Intake, Pause
from contracts.status import WorkerReport

JSON: Final = "application/json"
FRESH_S: Final = 1.0
WORKERS_S: Final = 0.4
REMEMBERED_S: Final = 10.0
"""A worker that is slow to answer once is still there; one that has gone is missed after this."""
LETTERS_S: Final = 10.0
"""Dead letters are read from the whole stream: not at every look."""
LOOKED_AT: Final = 256
"""Requests of a class that are looked at, the oldest: within a class they are late first."""
CRASHES: Final = ("card_lost", "gpu_lost")
"""Alerts that count as a crash of the card; so does the Xid of a card that was not lost by it."""
CRASH_DAYS: Final = 30
LOOK_LIMIT_S: Final = 10.0
BODY_TIMEOUT_S: Final = 10.0
NOBODY: Final = "somebody at the dashboard"

log = structlog.get_logger()


class Situation(msgspec.Struct, frozen=True, kw_only=True):
    """How everything stands, for a person. `incidents` has the worst first.

    `gpu_crashes` counts those of the last 30 days; null without a ledger.
    """

    at: Instant
    incidents: tuple[Incident, ...]
    lines: tuple[Line, ...]
    workers: tuple[WorkerReport, ...]
    intake_open: bool
    paused: bool
    pause: Pause | None
    dead_letters: int
    gpu_crashes: int | None


class Past(msgspec.Struct, frozen=True, kw_only=True):
    """The cards over the last hour, as far as this gateway has seen them."""

    tracks: tuple[Track, ...]


class Wish(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a person says with a switch. `open` is for the intake only."""

    reason: str = "not given"
    open: bool | None = None


class FirstScreen:
    """The routes of one gateway about the situation."""

    def __init__(self, bus: Bus, ledger: Ledger | None, *, clock: Clock | None = None) -> None:
        """Look at nothing yet. Order: `strip.run` beside it samples while nobody looks."""
        self.strip = Strip(bus)
        self._bus = bus
        self._ledger = ledger
        self._clock = clock or SystemClock()
        self._last: tuple[float, Situation] | None = None
        self._looking: asyncio.Event | None = None
        self._since: dict[str, datetime] = {}
        self._reports: dict[str, tuple[float, WorkerReport]] = {}
        self._letters: tuple[float, Letterbox] | None = None

    def routes(self) -> list[web.RouteDef]:
        """Return what it answers."""
        return [
            web.get(f"{API}/situation", self.situation, allow_head=False),
            web.get(f"{API}/strip", self.past, allow_head=False),
            web.post(f"{API}/pause", self.pause),
            web.post(f"{API}/resume", self.resume),
            web.post(f"{API}/intake", self.intake),
        ]

    @described(
        Described(
            summary="What is wrong now, how the classes stand, who works, what is switched.",
            access="operator",
            answers={200: Situation},
        )
    )
    async def situation(self, _request: web.Request) -> web.Response:
        """Answer how everything stands; also while the bus is away."""
        found = await self._fresh()
        return web.Response(body=msgspec.json.encode(found), content_type=JSON)

    @described(
        Described(
            summary="Who held how much of each card over the last hour.",
            access="operator",
            answers={200: Past},
        )
    )
    async def past(self, _request: web.Request) -> web.Response:
        """Answer with what was sampled."""
        body = msgspec.json.encode(Past(tracks=self.strip.tracks))
        return web.Response(body=body, content_type=JSON)

    @described(
        Described(
            summary="Hold all classes up: requests are taken, and wait.",
            access="operator",
            body=Wish,
            body_needed=False,
            answers={200: Pause},
        )
    )
    async def pause(self, request: web.Request) -> web.Response:
        """Hold all classes up. Raises: Problem, BusError."""
        wish = await _wish(request)
        now = await self._server_now()
        await control.pause_lanes(self._bus, now)
        return await self._noted(request, wish, now, paused=True)

    @described(
        Described(
            summary="Hand requests out again.",
            access="operator",
            body=Wish,
            body_needed=False,
            answers={200: Pause},
        )
    )
    async def resume(self, request: web.Request) -> web.Response:
        """Hand requests out again. Raises: Problem, BusError."""
        wish = await _wish(request)
        now = await self._server_now()
        await control.resume_lanes(self._bus)
        return await self._noted(request, wish, now, paused=False)

    @described(
        Described(
            summary="Take new requests, or refuse them.",
            access="operator",
            body=Wish,
            answers={200: Intake},
        )
    )
    async def intake(self, request: web.Request) -> web.Response:
        """Open or close the intake. Raises: Problem, BusError."""
        wish = await _wish(request)
        if wish.open is None:
            raise problem(ErrorCode.INVALID_REQUEST, "say open: true or false", "$.open")
        now = await self._server_now()
        intake = Intake(open=wish.open, by=_who(request), reason=wish.reason, at=now)
        await control.set_intake(self._bus, intake)
        self._last = None
        return web.Response(body=msgspec.json.encode(intake), content_type=JSON)

    async def _noted(
        self, request: web.Request, wish: Wish, now: datetime, *, paused: bool
    ) -> web.Response:
        note = Pause(paused=paused, by=_who(request), reason=wish.reason, at=now)
        await control.note_lanes(self._bus, note)
        log.warning("situation.switched", paused=paused, by=note.by, reason=note.reason)
        self._last = None
        return web.Response(body=msgspec.json.encode(note), content_type=JSON)

    async def _server_now(self) -> datetime:
        require(self._bus)
        return await overview.server_now(self._bus)

    async def _fresh(self) -> Situation:
        """Return a look that is not older than a second; who comes during one waits for it."""
        loop = asyncio.get_running_loop()
        if self._looking is not None:
            async with asyncio.timeout(LOOK_LIMIT_S):
                await self._looking.wait()
        if self._last is not None and loop.time() - self._last[0] < FRESH_S:
            return self._last[1]
        self._looking = asyncio.Event()
        try:
            found = await self._look()
            self._last = (loop.time(), found)
        finally:
            self._looking.set()
            self._looking = None
        return found

    async def _look(self) -> Situation:
        seen = await self._see()
        incidents = self._dated(judge(seen), seen.at)
        return Situation(
            at=seen.at,
            incidents=incidents,
            lines=seen.lines,
            workers=seen.workers,
            intake_open=seen.intake is None or seen.intake.open,
            paused=any(one.paused_until is not None for one in seen.lines),
            pause=seen.pause,
            dead_letters=seen.letters.total,
            gpu_crashes=await self._crashes(seen),
        )

    async def _see(self) -> Seen:
        """Ask the bus and the ledger; what does not answer is a fact, too."""
        here = self._clock.now()
        if not self._bus.connected:
            return Seen(at=here, bus="it is not connected")
        try:
            async with asyncio.timeout(LOOK_LIMIT_S):
                return await self._ask()
        except TimeoutError:
            return Seen(at=here, bus=f"it took longer than {LOOK_LIMIT_S:.0f} s")
        except BusError as error:
            return Seen(at=here, bus=str(error))

    async def _ask(self) -> Seen:
        """Raises: BusError."""
        now = await overview.server_now(self._bus)
        workers = await self._workers()
        running = frozenset(job for one in workers for job in one.running)
        lanes = await overview.read_lanes(self._bus)
        alerts, ledger = await self._alerts(workers)
        return Seen(
            at=now,
            ledger=ledger,
            lines=tuple([await self._line(lane, running, now) for lane in lanes]),
            workers=workers,
            alerts=alerts,
            intake=await control.read_intake(self._bus),
            pause=await control.read_lanes_note(self._bus),
            letters=await self._read_letters(),
        )

    async def _workers(self) -> tuple[WorkerReport, ...]:
        """Return what each worker said last, of those that said something of late."""
        now_s = asyncio.get_running_loop().time()
        told = await overview.ask_reports(self._bus, wait_s=WORKERS_S)
        self.strip.take(told)
        found = {
            name: (at_s, report)
            for name, (at_s, report) in self._reports.items()
            if now_s - at_s < REMEMBERED_S
        }
        self._reports = found | {one.worker: (now_s, one) for one in told}
        return tuple(self._reports[name][1] for name in sorted(self._reports))

    async def _line(self, lane: overview.LaneState, running: frozenset[str], now: datetime) -> Line:
        total = lane.waiting + lane.in_work
        stored: list[history.StoredMessage] = []
        if total:
            wanted = subjects.lane_filter(lane.priority)
            stored = await history.read(self._bus, subjects.STREAM_REQUESTS, wanted, LOOKED_AT)
        pairs = ((subjects.raw_pair(one.subject), one.stored_at) for one in stored)
        waiting = [Waiting(job=str(who), stored_at=at) for who, at in pairs if who is not None]
        return line(lane.priority, waiting, running, total, now, lane.paused_until)

    async def _alerts(
        self, workers: tuple[WorkerReport, ...]
    ) -> tuple[tuple[Raised, ...], str | None]:
        """Return what is raised, and why the ledger cannot tell; workers know their own, too."""
        found: dict[str, Raised] = {}
        for worker in workers:
            for one in worker.alerts:
                found[one.name] = Raised(
                    name=one.name, since=one.since, message=one.message, by=worker.worker
                )
        fault = None
        try:
            troubles = () if self._ledger is None else await self._ledger.troubles()
        except LedgerError as error:
            troubles, fault = (), str(error)
        for trouble in msgspec.convert(troubles, tuple[Raised, ...], from_attributes=True):
            found.setdefault(trouble.name, trouble)
        return tuple(found.values()), fault

    async def _crashes(self, seen: Seen) -> int | None:
        if self._ledger is None:
            return None
        cards = (card for worker in seen.workers for card in worker.cards)
        xids = sum(card.xid is not None and card.state == "ready" for card in cards)
        try:
            since = seen.at - timedelta(days=CRASH_DAYS)
            return xids + await self._ledger.raised(CRASHES, since)
        except LedgerError:
            return None

    async def _read_letters(self) -> Letterbox:
        """Raises: BusError."""
        loop = asyncio.get_running_loop()
        if self._letters is None or loop.time() - self._letters[0] >= LETTERS_S:
            found = await dead.read_letters(self._bus, limit=1)
            newest = found.letters[0].link.at if found.letters else None
            box = Letterbox(total=found.total, newest_at=newest)
            self._letters = (loop.time(), box)
        return self._letters[1]

    def _dated(self, incidents: tuple[Incident, ...], now: datetime) -> tuple[Incident, ...]:
        """Date what nobody dated by when this gateway first saw it."""
        names = {one.name for one in incidents}
        self._since = {name: at for name, at in self._since.items() if name in names}
        return tuple(
            one
            if one.since is not None
            else msgspec.structs.replace(one, since=self._since.setdefault(one.name, now))
            for one in incidents
        )


async def _wish(request: web.Request) -> Wish:
    """Read what was asked; an empty body asks for nothing in particular. Raises: Problem."""
    if not request.can_read_body:
        return Wish()
    if request.content_type != JSON:
        raise problem(ErrorCode.INVALID_REQUEST, f"send this as {JSON}", status=415)
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            return msgspec.json.decode(await request.read() or b"{}", type=Wish)
    except TimeoutError as error:
        text = "the body did not arrive in time"
        raise problem(ErrorCode.INVALID_REQUEST, text, status=408) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise problem(ErrorCode.INVALID_REQUEST, f"not understood: {error}", "$") from error


def _who(request: web.Request) -> str:
    """Return who switches: without keys a gateway knows nobody by name."""
    caller = caller_of(request)
    return NOBODY if caller.agent is None else caller.name
