"""What is wrong now, in the order in which a person should look at it. Pure.

Each incident is one sentence with the one command that ends it or says more. It must not ask
anybody: what was seen is handed in, and what nobody could see is left out.
"""

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Final, Literal

import msgspec

from agent.core.scheduler import MAX_WAIT_S
from contracts.events import Instant, Intake, Pause
from contracts.requests import Priority
from contracts.status import WorkerReport

Level = Literal["down", "warn", "note"]
RANK: Final[dict[Level, int]] = {"down": 0, "warn": 1, "note": 2}

LATE_GRACE_S: Final = 5.0
"""A bound that was passed by less is no news: CRITICAL has a bound of nothing."""

DOWN: Final = ("streams_gone", "card_lost", "no_worker")
"""Alerts that mean that requests stand still; every other one is a warning."""

COMMANDS: Final = (
    ("streams_gone", "mmg provision"),
    ("events_store", "mmg doctor"),
    ("disk", "mmg prune --dry-run"),
    ("gateway_disk", "mmg prune --dry-run"),
    ("critical_starves", "mmg queue"),
    ("card", "mmg gpu"),
    ("gpu", "mmg gpu"),
    ("free_failed", "mmg gpu"),
    ("unload_failed", "mmg gpu"),
    ("reload_failed", "mmg gpu"),
    ("partial_offload", "mmg gpu"),
    ("tenant_grew", "mmg gpu"),
    ("vram", "mmg gpu"),
    ("webhook", "mmg webhooks list"),
    ("", "mmg doctor"),
)
"""What to type first, by how the name of an alert begins; the first that fits."""


class Raised(msgspec.Struct, frozen=True, kw_only=True):
    """An alert that was raised and not cleared."""

    name: str
    since: datetime
    message: str
    by: str


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """The requests of one class that wait: how many, and the oldest of those looked at.

    `late` counts those past their bound; with `more` only the oldest were looked at, and there
    may be more. `late_at` is when the next one will be late.
    Units: `bound_s` is what a request of the class may wait.
    """

    priority: Priority
    waiting: int
    running: int
    bound_s: float
    oldest_at: Instant | None = None
    oldest_id: str | None = None
    late: int = 0
    more: bool = False
    late_since: Instant | None = None
    late_at: Instant | None = None
    late_id: str | None = None
    paused_until: Instant | None = None


class Letterbox(msgspec.Struct, frozen=True, kw_only=True):
    """How many dead letters wait for a person, and since when the newest does."""

    total: int
    newest_at: datetime | None = None


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """What was seen at one instant. `bus` None: it answers; else why it does not."""

    at: datetime
    bus: str | None = None
    ledger: str | None = None
    lines: tuple[Line, ...] = ()
    workers: tuple[WorkerReport, ...] = ()
    alerts: tuple[Raised, ...] = ()
    intake: Intake | None = None
    pause: Pause | None = None
    letters: Letterbox = Letterbox(total=0)


