"""Many workers on the same lanes, a day of them: `python -m tests.simulation.fleet [--workers N]`.

The waiting room and the order are the code that runs; a card is a place that draws one request at
a time. Who is woken by what, and how often a lane is pulled in vain, is counted from the numbers
of `agent.bus.lanes` and `agent.presence`. Prints waits, hand-backs and wakes, then what all of it
costs the bus (`fleet_costs`). Seeded: the same seed is the same day.
"""

# ruff: noqa: T201 - printing is the work of a command

import argparse
import heapq
import random
import sys
import time
from collections import Counter
from typing import Final

import msgspec

from agent.bus import lanes
from agent.core import scheduler, waiting_room
from agent.core.scheduler import MAX_WAIT_S, Rules, Starts, Wish
from agent.core.waiting_room import LANES, SIZE, Held
from contracts.requests import Priority
from tests.simulation import fleet_costs
from tests.simulation.fleet_costs import Rates
from tests.simulation.tally import Tally
from tests.simulation.traffic import DAY_S, Arrival, Traffic, moment

VAIN_PULLS: Final = (1 + len(lanes.LOOK_AGAIN_S)) * len(LANES)
"""What a worker asks of the lanes after a bell, when somebody else was first."""
GOOD_PULLS: Final = 2 * len(LANES)
"""What the one asks who gets it: a sweep that finds it, and one that finds no more."""
SWEEPS_MAX: Final = 300
"""More sweeps of four empty lanes one worker cannot make in a second: each takes some 3 ms."""
SLOT: Final = "gpu"
BOUGHT: Final = 0.03
"""The share of requests that a cloud draws: docs/scheduling.md, 2,000 a day."""
RULES: Final = Rules()


class Manners(msgspec.Struct, frozen=True, kw_only=True):
    """How workers behave towards each other.

    `idle_first`: who has no free slot looks later. `one_rings`: an idle bell silences the others,
    and wakes only who holds something; else each rings, and all look at the lanes at each bell.
    `heard_s`: from a doorbell until all know who has begun.
    """

    name: str
    idle_first: bool
    one_rings: bool
    gives_first: bool
    heard_s: float = 0.01


IN_TURN: Final = Manners(name="in turn", idle_first=True, one_rings=True, gives_first=True)
ALL_AT_ONCE: Final = Manners(
    name="all at once", idle_first=False, one_rings=False, gives_first=False
)
MANNERS: Final = {one.name: one for one in (IN_TURN, ALL_AT_ONCE)}


