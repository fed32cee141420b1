"""Keeps the board of one gateway as lanes and chains stand: reads them once, then listens.

What it hears comes from the relay. When something was missed it reads again. Must not answer
anybody.
"""

import asyncio
from datetime import datetime
from typing import Final

import msgspec
import structlog

from agent.bus import chain, history, overview
from agent.bus.connection import Bus, BusError
from agent.core.board import Board, Entry, Run
from agent.core.durations import Durations, Kind
from agent.core.promise import Calibration, Pace, Rest
from agent.gateway.relay import Heard, Relay
from agent.ledger import Ledger
from agent.ledger.asking import Query
from agent.ledger.database import LedgerError
from contracts import codec, subjects
from contracts.events import Completed, Link, Started, Status, is_terminal
from contracts.requests import Request
from contracts.subjects import Identity

LOOK_EVERY_S: Final = 5.0
"""How often the board is compared with its stream; two looks in a row that differ read it anew."""
SEEDS: Final = 50
BRIEFS_MAX: Final = 4000
PROMPT_MAX: Final = 300

log = structlog.get_logger()


class Brief(msgspec.Struct, frozen=True, kw_only=True):
    """What a list shows of a request that waits; a prompt is cut at 300 characters."""

    type: str
    prompt: str | None
    quality: str | None
    style: str | None


class _State(msgspec.Struct):
    messages: int = 0
    last_seq: int = 0


class _Stream(msgspec.Struct):
    state: _State


class _Known(msgspec.Struct):
    subjects: dict[str, int] | None = None


class _Subjects(msgspec.Struct):
    state: _Known


class _Delivered(msgspec.Struct, frozen=True):
    stream_seq: int = 0


class _Consumer(msgspec.Struct):
    name: str
    delivered: _Delivered = _Delivered()


class _Consumers(msgspec.Struct):
    consumers: list[_Consumer] = []


