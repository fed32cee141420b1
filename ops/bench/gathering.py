"""Runs one bench as a process, within its time, and reads what it wrote; says what went wrong.

Whatever happens there are rows: a bench that fails is a row that was not measured, with the reason.
"""

import asyncio
import os
import signal
import sys
import time
from pathlib import Path
from typing import Final

import msgspec

from ops.bench.rows import Row, decode, encode

ROOT: Final = Path(__file__).parents[2]
LAST_WORDS: Final = 300
TIDY_S: Final = 15.0
KILL: Final = 9


class Bench(msgspec.Struct, frozen=True, kw_only=True):
    """One module that writes rows with `--json`. Units: `limit_s` seconds, on two busy cores."""

    name: str
    limit_s: float
    command: tuple[str, ...] = ()

    def line(self, path: Path) -> tuple[str, ...]:
        """Return what to run."""
        module = (sys.executable, "-m", f"ops.bench.{self.name}", "--json", str(path))
        return self.command or module


class Outcome(msgspec.Struct, kw_only=True):
    """What came of one bench. Units: seconds; loads are those of 1, 5 and 15 minutes."""

    bench: str
    seconds: float
    load_before: tuple[float, float, float]
    load_after: tuple[float, float, float]
    rows: list[Row]

    def plain(self) -> dict[str, object]:
        """Return it for the file, with ratios and verdicts."""
        fields: dict[str, object] = msgspec.to_builtins(self)
        return fields | {"rows": encode(self.rows)}


def load() -> tuple[float, float, float]:
    """Return how many processes wanted to run, over 1, 5 and 15 minutes. Source: proc(5), Linux."""
    one, five, fifteen, *_ = Path("/proc/loadavg").read_text(encoding="ascii").split()
    return float(one), float(five), float(fifteen)


async def gather(bench: Bench, path: Path, left_s: float) -> Outcome:
    """Run one bench, but not longer than its limit and what is left of the time for all."""
    before, began = load(), time.monotonic()
    limit_s = min(bench.limit_s, left_s)
    rows = await _rows(bench, path, limit_s) if limit_s > 0 else failed(bench, "no time was left")
    return Outcome(
        bench=bench.name,
        seconds=round(time.monotonic() - began, 1),
        load_before=before,
        load_after=load(),
        rows=rows,
    )


def failed(bench: Bench, reason: str) -> list[Row]:
    """Return the one row of a bench that could not be run."""
    return [Row(what=bench.name, figure=None, note=reason)]


async def _rows(bench: Bench, path: Path, limit_s: float) -> list[Row]:
    child = await asyncio.create_subprocess_exec(
        *bench.line(path),
        cwd=ROOT,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(limit_s):
            words, _ = await child.communicate()
    except TimeoutError:
        return failed(bench, f"not done after {limit_s:.0f} s")
    finally:
        if child.returncode is None:
            await _end(child)
    if child.returncode:
        said = words.decode(errors="replace").strip().splitlines()[-1:] or ["it said nothing"]
        return failed(bench, f"it ended with {child.returncode}: {said[0][-LAST_WORDS:]}")
    return await asyncio.to_thread(_read, bench, path)


async def _end(child: asyncio.subprocess.Process) -> None:
    """Interrupt a bench, so that it stops what it has started; one that will not is killed."""
    child.send_signal(signal.SIGINT)
    try:
        async with asyncio.timeout(TIDY_S):
            await child.wait()
    except TimeoutError:
        os.kill(-child.pid, KILL)  # Its whole group.
        await child.wait()


def _read(bench: Bench, path: Path) -> list[Row]:
    """Read the rows that a bench has written."""
    try:
        data = path.read_bytes()
    except OSError as error:
        return failed(bench, f"it wrote nothing: {error.strerror}")
    try:
        return decode(data)
    except msgspec.MsgspecError as error:
        return failed(bench, f"it wrote no rows: {error}")
