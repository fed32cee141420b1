"""Who waits and who is worked on, as one gateway has heard it: place and order at once. Pure.

A copy of what lanes and chains say, never the truth: it may be thrown away and read again. Events
may come twice, late, or not at all. Must not decide who is next.
"""

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Final

import msgspec
from msgspec.structs import replace

from contracts.requests import Priority, Request
from contracts.subjects import LANES, Identity

ENDED_MAX: Final = 4096
"""Ends remembered, so that a bell that comes late does not bring a request back."""


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One request in a lane. `running` is None while it waits, `request` until it has begun."""

    who: Identity
    priority: Priority
    seq: int
    stored_at: datetime
    attempt: int = 0
    running: "Run | None" = None
    request: Request | None = None


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """The attempt that is being made."""

    started_at: datetime
    engine: str
    model: str
    worker: str
    reason: str


class Board:
    """All requests in the lanes, each once."""

    def __init__(self) -> None:
        """Nothing was heard; `gaps` counts what was heard of requests that are not on it."""
        self._entries: dict[Identity, Entry] = {}
        self._waiting: dict[Priority, list[tuple[int, Identity]]] = {lane: [] for lane in LANES}
        self._ended: dict[Identity, int] = {}
        self.gaps = 0

    def __len__(self) -> int:
        """Return how many are in the lanes, worked on or not."""
        return len(self._entries)

    def get(self, who: Identity) -> Entry | None:
        """Return one request."""
        return self._entries.get(who)

    def load(self, entries: Iterable[Entry]) -> None:
        """Begin anew with what the lanes and chains say."""
        self._entries.clear()
        self._ended.clear()
        for lane in self._waiting.values():
            lane.clear()
        for entry in entries:
            self._put(entry)
        self.gaps = 0

    def stored(self, entry: Entry) -> None:
        """Take in a request that was stored. The earlier one of an identity counts."""
        if entry.who in self._entries or self._ended.get(entry.who, -1) >= entry.seq:
            return
        self._put(entry)

    def began(self, who: Identity, run: Run, attempt: int, request: Request | None = None) -> None:
        """Take in that somebody works on it; `request` where this says what it is."""
        told = {} if request is None else {"request": request}
        self._change(who, running=run, attempt=attempt, **told)

    def handed_back(self, who: Identity) -> None:
        """Take in that it waits again, at its old place."""
        self._change(who, running=None)

    def ended(self, who: Identity, seq: int) -> None:
        """Take in its end; `seq` is the sequence of the stored request that has ended."""
        self._ended.pop(who, None)
        self._ended[who] = seq
        if len(self._ended) > ENDED_MAX:
            del self._ended[next(iter(self._ended))]
        entry = self._entries.get(who)
        if entry is not None and entry.seq <= seq:
            self._take(entry)

    def place(self, who: Identity) -> int | None:
        """Return the place of a waiting request, from 1; None if it does not wait.

        Requests of higher lanes and those before it in its own, whoever holds them; those that are
        worked on are not counted. Exact within the lane.
        """
        entry = self._entries.get(who)
        if entry is None or entry.running is not None:
            return None
        return self.before(entry.priority, entry.seq) + 1

    def before(self, priority: Priority, seq: int | None = None) -> int:
        """Count who waits before a request of this lane; without `seq` it is the newest one."""
        count = 0
        for lane in LANES:
            waiting = self._waiting[lane]
            if lane is priority:
                return count + (len(waiting) if seq is None else bisect_left(waiting, (seq,)))
            count += len(waiting)
        raise AssertionError("every priority is a lane")

    def count(self, priority: Priority | None = None) -> int:
        """Count who waits, in all lanes or in one."""
        lanes = LANES if priority is None else (priority,)
        return sum(len(self._waiting[lane]) for lane in lanes)

    def running(self) -> tuple[Entry, ...]:
        """Return those that are worked on, the earliest first."""
        found = [entry for entry in self._entries.values() if entry.running is not None]
        return tuple(sorted(found, key=lambda entry: (_began(entry), entry.seq)))

    def waiting(self, after: tuple[Priority, int] | None = None) -> Iterator[Entry]:
        """Yield those that wait in the order of the lanes, behind the place `after`."""
        skipping = after is not None
        for lane in LANES:
            first = 0
            if skipping and after is not None:
                if lane is not after[0]:
                    continue
                first, skipping = bisect_left(self._waiting[lane], (after[1] + 1,)), False
            for _, who in self._waiting[lane][first:]:
                yield self._entries[who]

    def _change(self, who: Identity, **fields: object) -> None:
        before = self._entries.get(who)
        if before is None:
            self.gaps += 1
            return
        self._take(before)
        self._put(replace(before, **fields))

    def _put(self, entry: Entry) -> None:
        self._entries[entry.who] = entry
        if entry.running is None:
            insort(self._waiting[entry.priority], (entry.seq, entry.who))

    def _take(self, entry: Entry) -> None:
        del self._entries[entry.who]
        if entry.running is None:
            waiting = self._waiting[entry.priority]
            del waiting[bisect_left(waiting, (entry.seq, entry.who))]


def _began(entry: Entry) -> datetime:
    assert entry.running is not None, "only those that run are asked"
    return entry.running.started_at
