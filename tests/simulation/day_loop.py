"""The loop of events of simulated days, and what one stretch of days is made of."""

import heapq
import random
from collections.abc import Callable, Iterator
from typing import Any, Final

import msgspec

from agent.core import waiting_room
from agent.core.arbiter import Arbiter
from agent.core.money import Books
from agent.core.routing import Candidate, EngineFacts
from agent.core.scheduler import MAX_WAIT_S, Rules, Starts, Wish
from agent.core.standing import Settings
from agent.core.waiting_room import LANES
from contracts.requests import Priority
from tests.simulation.day_rules import Watch
from tests.simulation.machine import Machine
from tests.simulation.tally import Tally
from tests.simulation.traffic import DAY_S, Arrival, Traffic, engines, moment

CLOUD_RUN_S: Final = 12.0
CLOUD_USD: Final = 0.04
AFTER_S: Final = 3 * DAY_S
"""Who is not served so long after the last request never is."""
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
        self.preempted = self.run = self.ooms = 0
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


class Loop:
    """One stretch of days: its state, and what happens one after the other."""

    def __init__(
        self,
        config: Config,
        seed: int,
        arbiter: type[Any] = Arbiter,
        *,
        watched: bool = True,
        arrivals: Iterator[Arrival] | None = None,
    ) -> None:
        self.config, self.rng = config, random.Random(seed)
        self.now_s, self._count = 0.0, 0
        self._heap: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._arrivals = arrivals or config.traffic.arrivals(seed)
        self._facts: tuple[EngineFacts, ...] = _ENGINES[config.cloud_slots > 0]
        self._routes: dict[tuple[object, bool], tuple[Candidate, ...]] = {}
        self.machine = Machine(config.llm, config.keep_alive_s)
        self.arbiter = arbiter(Settings(rules=config.rules))
        self.tally = Tally()
        self.watch = Watch(self) if watched else None
        self.lanes: dict[Priority, list[Job]] = {lane: [] for lane in LANES}
        self.jobs: dict[str, Job] = {}
        self.all: list[Job] = []
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
        while self.now_s < end_s or (self.jobs or self.arbiter.debt):
            if self.now_s > end_s + AFTER_S:
                break
            self.now_s, _, what, args = heapq.heappop(self._heap)
            what(*args)
        self.tally.total_s += self.now_s
        self._mark_absence()
        if self._absent_since is not None:
            self.tally.absent_s += self.now_s - self._absent_since
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

    def _next_arrival(self) -> None:
        arrival = next(self._arrivals, None)
        if arrival is not None:
            self.at(arrival.at_s - self.now_s, self._arrive, arrival)

    # --- what the parts of a day ask of each other ---------------------------------------------

    def tell(self, event: str, *args: Any) -> None:
        """Tell the arbiter what happened, and perform what it decides."""
        raise NotImplementedError

    def _pull(self) -> None:
        """Pull while it is allowed, and hand back what the room does not hold."""
        raise NotImplementedError

    def _place(self, job: Job) -> None:
        """Let a held job wait for the slot of its first engine."""
        raise NotImplementedError

    def _back(self, job: Job) -> None:
        """Hand a job back to its lane."""
        raise NotImplementedError

    def _ask(self, job: Job) -> None:
        """Let a job wait for the card."""
        raise NotImplementedError

    def _fill_cloud(self) -> None:
        """Start those that wait for the cloud while a slot is free."""
        raise NotImplementedError

    def _arrive(self, arrival: Arrival) -> None:
        """Take in a request."""
        raise NotImplementedError

    def _chat(self) -> None:
        """Let somebody talk to the LLM."""
        raise NotImplementedError

    def _lose(self) -> None:
        """Let the card be lost."""
        raise NotImplementedError

    def _mark_absence(self) -> None:
        """Note when the LLM goes because of us, and when it is back."""
        raise NotImplementedError
