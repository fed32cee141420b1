"""What a person does with the ledger: fold it again, and copy it while it is in use.

Must not delete a row, and not write beside another writer but to ask it to fold again.
"""

import asyncio
import os
import sqlite3
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from agent.bus.connection import Bus
from agent.clock import Clock
from agent.ledger import tables
from agent.ledger.database import BESIDE, BusyLedgerError, LedgerError, opened
from agent.ledger.projection import Projection

LOOK_EVERY_S: Final = 0.2
REPLAY_S: Final = 600.0
"""A stream at its limit of 2 GB is folded in a few minutes."""


class Folded(msgspec.Struct, frozen=True, kw_only=True):
    """How it ended: rows in the ledger, the last message folded, and who did it."""

    rows: int
    seq: int
    by_gateway: bool


async def rebuild(bus: Bus, path: Path, clock: Clock) -> Folded:
    """Fold the whole stream again, over the rows that are there; wait until that is done.

    Where a gateway writes, it does the work; else this process. Rows that are older than the
    stream stay. Raises: LedgerError, BusError.
    """
    projection = Projection(bus, path, clock=clock)
    try:
        await projection.fold_all(again=True)
        return await _told(path, by_gateway=False)
    except BusyLedgerError:
        async with opened(path, write=True) as database:
            await database.require_version()
            await tables.ask_replay(database)
    deadline_s = clock.monotonic_s() + REPLAY_S
    while clock.monotonic_s() < deadline_s:
        async with opened(path) as database:
            if not (await tables.read_position(database)).replays:
                return await _told(path, by_gateway=True)
        await asyncio.sleep(LOOK_EVERY_S)
        with suppress(BusyLedgerError):  # Unless the gateway has stopped meanwhile.
            await projection.fold_all()
            return await _told(path, by_gateway=False)
    raise LedgerError(
        f"the gateway has not folded {path} again within {REPLAY_S:.0f} s; it goes on"
    )


async def backup(path: Path, target: Path) -> int:
    """Copy the ledger into one new file and return how many rows that has.

    The copy is of one instant, checked, and appears under its name only when it is whole.
    Raises: LedgerError, FileExistsError, OSError.
    """
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    if await asyncio.to_thread(target.exists):
        raise FileExistsError(f"{target} is there already; name another file")
    try:
        async with opened(path) as database:
            copy = await asyncio.to_thread(_new_file, part)
            try:
                await database.copy_to(copy)
            finally:
                await asyncio.to_thread(_close, copy)
        async with opened(part) as database:
            await database.require_sound()
            count = await tables.count_rows(database)
        await asyncio.to_thread(part.replace, target)
    finally:
        await asyncio.to_thread(_remove, part)
    return count


async def _told(path: Path, *, by_gateway: bool) -> Folded:
    async with opened(path) as database:
        position = await tables.read_position(database)
        count = await tables.count_rows(database)
    return Folded(rows=count, seq=position.seq, by_gateway=by_gateway)


def _new_file(path: Path) -> sqlite3.Connection:
    """Make the file of a copy; the thread that fills it is another one. Raises: LedgerError."""
    try:
        return sqlite3.connect(path, check_same_thread=False)
    except sqlite3.Error as error:
        raise LedgerError(f"{path} cannot be made: {error}") from error


def _close(copy: sqlite3.Connection) -> None:
    """Close a copy as one file: a ledger in use has two more beside it."""
    try:
        copy.execute("PRAGMA journal_mode = DELETE")
    except sqlite3.Error as error:
        raise LedgerError(f"the copy cannot be finished: {error}") from error
    finally:
        copy.close()


def _remove(path: Path) -> None:
    for ending in BESIDE:
        path.with_name(path.name + ending).unlink(missing_ok=True)