class Hearing:
    """The board, and what was learned while it was kept. Order: the relay, `load`, then `run`."""

    def __init__(self, bus: Bus, relay: Relay, ledger: Ledger | None) -> None:
        """Begin with an empty board that nobody should believe yet."""
        self.board = Board()
        self.pace = Pace()
        self.durations = Durations()
        self.calibration = Calibration()
        self.loaded_at: datetime | None = None
        self._bus = bus
        self._ledger = ledger
        self._briefs: dict[int, Brief] = {}
        self._differs = False
        self._was_deaf = False
        self._loading: list[Heard] | None = None
        relay.hear(self.heard)

    def heard(self, one: Heard) -> None:
        """Take in what the bus says, or keep it until the lanes are read."""
        if self._loading is not None:
            if one.what in ("stored", "link", "lost"):
                self._loading.append(one)
            return
        if one.who is None:
            self._was_deaf = self._was_deaf or one.what == "lost"
        elif one.priority is not None and one.stored_at is not None:
            entry = Entry(who=one.who, priority=one.priority, seq=one.seq, stored_at=one.stored_at)
            self.board.stored(entry)
        elif one.what == "link":
            self._link(one.who, one.data)

    async def load(self) -> None:
        """Read lanes and chains. Raises: BusError; the board then stays as it was."""
        self._loading, self._was_deaf = [], True
        try:
            entries = await self._read()
            self.board.load(entries)
            self.loaded_at = await overview.server_now(self._bus)
            self._was_deaf = False
        finally:
            waiting, self._loading = self._loading or [], None
            for one in waiting:
                self.heard(one)
        self._differs = False

    async def seed(self) -> None:
        """Learn how long runs take from the newest ones of the ledger, if it can be read."""
        if self._ledger is None:
            return
        try:
            page = await self._ledger.history(Query(status=Status.COMPLETED, limit=SEEDS))
        except LedgerError as error:
            log.info("hearing.no_seeds", reason=str(error))
            return
        for one in reversed(page.generations):
            if one.generation_time_seconds is not None:
                self.pace.learn(one.generation_time_seconds)

    async def run(self) -> None:
        """Compare the board with its stream now and then, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            await self.run_once()

    async def run_once(self) -> None:
        """Read again what is not as the stream says."""
        try:
            if self.loaded_at is None or self._was_deaf or await self._is_wrong():
                await self.load()
                log.info("hearing.read", requests=len(self.board))
        except BusError as error:
            log.info("hearing.not_read", reason=str(error))

    async def brief(self, entry: Entry) -> Brief | None:
        """Return what is asked for; read from the lane, with those behind it, if need be.

        Raises: BusError.
        """
        if entry.seq not in self._briefs:
            wanted = subjects.lane_filter(entry.priority)
            await self._read_briefs(entry, wanted)
        return self._briefs.get(entry.seq)

    async def _read_briefs(self, entry: Entry, wanted: str) -> None:
        stream = subjects.STREAM_REQUESTS
        reading = history.batches(self._bus, stream, wanted, size=100, first=entry.seq)
        async for batch in reading:
            for message in batch:
                self._briefs[message.seq] = _brief(message.data)
            break
        await reading.aclose()
        while len(self._briefs) > BRIEFS_MAX:
            del self._briefs[next(iter(self._briefs))]

    async def _is_wrong(self) -> bool:
        """Tell whether stream and board differ for the second time in a row, or links had no row.

        Once they may: a request is acknowledged a little after its last link.
        """
        data = await self._bus.api(f"STREAM.INFO.{subjects.STREAM_REQUESTS}")
        state = msgspec.json.decode(data, type=_Stream).state
        before, self._differs = self._differs, state.messages != len(self.board)
        return (before and self._differs) or self.board.gaps > 0

    async def _read(self) -> list[Entry]:
        """Return what lies in the lanes as its chain says.

        What no lane has delivered yet has no chain, unless it was cancelled there.
        """
        stored = await overview.read_stored(self._bus)
        data = await self._bus.api(f"CONSUMER.LIST.{subjects.STREAM_REQUESTS}", {"offset": 0})
        lanes = {
            one.name: one.delivered.stream_seq
            for one in msgspec.json.decode(data, type=_Consumers).consumers
        }
        cancelled = await self._cancelled()
        found: list[Entry] = []
        for one in stored:
            entry = Entry(who=one.who, priority=one.priority, seq=one.seq, stored_at=one.stored_at)
            if one.who in cancelled or one.seq <= lanes.get(subjects.durable(one.priority), 0):
                following = await self._with_chain(entry)
            else:
                following = entry
            if following is not None:
                found.append(following)
        return found

    async def _cancelled(self) -> set[Identity]:
        """Return whatever was cancelled as long as chains are kept."""
        query = {"subjects_filter": subjects.CANCELLED_ALL}
        data = await self._bus.api(f"STREAM.INFO.{subjects.STREAM_EVENTS}", query)
        known = msgspec.json.decode(data, type=_Subjects).state.subjects or {}
        found = (subjects.parse_pair(subject) for subject in known)
        return {who for who in found if who is not None}

    async def _with_chain(self, entry: Entry) -> Entry | None:
        """Return a request as its chain says; None if it has ended and waits to be taken away."""
        try:
            head = await chain.read_head(self._bus, entry.who)
        except msgspec.DecodeError as error:
            log.warning("hearing.unreadable", request=str(entry.who), reason=str(error))
            return entry
        if head is None or head.link.request_seq != entry.seq:
            return entry
        if is_terminal(head.link):
            return None
        running = None
        if head.link.status is Status.PROCESSING:
            running = await self._run_of(entry.who, head.link)
        return msgspec.structs.replace(
            entry, attempt=head.link.attempt, running=running, request=_asked(head.link)
        )

    async def _run_of(self, who: Identity, link: Link) -> Run | None:
        """Return the run that a link belongs to: a `retrying` one does not say what is drawn."""
        if isinstance(link, Started):
            return _run(link)
        for stored in reversed(await chain.read_chain(self._bus, who)):
            if stored.subject.endswith(".started"):
                started = codec.decode_link(stored.data)
                return _run(started) if isinstance(started, Started) else None
        return None

    def _link(self, who: Identity, data: bytes) -> None:
        """Take in a link."""
        try:
            link = codec.decode_link(data)
        except msgspec.DecodeError as error:
            log.debug("hearing.unknown_link", request=str(who), reason=str(error))
            return
        if is_terminal(link):
            if isinstance(link, Completed):
                self._learn(self.board.get(who), link)
            self.board.ended(who, link.request_seq)
            self.calibration.forget(who)
        elif isinstance(link, Started):
            if link.attempt == 1:
                self.calibration.began(who, link.queue_time_seconds)
            self.board.began(who, _run(link), link.attempt, _asked(link))
        elif link.status is Status.QUEUED:
            self.board.handed_back(who)

    def _learn(self, entry: Entry | None, link: Completed) -> None:
        """Learn how long such runs take: for each kind, and all together."""
        self.pace.learn(link.generation_time_seconds)
        if entry is not None and entry.running is not None and entry.request is not None:
            run = entry.running
            self.durations.learn(
                _kind(run, entry.request), entry.request, link.generation_time_seconds, _place(run)
            )

    def rest(self, entry: Entry, now: datetime) -> Rest:
        """Return what a request that is worked on should take yet.

        As such runs took; as all runs took where none such was heard of.
        """
        run, known = entry.running, None
        assert run is not None, "only those that run are asked"
        if entry.request is not None:
            known = self.durations.known(_kind(run, entry.request), entry.request, _place(run))
        run_s, error_s = known or (self.pace.mean_s, self.pace.error_s)
        return Rest(max(0.0, run_s - (now - run.started_at).total_seconds()), error_s)


def _asked(link: Link) -> Request | None:
    """Return what was asked for, if this link says it: the first of a chain does."""
    return link.request if isinstance(link.request, Request) else None


def _kind(run: Run, request: Request) -> Kind:
    return Kind(run.engine, run.model, request.options.workflow)


def _place(run: Run) -> str:
    return f"{run.worker} {run.engine}"


def _run(link: Started) -> Run:
    return Run(
        started_at=link.at,
        engine=link.engine,
        model=link.model,
        worker=link.worker,
        reason=link.reason,
    )


def _brief(data: bytes) -> Brief:
    """Return what a list shows; a request that nobody can read shows nothing."""
    try:
        request: Request = msgspec.json.decode(data, type=Request)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return Brief(type="image", prompt=None, quality=None, style=None)
    style = request.options.style
    return Brief(
        type=request.type,
        prompt=request.prompt[:PROMPT_MAX],
        quality=request.options.quality.value,
        style=None if style is None else style.value,
    )
