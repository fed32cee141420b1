"""Which lane a worker pulls next, and which of the deliveries that it holds go back. Pure.

A worker holds deliveries that wait for a slot, so that the scheduler has a choice among them and
what stands behind them in a lane can use a slot of another kind. Those that run are not in the
room. It must not choose who starts: `agent.core.scheduler` does.

A lane is pulled, the highest first, if one of these holds:

1. Nobody is held and a slot is free.
2. The room has space: one place is kept for the head of each lane. Without that, sixteen HIGH
   would hide a LOW that is past its bound.
3. Somebody of a lower class goes back for it: a higher class is always pulled.

Which slot a request wants is known when it is here, so a free slot alone is no reason to pull into
a full room: what does not fit would be handed back and pulled again without end. `overfull` says
who goes back.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Final, Literal

import msgspec

from contracts.requests import Priority

SIZE: Final = 16
"""How many deliveries a worker holds, where nobody configured another number."""
LANES: Final = tuple(Priority)

Why = Literal["drain", "card_lost", "idle"]


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """A delivery in the room: its lane, its stream sequence and the kind of slot it waits for."""

    job: str
    priority: Priority
    seq: int
    slot: str


class Pull(msgspec.Struct, frozen=True, kw_only=True):
    """Pull this lane once. `rule` is the number of what allows it."""

    lane: Priority
    rule: int
    reason: str


class GiveBack(msgspec.Struct, frozen=True, kw_only=True):
    """Hand this one back to its lane."""

    job: str
    reason: str


def pull_next(held: Sequence[Held], free: Mapping[str, int], size: int = SIZE) -> tuple[Pull, ...]:
    """Say which lanes may be pulled now, in which order; each once, then ask again.

    `free` counts the free slots of each kind; a `size` of 0 pulls only for these. Order: what a
    pull gave is put into `held` or into a slot before the next question.
    """
    pulls: list[Pull] = []
    count = {lane: sum(1 for one in held if one.priority is lane) for lane in LANES}
    for lane in LANES:
        rule, reason = _may_pull(lane, count, free, size)
        if rule:
            pulls.append(Pull(lane=lane, rule=rule, reason=reason))
    return tuple(pulls)


def _may_pull(
    lane: Priority, count: Mapping[Priority, int], free: Mapping[str, int], size: int
) -> tuple[int, str]:
    """Return the rule by which a lane may be pulled, with its sentence; 0: it may not."""
    total = sum(count.values())
    if not total and any(free.values()):
        return 1, "nobody is held and a slot is free"
    kept = sum(1 for other in LANES if other is not lane and not count[other])
    space = size - total - (kept if count[lane] else 0)
    if space > 0:
        return 2, f"{total} of {size} places are taken, and the head of each lane keeps its own"
    lower = LANES[LANES.index(lane) + 1 :]
    behind = next((other for other in reversed(lower) if count[other] > 1), None)
    if behind is not None:
        return 3, f"the room is full, and the latest of {behind} goes back for a {lane}"
    return 0, ""


def overfull(held: Sequence[Held], size: int = SIZE) -> tuple[GiveBack, ...]:
    """Say who goes back because the room holds more than its size: in ascending sequence.

    The latest of the lowest class goes first; the head of each lane stays as long as any class has
    another one. One may be held in any case: what was pulled for a slot that another has taken
    meanwhile waits for it, or it would be pulled again at once.
    """
    rest = list(held)
    gone: list[Held] = []
    while len(rest) > max(size, 1):
        victim = _last_to_start(rest)
        rest.remove(victim)
        gone.append(victim)
    reason = f"the waiting room holds {size} at most; it is the lowest and latest"
    return _in_order(gone, reason)


def _last_to_start(held: Sequence[Held]) -> Held:
    """Return the latest of the lowest class that has more than its head; else of the lowest."""
    crowded = [one for one in held if sum(1 for two in held if two.priority is one.priority) > 1]
    return max(crowded or held, key=lambda one: (LANES.index(one.priority), one.seq))


def give_back(
    held: Sequence[Held],
    why: Why,
    *,
    order: Sequence[str] = (),
    kinds: Collection[str] = (),
    busy: Collection[str] = (),
) -> tuple[GiveBack, ...]:
    """Say who goes back to the lanes: in ascending sequence, so that each lane keeps its order.

    1. `drain`: all.
    2. `card_lost`: those that wait for the card. Order: the arbiter first sends to the cloud who
       may go there.
    3. `idle`: another worker has a free slot of these `kinds` and nothing to pull. Every second one
       of those that wait for such a slot, in the `order` in which they would start here: so both
       workers have work that is equally urgent. The first of them goes too if all slots of its kind
       are in use here, in `busy`: it would wait for the end of a run beside a slot that is free.
       Otherwise it is about to start, and perhaps an LLM was unloaded for it.
    """
    match why:
        case "drain":  # 1
            return _in_order(held, "the worker stops")
        case "card_lost":  # 2
            return _in_order([one for one in held if one.slot == "gpu"], "the card is gone")
        case "idle":  # 3
            place = {job: number for number, job in enumerate(order)}
            able = sorted(
                (one for one in held if not kinds or one.slot in kinds),
                key=lambda one: (
                    place.get(one.job, len(place)),
                    LANES.index(one.priority),
                    one.seq,
                ),
            )
            first = 0 if able and able[0].slot in busy else 1
            return _in_order(able[first::2], "another worker has a free slot for it")


def _in_order(held: Sequence[Held], reason: str) -> tuple[GiveBack, ...]:
    return tuple(
        GiveBack(job=one.job, reason=reason) for one in sorted(held, key=lambda one: one.seq)
    )
