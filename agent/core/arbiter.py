"""Who may use the card: events in, decisions out as data. Pure.

It must not await, read a clock, do I/O or log, and it performs nothing. One arbiter for one
card, one lease at a time; one loop calls all its methods, in the order in which things happened.

For a job that needs model M, the first rule that fits (`agent.core.admission` holds the details):

1. ComfyUI holds M -> grant.
2. M fits beside the reserve -> grant.
3. ComfyUI holds other models -> `FreeComfyUI`, measure until it is free, grant.
4. CRITICAL, HIGH with nothing ahead, or past its max wait (MEDIUM and LOW together once in 10 min)
   -> `WriteDebt`, `UnloadModels`, measure until they are gone and NVML shows it, grant.
5. Draft or standard, and the smaller model fits -> `Downgrade`, `Grant` of that one.
6. Cloud allowed and the expected wait exceeds the class's max wait -> `ToCloud`.
7. `Wait`; asked again with each event.

What the performing shell does: it calls the method of each event with the time (UTC, one clock
for all), performs the decisions of one answer in their order, and reports on some of them:

- `Measure`: take a reading (NVML, ComfyUI, tenants) and call `reading`. Unasked, while a job
  waits, holds the lease or a debt stands: once a second. `taken_at` is when measuring began.
- `Wait`, `Grant`, `ToCloud` and `Refuse` answer a `request`. After `Wait` one of the other three
  comes with the answer to a later event, perhaps of another job. Of a job that had one of the
  three the arbiter keeps nothing but its lease.
- `release` stands in a `finally` around the wait for the grant itself, and is called when the image
  bytes have arrived. `release` and `cancel` may be called twice, and for a job that only waits.
- `Downgrade` precedes its `Grant` and is for the log. `Refuse`: the story takes its next candidate,
  or the delivery goes back to its lane.
- After a run out of memory: `oom` instead of `release`, and then nothing: the job waits again, and
  `Grant`, `ToCloud` or `Refuse` comes, as after a request.
- `Revoke`: interrupt the run; it is a fault `engine_down`. `release` need not be called.
- `Preempt`: interrupt the run: `preempted`, back to its lane, no try counted. `release` when the
  card is free, which is also when it has ended by itself meanwhile. Its next `Ask` says
  `preempted` one more.
- `FreeComfyUI`: POST /free with unload_models and free_memory, then `freed` (it answered) or
  `free_failed`. `freed` alone grants nothing: readings show what is free.
- `WriteDebt`: store it in `mmg_state` and wait for the answer. If that fails, do not unload: call
  `unload_failed` with the number of the `UnloadModels` behind it. Where none is behind it, a model
  is owed that is loaded and slow: go on.
- `UnloadModels`: keep_alive 0 for each model, then `unloaded` when all were accepted, or
  `unload_failed`. `unloaded` alone grants nothing either.
- `Reload`: for those in `again` keep_alive 0 and wait until they are no longer listed; then load
  each with its keep-alive (None: -1), then `reloaded`, or `reload_failed` with the models that
  the tenant no longer knows.
- A call of these three acts is given up at its deadline (10 s, 10 s, 120 s) and not sent later.
- `ClearDebt`: delete it from `mmg_state`. If that fails, the next start pays it again: no harm.
- `Alert`: raise it. `tick` at least once a second.

- `busy_elsewhere` whenever a job of another slot starts or ends: fairness and rule 6 need it.

A worker that starts reads its debt from `mmg_state` and passes it to the constructor. Every job
that wants the card asks as soon as the worker holds it: those that wait here are its waiting room.
`agent.core.scheduler` says in which order they are considered; one whose model does not fit is
overtaken by one whose model does.
"""

from datetime import datetime

from msgspec.structs import replace

from agent.core import admission
from agent.core.acts import Kind, key
from agent.core.admission import LOWER
from agent.core.card import Owed, Reading, merged, tenants_mib
from agent.core.leases import (
    Ask,
    Decision,
    Decisions,
    Downgrade,
    Elsewhere,
    Grant,
    Lease,
    Refuse,
    ToCloud,
    UnloadModels,
    Wait,
    WriteDebt,
)
from agent.core.line import Line
from agent.core.scheduler import Turn
from agent.core.standing import Admit, Away, Free, Hold, Never, Unload, Verdict
from agent.core.tending import EVICTION_S, LOWER_S, Waiting, after


