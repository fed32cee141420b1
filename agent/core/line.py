"""Those who wait for the card, in their order, and what each has to reckon with. Pure.

It must not decide: `agent.core.arbiter` does, with what it finds here.
"""

from datetime import datetime
from typing import Final

from msgspec.structs import replace

from agent.core import admission, preemption, scheduler
from agent.core.leases import Alert, Ask, Decision
from agent.core.outlook import Outlook, outlook
from agent.core.scheduler import Turn
from agent.core.standing import Admit, Busy, Free, Standing, Unload, Verdict
from agent.core.tending import LOADS_MIB_S, Tending, Waiting, after, is_before
from contracts.requests import Priority

STARVES_S: Final = 600.0
"""After so long in which only CRITICAL starts while others wait, people are told."""
BRIEF_S: Final = 2.0
"""What an unload, a free or an interrupt is taken to last."""


class Line(Tending):
    """The line before the card."""

    def turns(self, now: datetime) -> tuple[Turn, ...]:
        """Return the order in which the waiting jobs are considered."""
        if not self.waiting:
            return ()
        comfyui = self._reading.comfyui if self._reading is not None else None
        waiting = sorted(self.waiting, key=_number)
        return scheduler.order(
            [one.ask for one in waiting],
            now,
            self.starts,
            self.settings.rules,
            held=comfyui.held if comfyui is not None else (),
            running=dict(self.elsewhere.running),
        )

    def outlook(self, now: datetime) -> tuple[Outlook, ...]:
        """Return what each waiting job may expect, in the order in which they are considered."""
        turns, rest_s = self.turns(now), self._rest_s(now)
        asks = [self._waiting(turn.job).ask for turn in turns]
        verdicts: dict[str, Verdict] = {}
        memory_s: dict[str, float] = {}
        ahead_s = rest_s
        for place, ask in enumerate(asks):
            standing = self._standing(now, ahead_s=ahead_s, is_first=place == 0)
            verdicts[ask.job] = admission.admit(ask, standing)
            memory_s[ask.job] = admission.memory_wait_s(ask, standing)
            ahead_s += ask.run_s
        error_s = self.lease.ask.run_error_s if self.lease is not None else rest_s / 2
        return outlook(asks, turns, verdicts, rest_s, error_s, memory_s)

    def _standing(self, now: datetime, *, ahead_s: float, is_first: bool) -> Standing:
        on_cpu = self._reading is not None and self._reading.on_cpu
        return Standing(
            now=now,
            settings=self.settings,
            reading=self._fresh(now),
            is_unknown=self._is_unknown,
            lost=None if on_cpu else self.lost,
            busy=self._busy(ahead_s),
            is_first=is_first,
            ahead_s=ahead_s,
            free_in_s=_until(self._free_pause, now),
            unload_in_s=_until(self._unload_pause, now),
            turn_in_s=_until(self._turn_until, now),
            lower_in_s=_until(self._lower_again, now),
            cloud_s=self._cloud_s(now),
        )

    def _busy(self, ahead_s: float) -> Busy | None:
        """Say why the card cannot be granted to anybody now, or None."""
        if self.lease is not None:
            job, by = self.lease.ask.job, self.lease.preempted_by
            return Busy(
                wait_for="card",
                rest_s=ahead_s,
                until=f"{job} is interrupted" if by else f"{job} has its image",
                reason=f"{job} draws on the card" + (f" and gives way to {by}" if by else ""),
                is_brief=bool(by),
            )
        if self.act is not None:
            return Busy(
                wait_for=self.act.kind,
                rest_s=ahead_s,
                until="a reading shows that it is done, or its deadline passes",
                reason=f"{self.act.kind} is under way on the card",
                is_brief=self.act.kind != "reloading",
            )
        return None

    def _rest_s(self, now: datetime) -> float:
        """Return how long who draws, or what is under way, is expected to take yet."""
        if self.lease is not None:
            return BRIEF_S if self.lease.preempted_by else preemption.rest_s(self.lease, now)
        if self.act is None:
            return 0.0
        if self.act.kind != "reloading":
            return BRIEF_S
        ran_s = (now - self.act.begun_at).total_seconds()
        load_s = sum(one.vram_mib for one in self.act.models) / LOADS_MIB_S
        return abs(load_s - ran_s)

    def _cloud_s(self, now: datetime) -> float:
        """Return how long a job that is sent to the cloud now would wait there."""
        if not self.elsewhere.cloud_s or self._told_at is None:
            return 0.0
        return max(0.0, min(self.elsewhere.cloud_s) - (now - self._told_at).total_seconds())

    def _take_cloud(self, now: datetime) -> None:
        """Count a job that was sent to the cloud, until we are told of it."""
        if not self.elsewhere.cloud_s or self._told_at is None:
            return
        gone_s = (now - self._told_at).total_seconds()
        soonest, *rest = sorted(max(0.0, one - gone_s) for one in self.elsewhere.cloud_s)
        cloud_s = (soonest + self.elsewhere.cloud_run_s, *rest)
        self.elsewhere, self._told_at = replace(self.elsewhere, cloud_s=cloud_s), now

    def _preempt(self, turns: tuple[Turn, ...], now: datetime, said: list[Decision]) -> None:
        """Interrupt who draws, if the first in the line may and could start then."""
        if self.lease is None or not turns or turns[0].is_asleep:
            return
        ask = self._waiting(turns[0].job).ask
        preempt = preemption.preempts(self.lease, ask, self.settings.preempt_after_s, now)
        if preempt is not None and self._could_start(ask, now):
            self.lease = replace(self.lease, preempted_by=preempt.by)
            said.append(preempt)

    def _could_start(self, ask: Ask, now: datetime) -> bool:
        """Tell whether the job would get the card if nobody drew: else the work is lost in vain."""
        idle = replace(self._standing(now, ahead_s=0.0, is_first=True), busy=None)
        return isinstance(admission.admit(ask, idle), Admit | Free | Unload)

    def _watch_starving(self, now: datetime, said: list[Decision]) -> None:
        """Notice that CRITICAL jobs have kept the card from all others for long."""
        waits = any(_is_lower(one.ask) for one in self.waiting)
        is_critical = self.lease is not None and not _is_lower(self.lease.ask)
        if not waits or (self.lease is not None and not is_critical):
            self._starved_at, self._has_starved = None, False
            return
        if is_critical and self._starved_at is None:
            self._starved_at = now
        if self._starved_at is None or self._has_starved:
            return
        if now >= after(self._starved_at, STARVES_S):
            self._has_starved = True
            reason = f"for {STARVES_S / 60:.0f} min only CRITICAL jobs got the card; others wait"
            said.append(Alert(what="critical_starves", reason=reason))

    def _waiting(self, job: str) -> Waiting:
        return next(one for one in self.waiting if one.ask.job == job)


def _number(one: Waiting) -> int:
    return one.number


def _is_lower(ask: Ask) -> bool:
    return ask.priority is not Priority.CRITICAL


def _until(moment: datetime | None, now: datetime) -> float:
    """Return how long it is until a moment; 0: it is past, or there is none."""
    if moment is None or not is_before(now, moment):
        return 0.0
    return (moment - now).total_seconds()
