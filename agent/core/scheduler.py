"""In which order waiting jobs are considered for a slot, and why. Pure.

It must not know what a job needs of the card: `agent.core.admission` says whether one can start.
This says who is asked first; who cannot start then is overtaken by who can. The same rules order
the jobs that wait for a place in the cloud or on the CPU: those have no model to prefer.

The rules, by number:

1. CRITICAL first, always.
2. One start in eight goes to the one longest past its bound, whatever its class: the first of the
   eight at which no HIGH waits, else the eighth. Those of CRITICAL are not counted.
3. A lower one overtakes if it must start now to keep its own bound, and all of higher classes that
   it overtakes still keep theirs afterwards.
4. Otherwise a higher class comes first.
5. Within a class, a requester with fewer running jobs comes first.
6. Of these, one whose model is loaded comes first if nobody it overtakes passes its bound by that;
   who is past it already has rule 2.
7. Otherwise as they were stored.
8. LOW waits for its night window, if there is one; its bound counts from the window's opening.

Rules 2, 3 and 6 choose who is first; the others stand behind in the order of 1, 4, 5 and 7.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final, Protocol

import msgspec

from contracts.requests import Priority

MAX_WAIT_S: Final = {
    Priority.CRITICAL: 0.0,
    Priority.HIGH: 30.0,
    Priority.MEDIUM: 120.0,
    Priority.LOW: 600.0,
}
"""The bounds of the classes, where nobody configured others."""
ONE_IN: Final = 8
"""Of so many starts one goes to the job longest past its bound."""
RANK: Final = {priority: rank for rank, priority in enumerate(Priority)}
_NOBODY: Final[Mapping[str, int]] = {}


class Wanting(Protocol):
    """What the order looks at: an `Ask` for the card, or a `Wish` for a slot of another kind.

    Units: `run_s` is what its run is expected to take, `max_wait_s` its bound, counted from
    `stored_at`. `seq` is the sequence of its stored request. `model` "": it needs none that
    could be loaded.
    """

    @property
    def job(self) -> str: ...  # noqa: D102 - the class says what each is
    @property
    def priority(self) -> Priority: ...  # noqa: D102
    @property
    def requester(self) -> str: ...  # noqa: D102
    @property
    def seq(self) -> int: ...  # noqa: D102
    @property
    def stored_at(self) -> datetime: ...  # noqa: D102
    @property
    def max_wait_s(self) -> float: ...  # noqa: D102
    @property
    def run_s(self) -> float: ...  # noqa: D102
    @property
    def model(self) -> str: ...  # noqa: D102


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    """A job that waits for a place in the cloud or on the CPU. Units: see `Wanting`."""

    job: str
    priority: Priority
    requester: str
    seq: int
    stored_at: datetime
    max_wait_s: float
    run_s: float = 10.0
    model: str = ""


class Night(msgspec.Struct, frozen=True, kw_only=True):
    """The window in which LOW may start. Units: local hours, 0 to 24; it may go past midnight.

    `offset_s` is what local time is ahead of UTC; who builds this reads the clock, also when the
    hours change in spring.
    """

    from_hour: float
    to_hour: float
    offset_s: float = 0.0

    def is_open(self, now: datetime) -> bool:
        """Tell whether the window is open."""
        hour = self._hour(now)
        if self.from_hour <= self.to_hour:
            return self.from_hour <= hour < self.to_hour
        return hour >= self.from_hour or hour < self.to_hour

    def opened(self, now: datetime) -> datetime:
        """Return when it opened last."""
        return now - timedelta(hours=(self._hour(now) - self.from_hour) % 24)

    def opens(self, now: datetime) -> datetime:
        """Return when it opens next."""
        return self.opened(now) + timedelta(days=1)

    def _hour(self, now: datetime) -> float:
        local = now + timedelta(seconds=self.offset_s)
        midnight = local.replace(hour=0, minute=0, second=0, microsecond=0)
        return (local - midnight) / timedelta(hours=1)


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """What an operator may choose. `night` None: LOW may start at any hour."""

    night: Night | None = None


class Starts(msgspec.Struct, frozen=True, kw_only=True):
    """What the order has to know of past starts.

    They are counted in eights: `count` is how many of the present eight there were, and
    `is_spent` whether rule 2 had its one of them. `last` is the requester of the last start, who
    counts as running: the picture may still be on its way to the disk.
    """

    count: int = 0
    is_spent: bool = False
    last: str = ""

    @property
    def is_last(self) -> bool:
        """Whether the next start is the eighth."""
        return self.count == ONE_IN - 1

    def after(self, turn: "Turn") -> "Starts":
        """Return this after the start of a job whose place in the order was `turn`."""
        if turn.priority is Priority.CRITICAL:
            return Starts(count=self.count, is_spent=self.is_spent, last=turn.requester)
        if self.is_last:
            return Starts(last=turn.requester)
        is_spent = self.is_spent or turn.rule == 2  # noqa: PLR2004 - the number of the rule
        return Starts(count=self.count + 1, is_spent=is_spent, last=turn.requester)


class Turn(msgspec.Struct, frozen=True, kw_only=True):
    """A job's place in the order. `rule` is the number of what put it there.

    `figure` belongs to the rule: seconds past the bound (2), jobs overtaken (3, 6), jobs of higher
    classes before it (4), running jobs of its requester (5), seconds until the window opens (8).
    """

    job: str
    requester: str
    priority: Priority
    rule: int
    figure: float = 0.0

    @property
    def is_asleep(self) -> bool:
        """Whether it may not start at this hour."""
        return self.rule == 8  # noqa: PLR2004 - the number of the rule

    @property
    def reason(self) -> str:
        """The sentence for a person."""
        count = f"{self.figure:.0f}"
        match self.rule:
            case 1:
                return "CRITICAL starts before all others"
            case 2:
                return (
                    f"one start in {ONE_IN} goes to the one longest past its bound: {count} s past"
                )
            case 3:
                return (
                    "it has to start now to keep its bound, and higher ones that it overtakes"
                    f" ({count}) keep theirs"
                )
            case 4 if self.figure:
                return f"{count} of higher classes come before {self.priority}"
            case 4:
                return f"nobody of a higher class than {self.priority} waits"
            case 5:
                return f"its requester has {count} running, fewer than those stored before it"
            case 6:
                return (
                    f"its model is loaded, and those it overtakes ({count}) do not pass their"
                    " bound by that"
                )
            case 8:
                return f"LOW waits for the night window, which opens in {self.figure / 3600:.1f} h"
            case _:
                return f"{self.priority} starts in the order in which it was stored"


def order(
    waiting: Sequence[Wanting],
    now: datetime,
    starts: Starts,
    rules: Rules,
    *,
    held: Sequence[str] = (),
    running: Mapping[str, int] = _NOBODY,
) -> tuple[Turn, ...]:
    """Rank the jobs that wait for slots of one kind: the first is considered first.

    `held` are the models that are loaded; `running` counts the running jobs of each requester.
    Those that may not start at this hour come last; `Turn.is_asleep` tells.
    """
    awake = [one for one in waiting if not is_asleep(one, now, rules)]
    busy = dict(running)
    if starts.last:
        busy[starts.last] = busy.get(starts.last, 0) + 1
    line = sorted(awake, key=lambda one: (RANK[one.priority], busy.get(one.requester, 0), one.seq))
    turns = _labelled(line, busy)
    moved = _first(line, now, starts, rules, held, busy)
    if moved is not None:
        place, rule, figure = moved
        turn = _turn(line[place], rule, figure)
        turns = [turn, *turns[:place], *turns[place + 1 :]]
    if len(awake) == len(waiting):
        return tuple(turns)
    assert rules.night is not None, "nobody sleeps without a window"
    closed_s = (rules.night.opens(now) - now).total_seconds()
    asleep = sorted((one for one in waiting if is_asleep(one, now, rules)), key=_seq)
    return (*turns, *(_turn(one, 8, closed_s) for one in asleep))


def is_asleep(one: Wanting, now: datetime, rules: Rules) -> bool:
    """Tell whether a job may not start at this hour: rule 8."""
    return rules.night is not None and one.priority is Priority.LOW and not rules.night.is_open(now)


def counted_from(one: Wanting, now: datetime, rules: Rules) -> datetime:
    """Return when the bound of a job begins to count: rule 8 for LOW, else when it was stored."""
    if rules.night is None or one.priority is not Priority.LOW:
        return one.stored_at
    return max(one.stored_at, rules.night.opened(now))


def left_s(one: Wanting, now: datetime, rules: Rules) -> float:
    """Return how long a job may still wait; negative: how long it is past its bound."""
    waited_s = (now - counted_from(one, now, rules)).total_seconds()
    return one.max_wait_s - waited_s


def _first(
    line: Sequence[Wanting],
    now: datetime,
    starts: Starts,
    rules: Rules,
    held: Sequence[str],
    busy: Mapping[str, int],
) -> tuple[int, int, float] | None:
    """Return the place, the rule and its figure of who goes before the first, or None."""
    if not line or line[0].priority is Priority.CRITICAL:  # 1
        return None
    left = [left_s(one, now, rules) for one in line]
    may_wait = line[0].priority is Priority.HIGH and not starts.is_last
    if not starts.is_spent and not may_wait and (least := min(left)) < 0:
        return left.index(least), 2, -least
    for place in _heads(line):
        if place and _must_start(line, left, place):
            return place, 3, place
    if line[0].model in held or not held:
        return None
    for place, one in enumerate(line):
        peers = busy.get(one.requester, 0) == busy.get(line[0].requester, 0)
        if one.priority is not line[0].priority or not peers:
            return None
        if one.model in held:
            keeps = _keep(line[:place], left, one.run_s, late=True)
            return (place, 6, place) if keeps else None
    return None


def _heads(line: Sequence[Wanting]) -> list[int]:
    """Return the place of the first of each class: within a class nobody overtakes by rule 3."""
    return [
        place
        for place, one in enumerate(line)
        if place == 0 or one.priority is not line[place - 1].priority
    ]


def _must_start(line: Sequence[Wanting], left: Sequence[float], place: int) -> bool:
    """Tell whether a job keeps its bound only if it starts now, and nobody loses by it: rule 3."""
    is_last_chance = 0 <= left[place] < line[0].run_s
    return is_last_chance and _keep(line[:place], left, line[place].run_s)


def _keep(
    overtaken: Sequence[Wanting], left: Sequence[float], ahead_s: float, *, late: bool = False
) -> bool:
    """Tell whether they all keep their bounds behind a run of that length.

    `late`: those that are past theirs already do not count.
    """
    for one, may_wait_s in zip(overtaken, left, strict=False):
        if may_wait_s < ahead_s and not (late and may_wait_s < 0):
            return False
        ahead_s += one.run_s
    return True


def _labelled(line: Sequence[Wanting], busy: Mapping[str, int]) -> list[Turn]:
    """Return the places of a sorted line with what put each one there."""
    turns: list[Turn] = []
    oldest: dict[Priority, int] = {}
    for one in reversed(line):
        if one.seq > oldest.get(one.priority, one.seq):
            turns.append(_turn(one, 5, busy.get(one.requester, 0)))
        else:
            turns.append(_turn(one, 7))
        oldest[one.priority] = min(one.seq, oldest.get(one.priority, one.seq))
    turns.reverse()
    for place in _heads(line):
        if line[place].priority is Priority.CRITICAL:
            turns[place] = _turn(line[place], 1)
        elif turns[place].rule == 7:  # noqa: PLR2004 - the number of the rule
            turns[place] = _turn(line[place], 4, place)
    return turns


def _turn(one: Wanting, rule: int, figure: float = 0.0) -> Turn:
    return Turn(
        job=one.job, requester=one.requester, priority=one.priority, rule=rule, figure=figure
    )


def _seq(one: Wanting) -> int:
    return one.seq
