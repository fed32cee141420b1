"""The engine of a cloud: takes a job to a provider, call by call, and counts what it costs.

A paid call is sent once: not again after a broken connection, not again after an error. Which
calls there are and what an answer means is for the provider.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Final, Literal, TypeVar

import structlog

from agent.clock import Clock
from agent.core.faults import CancelledFault, EngineDownFault, Fault
from agent.core.money import BudgetExceededFault, PaidCancelledFault, PaidFault
from agent.core.routing import EngineFacts
from agent.engines.cloud.faults import (
    CloudAwayFault,
    KeyRefusedFault,
    ModelGoneFault,
    RateLimitedFault,
)
from agent.engines.cloud.http import CONNECT_TIMEOUT_S, Line
from agent.engines.cloud.provider import Answer, Call, Drawn, Provider, model_asked
from agent.engines.protocol import Attempt, EngineJob, Generation, Health, Report, Step
from contracts.requests import Quality

STEPS: Final = 20
"""Steps of one call; no provider tells how far it is, so all but the last follow the clock."""
WAITED_MAX: Final = 17
PROBE_EVERY_S: Final = 600.0
PROBE_AGAIN_S: Final = 60.0
BARRED_S: Final = 600.0
"""How long a refused key, an empty account or a missing model keeps jobs away."""
REST_MAX_S: Final = 120.0
OK: Final = 200

T = TypeVar("T")
log = structlog.get_logger()


class _Errand:
    """One job on its way: what it has cost, and what a call under way may cost."""

    def __init__(self, job: EngineJob, calls: int, report: Report) -> None:
        self.job = job
        self.stopping = asyncio.Event()
        self.spent_usd = 0.0
        self.doubt_usd = 0.0
        self.done = 0
        self._calls = calls
        self._report = report
        self._step = 0

    def tell(self, step: int, message: str, eta_s: float | None = None) -> None:
        """Report how far the call under way is; never less than before."""
        self._step = max(self._step, self.done * STEPS + step)
        which = f"picture {self.done + 1} of {self._calls}: " if self._calls > 1 else ""
        self._report(
            Step(step=self._step, steps=STEPS * self._calls, message=which + message, eta_s=eta_s)
        )


class CloudEngine:
    """One provider behind the engine protocol. Without a key it is there, and down."""

    slot: Literal["gpu", "cpu", "cloud"] = "cloud"
    places: tuple[str, ...] = ()

    def __init__(
        self, provider: Provider, key: str | None, clock: Clock, *, expected_s: float | None = None
    ) -> None:
        """Talk to `provider` with `key`; `expected_s` is how long a call takes, where known."""
        self.name: str = provider.name
        self._provider = provider
        self._line = (
            None if not key else Line(provider.title, provider.url, key, provider.timeout_s)
        )
        self._clock = clock
        self._expected_s = expected_s
        self._errands: dict[tuple[str, str, int], _Errand] = {}
        self._barred = ""
        self._barred_until_s = 0.0
        self._rest_until_s = 0.0
        self._detail = ""
        self.ends_on: str | None = None

    def __repr__(self) -> str:
        """Show the name only: the key is nobody's business."""
        return f"CloudEngine({self.name!r})"

    async def open(self) -> None:
        """Make the session; asks nothing yet."""
        if self._line is not None:
            await self._line.open()

    @property
    def facts(self) -> EngineFacts:
        """What routing may know now; whatever keeps it from working is its `down`."""
        down = self._down()
        provider = self._provider
        return EngineFacts(
            name=self.name,
            slot=self.slot,
            models=provider.models,
            up=not down,
            down=down,
            ignores_seed=provider.ignores_seed,
            by_quality={quality: provider.model(quality, None) for quality in Quality},
        )

    async def run(self) -> None:
        """Ask from time to time whether key, account and model are good, until cancelled."""
        while True:
            again_s = await self.run_once()
            await asyncio.sleep(again_s)

    async def run_once(self) -> float:
        """Ask once, which costs nothing; return after how many seconds to ask again."""
        if self._line is None:
            return PROBE_EVERY_S
        try:
            outlook = self._provider.outlook(await self._line.get(self._provider.probe_path))
        except CloudAwayFault as fault:
            self._detail = fault.message
            return PROBE_AGAIN_S
        if outlook.ends_on != self.ends_on:
            log.warning("cloud.model_ends", engine=self.name, ends_on=outlook.ends_on)
        self.ends_on = outlook.ends_on
        self._detail = outlook.detail
        if outlook.down:
            self._bar(outlook.down)
        else:
            self._barred = ""
        return PROBE_EVERY_S

    async def generate(self, job: EngineJob, report: Report) -> Generation:
        """Buy the pictures of `job`.

        Raises: PaidFault with what was spent all the same; PaidCancelledFault after `cancel`.
        When the task is cancelled while a call is under way, what it cost is not known.
        """
        assert job.key not in self._errands, "an attempt runs once"
        line = self._line
        if line is None:
            raise EngineDownFault(self._down())
        calls = self._provider.calls(job)
        errand = self._errands[job.key] = _Errand(job, len(calls), report)
        try:
            drawn = await self._unless_stopped(errand, self._buy_all(line, errand, calls))
        finally:
            del self._errands[job.key]
        asked = model_asked(job, self._provider.models)
        if isinstance(drawn, Fault):
            self._learn(drawn, asked)
            raise drawn
        seed = drawn[0].seed
        return Generation(
            pictures=tuple(picture for one in drawn for picture in one.pictures),
            model_used=self._provider.model(Quality(job.quality), asked),
            seed=job.seed if seed is None else seed,
            cost_usd=errand.spent_usd,
        )

    async def cancel(self, job: EngineJob) -> None:
        """Stop waiting for `job`; what the provider draws by then is paid for and lost."""
        errand = self._errands.get(job.key)
        if errand is not None:
            errand.stopping.set()

    async def forget(self, job: EngineJob) -> None:
        """Hold nothing after a job."""

    async def leftovers(self) -> tuple[Attempt, ...]:
        """Leave nothing behind that could be found: a provider has no list of calls."""
        return ()

    async def drop(self, attempt: Attempt) -> None:
        """Have nothing to remove."""

    async def health(self) -> Health:
        """Say whether a job could run now, by what was heard last."""
        down = self._down()
        if down:
            return Health(state="down", detail=down)
        ends = self.ends_on and f"{self._provider.title} switches its model off on {self.ends_on}"
        return Health(
            state="up",
            detail="; ".join(word for word in (self._provider.title, self._detail) if word),
            warnings=(ends,) if ends else (),
        )

    def price_usd(self, job: EngineJob) -> float:
        """Return what `job` would cost, rather too much than too little."""
        try:
            return sum(call.usd for call in self._provider.calls(job))
        except PaidFault:
            return 0.0  # It will be refused before anything is sent.

    def time_limit_s(self, job: EngineJob) -> float:
        """Return how long `job` may take: who cuts it off earlier pays for what was under way."""
        try:
            calls = len(self._provider.calls(job))
        except PaidFault:
            calls = 1
        return REST_MAX_S + calls * (self._provider.timeout_s + CONNECT_TIMEOUT_S)

    async def close(self) -> None:
        """Close all connections; jobs under way end as cancelled."""
        for errand in self._errands.values():
            errand.stopping.set()
        if self._line is not None:
            await self._line.close()

    # --- one job -------------------------------------------------------------------------------

    async def _buy_all(
        self, line: Line, errand: _Errand, calls: tuple[Call, ...]
    ) -> tuple[Drawn, ...] | Fault:
        """Make one call after the other; a fault is returned with all that was spent so far."""
        drawn: list[Drawn] = []
        try:
            await self._rest(errand)
            for call in calls:
                drawn.append(await self._buy(line, errand, call))
                errand.done += 1
        except PaidFault as fault:
            # `spent_usd` of the fault is of its own call; the calls before it were paid as well.
            fault.spent_usd += errand.spent_usd
            return fault
        return tuple(drawn)

    async def _buy(self, line: Line, errand: _Errand, call: Call) -> Drawn:
        """Send one call and read its answer. Raises: PaidFault."""
        began_s = self._clock.monotonic_s()

        def sent() -> None:
            errand.doubt_usd = call.usd

        expected_s = self._expected_s or self._provider.expected_s(errand.job)
        answer = await self._beside(
            line.post(call, sent), lambda: self._pace(errand, expected_s, began_s)
        )
        if isinstance(answer, PaidFault):
            errand.doubt_usd = 0.0
            raise answer
        errand.tell(WAITED_MAX + 1, f"{self._provider.title} has answered")
        errand.doubt_usd = 0.0
        if answer.status != OK:
            raise self._provider.fault(answer)
        made = self._provider.read(errand.job, call, answer)
        errand.spent_usd += made.usd
        self._expected_s = self._clock.monotonic_s() - began_s
        errand.tell(STEPS, "picture received")
        return made

    async def _pace(self, errand: _Errand, expected_s: float, began_s: float) -> None:
        """Report the time that goes by, until cancelled."""
        title = self._provider.title
        for step in range(1, WAITED_MAX + 1):
            left_s = max(0.0, expected_s - (self._clock.monotonic_s() - began_s))
            errand.tell(step, f"{title} draws", round(left_s, 1))
            await asyncio.sleep(expected_s / WAITED_MAX)
        await asyncio.Event().wait()

    async def _beside(
        self, work: Coroutine[None, None, Answer], pace: Callable[[], Coroutine[None, None, None]]
    ) -> Answer | PaidFault:
        """Wait for an answer while progress is told; a fault is returned, a group would wrap it."""
        async with asyncio.TaskGroup() as group:
            told = group.create_task(pace(), name="cloud progress")
            try:
                return await work
            except PaidFault as fault:
                return fault
            finally:
                told.cancel()

    async def _rest(self, errand: _Errand) -> None:
        """Wait until the provider takes calls again: one more would make it angrier."""
        pause_s = self._rest_until_s - self._clock.monotonic_s()
        if pause_s > 0:
            errand.tell(0, f"{self._provider.title} wants a pause", round(pause_s, 1))
            await asyncio.sleep(pause_s)

    async def _unless_stopped(
        self, errand: _Errand, work: Coroutine[None, None, T]
    ) -> T | CancelledFault:
        """Wait for the pictures, but not longer than they are wanted."""
        async with asyncio.TaskGroup() as group:
            buying = group.create_task(work, name=f"buys at {self.name}")
            stop = group.create_task(errand.stopping.wait(), name="stop")
            await asyncio.wait((buying, stop), return_when=asyncio.FIRST_COMPLETED)
            done = buying.done()
            buying.cancel()
            stop.cancel()
        if done:
            return buying.result()
        return PaidCancelledFault(
            f"stopped waiting for {self._provider.title}",
            spent_usd=errand.spent_usd + errand.doubt_usd,
            doubt_usd=errand.doubt_usd,
        )

    # --- what is learned -----------------------------------------------------------------------

    def _learn(self, fault: Fault, asked: str | None) -> None:
        """Keep jobs away from where they cannot succeed; `asked` was one job's own choice."""
        if isinstance(fault, RateLimitedFault):
            pause_s = min(REST_MAX_S, fault.pause_s)
            self._rest_until_s = self._clock.monotonic_s() + pause_s
        elif isinstance(fault, KeyRefusedFault | BudgetExceededFault) or (
            isinstance(fault, ModelGoneFault) and asked is None
        ):
            self._bar(fault.message)

    def _bar(self, why: str) -> None:
        self._barred = why
        self._barred_until_s = self._clock.monotonic_s() + BARRED_S

    def _down(self) -> str:
        """Say why no job should come now; nothing: it may."""
        now_s = self._clock.monotonic_s()
        if self._line is None:
            return f"no key: set {self._provider.key_name}"
        if self._barred and now_s < self._barred_until_s:
            return self._barred
        if now_s < self._rest_until_s:
            return f"{self._provider.title} wants a pause of {self._rest_until_s - now_s:.0f} s"
        return ""
