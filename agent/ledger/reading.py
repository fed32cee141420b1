"""Answers from the ledger: the history page by page, one request, what is wrong now.

Each question opens the file anew: it may be moved aside or made again at any time, and whoever
writes may be another process. Reads only; must not wait for the stream.
"""

import asyncio
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Final

import msgspec

from agent.core import ledger_row
from agent.core.ledger_row import Row
from agent.ledger import asking, counting, tables
from agent.ledger.asking import Place, Query
from agent.ledger.counting import Prices, Stats
from agent.ledger.database import Database, LedgerError, Value, opened, opened_in_memory
from contracts.events import Status
from contracts.subjects import Identity

ALERTS_MAX: Final = 1000
READERS_MAX: Final = 4
"""Questions at once: each is a thread and an open file, which SQLite keeps for the next one."""
TURN_S: Final = 5.0


class Generation(msgspec.Struct, frozen=True, kw_only=True):
    """One request in the history. `output_url` is below the gateway; null once it was pruned.

    Units: seconds, bytes, GiB, US dollars; instants are UTC.
    """

    request_id: str
    requester: str
    type: str
    status: str
    priority: str | None
    prompt: str | None
    quality: str | None
    style: str | None
    model_used: str | None
    engine: str | None
    reason: str | None
    worker: str | None
    generation_time_seconds: float | None
    queue_time_seconds: float | None
    vram_used_gb: float | None
    cost_usd: float | None
    seed: int | None
    downgraded: bool
    attempts: int
    retry_count: int
    created_at: str
    started_at: str | None
    completed_at: str | None
    ended_at: str | None
    output_url: str | None
    thumbnail_url: str | None
    output_count: int
    file_size_bytes: int | None
    sha256: str | None
    error_code: str | None
    error_message: str | None
    dead: bool
    dismissed: bool
    pinned: bool
    rating: int | None
    pruned_at: str | None
    replay_of: str | None


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """Some of the history, newest first; `total` counts all that fit the filters.

    `page` is null where the page began at a cursor; `next_cursor` null: nothing follows.
    """

    total: int
    page: int | None
    limit: int
    next_cursor: str | None
    generations: tuple[Generation, ...]


class Trouble(msgspec.Struct, frozen=True, kw_only=True):
    """An alert that was raised and not cleared; `since` is when it was raised first."""

    name: str
    since: str
    message: str
    by: str


_RENAMED: Final = {
    "request_id": "id",
    "requester": "requester_agent",
    "type": "request_type",
    "quality": "quality_tier",
    "generation_time_seconds": "generation_time_sec",
    "queue_time_seconds": "queue_time_sec",
    "output_url": "CASE WHEN pruned_at IS NULL THEN output_url END",
    "thumbnail_url": "CASE WHEN pruned_at IS NULL THEN thumbnail_url END",
}
_FIELDS: Final = Generation.__struct_fields__
_FLAGS: Final = tuple(
    field.name for field in msgspec.structs.fields(Generation) if field.type is bool
)
# Nobody else's words get into these texts: they are made of names in this package.
_SHOWN: Final = ", ".join(_RENAMED.get(field, field) for field in _FIELDS)
_BEHIND: Final = "(created_at, requester_key, id) < (?, ?, ?)"
_NEWEST_FIRST: Final = "ORDER BY created_at DESC, requester_key DESC, id DESC"
_TROUBLES: Final = """
    SELECT name, at, message, by FROM alerts AS raised
    WHERE rowid = (
        SELECT min(rowid) FROM alerts WHERE name = raised.name AND rowid > (
            SELECT coalesce(max(rowid), 0) FROM alerts
            WHERE name = raised.name AND state = 'cleared'
        )
    )
    ORDER BY at LIMIT ?"""
_LETTERS: Final = (
    f"SELECT count(*) FROM {tables.TABLE}"  # noqa: S608 - fixed names
    " WHERE status = 'failed' AND dead = 1 AND dismissed = 0"
)


