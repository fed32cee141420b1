"""The card between grants: what is done to it, what is owed, and what is known of it. Pure.

It must not decide who gets the card: `agent.core.arbiter` adds that.
"""

from datetime import datetime, timedelta
from typing import Final

import msgspec

from agent.core.acts import (
    Act,
    FreeFirst,
    Kind,
    LoadBack,
    Paid,
    eased,
    has_let_go,
    is_done,
    key,
    missing,
    partial,
    payment,
)
from agent.core.card import SLACK_MIB, Debt, Owed, Reading, gb, is_gone, names, tenants_mib
from agent.core.leases import (
    Alert,
    Ask,
    ClearDebt,
    Decision,
    Elsewhere,
    FreeComfyUI,
    Lease,
    Measure,
    Reload,
    Revoke,
    WaitFor,
    WriteDebt,
)
from agent.core.scheduler import Starts, is_asleep
from agent.core.standing import Settings
from contracts.requests import Priority

FRESH_S: Final = 3.0
UNKNOWN_S: Final = 5.0
"""Without a fresh reading for so long, while one is wanted, the card counts as unknown."""
EVICTION_S: Final = 10.0
RELOAD_S: Final = 120.0
PAUSE_S: Final = 60.0
"""After a failed eviction the same kind is not tried again for this long."""
DEBT_S: Final = 120.0
LOWER_S: Final = 600.0
TURN_S: Final = 30.0
"""Models that came back although jobs waited stay for this long; only CRITICAL does not wait."""
BACKOFF_S: Final = 10.0
BACKOFF_MAX_S: Final = 300.0
MEASURE_AGAIN_S: Final = 1.0
POLL_S: Final = 0.25
LOOK_S: Final = 30.0
"""While nobody wants the card, but ComfyUI holds models, it is measured this often."""
LOADS_MIB_S: Final = 512
"""How fast a model is taken to load, where its reload has to be guessed."""
LIMITS_S: Final = {"freeing": EVICTION_S, "unloading": EVICTION_S, "reloading": RELOAD_S}


class Waiting(msgspec.Struct, frozen=True, kw_only=True):
    """A job that has asked and has no answer but `Wait`; `told` is what for."""

    ask: Ask
    number: int
    told: WaitFor | None = None


