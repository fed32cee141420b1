"""What a worker without its card does with requests that only a card could draw.

It holds them for a moment: the card may come back. Then, if there are other workers, it hands them
back and leaves their lanes alone until another one has looked. It must not touch what a cloud or
the CPU can begin.
"""

from collections.abc import Iterable, Sequence
from typing import Final, Protocol

from agent.core.job import StoredRequest
from agent.core.waiting_room import GiveBack
from agent.slots import HeldSlot, Slots, job_name
from contracts.requests import Priority

STUCK_S: Final = 3.0
SHUT_S: Final = 2.5
"""Longer than the pause between two sweeps of another worker."""
REASON: Final = "no engine of this worker can begin it, and it has no card; another one may"


class Waiting(Protocol):
    """A job that waits."""

    stored: StoredRequest
    slot: HeldSlot
    handed_back: bool


class StandingBy:
    """Tells one worker what to hand back and which lanes to leave alone."""

    def __init__(self, slots: Slots) -> None:
        """Nothing is left alone yet."""
        self._slots = slots
        self._shut_until_s: dict[Priority, float] = {}

    def goes_back(self, waiting: Iterable[Waiting]) -> tuple[GiveBack, ...]:
        """Say who goes back now, in ascending sequence. Order: only where others can take it."""
        if not self._slots.keepers or self._slots.has_card():
            return ()
        now_s = self._slots.clock.monotonic_s()
        stuck = [
            job
            for job in waiting
            if not job.handed_back
            and job.slot.stuck_since_s is not None
            and now_s - job.slot.stuck_since_s >= STUCK_S
        ]
        for job in stuck:
            self._shut_until_s[job.stored.priority] = now_s + SHUT_S
        return tuple(
            GiveBack(job=job_name(job.stored), reason=REASON)
            for job in sorted(stuck, key=lambda job: job.stored.seq)
        )

    def open(self, lanes: Sequence[Priority]) -> tuple[Priority, ...]:
        """Return the lanes that need not be left alone."""
        now_s = self._slots.clock.monotonic_s()
        return tuple(lane for lane in lanes if self._shut_until_s.get(lane, now_s) <= now_s)
