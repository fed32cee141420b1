"""The results of all runs so far, as a table. They add up in one JSON-lines file."""

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from tests.chaos.trial import Result

LOST = ("lost", "lane_not_empty")
TWICE = ("answered_twice", "after_the_end", "heard_twice")
ORPHANS = ("orphan", "temporary")


def append(path: Path, result: Result) -> None:
    """Add one line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as out:
        out.write(json.dumps(asdict(result)) + "\n")


def read(path: Path) -> list[Result]:
    """Read all lines of builds that were not mutated."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    results = [Result(**json.loads(line)) for line in lines]
    return [result for result in results if not result.mutant]


def percentile(values: Iterable[float], share: float) -> float | None:
    """Return the value that this share of them does not exceed."""
    ordered = sorted(values)
    if not ordered:
        return None
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def seconds(value: float | None) -> str:
    """Write seconds for a table."""
    return "-" if value is None else f"{value:.2f}"


def table(results: list[Result]) -> str:
    """Return the table of random trials, by fault, and a line for all of them."""
    lines = []
    for cluster in sorted({result.cluster for result in results if result.what == "trial"}):
        some = [r for r in results if r.what == "trial" and r.cluster == cluster]
        lines += [f"{'one server' if cluster == 1 else f'{cluster} servers'}: {len(some)} trials"]
        lines += _by_fault(some)
        lines.append("")
    cases = sorted({result.what for result in results if result.what != "trial"})
    for case in cases:
        lines += _case(case, [result for result in results if result.what == case])
    return "\n".join(lines)


def _by_fault(results: list[Result]) -> list[str]:
    kinds = sorted({kind for result in results for kind in result.faults if result.faults[kind]})
    head = (
        "| fault | times | trials | requests | lost | twice | orphans | other | superseded"
        " | takeover p50 s | p99 s |"
    )
    lines = [head, "|---" * 11 + "|"]
    for kind in kinds:
        having = [result for result in results if result.faults.get(kind)]
        lines.append(_row(kind, sum(result.faults[kind] for result in having), having))
    lines.append(_row("all", sum(sum(r.faults.values()) for r in results), results))
    settled = [result.settled_s for result in results]
    left = sum(result.left for result in results)
    wall = sum(result.wall_s for result in results)
    lines.append(
        f"settled after the last fault: p50 {seconds(percentile(settled, 0.5))} s, p99"
        f" {seconds(percentile(settled, 0.99))} s; {left} files of killed workers left for the"
        f" prune; {wall / 60:.1f} minutes"
    )
    return lines


def _row(kind: str, times: int, results: list[Result]) -> str:
    took = [value for result in results for value in result.takeovers_s]
    every = sum(len(result.violations) for result in results)
    counts = [sum(r.count(*rules) for r in results) for rules in (LOST, TWICE, ORPHANS)]
    cells = [
        kind,
        str(times),
        str(len(results)),
        str(sum(result.accepted for result in results)),
        *map(str, counts),
        str(every - sum(counts)),
        str(sum(result.superseded for result in results)),
        seconds(percentile(took, 0.5)),
        seconds(percentile(took, 0.99)),
    ]
    return f"| {' | '.join(cells)} |"


def _case(case: str, results: list[Result]) -> list[str]:
    times = [value for result in results for value in result.times_s]
    violations = sum(len(result.violations) for result in results)
    faults: dict[str, int] = {}
    for result in results:
        for kind, count in result.faults.items():
            faults[kind] = faults.get(kind, 0) + count
    measured = (
        f", {len(times)} times: p50 {seconds(percentile(times, 0.5))} s, p99"
        f" {seconds(percentile(times, 0.99))} s, max {seconds(max(times))} s"
        if times
        else ""
    )
    line = (
        f"{case}: {sum(result.requests for result in results)} requests, {violations} violations,"
        f" {sum(r.superseded for r in results)} superseded{measured};"
        f" {sum(r.wall_s for r in results) / 60:.1f} minutes"
    )
    return [line, *(f"  {kind}: {count}" for kind, count in sorted(faults.items())), ""]