class Arbiter(Line):
    """Who may use the card; a method for each event, each answers with decisions."""

    # --- events --------------------------------------------------------------------------------

    def request(self, ask: Ask, now: datetime) -> Decisions:
        """Take a job's wish for the card; asking again replaces the wish and keeps its place."""
        assert self.lease is None or self.lease.ask.job != ask.job, "it has the card"
        known = {one.ask.job: one.number for one in self.waiting}
        number = known[ask.job] if ask.job in known else self._next()
        self._forget(ask.job)
        self.waiting = (*self.waiting, Waiting(ask=ask, number=number))
        return self._settle(now)

    def release(self, job: str, now: datetime) -> Decisions:
        """End the job's lease or its wish, whichever there is."""
        self._forget(job)
        if self.lease is not None and self.lease.ask.job == job:
            self._end_lease(now)
        return self._settle(now)

    def cancel(self, job: str, now: datetime) -> Decisions:
        """End the job's lease or its wish: nobody wants its picture any more."""
        return self.release(job, now)

    def reading(self, reading: Reading, now: datetime) -> Decisions:
        """Take a new picture of the card. One older than the last is left out."""
        if self._reading is not None and reading.taken_at < self._reading.taken_at:
            return self._settle(now)
        self._reading = reading
        self._asked_at = None
        said: list[Decision] = []
        if reading.card is None and not reading.on_cpu:
            said += self._lose(reading.missing or "there is no card", now)
        elif self._fresh(now) is not None:
            self.lost = None
        self._watch_tenants(reading, said)
        return (*said, *self._settle(now))

    def freed(self, number: int, now: datetime) -> Decisions:
        """ComfyUI was asked to free; readings tell when it has."""
        return self._answered(number, now)

    def free_failed(self, number: int, reason: str, now: datetime) -> Decisions:
        """ComfyUI could not be asked to free."""
        return self._refused(number, reason, now)

    def unloaded(self, number: int, now: datetime) -> Decisions:
        """The tenants accepted the unload; readings tell when it has happened."""
        return self._answered(number, now)

    def unload_failed(self, number: int, reason: str, now: datetime) -> Decisions:
        """The debt could not be stored, or a tenant refused."""
        return self._refused(number, reason, now)

    def reloaded(self, number: int, now: datetime) -> Decisions:
        """The tenants say that the models are back; the next reading verifies it."""
        return self._answered(number, now)

    def reload_failed(
        self, number: int, reason: str, now: datetime, unknown: tuple[Owed, ...] = ()
    ) -> Decisions:
        """A tenant did not load; `unknown` are models that it no longer has: nobody owes them."""
        if self.debt is not None and self.act is not None and self.act.number == number:
            kept = tuple(one for one in self.debt.owed if one not in unknown)
            self.debt = replace(self.debt, owed=kept)
        return self._refused(number, reason, now)

    def oom(self, job: str, now: datetime) -> Decisions:
        """The job's run ran out of memory: free, once more, then a smaller model or the cloud."""
        lease = self.lease
        if lease is None or lease.ask.job != job:
            return self._settle(now)
        self._end_lease(now)
        again = replace(lease.ask, ooms=lease.ask.ooms + 1)
        first = min((one.number for one in self.waiting), default=self._next()) - 1
        self.waiting = (*self.waiting, Waiting(ask=again, number=first))
        said: list[Decision] = []
        if self.lost is None:
            self._free(0, f"{lease.need.model} ran out of memory", now, said)
        return (*said, *self._settle(now))

    def card_lost(self, reason: str, now: datetime) -> Decisions:
        """The card, its driver or NVML is gone."""
        said = self._lose(reason, now)
        return (*said, *self._settle(now))

    def card_back(self, now: datetime) -> Decisions:
        """The card answers again; a reading has to show it."""
        self.lost = None
        self._changed_at = now
        return self._settle(now)

    def busy_elsewhere(self, elsewhere: Elsewhere, now: datetime) -> Decisions:
        """Take what the worker does beside the card: for fairness and for rule 6."""
        self.elsewhere, self._told_at = elsewhere, now
        return self._settle(now)

    def tick(self, now: datetime) -> Decisions:
        """Let time pass."""
        return self._settle(now)

    # --- what follows from each event ----------------------------------------------------------

    def _settle(self, now: datetime) -> Decisions:
        """Finish what is under way, pay what is overdue, decide about each job, pay, measure."""
        said: list[Decision] = []
        self._watch_reading(now, said)
        self._watch_act(now, said)
        if self._is_overdue(now):
            self._pay(now, said)
        turns = self.turns(now)
        self._preempt(turns, now, said)
        ahead_s = self._rest_s(now)
        for place, turn in enumerate(turns):
            one = self._waiting(turn.job)
            if turn.is_asleep:
                self._hold(one, _asleep(turn), 7, said)
                continue
            standing = self._standing(now, ahead_s=ahead_s, is_first=place == 0)
            verdict = admission.admit(one.ask, standing)
            if isinstance(verdict, Admit):
                self.starts = self.starts.after(turn)
            self._conclude(one, verdict, now, said)
            ahead_s += one.ask.run_s
        if not self._awake(now):
            self._ease(now, said)
            self._pay(now, said)
        self._watch_starving(now, said)
        self._want_reading(now, said)
        return tuple(said)

    def _conclude(
        self, one: Waiting, verdict: Verdict, now: datetime, said: list[Decision]
    ) -> None:
        """Turn a verdict about a job into decisions and remember what they begin."""
        job = one.ask.job
        match verdict:
            case Admit():
                self._grant(one.ask, verdict, now, said)
            case Free(goal_mib=goal_mib, rule=rule, reason=reason):
                self._free(goal_mib, f"rule {rule}: {reason}", now, said)
                self._hold(one, _during("freeing", reason), rule, said)
            case Unload(reason=reason):
                self._unload(one.ask, verdict, now, said)
                self._hold(one, _during("unloading", reason), 4, said)
            case Away(reason=reason):
                self._forget(job)
                self._take_cloud(now)
                said.append(ToCloud(job=job, reason=reason))
            case Never(why=why, reason=reason):
                self._forget(job)
                said.append(Refuse(job=job, why=why, reason=reason))
            case Hold():
                self._hold(one, verdict, 7, said)

    def _hold(self, one: Waiting, hold: Hold, rule: int, said: list[Decision]) -> None:
        """Say that the job waits, unless it was told last that it waits for this."""
        if one.told == hold.wait_for:
            return
        if hold.wait_for == "reading" and one.told is not None and not self._is_unknown:
            return  # It is only being measured again.
        self.waiting = tuple(
            replace(other, told=hold.wait_for) if other.number == one.number else other
            for other in self.waiting
        )
        said.append(
            Wait(
                job=one.ask.job,
                wait_for=hold.wait_for,
                rule=rule,
                until=hold.until,
                reason=hold.reason,
            )
        )

    def _grant(self, ask: Ask, verdict: Admit, now: datetime, said: list[Decision]) -> None:
        self._forget(ask.job)
        need, downgraded = verdict.need, verdict.downgraded
        self.lease = Lease(ask=ask, need=need, granted_at=now, downgraded=downgraded)
        self._tenants_mib = tenants_mib(self._reading) if self._reading is not None else 0
        if downgraded:
            said.append(
                Downgrade(
                    job=ask.job, wanted=ask.need.model, model=need.model, reason=verdict.reason
                )
            )
        said.append(
            Grant(
                job=ask.job,
                model=need.model,
                vram_mib=need.vram_mib,
                downgraded=downgraded,
                rule=verdict.rule,
                reason=verdict.reason,
            )
        )

    def _unload(self, ask: Ask, verdict: Unload, now: datetime, said: list[Decision]) -> None:
        debt = self.debt = merged(self.debt, verdict.models, now)
        models, reason = verdict.models, f"rule 4: {verdict.reason}"
        self._gone -= {key(one) for one in models}
        self._lower_before = self._lower_again
        if ask.priority in LOWER:
            self._lower_again = after(now, LOWER_S)
        number = self._begin("unloading", EVICTION_S, now, goal_mib=verdict.goal_mib, models=models)
        said.append(WriteDebt(debt=debt, reason=reason))
        said.append(
            UnloadModels(number=number, job=ask.job, models=models, debt=debt, reason=reason)
        )

    def _answered(self, number: int, now: datetime) -> Decisions:
        if self.act is not None and self.act.number == number:
            self.act = replace(self.act, answered=True)
            self._asked_at = None
            if self.act.kind == "reloading":
                self._changed_at = now
        return self._settle(now)

    def _refused(self, number: int, reason: str, now: datetime) -> Decisions:
        said: list[Decision] = []
        if self.act is not None and self.act.number == number:
            if self.act.kind == "unloading":  # Nothing left the card: MEDIUM and LOW may again.
                self._lower_again = self._lower_before
            self._fail(self.act, reason, now, said)
        return (*said, *self._settle(now))


def _asleep(turn: Turn) -> Hold:
    return Hold(wait_for="night", until="the night window opens", reason=turn.reason)


def _during(kind: Kind, reason: str) -> Hold:
    until = "a reading shows that it is done, or its deadline passes"
    return Hold(wait_for=kind, until=until, reason=reason)
