"""One simulated stretch of days: a worker with a card and cloud slots, around the real pure core.

Its own seeded loop of events; time is a number. The arbiter, the order, the waiting room, routing
and the books are the code that runs; the card, ComfyUI, Ollama and the clouds are `machine` and
what is drawn here. After each answer of the arbiter `day_rules` looks whether a promise was broken.
"""

import heapq
import random
from bisect import insort
from collections.abc import Callable
from typing import Any, Final

import msgspec

from agent.core import money, scheduler, waiting_room
from agent.core.arbiter import Arbiter
from agent.core.leases import Ask, Elsewhere, Need
from agent.core.money import Books, Limits
from agent.core.routing import Candidate, EngineFacts, route
from agent.core.scheduler import MAX_WAIT_S, Rules, Starts, Wish
from agent.core.standing import Settings
from agent.core.tending import DEBT_S, after
from agent.core.waiting_room import LANES, Held
from contracts.requests import Priority
from tests.simulation.day_rules import Watch
from tests.simulation.machine import NEED_MIB, Machine
from tests.simulation.tally import Tally
from tests.simulation.traffic import DAY_S, Arrival, Traffic, engines, moment

CLOUD_RUN_S: Final = 12.0
CLOUD_USD: Final = 0.04
SWAP_S: Final = 3.0
"""What loading another model into ComfyUI adds to a run."""
LOADS_MIB_S: Final = 700.0
MEASURES_S: Final = 0.02
LOOKS_S: Final = 2.9
"""A worker measures each second; here just often enough that a reading is never too old."""
LONG_S: Final = 60.0
_ENGINES: Final = {cloud: engines(cloud=cloud) for cloud in (False, True)}


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """What one stretch of days is made of. Units: seconds, US dollars.

    `trouble` is the share of calls that fail; `chat_every_s` the mean time between two chats with
    the LLM; `lost_every_s` between two losses of the card, each for a minute; 0: never.
    """

    name: str
    traffic: Traffic
    llm: str = "8b"
    cloud_slots: int = 2
    day_usd: float = 1000.0
    keep_alive_s: float | None = None
    chat_every_s: float = 120.0
    trouble: float = 0.01
    lost_every_s: float = 0.0
    rules: Rules = Rules()
    lookahead: int = waiting_room.SIZE


class Job:
    """One request on its way. `run` counts its runs, so that the end of an old one is known."""

    def __init__(self, seq: int, arrival: Arrival, candidates: tuple[Candidate, ...]) -> None:
        self.name, self.seq, self.arrival = f"r{seq}", seq, arrival
        self.priority = arrival.priority
        self.candidates = candidates
        self.preempted = self.run = 0
        self.started_s: float | None = None
        self.place = ""
        self.clouds_left = sum(1 for one in candidates if one.is_cloud)
        self.wish = Wish(
            job=self.name,
            priority=self.priority,
            requester=arrival.requester,
            seq=seq,
            stored_at=moment(arrival.at_s),
            max_wait_s=MAX_WAIT_S[self.priority],
            run_s=CLOUD_RUN_S,
        )

    def __lt__(self, other: "Job") -> bool:
        return self.seq < other.seq

    @property
    def local(self) -> Candidate | None:
        return next((one for one in self.candidates if not one.is_cloud), None)


