"""The one place where the wall clock and the monotonic clock are read.

Everything else takes a `Clock`, so that tests decide what time it is.
"""

import time
from datetime import UTC, datetime, timedelta
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


class OffsetClock:
    """This machine's clocks, the time of day moved to agree with the server's.

    Units: `offset_s` is what has to be added to the local time of day, in seconds.
    """

    def __init__(self, local: Clock) -> None:
        """Begin without an offset; whoever measures it sets it."""
        self._local = local
        self.offset_s = 0.0

    def now(self) -> datetime:
        """Return the server's time of day, as far as it is known here."""
        return self._local.now() + timedelta(seconds=self.offset_s)

    def local_now(self) -> datetime:
        """Return this machine's own time of day."""
        return self._local.now()

    def monotonic_s(self) -> float:
        """Return seconds since an arbitrary start; never goes back."""
        return self._local.monotonic_s()
