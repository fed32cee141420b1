"""An engine whose behaviour a test writes: it fails, hangs, takes long, or draws a plain square.

It keeps the real protocol's promises: cancel ends within a step, nothing is left behind.
"""

import asyncio
import io
from collections import Counter
from collections.abc import Callable
from typing import Literal

from PIL import Image

from agent.core.faults import CancelledFault, Fault
from agent.core.routing import EngineFacts
from agent.engines.protocol import Attempt, EngineJob, Generation, Health, Picture, Report, Step

STEPS = 10


def square(width: int, height: int) -> bytes:
    """Return a plain PNG of this size."""
    out = io.BytesIO()
    Image.new("RGB", (width, height), (63, 107, 125)).save(out, "PNG", compress_level=1)
    return out.getvalue()


class ScriptedEngine:
    """Fails as `fault_of` says for a job and its try, else draws for `seconds`."""

    slot: Literal["gpu", "cpu", "cloud"] = "cpu"
    models: tuple[str, ...] = ("square",)
    places: tuple[str, ...] = ()

    def __init__(
        self,
        name: str = "sketch",
        *,
        seconds: float = 0.0,
        fault_of: Callable[[EngineJob, int], Fault | None] = lambda _job, _try: None,
    ) -> None:
        self.name = name
        self.seconds = seconds
        self.tries: Counter[str] = Counter()
        self.cancelled: list[str] = []
        self._fault_of = fault_of
        self._stops: dict[tuple[str, str, int], asyncio.Event] = {}

    @property
    def facts(self) -> EngineFacts:
        """Say that it is up."""
        return EngineFacts(name=self.name, slot=self.slot, models=self.models)

    async def run(self) -> None:
        """Have nothing to do beside jobs."""
        await asyncio.Event().wait()

    async def forget(self, job: EngineJob) -> None:
        """Hold nothing after a job."""

    async def generate(self, job: EngineJob, report: Report) -> Generation:
        """Draw one plain square for each picture, or fail."""
        self.tries[job.request_id] += 1
        stop = self._stops[job.key] = asyncio.Event()
        try:
            for step in range(1, STEPS + 1):
                await self._step(stop)
                report(Step(step=step, steps=STEPS, message=f"step {step}"))
            fault = self._fault_of(job, self.tries[job.request_id])
            if fault is not None:
                raise fault
        finally:
            del self._stops[job.key]
        picture = Picture(
            data=square(job.width, job.height), width=job.width, height=job.height, format="png"
        )
        return Generation(
            pictures=(picture,) * job.count, model_used="square", seed=job.seed, cost_usd=0.0
        )

    async def cancel(self, job: EngineJob) -> None:
        """Stop a job at its next step."""
        self.cancelled.append(job.request_id)
        if job.key in self._stops:
            self._stops[job.key].set()

    async def leftovers(self) -> tuple[Attempt, ...]:
        """Leave nothing behind: it lives in this process."""
        return ()

    async def drop(self, attempt: Attempt) -> None:
        """Have nothing to remove."""

    async def health(self) -> Health:
        """Say that it is there."""
        return Health(state="up", detail="a double")

    def price_usd(self, _job: EngineJob) -> float:
        """Cost nothing."""
        return 0.0

    def time_limit_s(self, _job: EngineJob) -> None:
        """Take no longer than any engine may."""

    async def close(self) -> None:
        """Have nothing to give back."""

    async def _step(self, stop: asyncio.Event) -> None:
        if self.seconds:
            try:
                async with asyncio.timeout(self.seconds / STEPS):
                    await stop.wait()
            except TimeoutError:
                return
        if stop.is_set():
            raise CancelledFault("cancelled")
