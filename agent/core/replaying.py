"""Decisions as they are recorded, and one of them played again through the pure core. Pure.

A record holds all that a decision rested on: for the arbiter its attributes before the event,
which are immutable values; for routing the request's facts and what was seen of the engines. It
must not read or write files: `agent.decisions` does.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final, Literal

import msgspec
from msgspec import Raw
from msgspec.structs import replace

from agent.core.acts import Act
from agent.core.arbiter import Arbiter
from agent.core.card import Debt, Owed, Reading
from agent.core.choosing import Choice
from agent.core.faults import Fault
from agent.core.leases import Ask, Decisions, Elsewhere, Lease, Measure
from agent.core.routing import Candidate, EngineFacts
from agent.core.scheduler import Starts
from agent.core.standing import Settings
from agent.core.tending import Waiting

HIDDEN: Final = "(not recorded)"
HIDDEN_URL: Final = "https://not-recorded.invalid/"
Pairs = frozenset[tuple[str, str]]

Name = Literal[
    "request",
    "release",
    "reading",
    "freed",
    "free_failed",
    "unloaded",
    "unload_failed",
    "reloaded",
    "reload_failed",
    "oom",
    "busy_elsewhere",
    "tick",
]


class Happening(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An event of the arbiter: the name of its method, and what it carries."""

    name: Name
    ask: Ask | None = None
    job: str = ""
    reading: Reading | None = None
    number: int = 0
    reason: str = ""
    unknown: tuple[Owed, ...] = ()
    elsewhere: Elsewhere | None = None


class Before(msgspec.Struct, frozen=True, kw_only=True):
    """The attributes of an arbiter, by their names without the underscore."""

    settings: Settings
    debt: Debt | None
    waiting: tuple[Waiting, ...]
    lease: Lease | None
    act: Act | None
    lost: str | None
    elsewhere: Elsewhere
    starts: Starts
    told_at: datetime | None
    number: int
    reading: Reading | None
    changed_at: datetime | None
    asked_at: datetime | None
    wanted_at: datetime | None
    gone: Pairs
    hopeless: Pairs
    tenants_mib: int | None
    free_pause: datetime | None
    unload_pause: datetime | None
    lower_again: datetime | None
    lower_before: datetime | None
    turn_until: datetime | None
    pay_at: datetime | None
    failed: int
    has_failed_to_free: bool
    is_unknown: bool
    starved_at: datetime | None
    has_starved: bool


class Arbitrated(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="arbiter"):
    """One event of an arbiter that led to something other than a measurement."""

    seq: int
    at: datetime
    build: str
    card: str
    event: Happening
    before: Before
    decided: Raw


class Routed(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="route"):
    """One choice among engines."""

    seq: int
    at: datetime
    build: str
    choice: Choice
    decided: Raw


Record = Arbitrated | Routed


class Replayed(msgspec.Struct, frozen=True, kw_only=True):
    """What was decided then, and what this build decides on the same."""

    then: bytes
    now: bytes

    @property
    def is_same(self) -> bool:
        """Whether both are the same, byte by byte."""
        return self.then == self.now


def play(arbiter: Arbiter, event: Happening, now: datetime) -> Decisions:
    """Let an event happen to an arbiter: the one way in which a shell calls it."""
    number, reason = event.number, event.reason
    match event:
        case Happening(name="request", ask=Ask() as ask):
            return arbiter.request(ask, now)
        case Happening(name="reading", reading=Reading() as reading):
            return arbiter.reading(reading, now)
        case Happening(name="busy_elsewhere", elsewhere=Elsewhere() as elsewhere):
            return arbiter.busy_elsewhere(elsewhere, now)
        case Happening(name="release", job=job):
            return arbiter.release(job, now)
        case Happening(name="oom", job=job):
            return arbiter.oom(job, now)
        case Happening(name="reload_failed", unknown=unknown):
            return arbiter.reload_failed(number, reason, now, unknown)
        case Happening(name="freed" | "unloaded" | "reloaded"):
            ended = {
                "freed": arbiter.freed,
                "unloaded": arbiter.unloaded,
                "reloaded": arbiter.reloaded,
            }
            return ended[event.name](number, now)
        case Happening(name="free_failed"):
            return arbiter.free_failed(number, reason, now)
        case Happening(name="unload_failed"):
            return arbiter.unload_failed(number, reason, now)
        case Happening(name="tick"):
            return arbiter.tick(now)
    raise AssertionError(f"{event.name} carries nothing")


