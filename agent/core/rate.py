"""How often somebody may ask: a bucket that fills evenly and holds one minute's worth. Pure.

It must not know who asks or for what.
"""

import math
from typing import Final

import msgspec

CALLERS_MAX: Final = 10_000
"""Buckets kept; beyond it the one that was used longest ago is forgotten, which is full by then."""
MINUTE_S: Final = 60.0


class _Bucket(msgspec.Struct, frozen=True):
    left: float
    at_s: float


class Rates:
    """The buckets of all callers, by name."""

    def __init__(self) -> None:
        """All are full."""
        self._buckets: dict[str, _Bucket] = {}

    def take(self, name: str, per_minute: int, now_s: float) -> int:
        """Take one; return 0, or the seconds until there is one again. Units: seconds."""
        before = self._buckets.pop(name, _Bucket(per_minute, now_s))
        each_s = MINUTE_S / per_minute
        left = min(float(per_minute), before.left + max(0.0, now_s - before.at_s) / each_s)
        wait_s = 0 if left >= 1 else math.ceil((1 - left) * each_s)
        self._buckets[name] = _Bucket(left - 1 if wait_s == 0 else left, now_s)
        if len(self._buckets) > CALLERS_MAX:
            del self._buckets[next(iter(self._buckets))]
        return max(0, wait_s)
