"""The best that anybody could have done who knew all requests beforehand, on small instances.

All orders of a handful of requests on one card are tried; nobody is interrupted. What changing the
model costs counts, what freeing and measuring cost does not: no worker can be better.
"""

from collections.abc import Sequence
from itertools import permutations

from contracts.requests import Priority
from tests.simulation.day_card import SWAP_S
from tests.simulation.tally import PATIENCE_S
from tests.simulation.traffic import Arrival

MODELS = {"draft": "sd-1.5"}
CLASSES = tuple(Priority)

Lateness = tuple[int, ...]


def lateness(starts: Sequence[tuple[Arrival, float]], bounds: dict[Priority, float]) -> Lateness:
    """Return how many of each class started too late."""
    late = dict.fromkeys(CLASSES, 0)
    for arrival, start_s in starts:
        bound_s = bounds[arrival.priority] or PATIENCE_S
        late[arrival.priority] += start_s - arrival.at_s > bound_s
    return tuple(late.values())


def optimum(arrivals: Sequence[Arrival], bounds: dict[Priority, float]) -> Lateness:
    """Return the least lateness, the higher class first."""
    best: Lateness | None = None
    for order in permutations(arrivals):
        now_s, held = 0.0, ""
        starts: list[tuple[Arrival, float]] = []
        for arrival in order:
            model = MODELS.get(arrival.quality.value, "sdxl-1.0")
            now_s = max(now_s, arrival.at_s)
            starts.append((arrival, now_s))
            now_s += arrival.real_s + (SWAP_S if model != held else 0.0)
            held = model
        found = lateness(starts, bounds)
        best = found if best is None else min(best, found)
    assert best is not None, "there is always one order"
    return best
