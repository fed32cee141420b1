"""The decisions of one worker, written down so that each can be explained and played again.

One JSON object a line, numbered, in the data folder: the newest file and the one before it. It
must not decide anything, and a disk that takes nothing never stops a worker.
"""

import asyncio
import os
from collections import deque
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import msgspec
import structlog
from msgspec import Raw

from agent import __version__
from agent.core import replaying
from agent.core.choosing import Choice
from agent.core.faults import Fault
from agent.core.replaying import Arbitrated, Record, Routed
from agent.core.routing import Candidate
from agent.gpu.keeper import Moment
from contracts.status import DECISIONS_MAX, TEXT_MAX, Decided

FOLDER: Final = "decisions"
FILE_BYTES: Final = 10_000_000
"""A file is closed when it would grow beyond this; with the one before it, 20 MB at most."""
LINES_MAX: Final = 1_000
"""Records that may wait for the disk; those beyond are lost, and counted."""
GATHER_S: Final = 0.1
"""How long records gather before they are written together. A thread for each of them costs the
loop more than all the rest of a record, and nobody waits for the file."""
RECENT_SKIPPED: Final = frozenset({"measure"})

log = structlog.get_logger()


class _Number(msgspec.Struct):
    seq: int


class Recorder:
    """Order: `open`, `run` in a task, `close` at the end. Recording never waits."""

    def __init__(self, data_dir: Path, worker: str, file_bytes: int = FILE_BYTES) -> None:
        """Record for one worker; nothing is read or written before `open`."""
        self.path = data_dir / FOLDER / f"{worker}.jsonl"
        self.lost = 0
        self._file_bytes = file_bytes
        self._seq = 0
        self._lines: deque[bytes] = deque()
        self._recent: deque[Decided] = deque(maxlen=DECISIONS_MAX)
        self._wake = asyncio.Event()

    async def open(self) -> None:
        """Find out where an earlier process of this worker left off."""
        self._seq = await asyncio.to_thread(_last_number, self.path)

    async def run(self) -> None:
        """Write what was recorded within a moment, until cancelled; `close` writes the rest."""
        while True:
            await self._wake.wait()
            await asyncio.sleep(GATHER_S)
            self._wake.clear()
            await self._write()

    async def close(self) -> None:
        """Write what is left."""
        await self._write()

    @property
    def recent(self) -> tuple[Decided, ...]:
        """The last decisions, newest first."""
        return tuple(reversed(self._recent))

    def arbitrated(self, moment: Moment) -> None:
        """Record one event of a card's arbiter, if it led to more than a measurement."""
        if not replaying.is_worth_it(moment.decisions):
            return
        record = Arbitrated(
            seq=self._next(),
            at=moment.at,
            build=__version__,
            card=moment.card,
            event=moment.event,
            before=replaying.before(moment.before),
            decided=Raw(replaying.said(moment.decisions)),
        )
        self._keep(record)
        for decision in moment.decisions:
            what = replaying.named(decision)
            if what not in RECENT_SKIPPED:
                fields = msgspec.structs.asdict(decision)
                self._recent.append(_decided(record.seq, moment.at, what, fields))

    def routed(self, choice: Choice, found: tuple[Candidate, ...] | Fault, now: datetime) -> None:
        """Record one choice among engines; prompts are left out."""
        record = Routed(
            seq=self._next(),
            at=now,
            build=__version__,
            choice=replaying.without_words(choice),
            decided=Raw(replaying.chosen(found)),
        )
        self._keep(record)
        stored = choice.stored
        reason = (
            f"{found.code}: {found.message}"
            if isinstance(found, Fault)
            else "; then ".join(one.reason for one in found)
        )
        job = f"{stored.who}#{stored.seq}"
        fields = {"job": job, "reason": reason}
        self._recent.append(_decided(record.seq, now, "route", fields))

    def _next(self) -> int:
        self._seq += 1
        return self._seq

    def _keep(self, record: Record) -> None:
        if len(self._lines) >= LINES_MAX:
            self.lost += 1
            return
        self._lines.append(msgspec.json.encode(record) + b"\n")
        self._wake.set()

    async def _write(self) -> None:
        lines = tuple(self._lines)
        self._lines.clear()
        if not lines:
            return
        try:
            await asyncio.to_thread(_append, self.path, lines, self._file_bytes)
        except OSError as error:
            self.lost += len(lines)
            log.warning("decisions.not_written", lost=self.lost, reason=str(error))


def find(data_dir: Path, seq: int, worker: str | None = None) -> list[tuple[str, bytes]]:
    """Return the recorded line of that number, of one worker or of each that has it.

    Raises: OSError.
    """
    folder = data_dir / FOLDER
    found: list[tuple[str, bytes]] = []
    for path in sorted(folder.glob("*.jsonl")):
        name = path.name.split(".")[0]
        if worker is not None and name != worker:
            continue
        found += [(name, line) for line in _lines(path) if _number(line) == seq]
    return found


def earlier(path: Path) -> Path:
    """Return the file before the newest one."""
    return path.with_name(f"{path.name.removesuffix('.jsonl')}.1.jsonl")


def _append(path: Path, lines: tuple[bytes, ...], file_bytes: int) -> None:
    """Append lines; a full file takes the place of the one before it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    size = path.stat().st_size if path.exists() else 0
    batch: list[bytes] = [b"\n"] if _is_torn(path) else []
    for line in lines:
        if size + len(line) > file_bytes and size:
            _add(path, batch)
            path.replace(earlier(path))
            batch, size = [], 0
        batch.append(line)
        size += len(line)
    _add(path, batch)


def _is_torn(path: Path) -> bool:
    """Tell whether a crash has left the last line without its end."""
    try:
        with path.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read(1) != b"\n"
    except OSError:
        return False  # There is no file, or nothing in it.


def _add(path: Path, batch: list[bytes]) -> None:
    with path.open("ab") as file:
        file.write(b"".join(batch))


def _last_number(path: Path) -> int:
    """Return the number of the last record that is whole; 0: there is none."""
    for file in (path, earlier(path)):
        try:
            numbers = [number for line in _lines(file) if (number := _number(line))]
        except OSError as error:
            log.warning("decisions.not_read", file=str(file), reason=str(error))
            continue
        if numbers:
            return max(numbers)
    return 0


def _lines(path: Path) -> Iterator[bytes]:
    if not path.exists():
        return
    with path.open("rb") as file:
        yield from file


def _number(line: bytes) -> int:
    """Return the number of a record; 0 where a crash has torn the line."""
    try:
        return msgspec.json.decode(line, type=_Number).seq
    except (msgspec.DecodeError, UnicodeDecodeError):
        return 0


def _decided(seq: int, at: datetime, what: str, fields: dict[str, Any]) -> Decided:
    return Decided(
        seq=seq,
        at=at,
        what=what,
        job=str(fields.get("job", "")),
        rule=fields.get("rule"),
        reason=str(fields.get("reason", ""))[:TEXT_MAX],
    )
