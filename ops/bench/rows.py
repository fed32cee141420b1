"""The rows of the table: a figure, the floor or peer beside it, their ratio, and the verdict.

It measures nothing. A bench is a module that makes rows and hands them to `report`; `ops.bench`
runs all of them and puts their rows into one table.
"""

import argparse
import asyncio
import statistics
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final, Literal

import msgspec
from rich.console import Console
from rich.table import Table

Verdict = Literal["", "met", "missed", "not measured"]

DIGITS: Final = 3
MANY: Final = 100
WIDE: Final = 160
HEAD: Final = ("what", "who", "figure", "beside", "ratio", "target", "verdict")


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """What a row has to reach: its `ratio` or its `figure`, `at_most` or `at_least` so much."""

    of: Literal["ratio", "figure"]
    at_most: float | None = None
    at_least: float | None = None

    def __str__(self) -> str:
        """Return it as the table shows it."""
        sign, bound = ("≤", self.at_most) if self.at_most is not None else ("≥", self.at_least)
        return f"{sign} {bound:g}{'x' if self.of == 'ratio' else ''}"

    def judge(self, figure: float, ratio: float | None) -> Verdict:
        """Say whether it is reached; without a floor no ratio is, and that is no verdict."""
        found = ratio if self.of == "ratio" else figure
        if found is None:
            return "not measured"
        over = self.at_most is not None and found > self.at_most
        under = self.at_least is not None and found < self.at_least
        return "missed" if over or under else "met"


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One line. `figure` None: it could not be measured, and `note` says why."""

    what: str
    who: str = "mmg"
    figure: float | None
    unit: str = ""
    floor: float | None = None
    floor_of: str = ""
    target: Target | None = None
    note: str = ""
    samples: tuple[float, ...] = ()
    """The single figures of which `figure` is the middle, one a round."""

    @property
    def ratio(self) -> float | None:
        """The figure in units of its floor."""
        if self.figure is None or not self.floor:
            return None
        return self.figure / self.floor

    @property
    def verdict(self) -> Verdict:
        """Whether the target is met; empty where there is none."""
        if self.figure is None:
            return "not measured"
        return "" if self.target is None else self.target.judge(self.figure, self.ratio)

    def cells(self) -> tuple[str, ...]:
        """Return what stands in the columns of `HEAD`."""
        figure = "-" if self.figure is None else f"{shown(self.figure)} {self.unit}".strip()
        beside = "" if self.floor is None else f"{self.floor_of} {shown(self.floor)}"
        ratio = "" if self.ratio is None else f"{self.ratio:.2f}x"
        target = "" if self.target is None else str(self.target)
        return (self.what, self.who, figure, beside, ratio, target, self.verdict)


def shown(figure: float) -> str:
    """Return a figure with three digits that count, and thousands with a comma."""
    return f"{figure:,.0f}" if abs(figure) >= MANY else f"{figure:.{DIGITS}g}"


def at_most(bound: float, of: Literal["ratio", "figure"] = "ratio") -> Target:
    """Return the target not to exceed `bound`."""
    return Target(of=of, at_most=bound)


def at_least(bound: float, of: Literal["ratio", "figure"] = "ratio") -> Target:
    """Return the target to reach `bound`."""
    return Target(of=of, at_least=bound)


def p50(figures: Sequence[float]) -> float:
    """Return the median."""
    return statistics.median(figures)


def p95(figures: Sequence[float]) -> float:
    """Return the figure that one in twenty exceeds."""
    line = sorted(figures)
    return line[min(len(line) - 1, int(len(line) * 0.95))]


def p99(figures: Sequence[float]) -> float:
    """Return the figure that one in a hundred exceeds."""
    line = sorted(figures)
    return line[min(len(line) - 1, int(len(line) * 0.99))]


def markdown(rows: Sequence[Row]) -> str:
    """Return the table for a page; what is missed or not measured says so in its last column."""
    lines = [f"| {' | '.join(HEAD)} |", f"|{'---|' * len(HEAD)}"]
    lines += [f"| {' | '.join(row.cells())} |" for row in rows]
    return "\n".join([*lines, "", *(f"- {note}" for note in notes(rows))]) + "\n"


def table(rows: Sequence[Row]) -> Table:
    """Return the table for a terminal."""
    found = Table(*HEAD, title="mmg bench")
    colours: dict[Verdict, str] = {"met": "green", "missed": "red", "not measured": "yellow"}
    for row in rows:
        found.add_row(*row.cells(), style=colours.get(row.verdict, ""))
    return found


def show(rows: Sequence[Row]) -> None:
    """Print the table and its notes; into a file as wide as it has to be."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDE)
    console.print(table(rows))
    for note in notes(rows):
        console.print(f"- {note}", soft_wrap=True)


def notes(rows: Sequence[Row]) -> list[str]:
    """Return what is to be said below the table, each once."""
    return list(dict.fromkeys(f"{row.what}, {row.who}: {row.note}" for row in rows if row.note))


def encode(rows: Sequence[Row]) -> list[dict[str, object]]:
    """Return rows as plain data, with ratio and verdict."""
    return [msgspec.to_builtins(row) | {"ratio": row.ratio, "verdict": row.verdict} for row in rows]


def write(rows: Sequence[Row], path: Path) -> None:
    """Write rows for `ops.bench` to read."""
    path.write_bytes(msgspec.json.encode(encode(rows)))


def decode(data: bytes) -> list[Row]:
    """Read what `report` has written. Raises: msgspec.MsgspecError."""
    return msgspec.json.decode(data, type=list[Row])


def report(doc: str | None, measure: Callable[[], Awaitable[list[Row]]]) -> None:
    """Run one bench by itself: print its table, and write its rows where `--json` says."""
    parser = argparse.ArgumentParser(description=doc)
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the rows there as well")
    asked = parser.parse_args()

    async def run() -> list[Row]:
        return await measure()

    rows = asyncio.run(run())
    if asked.json is not None:
        write(rows, asked.json)
    show(rows)
