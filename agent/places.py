"""Places on the CPU and in the cloud: who waits for one gets it in the scheduler's order.

One job has a place at a time. Must not know cards: their leases are the arbiter's.
"""

import asyncio
from collections.abc import Iterable
from datetime import datetime

import msgspec

from agent.clock import Clock
from agent.core import scheduler
from agent.core.scheduler import Rules, Starts, Turn, Wish


class Seat(msgspec.Struct, kw_only=True):
    """One job in a place, or waiting for one."""

    wish: Wish
    future: asyncio.Future[str | None]
    since: datetime | None = None


class Places:
    """The places of one kind; a place that belongs to a server carries its name."""

    def __init__(self, names: Iterable[str | None], clock: Clock, rules: Rules) -> None:
        """Begin with all places free."""
        self._free: list[str | None] = list(names)
        self._clock = clock
        self._rules = rules
        self._waiting: dict[str, Seat] = {}
        self.taken: dict[str, Seat] = {}
        self._starts = Starts()

    @property
    def free(self) -> int:
        """How many places nobody has."""
        return len(self._free)

    @property
    def size(self) -> int:
        """How many places there are."""
        return len(self._free) + len(self.taken)

    @property
    def waiting(self) -> tuple[Wish, ...]:
        """Who waits, in no order."""
        return tuple(seat.wish for seat in self._waiting.values())

    async def take(self, wish: Wish) -> str | None:
        """Wait for a place, in the scheduler's order; return its name, if it has one."""
        seat = Seat(wish=wish, future=asyncio.get_running_loop().create_future())
        self._waiting[wish.job] = seat
        self.assign()
        seated = False
        try:
            name = await seat.future
            seated = True
            return name
        finally:
            self._waiting.pop(wish.job, None)
            if not seated and seat.future.done() and not seat.future.cancelled():
                self.give(wish.job, seat.future.result())  # Given in the moment of the cancel.

    def give(self, job: str, name: str | None) -> None:
        """Give a place back."""
        del self.taken[job]
        self._free.append(name)
        self.assign()

    def assign(self) -> None:
        """Give free places to those who may have them now; also when the hour has changed."""
        while self._free and self._waiting:
            now = self._clock.now()
            turn = self.turns()[0]
            if turn.is_asleep:
                return
            self._starts = self._starts.after(turn)
            seat = self._waiting.pop(turn.job)
            if seat.future.done():  # Its job was cancelled a moment ago.
                continue
            seat.since = now
            self.taken[turn.job] = seat
            seat.future.set_result(self._free.pop(0))

    def turns(self) -> tuple[Turn, ...]:
        """Return the order in which those who wait would get a place now."""
        wishes = [seat.wish for seat in self._waiting.values()]
        running: dict[str, int] = {}
        for seat in self.taken.values():
            running[seat.wish.requester] = running.get(seat.wish.requester, 0) + 1
        now = self._clock.now()
        return scheduler.order(wishes, now, self._starts, self._rules, running=running)

    def ready_in_s(self, *, waiting: bool = True) -> tuple[float, ...]:
        """Return for each place after how long it would take up a job that comes now.

        `waiting` False: as if nobody waited for one.
        """
        now = self._clock.now()
        left = [0.0] * len(self._free)
        for seat in self.taken.values():
            ran_s = (now - seat.since).total_seconds() if seat.since is not None else 0.0
            left.append(max(1.0, seat.wish.run_s - ran_s))
        for seat in self._waiting.values() if waiting else ():
            if left:
                left.sort()
                left[0] += seat.wish.run_s
        return tuple(sorted(left))
