"""One attempt at one engine: from the order to the pictures, or to the fault that ended it.

Every way an engine can end becomes one event for the story. What an attempt costs and what it says
about its engine is told to the turnstile, whatever happens.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec
import structlog

from agent.core.faults import (
    CancelledFault,
    CardTooSmallFault,
    EngineDownFault,
    Fault,
    HangFault,
    InternalFault,
    OutOfMemoryFault,
)
from agent.core.links import Made
from agent.core.money import PaidCancelledFault, UnknownOutcomeFault
from agent.core.steps import Drawn, Elsewhere, Event, Faulted, Interrupted, Placed
from agent.engines.protocol import Engine, EngineJob, Generation
from agent.slots import HeldSlot
from agent.telling import PERCENT_DRAWN, Telling
from agent.tools import Tools

AGAIN_MAX: Final = 3

log = structlog.get_logger()

Anew = Callable[[], Awaitable[Event]]
"""Waits for the card again after a run out of memory, but not longer than the job is wanted."""


class Drawing:
    """An attempt under way. `generation` is what came of it, until somebody takes it."""

    def __init__(
        self, tools: Tools, engine: Engine, job: EngineJob, slot: HeldSlot, telling: Telling
    ) -> None:
        """Nothing is asked of the engine before `run`."""
        self.engine = engine
        self.job = job
        self.generation: Generation | None = None
        self._tools = tools
        self._slot = slot
        self._telling = telling
        self._stop: Interrupted | None = None
        self._revoked = ""
        self._running = False

    async def run(self, anew: Anew) -> Event:
        """Draw; answers Drawn, Faulted, or Interrupted after `interrupt`."""
        began_s = self._tools.clock.monotonic_s()
        self._telling.begin()
        try:
            event = await self._try(anew)
        finally:
            self._telling.pause()  # Progress ends with the drawing: the next link comes now.
        if event is not None:
            return event
        generation = self.generation
        assert generation is not None, "without a fault there are pictures"
        drawn_s = self._tools.clock.monotonic_s() - began_s
        self._slot.ran(drawn_s)
        spent_usd = self._tools.turnstile.spent_usd(f"{self.job.agent}.{self.job.request_id}")
        made = Made(
            model_used=generation.model_used,
            seed=generation.seed,
            cost_usd=max(generation.cost_usd, spent_usd),
            vram_mib=generation.vram_mib or self._slot.vram_mib,
            drawn_s=drawn_s,
            downgraded=self._slot.downgraded,
        )
        return Drawn(made, max(self._telling.percent, PERCENT_DRAWN))

    async def interrupt(self, stop: Interrupted) -> None:
        """End it because the job is stopped, overtaken or preempted."""
        self._stop = stop
        await self._cancel()

    async def revoke(self, reason: str) -> None:
        """End it because the card is gone under it: that is a fault of the engine."""
        self._revoked = reason
        await self._cancel()

    async def _cancel(self) -> None:
        if self._running:
            await self.engine.cancel(self.job)

    async def _try(self, anew: Anew) -> Event | None:
        """Draw once, and again while the arbiter finds room after a run out of memory."""
        while True:
            if self._stop is not None:
                return self._interrupted(self._stop)
            if self._slot.is_revoked:
                return self._faulted(EngineDownFault("the card went before the run began"))
            event = await self._attempt()
            if not (isinstance(event, Faulted) and isinstance(event.fault, OutOfMemoryFault)):
                return event
            if not self._slot.has_card or self.job.again >= AGAIN_MAX:
                return event
            answer = await anew()
            match answer:
                case Placed(candidate=candidate):
                    self.job = msgspec.structs.replace(
                        self.job,
                        again=self.job.again + 1,
                        model=candidate.model,
                        workflow=candidate.workflow,
                    )
                case Elsewhere(why="no_card", reason=reason):
                    return self._faulted(EngineDownFault(f"the card is gone: {reason}"))
                case Elsewhere(reason=reason):
                    fault = CardTooSmallFault(f"{event.fault.message}; {reason}")
                    return Faulted(fault, self._telling.percent)
                case Interrupted():
                    return self._interrupted(answer)
                case _:
                    raise AssertionError(f"no answer to a run out of memory: {answer}")

    async def _attempt(self) -> Event | None:
        """Let the engine draw once; None: the pictures are in `generation`."""
        turnstile = self._tools.turnstile
        try:
            ticket = await turnstile.enter(self.engine, self.job)
        except Fault as fault:
            return self._faulted(fault)
        outcome: Generation | BaseException = asyncio.CancelledError()
        try:
            outcome = await self._generate()
        finally:
            told = turnstile.leave(ticket, outcome)
        await told.wait()
        if isinstance(outcome, Generation):
            self.generation = outcome
            return None
        assert isinstance(outcome, Fault), "an engine ends in pictures or in a fault"
        if isinstance(outcome, CancelledFault):
            if self._stop is not None:
                return self._interrupted(self._stop)
            if self._revoked:
                return self._faulted(EngineDownFault(f"the card is gone: {self._revoked}"))
        return self._faulted(outcome)

    async def _generate(self) -> Generation | Fault:
        """Call the engine; whatever it raises is a fault."""
        if self._stop is not None or self._revoked:  # While the turnstile was asked.
            return PaidCancelledFault("It was stopped before it began.", spent_usd=0.0)
        own_s = self.engine.time_limit_s(self.job)
        limit_s = own_s if own_s is not None else self._tools.time_limit_s(self.job)
        self._running = True
        try:
            async with asyncio.timeout(limit_s):
                return await self.engine.generate(self.job, self._telling.report)
        except TimeoutError:
            return self._unclear(
                HangFault(f"{self.engine.name} was not done after {limit_s:.0f} s")
            )
        except Fault as fault:
            return fault
        except Exception as error:  # The one place where a broken engine becomes a fault.
            log.exception("engine.broke", engine=self.engine.name)
            broken = InternalFault(f"{self.engine.name} broke: {type(error).__name__}")
            return self._unclear(broken)
        finally:
            self._running = False

    def _unclear(self, fault: Fault) -> Fault:
        """Return the fault of a try whose end nobody knows: at a cloud it may have been bought."""
        if self.engine.slot != "cloud":
            return fault
        spent_usd = self.engine.price_usd(self.job)
        return UnknownOutcomeFault(f"{fault.message}; not bought again", spent_usd=spent_usd)

    def _faulted(self, fault: Fault) -> Faulted:
        return Faulted(fault, self._telling.percent)

    def _interrupted(self, stop: Interrupted) -> Interrupted:
        return msgspec.structs.replace(stop, percent=self._telling.percent)
