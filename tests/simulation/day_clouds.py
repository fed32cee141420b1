"""The cloud slots of a simulated day: who is next there, and what it costs."""

from typing import Any

from agent.core import money, scheduler
from agent.core.leases import Elsewhere
from agent.core.money import Books, Limits
from tests.simulation.day_card import CardSide
from tests.simulation.day_loop import CLOUD_RUN_S, CLOUD_USD, Job
from tests.simulation.traffic import moment


class Clouds(CardSide):
    """Fills the slots in the scheduler's order and keeps the books."""

    # --- the clouds ----------------------------------------------------------------------------

    def _affords(self, job: Job) -> bool:
        if not job.clouds_left:
            return False
        limits = Limits(day_usd=self.config.day_usd)
        return isinstance(self._reserved(job, limits), Books)

    def _reserved(self, job: Job, limits: Limits) -> Any:
        name = f"{job.arrival.requester}.{job.name}"
        hold = money.hold_for(name, job.clouds_left, "cloud", worker="w", usd=CLOUD_USD)
        return money.reserve(self.books, hold, limits, moment(self.now_s).date())

    def _fill_cloud(self) -> None:
        """Start those that wait for the cloud, in the scheduler's order, while a slot is free."""
        while len(self.cloud) < self.config.cloud_slots:
            waiting = [job for job in self.held.values() if job.place == "cloud"]
            if not waiting:
                break
            turn = scheduler.order(
                [job.wish for job in waiting],
                moment(self.now_s),
                self.cloud_starts,
                self.config.rules,
                running=self._running(),
            )[0]
            job = self.jobs[turn.job]
            books = self._reserved(job, Limits(day_usd=self.config.day_usd))
            if not isinstance(books, Books):
                job.clouds_left = 0
                self._ask(job)
                continue
            self.books = books
            self.cloud_starts = self.cloud_starts.after(turn)
            self._start_cloud(job)
        self._tell_elsewhere()

    def _start_cloud(self, job: Job) -> None:
        del self.held[job.name]
        self._started(job)
        self.cloud[job.name] = self.now_s
        run_s = CLOUD_RUN_S * self.rng.lognormvariate(0.0, 0.25)
        self.at(run_s, self._bought, job)
        self.at(0.0, self._pull)

    def _bought(self, job: Job) -> None:
        del self.cloud[job.name]
        day = moment(self.now_s).date()
        hold = f"{job.arrival.requester}.{job.name}.{job.clouds_left}.cloud"
        if self._is_trouble():
            self.books = money.refund(self.books, hold, day)
            job.clouds_left -= 1
            self.held[job.name] = job
            self._place(job)
        else:
            self.books = money.settle(self.books, hold, CLOUD_USD, day)
            self.tally.cost_usd += CLOUD_USD
            self.tally.cloud += 1
            del self.jobs[job.name]
        self._fill_cloud()
        self._pull()

    def _running(self) -> dict[str, int]:
        counts: dict[str, int] = {}
        for name in self.cloud:
            requester = self.jobs[name].arrival.requester
            counts[requester] = counts.get(requester, 0) + 1
        return counts

    def _tell_elsewhere(self) -> None:
        if not self.config.cloud_slots:
            return
        free = [0.0] * (self.config.cloud_slots - len(self.cloud))
        busy = [max(1.0, CLOUD_RUN_S - (self.now_s - began)) for began in self.cloud.values()]
        slots_s = sorted([*free, *busy])
        for job in self.held.values():
            if job.place == "cloud":
                slots_s = sorted([slots_s[0] + CLOUD_RUN_S, *slots_s[1:]])
        running = tuple(self._running().items())
        told = Elsewhere(running=running, cloud_s=tuple(slots_s), cloud_run_s=CLOUD_RUN_S)
        if told != self.arbiter.elsewhere:
            self.tell("busy_elsewhere", told)
