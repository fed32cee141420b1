"""What is known of a request: as stored, as its chain tells it, and what that history means.

Pure data and folds. Which step comes next is for `agent.core.story`.
"""

from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from datetime import datetime, timedelta
from typing import Final

import msgspec

from contracts.errors import ErrorCode, error_body
from contracts.events import FaultRecord, Link, Preempted, Retrying, Started
from contracts.requests import Priority, Request
from contracts.subjects import Identity
from contracts.trace import Trace

TRIES_MAX: Final = 3
"""Tries at one engine, and workers that may be lost, before the request is given up."""

RETRY_FIRST_S: Final = 5.0
"""First pause before a retry; it doubles with each further one."""


class StoredRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A request as it lies in its lane: `seq` and `stored_at` are the server's.

    `request` is None where its bytes could not be read; `trace` is what its headers belong to.
    """

    who: Identity
    priority: Priority
    seq: int
    stored_at: datetime
    request: Request | None
    trace: Trace | None = None

    def waited_s(self, now: datetime) -> float:
        """Return the seconds since it was stored, never below 0 (two clocks are compared)."""
        return max(0.0, (now - self.stored_at).total_seconds())

    def is_late(self, now: datetime) -> bool:
        """Tell whether its start deadline has passed."""
        if self.request is None or self.request.deadline_s is None:
            return False
        return now > self.stored_at + timedelta(seconds=self.request.deadline_s)


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """The last link of a chain as its leader has it; `seq` is its sequence in the stream."""

    seq: int
    link: Link
    trace: Trace | None = None


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """The end of a chain as its writer knows it: sequence and numbers of the last link."""

    seq: int = 0
    n: int = 0
    attempt: int = 0


EMPTY: Final = Place()


def place_after(seq: int, link: Link) -> Place:
    """Return the place of a link that is stored at `seq`."""
    return Place(seq=seq, n=link.n, attempt=link.attempt)


class History(msgspec.Struct, frozen=True, kw_only=True):
    """What a chain says of the tries so far, and how often it was `preempted`."""

    faults: tuple[FaultRecord, ...] = ()
    preempted: int = 0

    def lost(self) -> int:
        """Return how many workers were lost with this request in hand."""
        return sum(fault.error.code is ErrorCode.WORKER_LOST for fault in self.faults)

    def tries(self, engine: str) -> int:
        """Return how many tries `engine` has had that failed or were lost."""
        return sum(fault.engine == engine for fault in self.faults)

    def plus(self, fault: FaultRecord) -> "History":
        """Return this history with one more fault."""
        return msgspec.structs.replace(self, faults=(*self.faults, fault))

    def ooms(self, engine: str) -> int:
        """Return how many tries at `engine` ran out of memory."""
        return sum(
            fault.engine == engine and fault.error.code is ErrorCode.OUT_OF_MEMORY
            for fault in self.faults
        )


def fold(
    links: Iterable[Link], *, taken_over: bool, paid: AbstractSet[str] = frozenset()
) -> History:
    """Read the tries out of a chain.

    A `retrying` is a failed try at the engine of the `started` before it. A `started` directly on
    a `started`, and with `taken_over` a `started` at the end, is a lost worker; at one of the
    `paid` engines it is a purchase without a known end, which is not made again. `released` and
    `preempted` cost no try.
    """
    faults: list[FaultRecord] = []
    running: Started | None = None
    preempted = 0
    for link in links:
        if isinstance(link, Started):
            if running is not None:
                faults.append(_lost(running, paid))
            running = link
            continue
        preempted += isinstance(link, Preempted)
        if isinstance(link, Retrying):
            engine = running.engine if running is not None else None
            faults.append(FaultRecord(attempt=link.attempt, engine=engine, error=link.error))
        running = None
    if taken_over and running is not None:
        faults.append(_lost(running, paid))
    return History(faults=tuple(faults), preempted=preempted)


def backoff_s(tries: int, spread: float) -> float:
    """Return the pause before the next try: 5 s x 2^(tries - 1), +-20 % by `spread` in 0..1."""
    return RETRY_FIRST_S * 2.0 ** max(0, tries - 1) * (0.8 + 0.4 * spread)


def _lost(running: Started, paid: AbstractSet[str]) -> FaultRecord:
    message = f"worker {running.worker} was lost in attempt {running.attempt}"
    code = ErrorCode.WORKER_LOST
    if running.engine in paid:
        message += f"; what {running.engine} sold it is unknown, and is not bought again"
        code = ErrorCode.UNKNOWN_OUTCOME
    return FaultRecord(
        attempt=running.attempt, engine=running.engine, error=error_body(code, message)
    )
