"""`mmg` with an engine that sleeps and hands out a plain square: for runs of many workers.

Run: `SLEEP_S=1 python -m tests.doubles.sleeping_worker worker`. A picture takes SLEEP_S and next to
no CPU, so that a machine of two cores carries many workers and only ours is measured.
"""

import os
import sys

from agent import building, cli
from tests.doubles.engine import ScriptedEngine

SLEEP_S = float(os.environ.get("SLEEP_S", "1"))


class SleepingEngine(ScriptedEngine):
    """Stands where the built-in engine stands."""

    def __init__(self, *, threads: int = 1, fallback: bool = False) -> None:
        super().__init__(seconds=SLEEP_S)


def bend() -> None:
    """Put the sleeping engine in the place of the built-in one."""
    building.SketchEngine = SleepingEngine  # type: ignore[attr-defined, assignment]


if __name__ == "__main__":
    bend()
    sys.exit(cli.main(sys.argv[1:]))