class Incident(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that is wrong: `down` nothing is drawn, `warn` worse than it should be, `note`.

    `since` is null where nobody knows. `runbook` is the heading of the runbook's entry.
    """

    level: Level
    name: str
    sentence: str
    since: Instant | None
    command: str
    runbook: str


class Waiting(msgspec.Struct, frozen=True, kw_only=True):
    """One stored request as a class is judged by it."""

    job: str
    stored_at: datetime


def line(
    priority: Priority,
    stored: Sequence[Waiting],
    running: frozenset[str],
    total: int,
    now: datetime,
    paused_until: datetime | None = None,
) -> Line:
    """Judge one class by its oldest requests, `stored`, of `total` in all.

    Within a class the bound is the same for all, so the oldest is the first to pass it.
    """
    bound_s = MAX_WAIT_S[priority]
    waiting = [one for one in stored if one.job not in running]
    ages_s = [(now - one.stored_at).total_seconds() for one in waiting]
    late = sum(age_s > bound_s + LATE_GRACE_S for age_s in ages_s)
    oldest = waiting[0] if waiting else None
    following = waiting[late] if late < len(waiting) else None
    in_hand = len(stored) - len(waiting)
    return Line(
        priority=priority,
        waiting=max(0, total - in_hand),
        running=in_hand,
        bound_s=bound_s,
        oldest_at=None if oldest is None else oldest.stored_at,
        oldest_id=None if oldest is None else oldest.job,
        late=late,
        more=late == len(waiting) and total > len(stored),
        late_since=None if oldest is None or not late else _after(oldest.stored_at, bound_s),
        late_at=None if following is None else _after(following.stored_at, bound_s),
        late_id=None if following is None else following.job,
        paused_until=paused_until,
    )


def judge(seen: Seen) -> tuple[Incident, ...]:
    """Return what is wrong, the worst first, of equals the oldest.

    1. Without its bus a gateway sees nothing else. 2. Nobody works. 3. What was raised and not
    cleared. 4. Workers that take nothing. 5. What a person switched. 6. Classes past their bound.
    7. The gateway's own ledger. 8. What waits for a person.
    """
    if seen.bus is not None:  # 1
        text = f"The message bus does not answer: {seen.bus}. Requests cannot be taken or followed."
        return (_incident("down", "bus_away", text, None, "mmg doctor"),)
    found = [
        *_nobody(seen),
        *_alerts(seen),
        *_closed(seen),
        *_switched(seen),
        *_late(seen),
        *_ledger(seen),
        *_letters(seen),
    ]
    found.sort(key=lambda one: (RANK[one.level], one.since is None, one.since or seen.at))
    return tuple(found)


def _nobody(seen: Seen) -> Iterator[Incident]:
    """2."""
    if not seen.workers:
        waiting = sum(one.waiting for one in seen.lines)
        text = f"No worker answers; {_count(waiting, 'request')} will wait until one starts."
        yield _incident("down", "no_worker", text, None, "mmg worker")


def _alerts(seen: Seen) -> Iterator[Incident]:
    """3. One whose voice is gone cannot clear it: that is said, too."""
    there = {one.worker for one in seen.workers}
    for one in seen.alerts:
        if one.name == "no_worker" and seen.workers:
            continue
        level: Level = "down" if one.name in DOWN else "warn"
        text = f"{_sentence(one)}."
        if one.by not in there:
            text += f" {one.by} said so, and does not answer now."
        yield _incident(level, one.name, text, one.since, _command(one.name))


def _closed(seen: Seen) -> Iterator[Incident]:
    """4. A worker that takes nothing; that nobody takes anything is worse."""
    closed = [one for one in seen.workers if one.state == "closed"]
    alone = len(closed) == len(seen.workers)
    for one in closed:
        text = f"{one.worker} takes nothing: {one.reason}."
        yield _incident("down" if alone else "warn", "worker_closed", text, None, "mmg doctor")
    for one in seen.workers:
        if one.state == "paused":
            text = f"{one.worker} is {one.reason}."
            command = f"mmg resume --worker {one.worker}"
            yield _incident("warn", "worker_paused", text, None, command)


def _switched(seen: Seen) -> Iterator[Incident]:
    """5."""
    paused = [one for one in seen.lines if one.paused_until is not None]
    if paused:
        names = ", ".join(one.priority.value for one in paused)
        which = "All classes are" if len(paused) == len(seen.lines) else f"{names} is"
        note = seen.pause if seen.pause is not None and seen.pause.paused else None
        by = "" if note is None else f" by {note.by}: {note.reason}"
        text = f"{which} paused{by}. Requests are taken and wait; none is started."
        since = None if note is None else note.at
        yield _incident("down", "lanes_paused", text, since, "mmg resume")
    if seen.intake is not None and not seen.intake.open:
        one = seen.intake
        text = f"New requests are refused: the intake was closed by {one.by}: {one.reason}."
        yield _incident("down", "intake_closed", text, one.at, "mmg intake on")


def _late(seen: Seen) -> Iterator[Incident]:
    """6. Not while a person holds the class up on purpose."""
    for one in seen.lines:
        if one.late and one.paused_until is None:
            bound = "starts at once" if not one.bound_s else f"waits {one.bound_s:.0f} s at most"
            late = _count(one.late, f"{one.priority.value} request")
            late = f"At least {late}" if one.more else late
            text = f"{late} past the bound of the class, which {bound}."
            yield _incident("warn", "late", text, one.late_since, "mmg queue")


def _ledger(seen: Seen) -> Iterator[Incident]:
    """7."""
    if seen.ledger is not None:
        text = f"History and figures cannot be read: {seen.ledger}."
        yield _incident("warn", "ledger_away", text, None, "mmg ledger rebuild")


def _letters(seen: Seen) -> Iterator[Incident]:
    """8."""
    if seen.letters.total:
        text = f"{_count(seen.letters.total, 'request')} given up, and nobody has looked yet."
        yield _incident("note", "dead_letters", text, seen.letters.newest_at, "mmg dead list")


def _incident(
    level: Level, name: str, sentence: str, since: datetime | None, command: str
) -> Incident:
    return Incident(
        level=level, name=name, sentence=sentence, since=since, command=command, runbook=name
    )


def _command(name: str) -> str:
    return next(command for start, command in COMMANDS if name.startswith(start))


def _sentence(alert: Raised) -> str:
    """Begin with a capital letter, unless it begins with what the alert is about: a name."""
    text = alert.message.rstrip(".")
    if text.split(" ", maxsplit=1)[0] in alert.name:
        return text
    return text[:1].upper() + text[1:]


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")


def _after(at: datetime, seconds: float) -> datetime:
    return at + timedelta(seconds=seconds)
