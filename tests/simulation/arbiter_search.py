"""Search the arbiter: `python -m tests.simulation.arbiter_search [--all | NAME ...]`.

Breadth first, every state that two jobs, two tenants and failing calls can reach, and from each a
way on which nothing more goes wrong to the end of all jobs, with the models back where they were.
Prints a line for each world, the shortest trace to a violation if there is one, and exits 1 then.
"""

# ruff: noqa: T201 - printing is the work of a command

import sys
import time
from collections import deque
from typing import Any, Final

from agent.core.arbiter import Arbiter
from tests.simulation.arbiter_state import SD15, Config, Job, Node, key
from tests.simulation.arbiter_world import World
from tests.simulation.search import Found
from tests.simulation.violation import Violation

HIGH: Final = Job(priority="HIGH", quality="high")
HIGH_CLOUD: Final = Job(priority="HIGH", quality="high", cloud=True)
HIGH_DRAFT: Final = Job(priority="HIGH", quality="draft", need=SD15)
STANDARD: Final = Job(priority="HIGH", quality="standard")
CRITICAL: Final = Job(priority="CRITICAL", quality="standard")
MEDIUM: Final = Job(priority="MEDIUM", quality="high")
LOW: Final = Job(priority="LOW", quality="standard")
DRAFT: Final = Job(priority="LOW", quality="draft", need=SD15)
CLOUD: Final = Job(priority="MEDIUM", quality="high", cloud=True)
CRITICAL_CLOUD: Final = Job(priority="CRITICAL", quality="high", cloud=True)
CRITICAL_HIGH: Final = Job(priority="CRITICAL", quality="high")
CALLS: Final = ("free", "unload", "reload")

WORLDS: Final = (
    Config(name="calls fail", jobs=(HIGH, STANDARD), faults=CALLS),
    Config(name="every call, two jobs", jobs=(HIGH, STANDARD), faults=(*CALLS, "slow")),
    Config(name="busy, two jobs", jobs=(HIGH, STANDARD), faults=("unload", "reload", "busy")),
    Config(name="all calls, one job", jobs=(HIGH,), faults=(*CALLS, "busy", "partial", "chat")),
    Config(name="hollow reload", jobs=(HIGH,), faults=("hollow", "reload", "chat")),
    Config(name="smaller of two", jobs=(HIGH_DRAFT,), faults=CALLS),
    Config(
        name="in vain", jobs=(HIGH_CLOUD, LOW), faults=CALLS, models=("small",), others_mib=12288
    ),
    Config(
        name="chat, then busy",
        jobs=(HIGH, HIGH),
        faults=("chat", "busy", "cancel"),
        models=("large",),
    ),
    Config(name="downgrade", jobs=(LOW, MEDIUM), faults=("free",), models=("large",), held="sdxl"),
    Config(name="slow answers", jobs=(STANDARD,), faults=("slow", "busy", "free"), held="sd15"),
    Config(name="busy", jobs=(CRITICAL, STANDARD), faults=("busy",), held="sd15"),
    Config(name="small fits", jobs=(HIGH, LOW), faults=CALLS, models=("small",), held="sd15"),
    Config(
        name="the small one suffices",
        jobs=(HIGH,),
        faults=CALLS,
        models=("small",),
        others_mib=8192,
    ),
    Config(
        name="free, then unload",
        jobs=(HIGH,),
        faults=CALLS,
        models=("small",),
        held="sd15",
        others_mib=8192,
    ),
    Config(name="memory lags", jobs=(HIGH, CRITICAL), faults=("lag", "chat")),
    Config(name="two models", jobs=(HIGH, DRAFT), faults=CALLS, models=("small",), others_mib=3072),
    Config(name="busy, cancelled", jobs=(HIGH,), faults=("busy", "cancel")),
    Config(name="chat", jobs=(HIGH, STANDARD), faults=("chat", "partial")),
    Config(name="out of memory", jobs=(STANDARD, CLOUD), faults=("oom", "chat")),
    Config(name="card lost", jobs=(HIGH, CLOUD), faults=("lost", "unload", "reload")),
    Config(name="crash", jobs=(HIGH, STANDARD), faults=("crash", "reload")),
    Config(name="cancel", jobs=(CRITICAL, STANDARD), faults=("cancel", "reload")),
    Config(name="preempted", jobs=(LOW, CRITICAL), faults=("cancel", "oom"), models=()),
    Config(
        name="preempted for an llm's memory",
        jobs=(DRAFT, CRITICAL_HIGH),
        faults=(*CALLS, "busy"),
        models=("large",),
    ),
    Config(
        name="preempted in vain",
        jobs=(DRAFT, CRITICAL_CLOUD),
        faults=("cancel",),
        models=(),
        others_mib=14336,
    ),
    Config(name="preempted again and again", jobs=(LOW, *(CRITICAL,) * 3), faults=(), models=()),
    Config(name="not preempted", jobs=(HIGH, CRITICAL, CRITICAL), faults=(), models=()),
    Config(name="lower classes", jobs=(MEDIUM, LOW), faults=("unload",)),
    Config(name="lower class and draft", jobs=(MEDIUM, DRAFT), faults=("free",), held="sdxl"),
)

