"""One open SQLite file: every call has a time limit, every failure is a `LedgerError`.

It knows how the file is made, judged and moved aside. Must not know what the rows mean.
Source: SQLite 3.40, aiosqlite 0.22 (one thread for each connection).
"""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from importlib import resources
from pathlib import Path
from typing import Final, TypeVar

import aiosqlite
import structlog

CALL_S: Final = 5.0
CHECK_S: Final = 120.0
"""Reading a whole file, for the check at the start or a copy: some 100 MB a second and more."""
BUSY_MS: Final = 4000
"""How long SQLite waits for another writer: `mmg ledger rebuild` beside a gateway."""
BESIDE: Final = ("", "-wal", "-shm")
"""The file, and what SQLite keeps beside it: together they are the ledger."""
MEMORY: Final = ":memory:"

_BROKEN: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_LOW_BYTE: Final = 0xFF

log = structlog.get_logger()

T = TypeVar("T")
Value = str | int | float | None


class LedgerError(Exception):
    """The ledger cannot be read or written now; the text says why."""


class BusyLedgerError(LedgerError):
    """Another process of this host writes the file."""


class BrokenLedgerError(LedgerError):
    """The file is damaged: it has to be moved aside and folded again."""


class NewerLedgerError(LedgerError):
    """A newer version of mmg made the file; this one leaves it alone."""


class Database:
    """One connection; use `opened` or `opened_in_memory`."""

    def __init__(self, connection: aiosqlite.Connection, path: str) -> None:
        """Wrap an open connection."""
        self._connection = connection
        self._path = path

    async def rows(
        self, sql: str, values: Sequence[Value] = (), limit_s: float = CALL_S
    ) -> list[tuple[Value, ...]]:
        """Return what a query finds. Raises: LedgerError."""
        found = await self._limited(self._connection.execute_fetchall(sql, values), limit_s)
        return [tuple(row) for row in found]

    async def change(self, sql: str, values: Sequence[Value] = ()) -> int:
        """Run one statement and return how many rows it changed. Raises: LedgerError."""
        cursor = await self._limited(self._connection.execute(sql, values))
        changed = cursor.rowcount
        await self._limited(cursor.close())
        return changed

    async def change_many(self, sql: str, values: Iterable[Sequence[Value]]) -> None:
        """Run one statement for each tuple of values. Raises: LedgerError."""
        cursor = await self._limited(self._connection.executemany(sql, values))
        await self._limited(cursor.close())

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        """Commit what the block does, or nothing of it; nobody else writes meanwhile.

        Raises: LedgerError.
        """
        await self.change("BEGIN IMMEDIATE")
        done = False
        try:
            yield
            await self.change("COMMIT")
            done = True
        finally:
            if not done:  # A second failure here changes nothing: closing rolls back, too.
                with suppress(LedgerError):
                    await self.change("ROLLBACK")

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[None]:
        """Let all questions of the block see the tables as they are at one instant.

        Raises: LedgerError.
        """
        await self.change("BEGIN")
        try:
            yield
        finally:
            with suppress(LedgerError):
                await self.change("COMMIT")

    async def migrate(self) -> tuple[int, int]:
        """Bring the tables to this version, each step whole or not at all; return from and to.

        Raises: NewerLedgerError, LedgerError.
        """
        steps = _steps()
        version = await self._version()
        if version > len(steps):
            raise NewerLedgerError(
                f"{self._path} is of version {version}, this mmg knows {len(steps)}; use the mmg"
                " that made it, or move it away"
            )
        for number, step in enumerate(steps[version:], start=version + 1):
            script = f"BEGIN IMMEDIATE;\n{step}\nPRAGMA user_version = {number};\nCOMMIT;"
            await self._limited(self._connection.executescript(script), CHECK_S)
        return version, len(steps)

    async def require_version(self) -> None:
        """Refuse tables of another version than ours. Raises: LedgerError."""
        version, ours = await self._version(), len(_steps())
        if version != ours:
            raise LedgerError(f"the ledger is of version {version} and not yet of {ours}")

    async def require_sound(self) -> None:
        """Read the whole file. Raises: BrokenLedgerError, LedgerError."""
        found = await self.rows("PRAGMA quick_check(1)", limit_s=CHECK_S)
        if found != [("ok",)]:
            raise BrokenLedgerError(f"{self._path}: {found[0][0] if found else 'no answer'}")

    async def copy_to(self, target: sqlite3.Connection) -> None:
        """Copy everything as it is at one instant; writers are not held up. Raises: LedgerError."""
        await self._limited(self._connection.backup(target), CHECK_S)

    async def close(self) -> None:
        """Close; an open transaction is rolled back. Never raises."""
        try:
            await self._limited(self._connection.close())
        except LedgerError as error:
            log.warning("ledger.close_failed", reason=str(error))

    async def _version(self) -> int:
        return int(str((await self.rows("PRAGMA user_version"))[0][0]))

    async def _limited(self, call: Awaitable[T], limit_s: float = CALL_S) -> T:
        try:
            async with asyncio.timeout(limit_s):
                return await call
        except TimeoutError as error:
            await self._connection.interrupt()  # Its thread would stay busy with it.
            raise LedgerError(f"{self._path} did not answer within {limit_s:.0f} s") from error
        except sqlite3.Error as error:
            raise _explained(error, self._path) from error
        except ValueError as error:  # What aiosqlite says of a connection that is closed.
            raise LedgerError(f"{self._path}: {error}") from error


