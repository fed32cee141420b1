"""Keeps one card: tells the arbiter what happens and performs what it decides.

Jobs wait here for their lease. It must not decide anything: every yes, no and later is the
arbiter's, with its reason. All its methods run on one event loop, in the order of the events.
"""

import asyncio
from collections.abc import Callable
from datetime import datetime
from typing import Final, Protocol, assert_never

import msgspec
import structlog

from agent.clock import Clock
from agent.core.arbiter import Arbiter
from agent.core.card import DebtError, Owed, Reading
from agent.core.leases import (
    Alert,
    Ask,
    ClearDebt,
    Decisions,
    Downgrade,
    Elsewhere,
    FreeComfyUI,
    Grant,
    Measure,
    Preempt,
    Refuse,
    Reload,
    Revoke,
    ToCloud,
    UnloadModels,
    Wait,
    WriteDebt,
)
from agent.core.standing import Settings
from agent.gpu.acts import Act, Debts, Performer
from agent.gpu.meter import Meter

TICK_S: Final = 1.0
LOST_LOOK_S: Final = 5.0
"""How often to look for a card that is lost or another worker's, when nobody waits for it."""
ACTS_MAX: Final = 64

log = structlog.get_logger()

Answer = Grant | ToCloud | Refuse
Record = Callable[[str, dict[str, object], Decisions], None]
"""Told of each event that was decided on: its name, what it carried, and what was decided."""


class Holder(Protocol):
    """A job that holds the lease, as the keeper may interrupt it."""

    def revoked(self, reason: str) -> None:
        """The lease has ended: the run is a fault of the engine."""
        ...

    def preempted(self, by: str, reason: str) -> None:
        """A more urgent job needs the card: the run ends and the request is queued again."""
        ...