class Day:
    """The loop, the worker and its books."""

    def __init__(
        self, config: Config, seed: int, arbiter: type[Any] = Arbiter, *, watched: bool = True
    ) -> None:
        self.config, self.rng = config, random.Random(seed)
        self.now_s, self._count = 0.0, 0
        self._heap: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._arrivals = config.traffic.arrivals(seed)
        self._facts: tuple[EngineFacts, ...] = _ENGINES[config.cloud_slots > 0]
        self._routes: dict[tuple[object, bool], tuple[Candidate, ...]] = {}
        self.machine = Machine(config.llm, config.keep_alive_s)
        self.arbiter = arbiter(Settings(rules=config.rules))
        self.tally = Tally()
        self.watch = Watch(self) if watched else None
        self.lanes: dict[Priority, list[Job]] = {lane: [] for lane in LANES}
        self.jobs: dict[str, Job] = {}
        self.held: dict[str, Job] = {}
        self.cloud: dict[str, float] = {}
        self.cloud_starts = Starts()
        self.books = Books()
        self._tick_s: float | None = None
        self._absent_since: float | None = None

    # --- the loop ------------------------------------------------------------------------------

    def run(self) -> Tally:
        """Play all days, and what is left after them, to the end."""
        self._next_arrival()
        self.at(self._drawn(self.config.chat_every_s), self._chat)
        if self.config.lost_every_s:
            self.at(self._drawn(self.config.lost_every_s), self._lose)
        end_s = self.config.traffic.days * DAY_S
        while self._heap and (self.now_s < end_s or self.jobs or self.arbiter.debt):
            self.now_s, _, what, args = heapq.heappop(self._heap)
            what(*args)
        self.tally.total_s += self.now_s
        self._mark_absence()
        if self.watch is not None:
            self.watch.end()
        return self.tally

    def at(self, after_s: float, what: Callable[..., None], *args: Any) -> None:
        self._count += 1
        heapq.heappush(self._heap, (self.now_s + after_s, self._count, what, args))

    def _drawn(self, mean_s: float) -> float:
        return self.rng.expovariate(1 / mean_s)

    def _is_trouble(self) -> bool:
        return self.rng.random() < self.config.trouble

    # --- requests ------------------------------------------------------------------------------

    def _next_arrival(self) -> None:
        arrival = next(self._arrivals, None)
        if arrival is not None:
            self.at(arrival.at_s - self.now_s, self._arrive, arrival)

    def _arrive(self, arrival: Arrival) -> None:
        self._next_arrival()
        known = (arrival.quality, arrival.local_only)
        if known not in self._routes:
            self._routes[known] = route(arrival.request, self._facts)
        self.tally.requests += 1
        job = Job(self.tally.requests, arrival, self._routes[known])
        self.jobs[job.name] = job
        self.lanes[job.priority].append(job)
        self._pull()

    def _pull(self) -> None:
        """Pull while it is allowed, and hand back what the room does not hold."""
        while True:
            held = [self._held(job) for job in self.held.values()]
            pulls = waiting_room.pull_next(held, {}, self.config.lookahead)
            lane = next((self.lanes[pull.lane] for pull in pulls if self.lanes[pull.lane]), None)
            if lane is None:
                return
            job = lane.pop(0)
            self.held[job.name] = job
            self._place(job)
            held = [self._held(job) for job in self.held.values()]
            for back in waiting_room.overfull(held, self.config.lookahead):
                self._back(self.held[back.job])

    def _held(self, job: Job) -> Held:
        return Held(job=job.name, priority=job.priority, seq=job.seq, slot=job.place)

    def _back(self, job: Job) -> None:
        """Hand a job back to its lane."""
        self.held.pop(job.name, None)
        insort(self.lanes[job.priority], job)
        if job.place == "gpu":
            self.tell("release", job.name)
        job.place = ""

    def _place(self, job: Job) -> None:
        """Let a held job wait for the slot of its first engine."""
        is_cloud = job.candidates[0].is_cloud and job.clouds_left > 0
        if (is_cloud or job.local is None) and self._affords(job):
            job.place = "cloud"
            self._fill_cloud()
        else:
            self._ask(job)

    def _ask(self, job: Job, **changes: Any) -> None:
        local = job.local
        assert local is not None, "ComfyUI can draw all that comes here"
        job.place = "gpu"
        smaller = local.smaller
        arrival = job.arrival
        ask = Ask(
            job=job.name,
            priority=job.priority,
            quality=arrival.quality,
            need=Need(model=local.model, vram_mib=local.vram_mib),
            smaller=None
            if smaller is None
            else Need(model=smaller.model, vram_mib=smaller.vram_mib),
            cloud=job.clouds_left > 0 and self._affords(job),
            stored_at=job.wish.stored_at,
            max_wait_s=job.wish.max_wait_s,
            requester=arrival.requester,
            seq=job.seq,
            run_s=arrival.run_s,
            run_error_s=arrival.run_s * 0.15,
            preempted=job.preempted,
            **changes,
        )
        self.tell("request", ask)

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
            pause_s = self._pause_s() if arbiter.waiting or arbiter.debt else 0.0
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
        return min(LONG_S, (soonest - now).total_seconds() + 0.1)

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
