"""Keeps one card: tells the arbiter what happens and performs what it decides.

Jobs wait here for their lease. It must not decide anything: every yes, no and later is the
arbiter's, with its reason. All its methods run on one event loop, in the order of the events.
"""

import asyncio
from collections.abc import Callable, Collection, Mapping
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
from agent.core.replaying import Happening, Name, named, play, remember
from agent.core.standing import Settings
from agent.gpu.acts import Act, Debts, Performer
from agent.gpu.meter import Meter

TICK_S: Final = 1.0
ACT_LOOK_S: Final = 0.05
"""How often to look whether memory is free, once that was promised: nobody tells when it is."""
LOST_LOOK_S: Final = 5.0
"""How often to look for a card that is lost or another worker's, when nobody waits for it."""
ACTS_MAX: Final = 64

log = structlog.get_logger()

Answer = Grant | ToCloud | Refuse


class Moment(msgspec.Struct, frozen=True, kw_only=True):
    """One event of a card's arbiter: how it stood before, and what was decided."""

    at: datetime
    card: str
    event: Happening
    before: Mapping[str, object]
    decisions: Decisions


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
    ) -> None:
        """Keep the card that `meter` measures."""
        self.name = name
        self.arbiter = Arbiter(settings)
        self.meter = meter
        self.reading: Reading | None = None
        self.on_decided: list[Callable[[Moment], None]] = []
        self._debts = debts
        self._clock = clock
        self._performer = Performer(meter.drawer, meter.tenants, debts)
        self._answers: dict[str, asyncio.Future[Answer]] = {}
        self._holders: dict[str, Holder] = {}
        self._acts: asyncio.Queue[Act] = asyncio.Queue(ACTS_MAX)
        self._wanted = False
        self._measured = asyncio.Event()
        self._stirred = asyncio.Event()
        """A reading is wanted, or how often one is needed may have changed."""
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
        self._answers[ask.job] = asyncio.get_running_loop().create_future()
        self._happen(Happening(name="request", ask=ask))
        return await self._wait(ask.job, holder)

    async def oom(self, job: str, holder: Holder) -> Answer:
        """Give the lease back because the run was out of memory; wait for what comes instead."""
        if not self.has(job):
            reason = self.lost or "its lease had ended before"
            return Refuse(job=job, why="no_card", reason=reason)
        self._answers[job] = asyncio.get_running_loop().create_future()
        self._happen(Happening(name="oom", job=job))
        return await self._wait(job, holder)

    def has(self, job: str) -> bool:
        """Tell whether a job has the lease now."""
        lease = self.arbiter.lease
        return lease is not None and lease.ask.job == job

    def change(self, ask: Ask) -> None:
        """Ask anew for a job that waits: what it may do has changed."""
        if ask.job in self._answers and not self._answers[ask.job].done():
            self._happen(Happening(name="request", ask=ask))

    async def fresh(self) -> Reading:
        """Measure at once and return what it shows. Order: `run` goes on beside it."""
        asked_at = self._clock.now()
        while True:
            measured = self._measured
            self._want_reading()
            await measured.wait()
            if self.reading is not None and self.reading.taken_at >= asked_at:
                return self.reading

    def forgive(self, models: Collection[tuple[str, str]]) -> None:
        """Owe these models, by tenant and name, no longer: a person wants them off the card."""
        debt = self.arbiter.debt
        if debt is None:
            return
        left = tuple(one for one in debt.owed if (one.tenant, one.model) not in models)
        if left == debt.owed:
            return
        reason = "an operator has unloaded what was owed"
        rest = msgspec.structs.replace(debt, owed=left)
        self.arbiter.debt = rest if left else None
        self._acts.put_nowait(
            WriteDebt(debt=rest, reason=reason) if left else ClearDebt(reason=reason)
        )

    def look(self) -> None:
        """Measure at once: something has changed."""
        self._want_reading()

    def release(self, job: str) -> None:
        """End the lease or the wish of a job; nothing if it has neither."""
        self._holders.pop(job, None)
        self._happen(Happening(name="release", job=job))

    def busy_elsewhere(self, elsewhere: Elsewhere) -> None:
        """Tell what the worker does beside the card."""
        if elsewhere != self.arbiter.elsewhere:
            self._happen(Happening(name="busy_elsewhere", elsewhere=elsewhere))

    def peak_mib(self, job: str) -> int | None:
        """Return what the job with the lease took at its peak so far; None: not measured."""
        if self._peak is None or self._peak[0] != job or self._peak[2] == 0:
            return None
        return max(0, self._peak[2] - self._peak[1])

    async def _wait(self, job: str, holder: Holder) -> Answer:
        future = self._answers[job]
        granted = False
        self._holders[job] = holder  # From now on: the lease may end before this wait returns.
        self._stirred.set()
        try:
            answer = await future
            granted = isinstance(answer, Grant)
            return answer
        finally:
            self._answers.pop(job, None)
            if not granted:  # Also where a grant and a cancellation came in the same moment.
                self.release(job)

    # --- what the arbiter decides --------------------------------------------------------------

    def _happen(self, event: Happening) -> None:
        """Tell the arbiter and do what it decides; who records decisions hears all of it."""
        now, before = self._clock.now(), remember(self.arbiter)
        decisions = play(self.arbiter, event, now)
        for hear in self.on_decided:
            hear(Moment(at=now, card=self.name, event=event, before=before, decisions=decisions))
        self._do(decisions)

    def _do(self, decisions: Decisions) -> None:
        """Perform what can be performed at once, and queue the rest in its order."""
        for decision in decisions:
            match decision:
                case Measure():
                    self._want_reading()
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
                case FreeComfyUI() | WriteDebt() | UnloadModels() | Reload() | ClearDebt():
                    self._acts.put_nowait(decision)
                case _:
                    assert_never(decision)

    def _answer(self, answer: Answer) -> None:
        future = self._answers.get(answer.job)
        if isinstance(answer, Grant) and self.reading is not None:
            self._peak = (answer.job, _others_mib(self.reading), 0)
        if future is not None and not future.done():
            future.set_result(answer)
        elif isinstance(answer, Grant):
            log.error("card.granted_to_nobody", job=answer.job)
            self._happen(Happening(name="release", job=answer.job))

    # --- beside --------------------------------------------------------------------------------

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self._happen(Happening(name="tick"))

    async def _watch(self) -> None:
        """Measure when the arbiter asks for it, and once a second while something is at stake."""
        measured_s = self._clock.monotonic_s()
        while True:
            pause_s = self._pause_s()
            if pause_s is not None:
                pause_s = max(0.0, measured_s + pause_s - self._clock.monotonic_s())
            try:
                async with asyncio.timeout(pause_s):
                    await self._stirred.wait()
            except TimeoutError:
                self._wanted = True
            self._stirred.clear()
            if self._wanted:
                self._wanted = False
                await self._measure()
                measured_s = self._clock.monotonic_s()

    def _pause_s(self) -> float | None:
        """Return how long after a reading the next one is taken unasked; None: it is not."""
        arbiter = self.arbiter
        if self.lost:
            return LOST_LOOK_S
        if arbiter.act is not None and arbiter.act.answered:
            return ACT_LOOK_S
        at_stake = arbiter.waiting or arbiter.lease is not None or arbiter.debt is not None
        return TICK_S if at_stake else None

    def _want_reading(self) -> None:
        self._wanted = True
        self._stirred.set()

    async def _measure(self) -> None:
        reading = await self.meter.read()
        if not self._performer.card and self.meter.card_id and not reading.on_cpu:
            reading = await self._take_over(reading)
        self.reading = reading
        self._measured.set()
        self._measured = asyncio.Event()
        if self._peak is not None and reading.card is not None:
            job, others, most = self._peak
            used = reading.card.total_mib - reading.card.free_mib
            lease = self.arbiter.lease
            if lease is not None and lease.ask.job == job:
                self._peak = (job, others, max(most, used))
        self._happen(Happening(name="reading", reading=reading))

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
        name: Name = "free_failed" if failed else "freed"
        self._happen(Happening(name=name, number=number, reason=failed))

    def unloaded(self, number: int, failed: str) -> None:
        """Tell the arbiter how an unload ended."""
        name: Name = "unload_failed" if failed else "unloaded"
        self._happen(Happening(name=name, number=number, reason=failed))

    def reloaded(self, number: int, failed: str, unknown: tuple[Owed, ...]) -> None:
        """Tell the arbiter how a reload ended."""
        name: Name = "reload_failed" if failed else "reloaded"
        self._happen(Happening(name=name, number=number, reason=failed, unknown=unknown))


def _others_mib(reading: Reading) -> int:
    """Return what is on the card beside ComfyUI."""
    if reading.card is None:
        return 0
    held = reading.comfyui.held_mib if reading.comfyui is not None else 0
    return max(0, reading.card.total_mib - reading.card.free_mib - held)


def _name(decision: msgspec.Struct) -> str:
    return f"card.{named(decision)}"


def _fields(decision: msgspec.Struct) -> dict[str, object]:
    return msgspec.structs.asdict(decision)