class Tending:
    """One card, its lease, what is under way on it, and the models it owes its tenants.

    All attributes are immutable values, so that a shallow copy is a whole one.
    """

    def __init__(self, settings: Settings | None = None, debt: Debt | None = None) -> None:
        """Begin without a reading; `debt` is one that an earlier worker left."""
        self.settings = settings or Settings()
        self.debt = debt
        self.waiting: tuple[Waiting, ...] = ()
        self.lease: Lease | None = None
        self.act: Act | None = None
        self.lost: str | None = None
        self.elsewhere = Elsewhere()
        self.starts = Starts()
        self._told_at: datetime | None = None
        self._number = 0
        self._reading: Reading | None = None
        self._changed_at: datetime | None = None
        self._asked_at: datetime | None = None
        self._wanted_at: datetime | None = None
        self._gone: frozenset[tuple[str, str]] = frozenset()
        self._hopeless: frozenset[tuple[str, str]] = frozenset()
        self._tenants_mib: int | None = None
        self._free_pause: datetime | None = None
        self._unload_pause: datetime | None = None
        self._lower_again: datetime | None = None
        self._lower_before: datetime | None = None
        self._turn_until: datetime | None = None
        self._pay_at: datetime | None = None
        self._failed = 0
        self._has_failed_to_free = False
        self._is_unknown = False
        self._starved_at: datetime | None = None
        self._has_starved = False

    def _free(
        self,
        goal_mib: int,
        reason: str,
        now: datetime,
        said: list[Decision],
        models: tuple[Owed, ...] = (),
    ) -> None:
        """Let ComfyUI free; `models` are those that come back then, if it is for them."""
        number = self._begin("freeing", EVICTION_S, now, goal_mib=goal_mib, models=models)
        said.append(FreeComfyUI(number=number, reason=reason))

    # --- the debt ------------------------------------------------------------------------------

    def _is_overdue(self, now: datetime) -> bool:
        """Tell whether the models come back before the next job; one that is CRITICAL goes first.

        It would only unload them again.
        """
        if self.debt is None or now < after(self.debt.unloaded_at, DEBT_S):
            return False
        return all(one.ask.priority is not Priority.CRITICAL for one in self.waiting)

    def _pay(self, now: datetime, said: list[Decision]) -> None:
        """Bring the models back, one step at a time, if the card is idle and known."""
        reading, debt = self._fresh(now), self.debt
        if debt is None or reading is None or self.lost is not None:
            return
        if self.lease is not None or self.act is not None or is_before(now, self._pay_at):
            return
        may_free = not is_before(now, self._free_pause)
        has_failed = self._has_failed_to_free
        match payment(debt, reading, self._gone, may_free=may_free, has_failed=has_failed):
            case Paid():
                self._clear("they are back already", said)
            case FreeFirst(goal_mib=goal_mib):
                self._free(goal_mib, f"{names(debt.owed)} come back", now, said, debt.owed)
            case LoadBack(models=models, again=again):
                number = self._begin("reloading", RELOAD_S, now, models=models)
                reason = "it is 120 s after the unload" if self._awake(now) else "no job waits"
                said.append(Reload(number=number, models=models, again=again, reason=reason))
            case None:
                pass  # The next reading asks again.

    def _verify(self, act: Act, reading: Reading, now: datetime, said: list[Decision]) -> None:
        """Check what came back; what is listed is paid, unless ComfyUI's models keep it slow."""
        if lacking := missing(act.models, reading):
            self._fail(act, f"{names(lacking)} not listed after the reload", now, said)
            return
        if self._awake(now):
            self._turn_until = after(now, TURN_S)
        slow = partial(act.models, reading)
        if slow:
            reason = f"{names(slow)} came back with a part on the CPU and will be slow"
            said.append(Alert(what="partial_offload", reason=reason))
        if slow and reading.comfyui is not None and reading.comfyui.held:
            self._pay_later(now)
            return
        self._hopeless |= {key(one) for one in slow}
        self._clear("they are back", said)

    def _ease(self, now: datetime, said: list[Decision]) -> None:
        """Owe a model that runs partly on the CPU because of what ComfyUI keeps for nobody."""
        reading = self._fresh(now)
        if self.debt is not None or reading is None or self.lost is not None:
            return
        if self.lease is not None or self.act is not None or is_before(now, self._free_pause):
            return
        if models := eased(reading, self._hopeless):
            self.debt = Debt(owed=models, unloaded_at=now)
            reason = f"{names(models)} has a part on the CPU and fits without ComfyUI's models"
            said.append(WriteDebt(debt=self.debt, reason=reason))

    def _awake(self, now: datetime) -> bool:
        """Tell whether a job waits that may start at this hour."""
        rules = self.settings.rules
        return any(not is_asleep(one.ask, now, rules) for one in self.waiting)

    def _pay_later(self, now: datetime) -> None:
        pause_s = min(BACKOFF_MAX_S, BACKOFF_S * 2**self._failed)
        self._failed, self._pay_at = min(self._failed + 1, 10), after(now, pause_s)
        self._changed_at = now

    def _clear(self, reason: str, said: list[Decision]) -> None:
        self.debt, self._pay_at, self._failed = None, None, 0
        self._gone, self._has_failed_to_free = frozenset(), False
        said.append(ClearDebt(reason=reason))

    # --- acts ----------------------------------------------------------------------------------

    def _begin(
        self,
        kind: Kind,
        limit_s: float,
        now: datetime,
        *,
        goal_mib: int = 0,
        models: tuple[Owed, ...] = (),
    ) -> int:
        """Note an act that begins; what was measured before does not count for its end."""
        number = self._next()
        self.act = Act(
            kind=kind,
            number=number,
            begun_at=now,
            until=after(now, limit_s),
            goal_mib=goal_mib,
            models=models,
        )
        self._changed_at = now
        return number

    def _watch_act(self, now: datetime, said: list[Decision]) -> None:
        """End the act if a reading shows it done or its deadline has passed."""
        act, reading = self.act, self._fresh(now)
        if act is None:
            return
        if reading is not None and is_done(act, reading):
            self.act = None
            if act.kind == "reloading":
                self._verify(act, reading, now, said)
        elif now >= act.until and self._has_let_go(act):
            self.act = None  # Others took what it gave back; the rules go on with what there is.
        elif now >= act.until:
            self._fail(act, f"not done after {LIMITS_S[act.kind]:.0f} s", now, said)

    def _has_let_go(self, act: Act) -> bool:
        seen = self._since_change()
        return seen is not None and has_let_go(act, seen)

    def _fail(self, act: Act, reason: str, now: datetime, said: list[Decision]) -> None:
        """Go on without it: plan B is the next rule, or the next try to pay."""
        self.act = None
        match act.kind:
            case "freeing":
                self._free_pause = after(now, PAUSE_S)
                self._has_failed_to_free = bool(act.models)
                said.append(Alert(what="free_failed", reason=f"ComfyUI did not free: {reason}"))
            case "unloading":
                self._unload_pause = after(now, PAUSE_S)
                reason = f"{names(act.models)} did not leave the card: {reason}"
                said.append(Alert(what="unload_failed", reason=reason))
            case "reloading":
                self._pay_later(now)
                reason = f"{names(act.models)} did not come back: {reason}"
                said.append(Alert(what="reload_failed", reason=reason))

    # --- what is known of the card -------------------------------------------------------------

    def _fresh(self, now: datetime) -> Reading | None:
        """Return the last reading if it is young and was begun after the last change."""
        reading = self._since_change()
        if reading is None or now > after(reading.taken_at, FRESH_S):
            return None
        return reading

    def _since_change(self) -> Reading | None:
        """Return the last reading, however old, if it was begun after the last change."""
        reading = self._reading
        if reading is None:
            return None
        if self._changed_at is not None and reading.taken_at <= self._changed_at:
            return None
        return reading

    def _is_wanted(self, now: datetime) -> bool:
        return self._awake(now) or self.act is not None or self.debt is not None

    def _watch_reading(self, now: datetime, said: list[Decision]) -> None:
        """Notice that nobody can measure the card although somebody has to know."""
        if self._fresh(now) is not None or self.lost is not None or not self._is_wanted(now):
            self._wanted_at, self._is_unknown = None, False
            return
        self._wanted_at = self._wanted_at or now
        if not self._is_unknown and now >= after(self._wanted_at, UNKNOWN_S):
            self._is_unknown = True
            reason = f"no reading of the card for {UNKNOWN_S:.0f} s; nothing is granted"
            said.append(Alert(what="card_unknown", reason=reason))

    def _want_reading(self, now: datetime, said: list[Decision]) -> None:
        fresh = self._fresh(now)
        is_due = fresh is None or (self.act is not None and now > after(fresh.taken_at, POLL_S))
        is_asked = self._asked_at is not None and now < after(self._asked_at, MEASURE_AGAIN_S)
        if is_due and self._is_wanted(now) and not is_asked:
            self._asked_at = now
            said.append(Measure(reason="something waits for what the card shows"))
        elif fresh is None and self._may_slow(now) and not is_asked:
            self._asked_at = now
            said.append(Measure(reason="an LLM may be slow because of what ComfyUI holds"))

    def _may_slow(self, now: datetime) -> bool:
        """Tell whether it is time to look again at what ComfyUI holds for nobody."""
        reading = self._reading
        if reading is None or self.lease is not None or self.lost is not None:
            return False
        holds = reading.comfyui is not None and bool(reading.comfyui.held)
        return holds and now >= after(reading.taken_at, LOOK_S)

    def _watch_tenants(self, reading: Reading, said: list[Decision]) -> None:
        """Note which owed models have gone, and once a lease that tenants take more than before."""
        owed = self.debt.owed if self.debt is not None else ()
        self._gone |= {key(one) for one in owed if is_gone(reading, one)}
        if self.lease is None or self._tenants_mib is None:
            return
        if (grown := tenants_mib(reading) - self._tenants_mib) > SLACK_MIB:
            self._tenants_mib = None
            reason = f"other programs took {gb(grown)} more while {self.lease.ask.job} draws"
            said.append(Alert(what="tenant_grew", reason=reason))

    def _lose(self, reason: str, now: datetime) -> list[Decision]:
        """Take note that there is no card: its lease ends, and so does what was under way.

        Where ComfyUI draws on the CPU, the card does not matter.
        """
        if self.lost is not None or (self._reading is not None and self._reading.on_cpu):
            return []
        self.lost, self.act, self._changed_at = reason, None, now
        said: list[Decision] = [Alert(what="card_lost", reason=reason)]
        if self.lease is not None:
            said.append(Revoke(job=self.lease.ask.job, reason=reason))
            self.lease = None
        return said

    def _end_lease(self, now: datetime) -> None:
        self.lease, self._changed_at = None, now

    def _forget(self, job: str) -> None:
        self.waiting = tuple(one for one in self.waiting if one.ask.job != job)

    def _next(self) -> int:
        self._number += 1
        return self._number


def after(moment: datetime, seconds: float) -> datetime:
    """Return the moment that many seconds later."""
    return moment + timedelta(seconds=seconds)


def is_before(now: datetime, moment: datetime | None) -> bool:
    """Tell whether a moment is still to come; None never is."""
    return moment is not None and now < moment
