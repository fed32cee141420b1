"""How long a request will wait, told before any worker has seen it, and how good that was. Pure.

A worker that holds a request knows better; this is for those that nobody holds yet. Must not know
engines.
"""

from collections.abc import Sequence
from math import sqrt
from typing import Final, NamedTuple

import msgspec

from agent.core.moving import Mean

FIRST_S: Final = 10.0
FIRST_ERROR_S: Final = 5.0
WEIGHT: Final = 0.1
"""Of the newest run in the mean; the first ones count in full."""
LEAST_ERROR_S: Final = 0.5
PROMISES_MAX: Final = 20_000


class Expected(msgspec.Struct, frozen=True, kw_only=True):
    """When a request should start; two out of three do between `early_s` and `late_s`.

    Units: seconds from now.
    """

    start_s: float
    early_s: float
    late_s: float


class Rest(NamedTuple):
    """What a run should take yet, and how far that may be off. Units: seconds."""

    rest_s: float
    error_s: float


class Pace:
    """How long runs take, learned from those that were made; the first guess is 10 s."""

    def __init__(self) -> None:
        """No run is known."""
        self._known = Mean()

    @property
    def mean_s(self) -> float:
        """How long a run takes."""
        return self._known.mean if self._known.runs else FIRST_S

    @property
    def error_s(self) -> float:
        """How far that may be off."""
        return self._known.error if self._known.runs else FIRST_ERROR_S

    def learn(self, seconds: float) -> None:
        """Take in a run that succeeded."""
        self._known = self._known.after(seconds, WEIGHT)

    def expect(self, before: int, rests: Sequence[Rest]) -> Expected:
        """Return when a request with `before` others in front of it should start.

        `rests` says what each of those that are worked on should take yet; as many as there are
        now will be worked on side by side. 1. The first free place is that of the run that ends
        first. 2. Errors of runs add up as squares: they are independent.
        """
        if not rests and not before:
            return Expected(start_s=0.0, early_s=0.0, late_s=LEAST_ERROR_S)
        places = max(1, len(rests))
        first = min(rests, default=Rest(0.0, 0.0))  # 1
        start_s = first.rest_s + self.mean_s * before / places
        squares = self.error_s**2 * before / places + first.error_s**2
        error_s = max(LEAST_ERROR_S, sqrt(squares))  # 2
        return Expected(
            start_s=round(start_s, 1),
            early_s=round(max(0.0, start_s - error_s), 1),
            late_s=round(start_s + error_s, 1),
        )


class Calibration:
    """What was promised and what became of it: the share of waits inside their band."""

    def __init__(self) -> None:
        """Nothing was promised."""
        self._open: dict[object, Expected] = {}
        self.kept = 0
        self.judged = 0

    def promise(self, who: object, expected: Expected) -> None:
        """Remember what somebody was told."""
        self._open[who] = expected
        if len(self._open) > PROMISES_MAX:
            del self._open[next(iter(self._open))]

    def began(self, who: object, waited_s: float) -> None:
        """Judge the promise by how long the request has waited; later starts do not count."""
        told = self._open.pop(who, None)
        if told is not None:
            self.judged += 1
            self.kept += told.early_s <= waited_s <= told.late_s

    def forget(self, who: object) -> None:
        """Drop the promise for a request that ended without a start."""
        self._open.pop(who, None)

    @property
    def share(self) -> float | None:
        """The share of promises that held, in percent; None before the first."""
        return None if not self.judged else round(100 * self.kept / self.judged, 1)
