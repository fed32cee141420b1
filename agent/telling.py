"""Tells how far a job is: the newest step, at most ten a second, previews at most four.

A lost message does no harm, so nothing here waits for an answer or keeps what was not sent.
"""

import asyncio
from collections.abc import Callable
from typing import Final

import structlog

from agent.bus.connection import Bus, NoAnswer
from agent.clock import Clock
from agent.core.links import Pen
from agent.engines.protocol import Step
from contracts import codec, subjects, trace

PROGRESS_EVERY_S: Final = 0.1
PREVIEW_EVERY_S: Final = 0.25
PERCENT_DRAWN: Final = 95
"""Progress when the last step is done; the rest is storing."""

log = structlog.get_logger()


class Telling:
    """The voice of one job. `percent` is the last progress that was told in this attempt."""

    def __init__(self, bus: Bus, clock: Clock, pen: Callable[[], Pen]) -> None:
        """`pen` writes for the attempt that draws now."""
        self.percent = 0
        self._bus = bus
        self._clock = clock
        self._pen = pen
        self._step: Step | None = None
        self._stepped = asyncio.Event()
        self._shown_s = 0.0

    def begin(self) -> None:
        """Begin an attempt at 0."""
        self.percent = 0
        self._step = None

    def report(self, step: Step) -> None:
        """Take in a step; called by the engine, returns at once."""
        self._step = step
        self._stepped.set()

    def pause(self) -> None:
        """Tell nothing more until the next step."""
        self._stepped.clear()

    async def run(self) -> None:
        """Tell the newest step whenever there is one, until cancelled."""
        while True:
            await self._stepped.wait()
            self._stepped.clear()
            step = self._step
            assert step is not None, "the event is set after the step"
            self.percent = max(self.percent, min(PERCENT_DRAWN, int(step.share * PERCENT_DRAWN)))
            try:
                await self._tell(step)
            except NoAnswer as error:
                log.warning("job.progress_lost", reason=str(error))
            await asyncio.sleep(PROGRESS_EVERY_S)

    async def _tell(self, step: Step) -> None:
        pen = self._pen()
        who = pen.stored.who
        progress = pen.progress((step.step, step.steps), step.message, step.eta_s)
        headers = trace.headers(pen.stored.trace) or None
        await self._bus.publish(subjects.progress(who), codec.encode(progress), headers)
        now_s = self._clock.monotonic_s()
        if step.preview is not None and now_s - self._shown_s >= PREVIEW_EVERY_S:
            self._shown_s = now_s
            frame = codec.encode_preview(who.request_id, progress.attempt, step.step, step.preview)
            await self._bus.publish(subjects.preview(who), frame)
