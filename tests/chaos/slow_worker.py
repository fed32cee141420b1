"""`mmg` with an engine that takes its time: `python -m tests.chaos.slow_worker worker`.

CHAOS_SLOW_S says how long a request takes. The pictures are those of the engine it stands for. A
request whose prompt contains `poison` kills the process, as a broken driver does.
"""

import asyncio
import os
import signal
import sys

from agent import building, cli
from agent.core.faults import CancelledFault
from agent.engines.protocol import EngineJob, Generation, Report, Step
from agent.engines.sketch import SketchEngine
from tests.chaos import small_disk

STEPS = 20
POISON = "poison"
SLOW_S = float(os.environ.get("CHAOS_SLOW_S", "0"))


class SlowEngine(SketchEngine):
    """Waits in steps, as an engine on a card does, then draws."""

    def __init__(self, *, threads: int = 1, fallback: bool = False) -> None:
        super().__init__(threads=threads, fallback=fallback)
        self._given_up: dict[tuple[str, str, int], asyncio.Event] = {}

    async def generate(self, job: EngineJob, report: Report) -> Generation:
        if POISON in job.prompt:
            os.kill(os.getpid(), signal.SIGKILL)
        given_up = self._given_up[job.key] = asyncio.Event()
        try:
            for step in range(1, STEPS + 1):
                report(Step(step=step, steps=STEPS + 1, message="waiting"))
                try:
                    async with asyncio.timeout(SLOW_S / STEPS):
                        await given_up.wait()
                except TimeoutError:
                    continue
                raise CancelledFault("The picture was cancelled while it was waited for.")
            return await super().generate(job, lambda _: None)
        finally:
            del self._given_up[job.key]

    async def cancel(self, job: EngineJob) -> None:
        given_up = self._given_up.get(job.key)
        if given_up is not None:
            given_up.set()
        await super().cancel(job)


def bend() -> None:
    """Put the slow engine in the place of the built-in one, and flags before the disk."""
    small_disk.bend()
    building.SketchEngine = SlowEngine  # type: ignore[attr-defined, assignment]


if __name__ == "__main__":
    bend()
    sys.exit(cli.main(sys.argv[1:]))