@asynccontextmanager
async def opened(path: Path, *, write: bool = False) -> AsyncIterator[Database]:
    """Open the file; only who writes makes it. Raises: LedgerError."""
    mode = "rwc" if write else "rw"  # Not "ro": SQLite then cannot make the files beside it.
    async with _connected(f"{_uri(path)}?mode={mode}", str(path)) as database:
        if write:
            await database.rows("PRAGMA journal_mode = WAL")
            # A power cut may take the last transactions with it, whole: they are folded again.
            await database.change("PRAGMA synchronous = NORMAL")
        else:
            await database.change("PRAGMA query_only = ON")
        yield database


@asynccontextmanager
async def opened_in_memory() -> AsyncIterator[Database]:
    """Make an empty ledger that is gone when the block ends. Raises: LedgerError."""
    async with _connected(MEMORY, MEMORY) as database:
        await database.migrate()
        yield database


@asynccontextmanager
async def _connected(uri: str, path: str) -> AsyncIterator[Database]:
    connecting = aiosqlite.connect(
        uri, uri=uri != MEMORY, isolation_level=None, timeout=BUSY_MS / 1000
    )
    try:
        async with asyncio.timeout(CALL_S):
            connection = await connecting
    except TimeoutError as error:
        raise LedgerError(f"{path} could not be opened within {CALL_S:.0f} s") from error
    except sqlite3.Error as error:
        raise _explained(error, path) from error
    database = Database(connection, path)
    try:
        yield database
    finally:
        await database.close()


def move_aside(path: Path, label: str) -> Path:
    """Give a damaged ledger another name, with what is beside it; return that name.

    Raises: OSError.
    """
    aside = path.with_name(f"{path.name}.broken-{label}")
    for ending in reversed(BESIDE):
        with suppress(FileNotFoundError):
            path.with_name(path.name + ending).replace(aside.with_name(aside.name + ending))
    return aside


def same_file(path: Path) -> Callable[[], bool]:
    """Remember which file has the name now; the answer tells whether it still does."""
    before = _identity(path)
    return lambda: _identity(path) == before


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _uri(path: Path) -> str:
    return path.absolute().as_uri()


def _steps() -> list[str]:
    """Return the scripts that make the tables, in their order."""
    package = resources.files("agent.ledger")
    later = sorted(package.joinpath("migrations").iterdir(), key=lambda entry: entry.name)
    scripts = [package.joinpath("schema.sql"), *(one for one in later if one.name[:4].isdigit())]
    return [script.read_text(encoding="utf-8") for script in scripts]


def _explained(error: sqlite3.Error, path: str) -> LedgerError:
    code = getattr(error, "sqlite_errorcode", None)
    broken = code is not None and code & _LOW_BYTE in _BROKEN
    kind = BrokenLedgerError if broken else LedgerError
    return kind(f"{path}: {error}")