class Keeper:
    """Order: `open`, `run` in a task, then leases; `close` at the end.

    `arbiter` may be read by everybody; only this class calls its methods.
    """

    def __init__(
        self,
        name: str,
        meter: Meter,
        debts: Debts,
        clock: Clock,
        *,
        settings: Settings | None = None,
        alarm: Callable[[str, str], None] = lambda _what, _reason: None,
    ) -> None:
        """Keep the card that `meter` measures; `alarm` hears what people should know."""
        self.name = name
        self.arbiter = Arbiter(settings)
        self.meter = meter
        self.reading: Reading | None = None
        self.on_decision: list[Callable[[datetime, str, object], None]] = []
        self._debts = debts
        self._clock = clock
        self._alarm = alarm
        self._performer = Performer(meter.drawer, meter.tenants, debts)
        self._answers: dict[str, asyncio.Future[Answer]] = {}
        self._holders: dict[str, Holder] = {}
        self._acts: asyncio.Queue[Act] = asyncio.Queue(ACTS_MAX)
        self._wanted = asyncio.Event()
        self._peak: tuple[str, int, int] | None = None

    @property
    def lost(self) -> str:
        """Why there is no card for this worker; nothing: there is, or none is needed."""
        reading = self.reading
        if reading is not None and reading.on_cpu:
            return ""
        return self.arbiter.lost or ""

    async def open(self) -> None:
        """Take a first reading, so that everybody knows whether there is a card."""
        await self._measure()

    async def run(self) -> None:
        """Measure, tick and act, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._tick(), name=f"card {self.name} ticks")
            group.create_task(self._act(), name=f"card {self.name} acts")
            await self._watch()

    def close(self) -> None:
        """Give the card back."""
        self.meter.close()

    # --- for jobs ------------------------------------------------------------------------------

    async def lease(self, ask: Ask, holder: Holder) -> Answer:
        """Ask for the card and wait for the answer. Order: after a Grant, `release` or `oom`.

        A caller that is cancelled, also in the moment of the grant, holds nothing.
        """
        self._do(self.arbiter.request(ask, self._clock.now()), expects=ask.job)
        return await self._wait(ask.job, holder)

    async def oom(self, job: str, holder: Holder) -> Answer:
        """Give the lease back because the run was out of memory; wait for what comes instead."""
        self._do(self.arbiter.oom(job, self._clock.now()), expects=job)
        return await self._wait(job, holder)

    def change(self, ask: Ask) -> None:
        """Ask anew for a job that waits: what it may do has changed."""
        if ask.job in self._answers and not self._answers[ask.job].done():
            self._do(self.arbiter.request(ask, self._clock.now()))

    def look(self) -> None:
        """Measure at once: something has changed."""
        self._wanted.set()

    def release(self, job: str) -> None:
        """End the lease or the wish of a job; nothing if it has neither."""
        self._holders.pop(job, None)
        self._do(self.arbiter.release(job, self._clock.now()))

    def busy_elsewhere(self, elsewhere: Elsewhere) -> None:
        """Tell what the worker does beside the card."""
        if elsewhere != self.arbiter.elsewhere:
            self._do(self.arbiter.busy_elsewhere(elsewhere, self._clock.now()))

    def peak_mib(self, job: str) -> int | None:
        """Return what the job with the lease took at its peak so far; None: not measured."""
        if self._peak is None or self._peak[0] != job or self._peak[2] == 0:
            return None
        return max(0, self._peak[2] - self._peak[1])

    async def _wait(self, job: str, holder: Holder) -> Answer:
        future = self._answers[job]
        granted = False
        try:
            answer = await future
            granted = isinstance(answer, Grant)
            if granted:
                self._holders[job] = holder
            return answer
        finally:
            self._answers.pop(job, None)
            if not granted:  # Also where a grant and a cancellation came in the same moment.
                self.release(job)

    # --- what the arbiter decides --------------------------------------------------------------

    def _do(self, decisions: Decisions, expects: str = "") -> None:
        """Perform what can be performed at once, and queue the rest in its order."""
        if expects:
            self._answers[expects] = asyncio.get_running_loop().create_future()
        for decision in decisions:
            match decision:
                case Measure():
                    self._wanted.set()
                case Grant() | ToCloud() | Refuse():
                    self._answer(decision)
                case Wait() | Downgrade():
                    log.info(_name(decision), **_fields(decision))
                case Preempt(job=job, by=by, reason=reason):
                    log.warning("card.preempt", **_fields(decision))
                    if (holder := self._holders.get(job)) is not None:
                        holder.preempted(by, reason)
                case Revoke(job=job, reason=reason):
                    if (holder := self._holders.pop(job, None)) is not None:
                        holder.revoked(reason)
                case Alert(what=what, reason=reason):
                    log.warning("card.alert", what=what, reason=reason)
                    self._alarm(what, reason)
                case FreeComfyUI() | WriteDebt() | UnloadModels() | Reload() | ClearDebt():
                    self._acts.put_nowait(decision)
                case _:
                    assert_never(decision)
            self._note(decision)

    def _note(self, decision: object) -> None:
        if not isinstance(decision, Measure):
            for hear in self.on_decision:
                hear(self._clock.now(), self.name, decision)

    def _answer(self, answer: Answer) -> None:
        future = self._answers.get(answer.job)
        if isinstance(answer, Grant) and self.reading is not None:
            self._peak = (answer.job, _others_mib(self.reading), 0)
        if future is not None and not future.done():
            future.set_result(answer)
        elif isinstance(answer, Grant):
            log.error("card.granted_to_nobody", job=answer.job)
            self._do(self.arbiter.release(answer.job, self._clock.now()))

    # --- beside --------------------------------------------------------------------------------

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self._do(self.arbiter.tick(self._clock.now()))

    async def _watch(self) -> None:
        """Measure when the arbiter asks for it, and once a second while something is at stake."""
        while True:
            arbiter = self.arbiter
            at_stake = arbiter.waiting or arbiter.lease is not None or arbiter.debt is not None
            pause_s = TICK_S if at_stake and not self.lost else LOST_LOOK_S
            if at_stake or self.lost or self._wanted.is_set():
                try:
                    async with asyncio.timeout(pause_s):
                        await self._wanted.wait()
                except TimeoutError:
                    log.debug("card.measured_unasked", card=self.name)
            else:
                await self._wanted.wait()
            self._wanted.clear()
            await self._measure()

    async def _measure(self) -> None:
        reading = await self.meter.read()
        if not self._performer.card and self.meter.card_id and not reading.on_cpu:
            reading = await self._take_over(reading)
        self.reading = reading
        if self._peak is not None and reading.card is not None:
            job, others, most = self._peak
            used = reading.card.total_mib - reading.card.free_mib
            lease = self.arbiter.lease
            if lease is not None and lease.ask.job == job:
                self._peak = (job, others, max(most, used))
        self._do(self.arbiter.reading(reading, self._clock.now()))

    async def _take_over(self, reading: Reading) -> Reading:
        """Read the debt that an earlier worker left for this card, now that the card is ours.

        Without it nothing may be granted: it could be forgotten for good.
        """
        card = self.meter.card_id
        try:
            debt = await self._debts.read(card)
        except DebtError as error:
            missing = f"what is owed to the tenants of this card cannot be read: {error}"
            return msgspec.structs.replace(reading, card=None, missing=missing)
        self._performer.card = card
        if debt is not None:
            log.info("card.debt_found", card=card, owed=[one.model for one in debt.owed])
            self.arbiter.debt = debt
        return reading

    async def _act(self) -> None:
        while True:
            act = await self._acts.get()
            log.info(_name(act), reason=act.reason)
            await self._performer.perform(act, self)

    def freed(self, number: int, failed: str) -> None:
        """Tell the arbiter how a free ended."""
        now = self._clock.now()
        if failed:
            self._do(self.arbiter.free_failed(number, failed, now))
        else:
            self._do(self.arbiter.freed(number, now))

    def unloaded(self, number: int, failed: str) -> None:
        """Tell the arbiter how an unload ended."""
        now = self._clock.now()
        if failed:
            self._do(self.arbiter.unload_failed(number, failed, now))
        else:
            self._do(self.arbiter.unloaded(number, now))

    def reloaded(self, number: int, failed: str, unknown: tuple[Owed, ...]) -> None:
        """Tell the arbiter how a reload ended."""
        now = self._clock.now()
        if failed:
            self._do(self.arbiter.reload_failed(number, failed, now, unknown))
        else:
            self._do(self.arbiter.reloaded(number, now))


def _others_mib(reading: Reading) -> int:
    """Return what is on the card beside ComfyUI."""
    if reading.card is None:
        return 0
    held = reading.comfyui.held_mib if reading.comfyui is not None else 0
    return max(0, reading.card.total_mib - reading.card.free_mib - held)


def _name(decision: msgspec.Struct) -> str:
    return f"card.{type(decision).__name__.lower()}"


def _fields(decision: msgspec.Struct) -> dict[str, object]:
    return msgspec.structs.asdict(decision)
