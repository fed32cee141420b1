"""The one place where the wall clock and the monotonic clock are read.

Everything else takes a `Clock`, so that tests decide what time it is.
"""

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Two clocks: `now` for people and the wire (UTC), `monotonic_s` for durations."""

    def now(self) -> datetime:
        """Return the time of day, UTC."""
        ...

    def monotonic_s(self) -> float:
        """Return seconds since an arbitrary start; never goes back."""
        ...


class SystemClock:
    """The clocks of this machine."""

    def now(self) -> datetime:
        """Return the time of day, UTC."""
        return datetime.now(UTC)  # noqa: TID251 - the one place that reads it

    def monotonic_s(self) -> float:
        """Return seconds since an arbitrary start; never goes back."""
        return time.monotonic()
