"""The breaker of an engine: after three faults in a row it gets no jobs for a while. Pure.

                 3 faults in a row               its time is over
    closed ────────────────────────► open ◄──────────────────────┐
      ▲                               │  30 s, 60 s ... 10 min    │ the trial fails: doubled
      └───────── the trial succeeds ──┴────► half-open: one job ──┘

The state is shared by all workers; `agent.bus.books` keeps it. What the engine did is told by who
ran the job. A fault of the request itself says nothing about the engine and does not count.
"""

from datetime import datetime, timedelta
from typing import Final

import msgspec

from contracts.errors import ErrorCode

FAULTS_MAX: Final = 3
OPEN_FIRST_S: Final = 30.0
OPEN_MAX_S: Final = 600.0
TRIAL_MAX_S: Final = 900.0
"""After this a trial counts as lost with its worker, and another job may be the trial."""

COUNTED: Final[frozenset[ErrorCode]] = frozenset(
    {
        ErrorCode.ENGINE_DOWN,
        ErrorCode.HANG,
        ErrorCode.INTERNAL,
        ErrorCode.OUT_OF_MEMORY,
        ErrorCode.RATE_LIMITED,
        ErrorCode.UNKNOWN_OUTCOME,
    }
)
"""Faults of the engine; every other code is about the request, its money or a person's wish."""


class Breaker(msgspec.Struct, frozen=True, kw_only=True):
    """The state of one engine's breaker. Units: `open_s` in seconds.

    `faults` counts those in a row while closed. `until` is set while it is not closed; `trial`
    names the one job that may run after it, until `trial_until`.
    """

    faults: int = 0
    open_s: float = 0.0
    until: datetime | None = None
    trial: str | None = None
    trial_until: datetime | None = None


CLOSED: Final = Breaker()


class Open(msgspec.Struct, frozen=True, kw_only=True):
    """The engine gets no job now; `reason` is for a person."""

    until: datetime
    reason: str


def look(breaker: Breaker, now: datetime) -> Open | None:
    """Say whether a job would be refused now; for routing, changes nothing."""
    found = admit(breaker, "", now)
    return found if isinstance(found, Open) else None


def admit(breaker: Breaker, job: str, now: datetime) -> Breaker | Open:
    """Let a job in, or say until when not. Order: tell how it ended afterwards.

    1. Closed: everybody.
    2. Open: nobody.
    3. Half-open: one job; asked again, the same one.
    """
    if breaker.until is None:  # 1
        return breaker
    if now < breaker.until:  # 2
        reason = f"{breaker.faults} faults in a row; tried again {_at(breaker.until)}"
        return Open(until=breaker.until, reason=reason)
    trial_until = breaker.trial_until  # 3
    taken = breaker.trial is not None and breaker.trial != job
    if taken and trial_until is not None and now < trial_until:
        reason = "one job is trying whether it works again"
        return Open(until=trial_until, reason=reason)
    return msgspec.structs.replace(
        breaker, trial=job, trial_until=now + timedelta(seconds=TRIAL_MAX_S)
    )


def succeeded(_breaker: Breaker) -> Breaker:
    """Close it: whichever job it was, the engine works."""
    return CLOSED


def failed(breaker: Breaker, job: str, code: ErrorCode, now: datetime) -> Breaker:
    """Take in a fault.

    1. Not the engine's: a trial that ends so proved nothing, another may try.
    2. Closed: counted; the third in a row opens it.
    3. The trial: open again, twice as long.
    4. Another job, begun before it opened: known already.
    """
    if code not in COUNTED:  # 1
        return ended(breaker, job)
    if breaker.until is None:  # 2
        faults = breaker.faults + 1
        if faults < FAULTS_MAX:
            return Breaker(faults=faults)
        return _opened(faults, OPEN_FIRST_S, now)
    if breaker.trial == job:  # 3
        return _opened(breaker.faults + 1, min(OPEN_MAX_S, breaker.open_s * 2), now)
    return breaker  # 4


def ended(breaker: Breaker, job: str) -> Breaker:
    """A job ended without saying anything about the engine, as a cancelled one does."""
    if breaker.trial != job:
        return breaker
    return msgspec.structs.replace(breaker, trial=None, trial_until=None)


def _opened(faults: int, open_s: float, now: datetime) -> Breaker:
    return Breaker(faults=faults, open_s=open_s, until=now + timedelta(seconds=open_s))


def _at(when: datetime) -> str:
    return f"at {when:%H:%M:%S} UTC"
