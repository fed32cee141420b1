"""When each waiting job is expected to start, and what it waits for, for people. Pure.

It must not decide; it tells what `agent.core.arbiter` would do if nothing new came.
"""

from collections.abc import Mapping, Sequence
from math import inf, sqrt

import msgspec

from agent.core.leases import Ask
from agent.core.scheduler import Turn, Wish
from agent.core.standing import Admit, Away, Free, Hold, Never, Unload, Verdict
from contracts.requests import Priority


class Outlook(msgspec.Struct, frozen=True, kw_only=True):
    """What a waiting job may expect.

    Units: `start_s` from now, between `early_s` and `late_s` two times out of three; infinite: no
    end is in sight. Arrivals of higher classes are not in it. `rule` is the number of the order's
    rule that gave it its place, `sentence` says what it waits for, why, and what would change it.
    """

    job: str
    place: int
    start_s: float
    early_s: float
    late_s: float
    rule: int
    sentence: str


def outlook(
    asks: Sequence[Ask],
    turns: Sequence[Turn],
    verdicts: Mapping[str, Verdict],
    rest_s: float,
    rest_error_s: float,
    memory_s: Mapping[str, float],
) -> tuple[Outlook, ...]:
    """Tell what each waiting job may expect, in the order of `turns`.

    `verdicts` are what admission says of each now. Units: `rest_s` what is on the card is expected
    to take yet, give or take `rest_error_s`; `memory_s` what each is expected to wait for memory
    once it is its turn.

    1. Before it: what is on the card, then each run before its own. Errors of runs add up as
       squares: they are independent.
    2. It also waits for its memory; the two go on at the same time.
    3. One that may not start at this hour is expected when the window opens.
    """
    known = {ask.job: ask for ask in asks}
    found: list[Outlook] = []
    ahead_s, variance = rest_s, rest_error_s**2
    for place, turn in enumerate(turns, start=1):
        ask, verdict = known[turn.job], verdicts[turn.job]
        error_s = sqrt(variance)
        start_s = turn.figure if turn.is_asleep else max(ahead_s, memory_s.get(turn.job, 0.0))  # 2
        found.append(
            Outlook(
                job=turn.job,
                place=place,
                start_s=start_s,
                early_s=max(0.0, start_s - error_s) if start_s < inf else inf,
                late_s=start_s + error_s,
                rule=turn.rule,
                sentence=_sentence(ask, turn, verdict),
            )
        )
        if not turn.is_asleep:  # 1
            ahead_s += ask.run_s
            variance += ask.run_error_s**2
    return tuple(found)


def outlook_of_places(
    kind: str, wishes: Sequence[Wish], turns: Sequence[Turn], ready_s: Sequence[float]
) -> tuple[Outlook, ...]:
    """Tell what each job may expect that waits for a place on the CPU or in the cloud.

    Units: `ready_s` after how long each place is free, nobody who waits counted. The next one gets
    the place that is free first; half of what it waits is taken for the error.
    """
    known = {wish.job: wish for wish in wishes}
    places = sorted(ready_s)
    found: list[Outlook] = []
    for place, turn in enumerate(turns, start=1):
        start_s = inf
        if turn.is_asleep:
            start_s = turn.figure
        elif places:
            start_s, *places = places
            places = sorted((*places, start_s + known[turn.job].run_s))
        are = f"all {len(ready_s)} places of this worker are taken"
        if len(ready_s) == 1:
            are = "the one place of this worker is taken"
        what = f"it waits for a place of kind {kind}: {are}"
        if turn.is_asleep:
            what = "it waits for its hour"
        found.append(
            Outlook(
                job=turn.job,
                place=place,
                start_s=start_s,
                early_s=start_s / 2,
                late_s=start_s * 1.5,
                rule=turn.rule,
                sentence=f"{what}. Order, rule {turn.rule}: {turn.reason}."
                " What would change it: a higher priority, or more places (MMG_SLOTS).",
            )
        )
    return tuple(found)


def _sentence(ask: Ask, turn: Turn, verdict: Verdict) -> str:
    """Say what it waits for, which rule gave it its place, and what would change that."""
    what = "it waits for its hour" if turn.is_asleep else _what(verdict)
    return f"{what}. Order, rule {turn.rule}: {turn.reason}. {_change(ask, turn)}"


def _what(verdict: Verdict) -> str:
    match verdict:
        case Hold(reason=reason, until=until):
            return f"it waits: {reason}; until {until}"
        case Free(reason=reason) | Unload(reason=reason):
            return f"memory is being made free: {reason}"
        case Admit(reason=reason):
            return f"it starts next: {reason}"
        case Away(reason=reason):
            return f"it goes to the cloud: {reason}"
        case Never(reason=reason):
            return f"this card cannot do it: {reason}"


def _change(ask: Ask, turn: Turn) -> str:
    """Say what would let it start earlier or elsewhere."""
    if turn.is_asleep:
        return "A higher priority, or the operator's night window, would change it."
    if ask.priority is Priority.CRITICAL:
        return "Nothing comes before it but what cannot be interrupted."
    ways = ["a higher priority"]
    if not ask.cloud:
        ways.append("leave to use the cloud")
    if ask.smaller is None:
        ways.append("quality draft or standard, for a smaller model")
    return f"What would change it: {', '.join(ways)}."
