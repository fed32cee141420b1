"""The engine `sketch`: threads that draw, progress on the loop, cancellation between stages.

It must not draw; `picture` does. It touches no file and no network.
"""

import asyncio
import re
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, Literal

from agent.core.faults import CancelledFault
from agent.core.routing import EngineFacts
from agent.engines.protocol import Attempt, EngineJob, Generation, Health, Picture, Report, Step
from agent.engines.sketch.brief import STAGES, Brief, seed_of
from agent.engines.sketch.glyphs import Face
from agent.engines.sketch.picture import draw

_MARK_LONGEST: Final = 40
_FILE: Final = re.compile(r"\.(?:png|svg|jpe?g|webp)$", re.IGNORECASE)
"""A logo that names a file is not set: this engine reads no files and draws word marks only."""


class _StopDrawing(Exception):
    """Ends a drawing between two stages."""


class _Drawing:
    """One job on its way; the flag is the only thing that both threads touch."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.work: Future[tuple[Picture, ...]] | None = None

    def end(self) -> None:
        """Stop at the next stage, or at once if no thread has begun it."""
        self.stop.set()
        if self.work is not None:
            self.work.cancel()


class SketchEngine:
    """Draws pictures from type and seeded art, on the CPU, without a model."""

    name: str = "sketch"
    slot: Literal["gpu", "cpu", "cloud"] = "cpu"
    models: tuple[str, ...] = ("sketch",)
    places: tuple[str, ...] = ()

    def __init__(
        self,
        *,
        threads: int = 1,
        fallback: bool = False,
        on_stage: Callable[[str], None] | None = None,
    ) -> None:
        """Start with `threads` drawing threads; each calls `on_stage` after a stage it has done.

        `fallback`: stand in only where no other engine can.
        """
        self._fallback = fallback
        self._threads = threads
        self._on_stage = on_stage
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="sketch")
        self._drawings: dict[tuple[str, str, int], _Drawing] = {}
        self._closed = False

    @property
    def facts(self) -> EngineFacts:
        """Say that it has one model and is up until it is closed."""
        return EngineFacts(
            name=self.name,
            slot=self.slot,
            models=self.models,
            up=not self._closed,
            fallback=self._fallback,
        )

    async def run(self) -> None:
        """Have nothing to do beside jobs."""
        await asyncio.Event().wait()

    async def forget(self, job: EngineJob) -> None:
        """Hold nothing after a job."""

    async def generate(self, job: EngineJob, report: Report) -> Generation:
        """Draw the pictures of `job`; a thread that is held holds the progress.

        Raises: CancelledFault after `cancel` or `close`.
        """
        assert job.key not in self._drawings, "an attempt runs once"
        loop = asyncio.get_running_loop()
        drawing = self._drawings[job.key] = _Drawing()

        def deliver(step: Step) -> None:
            if job.key in self._drawings:
                report(step)

        def tell(step: Step) -> None:
            loop.call_soon_threadsafe(deliver, step)

        drawing.work = self._pool.submit(self._draw_all, job, drawing, tell)
        try:
            await _ended(asyncio.wrap_future(drawing.work), drawing)
        finally:
            del self._drawings[job.key]
        if drawing.stop.is_set():
            raise CancelledFault("The picture was cancelled while it was drawn.")
        return Generation(pictures=drawing.work.result(), model_used="sketch", seed=job.seed)

    async def cancel(self, job: EngineJob) -> None:
        """Stop `job` at its next stage; without such a job nothing happens."""
        drawing = self._drawings.get(job.key)
        if drawing is not None:
            drawing.end()

    async def leftovers(self) -> tuple[Attempt, ...]:
        """Leave nothing behind: it lives in this process."""
        return ()

    async def drop(self, attempt: Attempt) -> None:
        """Have nothing to remove."""

    async def health(self) -> Health:
        """Say that drawing is always possible until the engine is closed."""
        if self._closed:
            return Health(state="down", detail="closed")
        return Health(state="up", detail=f"draws on {self._threads} thread(s), no model needed")

    def price_usd(self, job: EngineJob) -> float:  # noqa: ARG002 - every job costs the same here
        """Return nothing: drawing is free."""
        return 0.0

    def time_limit_s(self, _job: EngineJob) -> None:
        """Take no longer than any engine may."""

    async def close(self) -> None:
        """Stop all drawings and end the threads."""
        self._closed = True
        for drawing in self._drawings.values():
            drawing.end()
        await asyncio.to_thread(self._pool.shutdown, cancel_futures=True)

    def _draw_all(
        self, job: EngineJob, drawing: _Drawing, tell: Callable[[Step], None]
    ) -> tuple[Picture, ...]:
        """Draw each picture of `job`; runs on a drawing thread."""
        done = 0

        def after(stage: str) -> None:
            nonlocal done
            if self._on_stage is not None:
                self._on_stage(stage)
            if drawing.stop.is_set():
                raise _StopDrawing
            done += 1
            which = f"picture {index + 1} of {job.count}: " if job.count > 1 else ""
            tell(Step(step=done, steps=STAGES * job.count, message=which + stage))

        pictures = []
        for index in range(job.count):
            data = draw(_brief(job, index), after)
            pictures.append(Picture(data=data, width=job.width, height=job.height, format="png"))
        return tuple(pictures)


async def _ended(work: "asyncio.Future[tuple[Picture, ...]]", drawing: _Drawing) -> None:
    """Wait until no thread works on `drawing`, even when the caller is cancelled meanwhile."""
    cancelled: asyncio.CancelledError | None = None
    while not work.done():
        try:
            await asyncio.wait({work})
        except asyncio.CancelledError as cause:
            drawing.end()
            cancelled = cause
    failure = None if work.cancelled() else work.exception()
    if cancelled is not None:
        raise cancelled
    if failure is not None and not isinstance(failure, _StopDrawing):
        raise failure


def _brief(job: EngineJob, index: int) -> Brief:
    """Return what picture `index` of `job` is to be."""
    logo = job.brand.logo or ""
    faces: dict[str, Face] = {"serif": "serif", "sans": "display"}
    return Brief(
        prompt=job.prompt,
        style=job.style,
        colours=job.brand.palette,
        mark="" if _FILE.search(logo) else logo[:_MARK_LONGEST],
        face=faces.get((job.brand.font or "").casefold()),
        width=job.width,
        height=job.height,
        seed=seed_of(job.seed, index),
    )
