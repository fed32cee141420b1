"""Breadth-first search: every state a world can reach, and the way back from each to the end."""

import time
from array import array
from collections import deque

import msgspec

from tests.simulation.state import State
from tests.simulation.telling import readable
from tests.simulation.violation import Violation
from tests.simulation.world import World


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a search. `complete`: no state was left out."""

    name: str
    states: int
    steps: int
    positions: int
    seconds: float
    complete: bool
    rule: str | None = None
    trace: tuple[str, ...] = ()


class Search:
    """One search of one world; stops at the first violation, whose trace is a shortest one."""

    def __init__(self, world: World, states_max: int | None = None) -> None:
        self.world = world
        self.states_max = states_max
        self.order: list[State] = []
        self.parents = array("q")
        self.steps = 0
        self._numbers: dict[State, int] = {}
        self._at = 0
        self._good_from = array("q")
        self._good_to = array("q")

    def run(self) -> Found:
        """Search until everything is seen, something is found, or `states_max` is reached."""
        began = time.perf_counter()
        rule: str | None = None
        trace: tuple[str, ...] = ()
        complete = True
        try:
            complete = self._spread()
        except Violation as found:
            rule = found.rule
            trace = self._trace(self._at, f"-> {found.rule}: {found.text}", last=True)
        else:
            stuck = self._stuck() if complete else None
            if stuck is not None:
                rule = "every state can still end"
                trace = self._trace(stuck, f"-> {rule}: from here it cannot", last=False)
        return Found(
            name=self.world.config.name,
            states=len(self.order),
            steps=self.steps,
            positions=len(self.world.actors.asks),
            seconds=time.perf_counter() - began,
            complete=complete,
            rule=rule,
            trace=trace,
        )

    def _spread(self) -> bool:
        world, numbers = self.world, self._numbers
        self._number(world.settled(world.first()), -1)
        at = 0
        while at < len(self.order):
            if self.states_max is not None and len(self.order) > self.states_max:
                return False
            self._at = at
            for _what, raw, good in world.after(self.order[at]):
                self.steps += 1
                state = world.settled(raw)
                number = numbers.get(state)
                if number is None:
                    number = self._number(state, at)
                if good:
                    self._good_from.append(at)
                    self._good_to.append(number)
            at += 1
        return True

    def _number(self, state: State, parent: int) -> int:
        number = self._numbers[state] = len(self.order)
        self.order.append(state)
        self.parents.append(parent)
        return number

    def _stuck(self) -> int | None:
        """Return the first state from which no good luck leads to an end, if there is one."""
        into: list[list[int]] = [[] for _ in self.order]
        for source, target in zip(self._good_from, self._good_to, strict=True):
            into[target].append(source)
        can_end = bytearray(len(self.order))
        waiting = deque(n for n, state in enumerate(self.order) if self.world.is_quiet(state))
        for number in waiting:
            can_end[number] = 1
        while waiting:
            for source in into[waiting.popleft()]:
                if not can_end[source]:
                    can_end[source] = 1
                    waiting.append(source)
        first = can_end.find(0)
        return None if first < 0 else first

    def _trace(self, at: int, end: str, *, last: bool) -> tuple[str, ...]:
        """Play the way to a state once more, so that each worker keeps its number."""
        way = []
        while at >= 0:
            way.append(at)
            at = self.parents[at]
        way.reverse()
        state = self.world.first()
        lines = []
        for number in way[1:]:
            for what, raw, _ in self.world.after(state):
                if self.world.settled(raw) == self.order[number]:
                    lines.append(readable(self.world, what, raw))
                    state = raw
                    break
        if last:
            try:
                for _what, raw, _good in self.world.after(state):
                    self.world.settled(raw)
            except Violation:
                lines.append(readable(self.world, self.world.now, None))
        return (*lines, end)
