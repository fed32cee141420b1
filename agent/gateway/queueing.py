"""The queue for people: who is worked on, who waits, at which place, how long, and why.

It reads the board and what the workers say of themselves. Must not change anything.
"""

import base64
import binascii
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Final, Literal

import msgspec
from aiohttp import web

from agent.bus import control, overview
from agent.bus.connection import Bus
from agent.clock import Clock, SystemClock
from agent.core import reasons
from agent.core.board import Entry
from agent.core.promise import Expected, Rest
from agent.core.reasons import Standing
from agent.gateway.access import caller_of
from agent.gateway.asked import asked_once, choice_of, number_of, word_of
from agent.gateway.describing import (
    AGENT,
    CURSOR,
    Described,
    Limit,
    Param,
    choice,
    described,
    number,
)
from agent.gateway.hearing import Brief, Hearing
from agent.gateway.lookup import require
from agent.gateway.machines import GpuStatus, Machines, gpu_status
from agent.gateway.problems import problem
from agent.gateway.settings import API
from contracts.errors import ErrorCode
from contracts.events import Instant
from contracts.requests import Priority
from contracts.status import RunningJob, WaitingJob
from contracts.subjects import Identity

JSON: Final = "application/json"
LIMIT: Final = 50
LIMIT_MAX: Final = 1000
OFFSET_MAX: Final = 2**31
RESTS_S: Final = 0.5
NAMES: Final = ("limit", "offset", "cursor", "priority", "requester")
PER_MINUTE: Final = Limit(name="queue", per_minute=60)


