"""How long runs take, learned from those that were made. Pure.

A run is measured against its work: megapixels, times steps where they are known, times pictures.
The expectation is a moving mean of seconds for each unit of work, its error a moving mean of how
far it was off. Kept for each engine, model and workflow.
"""

from typing import Final

import msgspec

from agent.core.catalog import SIZES
from agent.core.routing import Candidate
from contracts.requests import AspectRatio, Quality, Request

FIRST_S: Final = 10.0
FIRST_ERROR_S: Final = 5.0
WEIGHT: Final = 0.2
"""Of the newest run in the mean; the first ones count in full."""
KEYS_MAX: Final = 256
STEPS: Final = {Quality.DRAFT: 15, Quality.STANDARD: 25, Quality.HIGH: 40, Quality.PREMIUM: 40}

Key = tuple[str, str, str | None]


class Pace(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of one kind of run. Units: seconds for each unit of work."""

    runs: int
    mean: float
    error: float


class Durations:
    """Learns; the oldest kinds are forgotten beyond a bound."""

    def __init__(self) -> None:
        """Nothing is known yet."""
        self._paces: dict[Key, Pace] = {}

    def expected(self, candidate: Candidate, request: Request) -> tuple[float, float]:
        """Return how long a run should take and how far that may be off, in seconds."""
        pace = self._paces.get(_key(candidate))
        if pace is None:
            return FIRST_S, FIRST_ERROR_S
        amount = work(request)
        return pace.mean * amount, max(0.5, pace.error * amount)

    def learn(self, candidate: Candidate, request: Request, seconds: float) -> None:
        """Take in a run that succeeded."""
        key, rate = _key(candidate), seconds / work(request)
        before = self._paces.pop(key, None)
        if before is None:
            pace = Pace(runs=1, mean=rate, error=rate / 2)
        else:
            weight = max(WEIGHT, 1 / (before.runs + 1))
            off = abs(rate - before.mean)
            pace = Pace(
                runs=before.runs + 1,
                mean=before.mean + weight * (rate - before.mean),
                error=before.error + weight * (off - before.error),
            )
        self._paces[key] = pace
        if len(self._paces) > KEYS_MAX:
            del self._paces[next(iter(self._paces))]


def work(request: Request) -> float:
    """Return the work of a request: megapixels x steps x pictures."""
    options = request.options
    width, height = SIZES[options.aspect_ratio or AspectRatio.SQUARE]
    if options.width is not None and options.height is not None:
        width, height = options.width, options.height
    steps = options.steps if options.steps is not None else STEPS[options.quality]
    return width * height / 1_000_000 * steps * options.count


def _key(candidate: Candidate) -> Key:
    return candidate.engine, candidate.model, candidate.workflow
