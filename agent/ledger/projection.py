"""The projection: follows the stream of events and folds it into the ledger, each message once.

Rows and position change in one transaction, so a crash at any point is followed by the message
after the last one that is in. One process of a host writes; the others stand by and read.
It must not answer anybody; `agent.ledger.reading` does.

It reads by direct get and not with a consumer: an ordered one is silent for up to 18 s after a
server was killed (facts of nats-py 2.16). Live messages only ring the bell.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Final

import msgspec
import nats.errors
import structlog
from filelock import FileLock, Timeout
from msgspec.structs import replace
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from agent.bus import history
from agent.bus.connection import ApiError, Bus, BusError
from agent.clock import Clock, SystemClock
from agent.core import ledger_row
from agent.ledger import database as files
from agent.ledger import folding, tables
from agent.ledger.database import (
    BrokenLedgerError,
    BusyLedgerError,
    Database,
    LedgerError,
    opened,
)
from agent.ledger.tables import Position
from contracts import subjects

BATCH: Final = 400
GATHER_S: Final = 0.1
"""After a bell: what comes close behind is folded in the same transaction."""
LOOK_S: Final = 2.0
"""A bell may be lost, or early on a replicated stream: so the stream is looked at now and then."""
STANDBY_S: Final = 1.0
PAUSE_S: Final = 1.0
PAUSE_MAX_S: Final = 30.0
BELLS: Final = (subjects.EVENTS_ALL, *subjects.EVENT_STREAM_SUBJECTS[1:])
"""Links as the server republishes them: their own subject also carries appends that it refused."""
EVERYTHING: Final = ">"

log = structlog.get_logger()


class _State(msgspec.Struct):
    last_seq: int = 0


class _Stream(msgspec.Struct):
    created: str
    state: _State


class _Message(msgspec.Struct):
    time: datetime


class _Answer(msgspec.Struct):
    message: _Message


class Projection:
    """Keeps one ledger file true to one bus. Order: `run` for as long as the process lives."""

    def __init__(
        self, bus: Bus, path: Path, *, clock: Clock | None = None, batch: int = BATCH
    ) -> None:
        """Touch nothing yet; `batch` is how many messages one transaction takes."""
        self._bus = bus
        self._path = path.absolute()
        self._clock = clock or SystemClock()
        self._batch = batch
        self._bell = asyncio.Event()
        self._same_stream = False
        self._away = False
        self.caught_up = False
        """Whether everything was in at the last look: who deletes by the ledger waits for it."""
        self.behind: int | None = None
        """How many events were not in yet at the last look; None: another process folds them."""

    async def run(self) -> None:
        """Fold for ever; whatever goes wrong is logged, and tried again after a pause."""
        pause_s = PAUSE_S
        while True:
            try:
                async with self._lock():
                    await self._follow()
                pause_s = PAUSE_S
                await asyncio.sleep(GATHER_S)
            except (LedgerError, OSError) as error:
                log.error("ledger.stopped", reason=str(error), again_in_s=pause_s)  # noqa: TRY400
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, PAUSE_MAX_S)

    async def fold_all(self, *, again: bool = False) -> None:
        """Fold all there is, once, with `again` from the beginning: where nothing else `run`s.

        A file that is broken is moved aside.
        Raises: BusyLedgerError where another process writes, LedgerError, BusError.
        """
        lock = self._file_lock()
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise BusyLedgerError(f"another process writes {self._path}") from error
        try:
            await self._fold_all(again=again)
        except BrokenLedgerError as error:
            self._move_aside(error)
            await self._fold_all(again=False)
        finally:
            lock.release()

    async def _fold_all(self, *, again: bool) -> None:
        self.caught_up = False
        async with self._writing() as database:
            if again:
                await tables.ask_replay(database)
            while not self.caught_up:
                if await self.fold_once(database) == 0 and not self.caught_up:
                    await asyncio.sleep(GATHER_S)  # A direct get that is behind its leader.

    async def fold_once(self, database: Database) -> int:
        """Fold one batch, or one whole replay; return how many messages that was.

        1. Another stream than before, or one that was set back: begin at its first message.
        2. Nothing new: nothing is read. 3. A replay: up to its end, before anybody sees any of it.
        4. Otherwise one batch.

        Raises: LedgerError, BusError.
        """
        stream = await self._stream()
        position = await tables.read_position(database)
        if stream.created != position.created or not await self._agrees(stream, position):
            await self._begin(database, stream, position)  # 1
            position = await tables.read_position(database)
        if position.seq >= stream.state.last_seq and not position.replays:
            self.caught_up, self.behind = True, 0  # 2
            return 0
        count, seq = 0, position.seq
        batches = history.batches(
            self._bus, subjects.STREAM_EVENTS, EVERYTHING, self._batch, position.seq + 1
        )
        async with aclosing(batches):
            batch = await anext(batches, None)
            async with database.transaction():
                after = position
                while batch is not None:
                    after = await self._fold_batch(database, after, batch)
                    count += len(batch)
                    batch = await anext(batches, None) if after.replays else None  # 3 and 4
                seq = after.seq
                await tables.move_position(database, position, replace(after, replay_to=0))
        self.caught_up = seq >= stream.state.last_seq or not await self._more(seq)
        self.behind = 0 if self.caught_up else max(0, stream.state.last_seq - seq)
        return count

    async def _fold_batch(
        self, database: Database, before: Position, batch: list[history.StoredMessage]
    ) -> Position:
        """Write what a batch changes and return the position behind it."""
        rows = await tables.read_rows(database, folding.whose(batch))
        folded = folding.fold(rows, batch)
        if folded.rows:
            await tables.put_rows(database, folded.rows)
        if folded.alerts:
            await tables.put_alerts(database, folded.alerts)
        last = batch[-1]
        return replace(before, seq=last.seq, stored_at=ledger_row.instant(last.stored_at))

    async def _follow(self) -> None:
        """Fold until the file has gone; one that is broken is moved aside. Order: in the lock.

        Raises: LedgerError, OSError.
        """
        try:
            async with self._writing() as database, self._listening():
                same = files.same_file(self._path)
                while same():
                    await self._look(database)
                log.warning("ledger.gone", path=str(self._path), action="folding it anew")
        except BrokenLedgerError as error:
            self._move_aside(error)
        finally:
            self.caught_up, self.behind = False, None

    async def _look(self, database: Database) -> None:
        """Fold what is new, or wait for it. A bus that is away is waited for as well."""
        self._bell.clear()
        try:
            count = await self.fold_once(database)
            self._away = False
        except tables.MovedPositionError as error:
            log.info("ledger.moved", reason=str(error))
        except BusError as error:
            if not self._away:
                log.warning("ledger.waits", reason=str(error))
            self._away, self.caught_up, self._same_stream = True, False, False
            await self._wait()
        else:
            if self.caught_up:
                await self._wait()
            elif count == 0:
                await asyncio.sleep(GATHER_S)  # A direct get that is behind its leader.

    async def _wait(self) -> None:
        """Wait for a bell and a little longer, or until it is time to look."""
        with suppress(TimeoutError):
            async with asyncio.timeout(LOOK_S):
                await self._bell.wait()
                await asyncio.sleep(GATHER_S)

    async def _stream(self) -> _Stream:
        """Return which stream is there and how far it goes. Raises: BusError, at once if away."""
        if not self._bus.connected:
            raise BusError("the bus is not connected")
        try:
            answer = await self._bus.api(f"STREAM.INFO.{subjects.STREAM_EVENTS}")
        except ApiError as error:
            if error.not_found:
                raise BusError("the streams are not there; run `mmg provision`") from error
            raise
        return msgspec.json.decode(answer, type=_Stream)

    async def _agrees(self, stream: _Stream, position: Position) -> bool:
        """Tell whether the last message that is folded is the stream's: it may have been set back.

        That takes a restart of its server, so it is asked for once in each connection.
        Raises: BusError.
        """
        if stream.state.last_seq < position.seq:
            return False
        if not self._same_stream and position.seq > 0:
            found = await self._message({"seq": position.seq})
            # One that is older than what the stream keeps says nothing.
            if found is not None and ledger_row.instant(found.time) != position.stored_at:
                return False
        self._same_stream = True
        return True

    async def _more(self, seq: int) -> bool:
        """Tell whether the leader has messages behind `seq`: the last ones may be deleted.

        Raises: BusError.
        """
        return await self._message({"seq": seq + 1, "next_by_subj": EVERYTHING}) is not None

    async def _message(self, query: dict[str, object]) -> _Message | None:
        """Return one message of the stream's leader. Raises: BusError."""
        try:
            answer = await self._bus.api(f"STREAM.MSG.GET.{subjects.STREAM_EVENTS}", query)
        except ApiError as error:
            if error.not_found:
                return None
            raise
        return msgspec.json.decode(answer, type=_Answer).message

    async def _begin(self, database: Database, stream: _Stream, before: Position) -> None:
        """Begin at the first message of a stream; rows of an earlier one stay.

        One that was set back is replayed over its rows.
        """
        again = stream.state.last_seq if stream.created == before.created else 0
        after = Position(created=stream.created, replay_to=again)
        async with database.transaction():
            await tables.move_position(database, before, after)
        self._same_stream = True
        if before.created:
            log.warning("ledger.another_stream", created=stream.created, folded=before.seq)

    @asynccontextmanager
    async def _lock(self) -> AsyncIterator[None]:
        """Be the one process of this host that writes; wait for as long as another one does."""
        lock = self._file_lock()
        told = False
        while True:
            try:
                lock.acquire(timeout=0)
            except Timeout:
                if not told:
                    log.info("ledger.standby", path=str(self._path))
                told = True
                await asyncio.sleep(STANDBY_S)
                continue
            break
        try:
            yield
        finally:
            lock.release()

    def _file_lock(self) -> FileLock:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        return FileLock(self._path.with_name(f"{self._path.name}.lock"))

    @asynccontextmanager
    async def _writing(self) -> AsyncIterator[Database]:
        """Open, judge and migrate the file. Raises: BrokenLedgerError, LedgerError."""
        async with opened(self._path, write=True) as database:
            await database.require_sound()
            before, now = await database.migrate()
            if before != now:
                log.info("ledger.migrated", before=before, now=now, path=str(self._path))
            yield database

    def _move_aside(self, error: BrokenLedgerError) -> None:
        label = f"{self._clock.now():%Y%m%dT%H%M%SZ}"
        aside = files.move_aside(self._path, label)
        log.error("ledger.broken", reason=str(error), kept_as=str(aside), action="folding it anew")

    @asynccontextmanager
    async def _listening(self) -> AsyncIterator[None]:
        """Let messages and a connection that is back ring the bell."""

        async def ring(_: Msg) -> None:
            self._bell.set()

        def wake() -> None:
            self._same_stream = False
            self._bell.set()

        subscriptions: list[Subscription] = []
        self._bus.on_reconnect.append(wake)
        try:
            subscriptions += [await self._bus.subscribe(subject, ring) for subject in BELLS]
            yield
        finally:
            self._bus.on_reconnect.remove(wake)
            for subscription in subscriptions:
                with suppress(nats.errors.Error, OSError):
                    await self._bus.unsubscribe(subscription)