LARGE: Final = (
    Config(name="every call and busy", jobs=(HIGH, STANDARD), faults=(*CALLS, "slow", "busy")),
    Config(
        name="calls and memory",
        jobs=(CRITICAL, STANDARD),
        faults=(*CALLS, "busy", "oom"),
        held="sd15",
    ),
    Config(
        name="crash and chat", jobs=(HIGH, STANDARD), faults=("crash", "busy", "chat", "unload")
    ),
    Config(name="lost and crash", jobs=(STANDARD, DRAFT), faults=("lost", "crash", "slow")),
)
"""Worlds that take longer; the tests leave them out."""


class Search:
    """One search of one world; stops at the first violation, whose trace is a shortest one."""

    def __init__(self, world: World, states_max: int | None = None) -> None:
        self.world = world
        self.states_max = states_max
        self.order: list[Node] = []
        self.parents: list[tuple[int, str]] = []
        self.steps = 0
        self._into: list[list[int]] = []
        self._at = 0

    def run(self) -> Found:
        """Search until everything is seen, something is found, or `states_max` is reached."""
        began, complete = time.perf_counter(), True
        rule: str | None = None
        trace: tuple[str, ...] = ()
        try:
            complete = self._spread()
            stuck = self._stuck() if complete else None
            if stuck is not None:
                rule = "every job can still end and every debt be paid"
                trace = (*self._trace(stuck), f"-> {rule}: from here it cannot")
        except Violation as found:
            rule = found.rule
            trace = (*self._trace(self._at), f"-> {found.rule}: {found.text}")
        return Found(
            name=self.world.config.name,
            states=len(self.order),
            steps=self.steps,
            positions=0,
            seconds=time.perf_counter() - began,
            complete=complete,
            rule=rule,
            trace=trace,
        )

    def _spread(self) -> bool:
        first = self.world.first()
        numbers = {key(first): 0}
        self.order, self.parents, self._into = [first], [(-1, "")], [[]]
        while self._at < len(self.order):
            if self.states_max is not None and len(self.order) > self.states_max:
                return False
            for what, node, is_good in self.world.after(self.order[self._at]):
                self.steps += 1
                known = numbers.setdefault(key(node), len(self.order))
                if known == len(self.order):
                    self.order.append(node)
                    self.parents.append((self._at, what))
                    self._into.append([])
                if is_good:
                    self._into[known].append(self._at)
            self._at += 1
        return True

    def _stuck(self) -> int | None:
        """Return the first state from which no good luck leads to an end, if there is one."""
        can_end = bytearray(len(self.order))
        waiting: deque[int] = deque()
        for number, node in enumerate(self.order):
            self._at = number
            if self.world.is_quiet(node):
                can_end[number] = 1
                waiting.append(number)
        while waiting:
            for source in self._into[waiting.popleft()]:
                if not can_end[source]:
                    can_end[source] = 1
                    waiting.append(source)
        first = can_end.find(0)
        return None if first < 0 else first

    def _trace(self, at: int) -> tuple[str, ...]:
        lines: list[str] = []
        while at > 0:
            at, what = self.parents[at]
            lines.append(what)
        return tuple(reversed(lines))


def search(config: Config, arbiter: type[Any] = Arbiter, states_max: int | None = None) -> Found:
    """Search one world."""
    return Search(World(config, arbiter), states_max).run()


def line(found: Found) -> str:
    """Return what is told of one search."""
    verdict = "no violation" if found.rule is None else f"VIOLATION: {found.rule}"
    return (
        f"{found.name:<24} {found.states:>7} states {found.steps:>8} steps"
        f" {found.seconds:5.1f} s  {verdict}"
    )


def main() -> int:
    """Search the small worlds, all, or those that are named; return the exit code."""
    broken, states, names = 0, 0, sys.argv[1:]
    chosen = [config for config in (*WORLDS, *LARGE) if config.name in names]
    if not chosen:
        chosen = [*WORLDS, *(LARGE if "--all" in names else ())]
    for config in chosen:
        found = search(config)
        print(line(found), flush=True)
        for number, step in enumerate(found.trace, 1):
            print(f"  {number:>2}. {step}")
        broken, states = broken + (found.rule is not None), states + found.states
    print(f"{states} states, {broken} with a violation")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