def remember(arbiter: Arbiter) -> Mapping[str, object]:
    """Return the arbiter's attributes as they are: a shallow copy of immutable values."""
    return {name.lstrip("_"): value for name, value in vars(arbiter).items()}


def before(remembered: Mapping[str, object]) -> Before:
    """Return what `remember` gave as it is recorded."""
    return msgspec.convert(remembered, Before)


def arbiter_at(state: Before) -> Arbiter:
    """Return an arbiter that stands as it was recorded."""
    arbiter = Arbiter(state.settings)
    values = {name: getattr(state, name) for name in Before.__struct_fields__}
    vars(arbiter).update({name: values[name.lstrip("_")] for name in vars(arbiter)})
    return arbiter


def is_worth_it(decisions: Decisions) -> bool:
    """Tell whether an event is recorded: it led to something other than a measurement."""
    return any(not isinstance(decision, Measure) for decision in decisions)


def said(decisions: Decisions) -> bytes:
    """Return decisions as they are recorded and compared: each with its name, in their order."""
    return msgspec.json.encode([(named(decision), decision) for decision in decisions])


def named(decision: msgspec.Struct) -> str:
    """Return the name of a decision in records, logs and answers."""
    return type(decision).__name__.lower()


def chosen(found: tuple[Candidate, ...] | Fault) -> bytes:
    """Return a choice among engines as it is recorded and compared."""
    if isinstance(found, Fault):
        fault = {"fault": type(found).__name__, **msgspec.structs.asdict(found.body())}
        return msgspec.json.encode(fault)
    return msgspec.json.encode(found)


def without_words(choice: Choice) -> Choice:
    """Return a choice without what is large or private or decides nothing: texts, graphs, trace."""
    request = choice.stored.request
    if request is not None:
        negative = request.options.negative_prompt
        options = replace(request.options, negative_prompt=HIDDEN if negative else negative)
        url = HIDDEN_URL if request.webhook_url else None
        request = replace(request, prompt=HIDDEN, options=options, webhook_url=url)
    engines = tuple(_without_graphs(facts) for facts in choice.seen.engines)
    return replace(
        choice,
        stored=replace(choice.stored, request=request, trace=None),
        seen=replace(choice.seen, engines=engines),
    )


def replay(record: Record) -> Replayed:
    """Decide again on what a record holds."""
    if isinstance(record, Routed):
        return Replayed(then=bytes(record.decided), now=chosen(record.choice.made()))
    decisions = play(arbiter_at(record.before), record.event, record.at)
    return Replayed(then=bytes(record.decided), now=said(decisions))


def decode(line: bytes) -> Record:
    """Read one record. Raises: msgspec.DecodeError, also for one of a build with other fields."""
    return _decoder.decode(line)


def _without_graphs(facts: EngineFacts) -> EngineFacts:
    if facts.workflows is None:
        return facts
    kept = {name: replace(one, graph={}) for name, one in facts.workflows.items()}
    return replace(facts, workflows=kept)


_decoder: Final[msgspec.json.Decoder[Record]] = msgspec.json.Decoder(Record)


def reasons(decided: Raw) -> list[tuple[str, dict[str, Any]]]:
    """Return the decisions of a record as names and fields, for people. Raises: DecodeError."""
    return msgspec.json.decode(decided, type=list[tuple[str, dict[str, Any]]])