class Ledger:
    """The ledger in one file, for reading."""

    def __init__(self, path: Path, prices: Prices | None = None) -> None:
        """Name the file; it need not be there yet. `prices`: what a cloud would have cost."""
        self._path = path
        self._prices = prices or {}
        self._readers = asyncio.Semaphore(READERS_MAX)

    async def history(self, query: Query) -> Page:
        """Return one page. Raises: LedgerError."""
        async with self._reading() as database:
            return await _page(database, query)

    async def queued(self, stored: Collection[Row], query: Query) -> Page:
        """Return one page of what lies in the lanes, `stored`, as far as nobody works on it.

        `query` asks for the status queued. A request that was handed back is queued, too, and is
        shown as the ledger knows it. Raises: LedgerError.
        """
        assert query.status == Status.QUEUED, "rows of requests that have begun are in the lanes"
        whose = [Identity(row.requester_key, row.id) for row in stored]
        async with self._reading() as database:
            known = await tables.read_rows(database, whose)
        rows = [known.get(who, row) for who, row in zip(whose, stored, strict=True)]
        async with opened_in_memory() as database:  # So that the filters are the very same.
            await tables.put_rows(database, rows)
            return await _page(database, query)

    async def one(self, who: Identity) -> Row | None:
        """Return all that is known of a request; None if nothing is. Raises: LedgerError."""
        async with self._reading() as database:
            return (await tables.read_rows(database, [who])).get(who)

    async def stats(self, query: Query) -> Stats:
        """Return the figures of the requests that a query finds, all pages. Raises: LedgerError."""
        async with self._reading() as database:
            return await counting.count(database, query, self._prices)

    async def troubles(self) -> tuple[Trouble, ...]:
        """Return what was raised and not cleared, the oldest first. Raises: LedgerError."""
        async with self._reading() as database:
            found = await database.rows(_TROUBLES, (ALERTS_MAX,))
        return tuple(
            msgspec.convert(dict(zip(Trouble.__struct_fields__, one, strict=True)), Trouble)
            for one in found
        )

    async def raised(self, names: Sequence[str], since: datetime) -> int:
        """Count how often alerts of these names were raised since then. Raises: LedgerError."""
        marks = ", ".join("?" * len(names))
        sql = (
            "SELECT count(*) FROM alerts"  # noqa: S608 - only the number of marks is made here
            f" WHERE state = 'raised' AND at >= ? AND name IN ({marks})"
        )
        async with self._reading() as database:
            found = await database.rows(sql, (ledger_row.instant(since), *names))
        return int(str(found[0][0]))

    async def dead_letters(self) -> int:
        """Count the requests that were given up and not dismissed. Raises: LedgerError."""
        async with self._reading() as database:
            found = await database.rows(_LETTERS, ())
        return int(str(found[0][0]))

    @asynccontextmanager
    async def _reading(self) -> AsyncIterator[Database]:
        try:
            async with asyncio.timeout(TURN_S):
                await self._readers.acquire()
        except TimeoutError as error:
            raise LedgerError(
                f"{READERS_MAX} others asked the ledger for {TURN_S:.0f} s"
            ) from error
        try:
            async with opened(self._path) as database, database.snapshot():
                await database.require_version()
                yield database
        finally:
            self._readers.release()


async def _page(database: Database, query: Query) -> Page:
    """Return one page; one row more than it takes is read, to know whether another follows."""
    where, values = asking.condition(query)
    counting_all = f"SELECT count(*) FROM {tables.TABLE} WHERE {where}"  # noqa: S608 - fixed names
    found = await database.rows(counting_all, values)
    if query.after is not None:
        where += f" AND {_BEHIND}"
        values += msgspec.structs.astuple(query.after)
    sql = (
        f"SELECT requester_key, {_SHOWN} FROM {tables.TABLE}"  # noqa: S608
        f" WHERE {where} {_NEWEST_FIRST} LIMIT ? OFFSET ?"
    )
    rows = await database.rows(sql, (*values, query.limit + 1, query.offset))
    shown = rows[: query.limit]
    # Ten thousand take some hundredths of a second: not on the loop.
    generations = await asyncio.to_thread(_generations, shown)
    last = None if len(rows) <= query.limit else generations[-1]
    following = None
    if last is not None:
        place = Place(last.created_at, str(shown[-1][0]), last.request_id)
        following = asking.cursor(place)
    return Page(
        total=int(str(found[0][0])),
        page=query.page,
        limit=query.limit,
        next_cursor=following,
        generations=generations,
    )


def _generations(rows: Sequence[tuple[Value, ...]]) -> tuple[Generation, ...]:
    named: list[dict[str, object]] = [dict(zip(_FIELDS, row[1:], strict=True)) for row in rows]
    for one in named:
        for flag in _FLAGS:
            one[flag] = bool(one[flag])
    try:
        return msgspec.convert(named, tuple[Generation, ...])
    except msgspec.ValidationError as error:
        raise LedgerError(f"a row of the ledger cannot be read: {error}") from error