class Card:
    """One worker: what it draws, and who waits in its room."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.draws: Wish | None = None
        self.room: dict[str, tuple[Wish, Arrival]] = {}
        self.starts = Starts()

    def held(self) -> list[Held]:
        return [
            Held(job=name, priority=wish.priority, seq=wish.seq, slot=SLOT)
            for name, (wish, _) in self.room.items()
        ]

    def may_pull(self) -> list[Priority]:
        free = {SLOT: int(self.draws is None)}
        return [pull.lane for pull in waiting_room.pull_next(self.held(), free)]


class Picked:
    """Numbers from which one is drawn at random in one step."""

    def __init__(self, numbers: range) -> None:
        self._list = list(numbers)
        self._place = {number: place for place, number in enumerate(self._list)}

    def __len__(self) -> int:
        return len(self._list)

    def add(self, number: int) -> None:
        if number not in self._place:
            self._place[number] = len(self._list)
            self._list.append(number)

    def drop(self, number: int) -> None:
        place = self._place.pop(number, None)
        if place is None:
            return
        last = self._list.pop()
        if last != number:
            self._list[place], self._place[last] = last, place

    def any(self, rng: random.Random) -> int:
        return self._list[int(rng.random() * len(self._list))]


class Fleet:
    """A day of N workers."""

    def __init__(self, size: int, traffic: Traffic, manners: Manners, seed: int) -> None:
        self.manners, self.rng = manners, random.Random(seed)
        self.cards = [Card(number) for number in range(size)]
        self.idle = Picked(range(size))
        self.lanes: dict[Priority, list[tuple[int, Wish, Arrival]]] = {lane: [] for lane in LANES}
        self.tally = Tally()
        self.counts: Counter[str] = Counter()
        self.pulls: Counter[int] = Counter()
        self.now_s = self.drawn_s = 0.0
        self.traffic = traffic
        self._arrivals = traffic.arrivals(seed)
        self._holding: set[int] = set()
        self._beside: Counter[str] = Counter()
        self._heap: list[tuple[float, int, Card | None]] = []
        self._seq = 0

    def run(self) -> None:
        """Play the day to the end of its last request."""
        coming = next(self._arrivals, None)
        tick_s = 1.0
        while coming is not None or self._heap:
            next_s = min(
                coming.at_s if coming is not None else float("inf"),
                self._heap[0][0] if self._heap else float("inf"),
            )
            if tick_s <= next_s:
                self.now_s = tick_s
                self._second()
                tick_s += 1.0
            elif coming is not None and coming.at_s <= next_s:
                self.now_s = coming.at_s
                self._arrive(coming)
                coming = next(self._arrivals, None)
            else:
                self.now_s, _, card = heapq.heappop(self._heap)
                assert card is not None, "only runs are in the heap"
                self._ended(card)
        self.tally.total_s = max(self.now_s, self.traffic.days * DAY_S)

    # --- what happens --------------------------------------------------------------------------

    def _arrive(self, arrival: Arrival) -> None:
        self._seq += 1
        self.tally.requests += 1
        wish = Wish(
            job=f"r{self._seq}",
            priority=arrival.priority,
            requester=arrival.requester,
            seq=self._seq,
            stored_at=moment(arrival.at_s),
            max_wait_s=MAX_WAIT_S[arrival.priority],
            run_s=arrival.run_s,
        )
        self._put(wish, arrival)

    def _put(self, wish: Wish, arrival: Arrival) -> None:
        """Lay a request into its lane and ring."""
        heapq.heappush(self.lanes[wish.priority], (wish.seq, wish, arrival))
        self.counts["bells"] += 1
        first = self._first(wish.priority)
        self._count_wakes(found=first is not None)
        if first is not None:
            self._pull(first)

    def _first(self, lane: Priority) -> Card | None:
        """Return whose pull is served first."""
        if self.manners.idle_first and len(self.idle):
            return self.cards[self.idle.any(self.rng)]
        for _ in range(20):
            card = self.cards[int(self.rng.random() * len(self.cards))]
            if lane in card.may_pull():
                return card
        return next((card for card in self.cards if lane in card.may_pull()), None)

    def _count_wakes(self, *, found: bool) -> None:
        """Count who looks after a bell, all but the one who finds it in vain."""
        if self.manners.idle_first and len(self.idle):
            awake = fleet_costs.woken(len(self.cards), len(self.idle), self.manners.heard_s)
        else:
            awake = self._open()
        vain = max(0, awake - found)
        self.counts["vain"] += vain
        self.pulls[int(self.now_s)] += vain * VAIN_PULLS + GOOD_PULLS * found

    def _open(self) -> int:
        """Return how many workers pull: all whose room is not full."""
        crowded = (self.cards[number] for number in self._holding)
        full = (not card.may_pull() for card in crowded if len(card.room) > SIZE - len(LANES))
        return len(self.cards) - sum(full)

    def _pull(self, card: Card) -> None:
        """Sweep the lanes from high to low for as long as they give something."""
        while True:
            lane = next((lane for lane in card.may_pull() if self.lanes[lane]), None)
            if lane is None:
                return
            _, wish, arrival = heapq.heappop(self.lanes[lane])
            card.room[wish.job] = (wish, arrival)
            self._start(card)
            self._return(card, [one.job for one in waiting_room.overfull(card.held())])
            self._note(card)

    def _start(self, card: Card) -> None:
        """Let the first of a room begin, if nobody draws."""
        if card.draws is not None or not card.room:
            return
        waiting = [wish for wish, _ in card.room.values()]
        now = moment(self.now_s)
        turn = scheduler.order(waiting, now, card.starts, RULES)[0]
        card.starts = card.starts.after(turn)
        wish, arrival = card.room.pop(turn.job)
        card.draws = wish
        self.tally.started(wish.priority, self.now_s - arrival.at_s, wish.max_wait_s)
        self.counts["beside"] += self._beside.pop(wish.job, 0) > 1
        self.drawn_s += arrival.real_s
        heapq.heappush(self._heap, (self.now_s + arrival.real_s, wish.seq, card))

    def _ended(self, card: Card) -> None:
        card.draws = None
        self._start(card)
        self._pull(card)
        self._note(card)

    def _second(self) -> None:
        """Let those who have nothing to do look at the lanes, and ring."""
        open_ = self._open()
        rings = min(1, len(self.idle)) if self.manners.one_rings else len(self.idle)
        sweeps = open_ if self.manners.one_rings else open_ * min(1 + rings, SWEEPS_MAX)
        self.counts["sweeps"] += sweeps
        self.pulls[int(self.now_s)] += sweeps * len(LANES)
        self.counts["rings"] += rings
        for _ in range(min(rings, SIZE.bit_length())):  # Nobody can halve more often.
            for number in sorted(self._holding):
                if len(self.idle):
                    self._share(self.cards[number])
        for number in self._holding if len(self.idle) else ():
            self._beside.update(list(self.cards[number].room))

    def _share(self, card: Card) -> None:
        """Hand back what a worker with nothing to do could begin."""
        waiting = [wish for wish, _ in card.room.values()]
        turns = scheduler.order(waiting, moment(self.now_s), card.starts, RULES)
        names = [turn.job for turn in turns]
        busy = (SLOT,) if card.draws is not None and self.manners.gives_first else ()
        held = card.held()
        backs = waiting_room.give_back(held, "idle", order=names, kinds=(SLOT,), busy=busy)
        self._return(card, [one.job for one in backs])

    def _return(self, card: Card, names: list[str]) -> None:
        for name in names:
            wish, arrival = card.room.pop(name)
            self.counts["handed back"] += 1
            self._note(card)
            self._put(wish, arrival)

    def _note(self, card: Card) -> None:
        """Keep the sets of who is idle and who holds something true."""
        if card.draws is None and not card.room:
            self.idle.add(card.number)
        else:
            self.idle.drop(card.number)
        if card.room:
            self._holding.add(card.number)
        else:
            self._holding.discard(card.number)

    # --- what it came to -----------------------------------------------------------------------

    def rates(self) -> Rates:
        """Return what the day asked of the bus."""
        seconds = self.tally.total_s
        return Rates(
            workers=len(self.cards),
            requests_s=self.tally.requests / seconds,
            sweeps_s=self.counts["sweeps"] * len(LANES) / seconds,
            vain_s=self.counts["vain"] * VAIN_PULLS / seconds,
            vain_power=1 if self.manners.idle_first else 2,
            sweeps_power=1 if self.manners.one_rings else 2,
            rings_s=self.counts["rings"] / seconds,
            bought_s=BOUGHT * self.tally.requests / seconds,
            drawing=self.drawn_s / seconds,
            bells_s=self.counts["bells"] / seconds,
        )


HEAD: Final = (
    f"{'workers':>8} {'manners':<12}{'requests':>10}{'load':>6}  {'late %: C':>9} {'H':>5} {'M':>5}"
    f" {'L':>5}  {'95 % wait s: C':>14} {'H':>5} {'M':>5} {'L':>6}  {'beside an idle card':>26}"
    f" {'handed back':>12} {'vain wakes':>12} {'pulls/s':>9} {'at most':>9}"
)


def line(fleet: Fleet) -> str:
    """Return what is told of one day."""
    tally, rates = fleet.tally, fleet.rates()
    late = " ".join(f"{tally.late_share(one):5.1f}" for one in Priority)
    waits = " ".join(f"{tally.wait_s(one, 0.95):5.1f}" for one in Priority)
    beside = 100 * fleet.counts["beside"] / max(1, tally.requests)
    return (
        f"{rates.workers:>8} {fleet.manners.name:<12}{tally.requests:>10,}"
        f"{rates.drawing / rates.workers:>6.2f}      {late}           {waits}"
        f"  {beside:>24.1f} % {fleet.counts['handed back']:>12,} {fleet.counts['vain']:>12,}"
        f" {fleet.pulls.total() / tally.total_s:>9,.0f} {max(fleet.pulls.values()):>9,}"
    )


def play(size: int, per_day: float, manners: Manners, seed: int, days: float = 1.0) -> Fleet:
    """Play one day of `size` workers."""
    fleet = Fleet(size, Traffic(per_day=per_day, days=days), manners, seed)
    fleet.run()
    return fleet


def main() -> int:
    """Play what was asked for and print it; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    sizes = [1, 10, 100, 1000]
    add(
        "--workers",
        type=lambda text: [int(one) for one in text.split(",")],
        default=sizes,
        help="sizes with commas (1,10,100,1000)",
    )
    add("--each", type=float, default=1000.0, help="requests a day a worker (%(default)s)")
    add("--manners", choices=(*MANNERS, "both"), default="both", help="(%(default)s)")
    add("--days", type=float, default=1.0, help="(%(default)s)")
    add("--seed", type=int, default=1)
    options = parser.parse_args()
    names = tuple(MANNERS) if options.manners == "both" else (options.manners,)
    began, played = time.perf_counter(), list[Fleet]()
    print(HEAD)
    for size in options.workers:
        for name in names:
            each = options.each * size
            played.append(play(size, each, MANNERS[name], options.seed, options.days))
            print(line(played[-1]), flush=True)
    for fleet in played:
        print(f"\n{len(fleet.cards):,} workers, {fleet.manners.name}")
        print(fleet_costs.table(fleet.rates()))
    print(f"\n{time.perf_counter() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
