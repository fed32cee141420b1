"""What whoever deletes has to know of the ledger: the rows of files, and that they are up to date.

Reads only; must not know files.
"""

import asyncio
from collections.abc import Collection
from datetime import datetime
from pathlib import Path
from typing import Final

import msgspec

from agent.bus.connection import Bus
from agent.clock import Clock
from agent.core import ledger_row
from agent.core.ledger_row import Row
from agent.ledger import tables
from agent.ledger.database import BusyLedgerError, LedgerError, opened
from agent.ledger.projection import Projection
from contracts import subjects
from contracts.subjects import Identity

LOOK_EVERY_S: Final = 0.2
PATIENCE_S: Final = 60.0
_DUE: Final = (
    f"SELECT requester_key, id FROM {tables.TABLE}"  # noqa: S608 - fixed names
    " WHERE status = 'completed' AND output_count > 0 AND pruned_at IS NULL AND ended_at <= ?"
)


class Rows(msgspec.Struct, frozen=True, kw_only=True):
    """What the ledger knows of some requests; `since` is the time of its oldest one."""

    rows: dict[Identity, Row]
    since: str | None


class _State(msgspec.Struct):
    last_seq: int = 0


class _Stream(msgspec.Struct):
    created: str
    state: _State


async def read(path: Path, whose: Collection[Identity], ended_before: datetime) -> Rows:
    """Return these rows, and all whose pictures should be gone: at one instant.

    Raises: LedgerError.
    """
    async with opened(path) as database, database.snapshot():
        await database.require_version()
        due = await database.rows(_DUE, (ledger_row.instant(ended_before),))
        wanted = {*whose, *(Identity(str(agent), str(name)) for agent, name in due)}
        rows = await tables.read_rows(database, sorted(wanted))
        oldest = await database.rows(f"SELECT min(created_at) FROM {tables.TABLE}")  # noqa: S608
    since = oldest[0][0]
    return Rows(rows=rows, since=None if since is None else str(since))


async def catch_up(bus: Bus, path: Path, clock: Clock) -> None:
    """Wait until the ledger has all that the stream has now; fold it where nobody else does.

    Raises: LedgerError, BusError.
    """
    try:
        await Projection(bus, path, clock=clock).fold_all()
    except BusyLedgerError:
        await _await_others(bus, path, clock)


async def _await_others(bus: Bus, path: Path, clock: Clock) -> None:
    answer = await bus.api(f"STREAM.INFO.{subjects.STREAM_EVENTS}")
    stream = msgspec.json.decode(answer, type=_Stream)
    end_s = clock.monotonic_s() + PATIENCE_S
    while clock.monotonic_s() < end_s:
        async with opened(path) as database:
            position = await tables.read_position(database)
        same = position.created == stream.created and not position.replays
        if same and position.seq >= stream.state.last_seq:
            return
        await asyncio.sleep(LOOK_EVERY_S)
    raise LedgerError(f"the gateway has not caught up with the stream within {PATIENCE_S:.0f} s")
