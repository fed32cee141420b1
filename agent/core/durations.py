"""How long runs take, learned from those that were made. Pure.

A run is measured against its work: megapixels, times steps where they are known, times pictures.
The expectation is a moving mean of seconds for each unit of work, its error a moving mean of how
far it was off. Kept for each engine, model and workflow, apart for cold runs: those of a place that
drew with another model before, which has to load this one first.
"""

from typing import Any, Final, NamedTuple

from agent.core.catalog import SIZES
from agent.core.moving import Mean
from contracts.requests import AspectRatio, Quality, Request

FIRST_S: Final = 10.0
FIRST_ERROR_S: Final = 5.0
WEIGHT: Final = 0.2
"""Of the newest run in the mean; the first ones count in full."""
KEYS_MAX: Final = 256
STEPS: Final = {Quality.DRAFT: 15, Quality.STANDARD: 25, Quality.HIGH: 40, Quality.PREMIUM: 40}

OTHER: Final = 2.0
"""By how much the error grows where only the other temperature is known."""


class Kind(NamedTuple):
    """What runs have in common that take the same time for the same work."""

    engine: str
    model: str
    workflow: str | None


class Durations:
    """Learns; the oldest kinds are forgotten beyond a bound."""

    def __init__(self) -> None:
        """Nothing is known yet."""
        self._paces: dict[tuple[Kind, bool], Mean] = {}
        self._models: dict[str, str] = {}

    def expected(
        self, kind: Kind, request: Request, place: str | None = None
    ) -> tuple[float, float]:
        """Return how long a run should take and how far that may be off, in seconds.

        `place` is where it would run; None: nothing is ever loaded there.
        """
        return self.known(kind, request, place) or (FIRST_S, FIRST_ERROR_S)

    def known(
        self, kind: Kind, request: Request, place: str | None = None
    ) -> tuple[float, float] | None:
        """Return the same, and None where no such run was made."""
        cold = self._is_cold(place, kind)
        pace, wide = self._paces.get((kind, cold)), 1.0
        if pace is None:
            pace, wide = self._paces.get((kind, not cold)), OTHER
        if pace is None:
            return None
        amount = work(request)
        return pace.mean * amount, max(0.5, wide * pace.error * amount)

    def learn(self, kind: Kind, request: Request, seconds: float, place: str | None = None) -> None:
        """Take in a run that succeeded."""
        key, rate = (kind, self._is_cold(place, kind)), seconds / work(request)
        if place is not None:
            self._models.pop(place, None)
            self._models[place] = kind.model
            _bounded(self._models)
        self._paces[key] = self._paces.pop(key, Mean()).after(rate, WEIGHT)
        _bounded(self._paces)

    def _is_cold(self, place: str | None, kind: Kind) -> bool:
        return place is not None and self._models.get(place) != kind.model


def work(request: Request) -> float:
    """Return the work of a request: megapixels x steps x pictures."""
    options = request.options
    width, height = SIZES[options.aspect_ratio or AspectRatio.SQUARE]
    if options.width is not None and options.height is not None:
        width, height = options.width, options.height
    steps = options.steps if options.steps is not None else STEPS[options.quality]
    return width * height / 1_000_000 * steps * options.count


def _bounded(known: dict[Any, Any]) -> None:
    """Forget the oldest beyond the bound."""
    if len(known) > KEYS_MAX:
        del known[next(iter(known))]