class Waiting(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the queue. Null: does not apply, or is not known.

    `queue_position` 1 is next; exact within the class. Units: seconds from `as_of`; a band holds
    two times out of three. `waits_for` is one sentence for a person.
    """

    request_id: str
    requester: str
    type: str
    priority: Priority
    status: Literal["processing", "queued"]
    prompt: str | None
    quality: str | None
    style: str | None
    created_at: Instant
    attempt: int
    engine: str | None = None
    model: str | None = None
    worker: str | None = None
    started_at: Instant | None = None
    progress_percent: int | None = None
    estimated_completion: Instant | None = None
    completion_band: tuple[Instant, Instant] | None = None
    queue_position: int | None = None
    estimated_wait_seconds: float | None = None
    estimated_wait_band: tuple[float, float | None] | None = None
    waits_for: str | None = None


class QueueAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The queue: those that are worked on, then a page of those that wait, in order.

    The counts are of everybody, the rows only of what the caller may see and asked for.
    `next_cursor` null: nothing follows. `eta_calibration_percent`: how many promised waits held.
    """

    active_generations: int
    queued_requests: int
    gpu_status: GpuStatus
    as_of: Instant
    limit: int
    offset: int
    next_cursor: str | None
    paused: bool
    workers: int
    eta_calibration_percent: float | None
    queue: tuple[Waiting, ...]


class QueuedFrame(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="queued"):
    """Where a request waits, for whoever follows it: no link of its chain, so its `n` is 0."""

    id: str
    n: int = 0
    request_id: str
    requester: str
    status: Literal["queued"] = "queued"
    message: str
    progress_percent: int = 0
    position: int
    estimated_wait_seconds: float | None


class _Look(msgspec.Struct, frozen=True, kw_only=True):
    """What all rows of one answer share."""

    now: datetime
    standing: Standing
    waits: dict[Identity, WaitingJob]
    jobs: dict[Identity, RunningJob]


class Queue:
    """The route of the queue, and what others ask of a place in it."""

    def __init__(
        self, bus: Bus, hearing: Hearing, machines: Machines, *, clock: Clock | None = None
    ) -> None:
        """Read nothing yet."""
        self._bus = bus
        self._hearing = hearing
        self._machines = machines
        self._clock = clock or SystemClock()
        self._left: list[Rest] = []
        self._left_until_s = float("-inf")

    def routes(self) -> list[web.RouteDef]:
        """Return what to serve."""
        return [web.get(f"{API}/queue", self.queue, allow_head=False)]

    @described(
        Described(
            summary="Who is worked on and who waits, with place, expected wait and reason",
            limit=PER_MINUTE,
            params=(
                Param(name="limit", text="rows that wait", shape=number(1, LIMIT_MAX, LIMIT)),
                Param(name="offset", text="rows to skip", shape=number(0, OFFSET_MAX, 0)),
                Param(name="cursor", text="a next_cursor; excludes offset", shape=CURSOR),
                Param(name="priority", text="only this class", shape=choice(*Priority)),
                Param(name="requester", text="only those of this agent", shape=AGENT),
            ),
            answers={200: QueueAnswer},
            tag="queue",
        )
    )
    async def queue(self, request: web.Request) -> web.Response:
        """Answer with a page. Raises: Problem, ContractError, BusError."""
        asked = asked_once(request, NAMES)
        limit = number_of(asked, "limit", LIMIT, (1, LIMIT_MAX))
        offset = number_of(asked, "offset", 0, (0, OFFSET_MAX))
        priority = choice_of(asked, "priority", tuple(Priority))
        requester = caller_of(request).scope(word_of(asked, "requester"))
        after = _after(asked.get("cursor"))
        if after is not None and "offset" in asked:
            raise problem(ErrorCode.INVALID_REQUEST, "?cursor= excludes offset", "$.cursor")
        require(self._bus)
        wanted = Filter(None if priority is None else Priority(priority), requester)
        answer = await self._page(wanted, limit, offset, after)
        return web.Response(body=msgspec.json.encode(answer), content_type=JSON)

    async def _page(
        self, wanted: "Filter", limit: int, offset: int, after: tuple[Priority, int] | None
    ) -> QueueAnswer:
        look, reports = await self._look()
        board = self._hearing.board
        rows = [await self._running(entry, look) for entry in board.running() if wanted.fits(entry)]
        shown: list[tuple[int, Entry]] = []
        more = False
        for number_seen, found in enumerate(self._places(wanted, after)):
            if number_seen < offset:
                continue
            if len(shown) == limit:
                more = True
                break
            shown.append(found)
        rows += [await self._waiting(place, entry, look) for place, entry in shown]
        return QueueAnswer(
            active_generations=len(board) - board.count(),
            queued_requests=board.count(),
            gpu_status=reports,
            as_of=look.now,
            limit=limit,
            offset=offset,
            next_cursor=_cursor(shown[-1][1]) if more else None,
            paused=bool(look.standing.paused),
            workers=len(self._machines.names),
            eta_calibration_percent=self._hearing.calibration.share,
            queue=tuple(rows),
        )

    def _places(
        self, wanted: "Filter", after: tuple[Priority, int] | None
    ) -> Iterator[tuple[int, Entry]]:
        """Yield those that wait and are asked for, each with its place among all."""
        board = self._hearing.board
        first = 0 if after is None else board.before(after[0], after[1] + 1)
        for place, entry in enumerate(board.waiting(after), start=first + 1):
            if wanted.fits(entry):
                yield place, entry

    def expect(self, who: Identity, priority: Priority) -> tuple[int | None, Expected | None]:
        """Return place and expected wait of a request that was just stored; it may not be heard of.

        Without any worker nobody can tell how long it takes.
        """
        board = self._hearing.board
        entry = board.get(who)
        if entry is not None and entry.running is not None:
            return None, None
        place = board.place(who) or board.before(priority) + 1
        return place, self._expected(who, place)

    def place(self, who: Identity) -> int | None:
        """Return the place of a request, None where it does not wait."""
        return self._hearing.board.place(who)

    def frame(self, who: Identity, place: int) -> bytes:
        """Return what tells a follower its place."""
        expected = self._expected(who, place)
        frame = QueuedFrame(
            id=f"{who}.queued.{place}",
            request_id=who.request_id,
            requester=who.requester,
            position=place,
            estimated_wait_seconds=None if expected is None else expected.start_s,
            message=f"place {place} of those that wait",
        )
        return msgspec.json.encode(frame)

    def _expected(self, who: Identity, place: int) -> Expected | None:
        if not self._machines.names:
            return None
        told = self._machines.wait_of(who)
        if told is not None and told.start_s is not None and told.early_s is not None:
            late_s = told.start_s if told.late_s is None else told.late_s
            return Expected(start_s=told.start_s, early_s=told.early_s, late_s=late_s)
        return self._hearing.pace.expect(place - 1, self._rests())

    def _rests(self) -> list[Rest]:
        """Return what each that is worked on should take yet, half a second old at most."""
        now_s = self._clock.monotonic_s()
        if now_s >= self._left_until_s:
            now = self._clock.now()
            self._left_until_s = now_s + RESTS_S
            running = self._hearing.board.running()
            self._left = [self._hearing.rest(entry, now) for entry in running]
        return self._left

    async def _look(self) -> tuple[_Look, GpuStatus]:
        reports = await self._machines.look()
        lanes = await overview.read_lanes(self._bus)
        paused = ""
        if lanes and all(lane.paused_until is not None for lane in lanes):
            note = await control.read_lanes_note(self._bus)
            paused = "" if note is None else f"by {note.by} ({note.reason})"
            paused = paused or "by an operator"
        states = tuple((report.state, report.reason) for report in reports)
        if not states:  # A worker of an older build says that it is there, and no more.
            states = tuple(("ready", "") for _ in self._machines.names)
        look = _Look(
            now=self._clock.now(),
            standing=Standing(paused=paused, states=states),
            waits={
                Identity(_token(wait.requester), wait.request_id): wait
                for report in reports
                for wait in report.waits
            },
            jobs={
                Identity(_token(job.requester), job.request_id): job
                for report in reports
                for job in report.jobs
            },
        )
        return look, gpu_status(reports)

    async def _running(self, entry: Entry, look: _Look) -> Waiting:
        run, job = entry.running, look.jobs.get(entry.who)
        assert run is not None, "only those that run are asked"
        rest = self._hearing.rest(entry, look.now)
        ends, error = look.now + timedelta(seconds=rest.rest_s), timedelta(seconds=rest.error_s)
        return msgspec.structs.replace(
            _row(entry, await self._hearing.brief(entry), "processing"),
            engine=run.engine,
            model=run.model,
            worker=run.worker,
            started_at=run.started_at,
            progress_percent=None if job is None else job.progress_percent,
            estimated_completion=ends,
            completion_band=(max(look.now, ends - error), ends + error),
        )

    async def _waiting(self, place: int, entry: Entry, look: _Look) -> Waiting:
        told = look.waits.get(entry.who)
        expected = self._expected(entry.who, place)
        higher = self._hearing.board.before(entry.priority, 0)
        said = reasons.reason(look.standing, higher, place - 1 - higher)
        return msgspec.structs.replace(
            _row(entry, await self._hearing.brief(entry), "queued"),
            queue_position=place,
            estimated_wait_seconds=None if expected is None else expected.start_s,
            estimated_wait_band=None if expected is None else (expected.early_s, expected.late_s),
            waits_for=told.sentence if told is not None and not look.standing.paused else said,
        )


class Filter(msgspec.Struct, frozen=True):
    """Whose requests are meant: None asks for any."""

    priority: Priority | None = None
    requester: str | None = None

    def fits(self, entry: Entry) -> bool:
        """Tell whether a request is meant."""
        return (self.priority is None or entry.priority is self.priority) and (
            self.requester is None or entry.who.requester == self.requester
        )


def _row(entry: Entry, brief: Brief | None, status: Literal["processing", "queued"]) -> Waiting:
    shown = brief or Brief(type="image", prompt=None, quality=None, style=None)
    return Waiting(
        request_id=entry.who.request_id,
        requester=entry.who.requester,
        type=shown.type,
        priority=entry.priority,
        status=status,
        prompt=shown.prompt,
        quality=shown.quality,
        style=shown.style,
        created_at=entry.stored_at,
        attempt=entry.attempt,
    )


def _token(requester: str) -> str:
    return requester.replace(".", "-")


def _cursor(entry: Entry) -> str:
    place = msgspec.json.encode([entry.priority, entry.seq])
    return base64.urlsafe_b64encode(place).decode().rstrip("=")


def _after(text: str | None) -> tuple[Priority, int] | None:
    if text is None:
        return None
    try:
        data = base64.b64decode(text + "=" * (-len(text) % 4), altchars="-_", validate=True)
        return msgspec.json.decode(data, type=tuple[Priority, int])
    except (ValueError, binascii.Error, msgspec.DecodeError) as error:
        raise problem(
            ErrorCode.INVALID_REQUEST,
            "?cursor= must be a next_cursor of an earlier page",
            "$.cursor",
        ) from error
