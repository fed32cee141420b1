"""What must hold at every step of a simulated day, computed from what is true, not from the core.

A broken promise raises a `Violation`.
"""

from typing import TYPE_CHECKING, Any, Final

from agent.core.scheduler import left_s
from contracts.requests import Priority, Quality
from tests.simulation.machine import NEED_MIB
from tests.simulation.traffic import moment
from tests.simulation.violation import demand

if TYPE_CHECKING:
    from tests.simulation.day_loop import Loop

RESERVE_MIB: Final = 2048
LOWER: Final = (Priority.MEDIUM, Priority.LOW)
STUCK_S: Final = 1800.0
"""On a card on which nobody draws, nobody waits longer: rule 4 opens after 600 s at the latest."""
BACK_S: Final = ((0.0, 90.0), (0.05, 400.0), (1.0, 3600.0))
"""When nobody waits, an owed LLM is back after so long, by the share of calls that fail: each is
tried again after a while."""
LOWER_S: Final = 600.0
TURNS: Final = 8
OOMS_MAX: Final = 2


class Watch:
    """Looks at each step of one day."""

    def __init__(self, day: "Loop") -> None:
        self.day = day
        self.seen = 0
        self._idle_since: float | None = None
        self._owed_since: float | None = None
        self._passed_over = 0
        self._longest: str | None = None
        self._free_mib = 0
        self._lower_s = self._lower_before_s = -LOWER_S
        self._held: frozenset[str] = frozenset()

    def before(self, event: str) -> None:
        """Note what is so, and who is longest past its bound: one start in eight is for it."""
        self._longest = None
        day = self.day
        self._free_mib, self._held = day.machine.free_mib, frozenset(day.machine.held)
        now = moment(day.now_s)
        past = [
            (left_s(one.ask, now, day.config.rules), one.ask.job)
            for one in day.arbiter.waiting
            if one.ask.priority is not Priority.CRITICAL and one.told != "night"
        ]
        if past and min(past)[0] < 0:
            self._longest = min(past)[1]

    def after(self, event: str, said: tuple[Any, ...]) -> None:
        day = self.day
        demand(day.machine.free_mib >= 0, "the card is never over-committed", event)
        if event == "unload_failed":
            self._lower_s = self._lower_before_s
        for decision in said:
            name = type(decision).__name__
            demand(bool(decision.reason), "every decision has its reason", name)
            if name == "Grant":
                self._grant(decision)
            elif name == "UnloadModels":
                self._unload(decision)
            elif name == "ToCloud":
                self._cloud(decision)
            elif name == "Preempt":
                self._preempt(decision)
            elif name == "ClearDebt":
                self._cleared(said)
        self._stuck()
        self._back()

    def end(self) -> None:
        day = self.day
        demand(not day.jobs, "every request ends", str(sorted(day.jobs)[:5]))
        demand(day.arbiter.debt is None, "the LLM is back at the end", str(day.arbiter.debt))
        machine = day.machine
        if machine.expires_s is None:
            demand(machine.is_back, "the LLM is back at the end", f"{machine.vram_mib} MiB")

    def _is_known(self) -> bool:
        """Tell whether the last reading showed all that is so."""
        return self.seen == self.day.machine.changed

    def _grant(self, grant: Any) -> None:
        job = self.day.jobs[grant.job]
        if self._is_known():
            # Within its own memory ComfyUI makes room by itself.
            inside = sum(NEED_MIB[name] for name in self._held) if grant.model in self._held else 0
            room = self._free_mib + inside - RESERVE_MIB
            demand(NEED_MIB[grant.model] <= room, "a grant and the reserve fit the card", str(room))
        if grant.downgraded:
            may = job.arrival.quality in (Quality.DRAFT, Quality.STANDARD)
            demand(may, "high quality is never downgraded", grant.job)
        self._turns(grant.job)

    def _turns(self, started: str) -> None:
        """Check that of each eight starts one goes to who is longest past its bound.

        Two such starts may be fifteen apart: the first of one eight and the last of the next.
        """
        longest = self._longest
        if longest is None or longest == started:
            self._passed_over = 0
            return
        if self.day.jobs[started].priority is Priority.CRITICAL or self._is_barred():
            return
        self._passed_over += 1
        demand(
            self._passed_over < 2 * TURNS,
            "one start in eight goes to the one longest past its bound",
            f"{longest} when {self._passed_over} others had started",
        )

    def _is_barred(self) -> bool:
        """Tell whether no model may be unloaded for MEDIUM or LOW now, whoever is first."""
        arbiter, now = self.day.arbiter, moment(self.day.now_s)
        pauses = (arbiter._lower_again, arbiter._turn_until, arbiter._unload_pause)
        return any(pause is not None and pause > now for pause in pauses)

    def _unload(self, decision: Any) -> None:
        day, machine = self.day, self.day.machine
        if not self._is_known():
            self._lower_before_s = self._lower_s
            return
        ask = next(one.ask for one in day.arbiter.waiting if one.ask.job == decision.job)
        pause = day.arbiter._free_pause
        can_free = pause is None or pause <= moment(day.now_s)
        freed = machine.held_mib if can_free or ask.need.model in machine.held else 0
        room = machine.free_mib + freed - RESERVE_MIB
        demand(room < ask.need.vram_mib, "nothing is unloaded that would have fitted", decision.job)
        is_past = left_s(ask, moment(day.now_s), day.config.rules) < 0
        demand(
            is_past or ask.priority not in LOWER, "MEDIUM and LOW wait before an unload", ask.job
        )
        self._lower_before_s = self._lower_s
        if ask.priority in LOWER:
            pause_s = day.now_s - self._lower_s
            once = "MEDIUM and LOW have one unload in ten minutes"
            demand(pause_s >= LOWER_S, once, f"after {pause_s:.0f} s")
            self._lower_s = day.now_s

    def _cleared(self, said: tuple[Any, ...]) -> None:
        """Check that a debt that is crossed out was paid, or that it was told what is not."""
        told = any(getattr(decision, "what", "") == "partial_offload" for decision in said)
        machine = self.day.machine
        demand(
            machine.is_back or told or not self._is_known(),
            "a debt is cleared when the LLM is back",
            f"{machine.vram_mib} MiB",
        )

    def _cloud(self, decision: Any) -> None:
        day = self.day
        job = day.jobs[decision.job]
        demand(not job.arrival.local_only, "local_only stays in the house", job.name)
        arbiter = day.arbiter
        is_idle = arbiter.lease is None and arbiter.act is None and not arbiter.lost
        if job.ooms >= OOMS_MAX:  # This card has shown that it cannot.
            return
        demand(
            not (is_idle and job.priority in LOWER and not arbiter._is_unknown),
            "MEDIUM and LOW do not go to the cloud from an idle card",
            decision.reason,
        )

    def _preempt(self, decision: Any) -> None:
        by, job = self.day.jobs[decision.by], self.day.jobs[decision.job]
        demand(by.priority is Priority.CRITICAL, "only a CRITICAL preempts", by.name)
        demand(job.priority in LOWER, "only MEDIUM and LOW are preempted", job.name)
        demand(job.preempted < 2, "a job is preempted at most twice", job.name)

    def _stuck(self) -> None:
        """Check that nobody waits for long before a card on which nobody draws."""
        day = self.day
        arbiter = day.arbiter
        waits = any(turn for turn in arbiter.waiting if turn.told != "night")
        if not waits or arbiter.lease is not None or arbiter.lost:
            self._idle_since = None
            return
        if self._idle_since is None:
            self._idle_since = day.now_s
        idle_s = day.now_s - self._idle_since
        demand(idle_s <= STUCK_S, "nobody is stuck", f"{idle_s:.0f} s: {arbiter.waiting[0]}")

    def _back(self) -> None:
        """Check that an owed LLM comes back when nobody waits."""
        day = self.day
        arbiter = day.arbiter
        waits = any(turn for turn in arbiter.waiting if turn.told != "night")
        if arbiter.debt is None or waits or arbiter.lease is not None or arbiter.lost:
            self._owed_since = None
            return
        if self._owed_since is None:
            self._owed_since = day.now_s
        owed_s = day.now_s - self._owed_since
        trouble = self.day.config.trouble
        limit_s = next(limit_s for share, limit_s in BACK_S if trouble <= share)
        demand(owed_s <= limit_s, "the LLM comes back when nobody waits", f"{owed_s:.0f} s")
