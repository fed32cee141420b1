"""The card's side of a simulated day: what the arbiter decides is done to the machine here."""

from typing import Any, Final

from agent.core.tending import DEBT_S, after
from tests.simulation.day_loop import Job, Loop
from tests.simulation.machine import NEED_MIB
from tests.simulation.traffic import moment

SWAP_S: Final = 3.0
"""What loading another model into ComfyUI adds to a run."""
LOADS_MIB_S: Final = 700.0
MEASURES_S: Final = 0.02
LOOKS_S: Final = 2.9
"""A worker measures each second; here just often enough that a reading is never too old."""
LONG_S: Final = 60.0


class CardSide(Loop):
    """Performs what the arbiter decides, and lets time, chats and failures act on the machine."""

    # --- the arbiter ---------------------------------------------------------------------------

    def tell(self, event: str, *args: Any) -> None:
        """Tell the arbiter what happened, and perform what it decides."""
        if self.watch is not None:
            self.watch.before(event)
        said = getattr(self.arbiter, event)(*args, moment(self.now_s))
        for decision in said:
            getattr(self, f"_on_{type(decision).__name__.lower()}")(decision)
        if self.watch is not None:
            self.watch.after(event, said)
        self._set_tick()

    def _set_tick(self) -> None:
        """Let time pass for the arbiter where time alone may change what it decides."""
        arbiter = self.arbiter
        if arbiter.act is not None:
            pause_s = 0.5
        elif arbiter.lease is not None:
            pause_s = LOOKS_S if arbiter.waiting else 0.0
        else:
            is_idle = not (arbiter.waiting or arbiter.debt or self.machine.held)
            pause_s = 0.0 if is_idle else self._pause_s()
        if pause_s and (self._tick_s is None or self._tick_s > self.now_s + pause_s):
            self._tick_s = self.now_s + pause_s
            self.at(pause_s, self._tick, self._tick_s)

    def _pause_s(self) -> float:
        """Return after how long time alone may change a decision on a card on which nobody draws.

        A worker looks each second; what it would see between two such moments is the same.
        """
        arbiter, now = self.arbiter, moment(self.now_s)
        later = [
            arbiter._free_pause,
            arbiter._unload_pause,
            arbiter._lower_again,
            arbiter._turn_until,
            arbiter._pay_at,
            moment(self.machine.expires_s) if self.machine.expires_s is not None else None,
            after(arbiter.debt.unloaded_at, DEBT_S) if arbiter.debt is not None else None,
            *(after(one.ask.stored_at, one.ask.max_wait_s) for one in arbiter.waiting),
        ]
        soonest = min((at for at in later if at is not None and at >= now), default=None)
        if soonest is None:
            return LONG_S
        return min(LONG_S, float((soonest - now).total_seconds()) + 0.1)

    def _tick(self, due_s: float) -> None:
        if due_s != self._tick_s:
            return
        self._tick_s = None
        if self.arbiter.act is None:
            self._measure()
        else:
            self.tell("tick")

    def _on_measure(self, _: Any) -> None:
        self.at(MEASURES_S, self._measure)

    def _measure(self) -> None:
        if self.machine.expire(self.now_s):
            self._mark_absence()
        if self.watch is not None:
            self.watch.seen = self.machine.changed
        self.tell("reading", self.machine.reading(self.now_s))

    def _on_wait(self, _: Any) -> None:
        pass

    def _on_downgrade(self, _: Any) -> None:
        self.tally.downgraded += 1

    def _on_alert(self, alert: Any) -> None:
        self.tally.alerts[alert.what] += 1

    def _on_writedebt(self, _: Any) -> None:
        pass

    def _on_cleardebt(self, _: Any) -> None:
        pass

    def _on_refuse(self, refuse: Any) -> None:
        """Nobody here draws it now: back to its lane, for a minute."""
        job = self.jobs[refuse.job]
        job.place = ""
        self.at(60.0, self._place, job)

    def _on_tocloud(self, decision: Any) -> None:
        job = self.jobs[decision.job]
        job.place = "cloud"
        self.at(0.0, self._fill_cloud)

    # --- the card ------------------------------------------------------------------------------

    def _on_grant(self, grant: Any) -> None:
        job = self.jobs[grant.job]
        self.held.pop(job.name, None)
        self.tally.rules[grant.rule] += 1
        self._started(job)
        job.run += 1
        factor = 0.4 if grant.downgraded else 1.0
        real_s = job.arrival.real_s * factor
        machine = self.machine
        if grant.model not in machine.held:
            self.tally.swaps += 1
            real_s += SWAP_S
            if machine.free_mib < NEED_MIB[grant.model]:
                self.at(1.0, self._out_of_memory, job, job.run)
                return
            machine.held.add(grant.model)
        if self.rng.random() < self.config.trouble / 10:
            self.at(real_s / 2, self._out_of_memory, job, job.run)
            return
        self.at(real_s, self._drawn_on_card, job, job.run, real_s)
        self.at(0.0, self._pull)

    def _started(self, job: Job) -> None:
        if job.started_s is None:
            job.started_s = self.now_s
            wait_s = self.now_s - job.arrival.at_s
            self.tally.started(job.priority, wait_s, job.wish.max_wait_s)

    def _drawn_on_card(self, job: Job, run: int, real_s: float) -> None:
        if job.run != run or job.place != "gpu":
            return
        self.tally.run_s += real_s
        del self.jobs[job.name]
        self.tell("release", job.name)
        self._pull()

    def _out_of_memory(self, job: Job, run: int) -> None:
        if job.run == run and job.place == "gpu":
            self.held[job.name] = job
            job.ooms += 1
            self.tell("oom", job.name)
            self._pull()

    def _on_preempt(self, preempt: Any) -> None:
        job = self.jobs[preempt.job]
        self.tally.preempted += 1
        self.tally.lost_s += preempt.lost_s
        self.at(self.rng.uniform(0.2, 2.0), self._interrupted, job, job.run)

    def _interrupted(self, job: Job, run: int) -> None:
        if job.name not in self.jobs or job.run != run or job.place != "gpu":
            return
        job.run += 1
        job.preempted += 1
        self._back(job)
        self._pull()

    def _on_revoke(self, revoke: Any) -> None:
        job = self.jobs[revoke.job]
        job.run += 1
        job.place = ""
        self.at(1.0, self._back, job)

    def _lose(self) -> None:
        self.machine.has_card, self.machine.held = False, set()
        self.machine.vram_mib = 0
        self._mark_absence()
        self.tell("card_lost", "it fell off the bus")
        self.at(60.0, self._find)
        self.at(self._drawn(self.config.lost_every_s), self._lose)

    def _find(self) -> None:
        self.machine.has_card = True
        self.machine.load(self.now_s)
        self._mark_absence()
        self.tell("card_back")
        self._pull()

    # --- ComfyUI, Ollama and who talks to it ---------------------------------------------------

    def _on_freecomfyui(self, act: Any) -> None:
        self.at(self.rng.uniform(0.2, 1.0), self._free, act.number)

    def _free(self, number: int) -> None:
        if self._is_trouble():
            self.tell("free_failed", number, "it does not answer")
            return
        self.machine.held.clear()
        self.tell("freed", number)

    def _on_unloadmodels(self, act: Any) -> None:
        self.tally.unloads += 1
        self.at(0.2, self._unload, act.number)

    def _unload(self, number: int) -> None:
        if self._is_trouble():
            self.tell("unload_failed", number, "500")
            return
        is_stuck = self._is_trouble()
        busy_s = max(0.0, self.machine.chat_until_s - self.now_s)
        self.at((60.0 if is_stuck else 0.5) + busy_s, self._gone)
        self.tell("unloaded", number)

    def _gone(self) -> None:
        if self.arbiter.debt is None and self.machine.is_back:
            return
        self.machine.unload()
        self.machine.changed += 1
        self._mark_absence()

    def _on_reload(self, act: Any) -> None:
        if act.again:
            self.machine.unload()
        load_s = 0.1 if self.machine.vram_mib else 2.0 + self.machine.size_mib / LOADS_MIB_S
        self.at(load_s, self._loaded, act)

    def _loaded(self, act: Any) -> None:
        if self._is_trouble() or not self.machine.has_card:
            self.tell("reload_failed", act.number, "500")
            return
        self.machine.load(self.now_s)
        self._mark_absence()
        self.tell("reloaded", act.number)

    def _chat(self) -> None:
        if self.machine.has_card:
            self.machine.chat(self.now_s, self.rng.uniform(2.0, 10.0))
            self._mark_absence()
        self.at(self._drawn(self.config.chat_every_s), self._chat)

    def _mark_absence(self) -> None:
        """Note when the LLM goes because of us, and when it is back."""
        is_away = not self.machine.is_back and self.arbiter.debt is not None
        if is_away and self._absent_since is None:
            self._absent_since = self.now_s
        elif self.machine.is_back and self._absent_since is not None:
            away_s = self.now_s - self._absent_since
            self.tally.absent_s += away_s
            self.tally.absent_max_s = max(self.tally.absent_max_s, away_s)
            self._absent_since = None
