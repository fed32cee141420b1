"""`make bench`: every bench in turn, one table, and raw figures with versions and load.

Run: python -m ops.bench [--only dispatch,jump] [--minutes 14]. Writes data/bench/<time>.json and
.md. Exits with 1 if anything could not be measured; a target that is missed is no fault of the run.
"""

import argparse
import asyncio
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Final

import msgspec

from agent.clock import SystemClock
from agent.embedded import find_binary
from ops.bench.contenders import PEERS_PYTHON, ROOT
from ops.bench.gathering import Bench, Outcome, gather, load
from ops.bench.rows import markdown, show

FOLDER: Final = ROOT / "data" / "bench"
MINUTES: Final = 14.0
BENCHES: Final = (
    Bench(name="dispatch", limit_s=300),
    Bench(name="calls", limit_s=60),
    Bench(name="enqueue", limit_s=60),
    Bench(name="jump", limit_s=90),
    Bench(name="depth", limit_s=90),
    Bench(name="decision", limit_s=30),
    Bench(name="workers", limit_s=90),
    Bench(name="takeover", limit_s=80),
    Bench(name="engine", limit_s=150),
    Bench(name="gateway", limit_s=200),
    Bench(name="schedule", limit_s=90),
)
PEERS: Final = ("taskiq", "taskiq-nats", "faststream", "nats-py")
ASK_S: Final = 20.0


def said(*command: str) -> str:
    """Return what a program says; empty where it is not there or fails."""
    try:
        done = subprocess.run(  # noqa: S603 - our own words
            command, capture_output=True, text=True, timeout=ASK_S, check=True, cwd=ROOT
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def surroundings() -> dict[str, object]:
    """Return what the figures rest on: versions, machine, commit."""
    ask = "import importlib.metadata as m, sys; print(*(m.version(n) for n in sys.argv[1:]))"
    peers = said(str(PEERS_PYTHON), "-c", ask, *PEERS).split()
    return {
        "python": platform.python_version(),
        "nats-server": said(str(find_binary()), "--version").rpartition("v")[2],
        "mmg": version("mmg"),
        "commit": said("git", "describe", "--always", "--dirty"),
        "nats-py": version("nats-py"),
        "peers": dict(zip(PEERS, peers, strict=False)),
        "system": platform.platform(),
        "cores": os.cpu_count(),
    }


def page(outcomes: Sequence[Outcome], around: dict[str, object], when: str) -> str:
    """Return the table in Markdown, with the load that each bench had."""
    rows = [row for outcome in outcomes for row in outcome.rows]
    first = ", ".join(f"{name} {value}" for name, value in around.items() if name != "peers")
    peers = around["peers"]
    beside = ", ".join(f"{n} {v}" for n, v in peers.items()) if isinstance(peers, dict) else ""
    loads = [
        f"| {each.bench} | {each.seconds:.0f} s | {each.load_before[0]:.1f} |"
        f" {each.load_after[0]:.1f} |"
        for each in outcomes
    ]
    return "\n".join(
        [
            f"{when}: {first}; peers: {beside or 'none'}.",
            "",
            markdown(rows),
            "| bench | took | load before | after |",
            "|---|---|---|---|",
            *loads,
            "",
        ]
    )


async def run(benches: Sequence[Bench], minutes: float) -> list[Outcome]:
    """Run one after the other and say how far it is."""
    end_s = time.monotonic() + 60 * minutes
    outcomes = []
    with tempfile.TemporaryDirectory() as folder:
        for number, bench in enumerate(benches, start=1):
            at = f"{number}/{len(benches)} {bench.name}, load {load()[0]:.1f} ..."
            print(at, end=" ", flush=True)
            path = Path(folder) / f"{bench.name}.json"
            outcome = await gather(bench, path, end_s - time.monotonic())
            print(f"{outcome.seconds:.0f} s", flush=True)
            outcomes.append(outcome)
    return outcomes


def main() -> int:
    """Run what is asked for, print the table, keep the figures; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    names = [bench.name for bench in BENCHES]
    parser.add_argument("--only", default=",".join(names), help=f"of: {', '.join(names)}")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="for all (%(default)s)")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the files go")
    asked = parser.parse_args()
    only = asked.only.split(",")
    if unknown := sorted(set(only) - set(names)):
        parser.error(f"no such bench: {', '.join(unknown)}; there are: {', '.join(names)}")
    when = SystemClock().now()
    outcomes = asyncio.run(run([bench for bench in BENCHES if bench.name in only], asked.minutes))
    around = surroundings()
    rows = [row for outcome in outcomes for row in outcome.rows]
    show(rows)
    asked.folder.mkdir(parents=True, exist_ok=True)
    kept = asked.folder / f"{when:%Y%m%d-%H%M%S}.json"
    everything = {"at": when, **around, "benches": [one.plain() for one in outcomes]}
    kept.write_bytes(msgspec.json.format(msgspec.json.encode(everything)))
    kept.with_suffix(".md").write_text(page(outcomes, around, f"{when:%Y-%m-%d %H:%M} UTC"))
    missed = sum(row.verdict == "missed" for row in rows)
    lacking = sum(row.verdict == "not measured" for row in rows)
    met = sum(row.verdict == "met" for row in rows)
    print(f"{met} targets met, {missed} missed, {lacking} rows not measured")
    print(f"kept in {kept} and {kept.with_suffix('.md').name}")
    return 1 if lacking else 0


if __name__ == "__main__":
    sys.exit(main())
