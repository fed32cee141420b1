"""The data of the arbiter's searched world: what is configured and what is true."""

from datetime import UTC, datetime
from math import inf
from typing import Any, Final, NamedTuple

import msgspec
from msgspec.structs import replace

from agent.core.card import Debt
from agent.core.leases import Ask, Need
from contracts.requests import Priority, Quality

START: Final = datetime(2026, 1, 1, tzinfo=UTC)
TOTAL_MIB: Final = 24576
SDXL: Final = Need(model="sdxl", vram_mib=12288)
SD15: Final = Need(model="sd15", vram_mib=6144)
TENANT_OF: Final = {"large": "ollama", "small": "other"}
SIZES_MIB: Final = {"large": 14336, "small": 3072}
MAX_WAIT_S: Final = {"CRITICAL": 0.0, "HIGH": 30.0, "MEDIUM": 120.0, "LOW": 600.0}
FAR_S: Final = 700
"""Moments further away than this are all alike."""

FAULTS: Final = (
    "free",
    "unload",
    "reload",
    "busy",
    "partial",
    "chat",
    "oom",
    "cancel",
    "lost",
    "crash",
    "slow",
    "hollow",
    "lag",
)
"""What may go wrong once each: a call fails; Ollama accepts an unload and does it when a chat ends;
a model comes back with a part on the CPU; somebody's chat loads a model; a run has no memory left;
a requester cancels; the card goes; the worker dies; a call or
a reading is not answered in time; Ollama says that it loaded what it did not load;
memory is free only some time after its model is no longer listed."""


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """What one job asks for."""

    priority: str
    quality: str
    need: Need = SDXL
    cloud: bool = False

    def ask(self, name: str, stored_at: datetime, preempted: int = 0) -> Ask:
        return Ask(
            job=name,
            priority=Priority(self.priority),
            quality=Quality(self.quality),
            need=self.need,
            smaller=SD15 if self.need is SDXL else None,
            cloud=self.cloud,
            stored_at=stored_at,
            max_wait_s=MAX_WAIT_S[self.priority],
            preempted=preempted,
        )


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """One world to be searched. `others_mib` is held by programs that nobody can ask."""

    name: str
    jobs: tuple[Job, ...]
    faults: tuple[str, ...]
    models: tuple[str, ...] = ("large", "small")
    held: str = ""
    others_mib: int = 0


class State(NamedTuple):
    """What is true. `listed` are loaded models, `stopping` those of them that leave by and by."""

    listed: frozenset[str]
    partial: frozenset[str]
    stopping: frozenset[str]
    held: str
    jobs: tuple[str, ...]
    """New, asked, runs, or how it ended."""
    call: Any
    """The decision that is being performed, or None."""
    debt: Debt | None
    """What is stored."""
    left: frozenset[str]
    has_card: bool
    surprised: bool
    """Somebody took or gave memory since the last reading: nobody can know it."""
    alerted: bool
    lag_mib: int = 0
    """Memory of models that are gone already, still in use."""
    cut: str = ""
    """The job that is being interrupted."""
    preempted: tuple[int, ...] = ()
    """How often each job was interrupted."""


class Node(NamedTuple):
    """A state with the arbiter in it, and the time."""

    state: State
    arbiter: Any
    now: datetime


Step = tuple[str, Node, bool]
"""What happened, what is then, and whether nothing went wrong in it."""


def with_job(state: State, number: int, standing: str) -> State:
    return state._replace(jobs=(*state.jobs[:number], standing, *state.jobs[number + 1 :]))


def ended(state: State, number: int, standing: str) -> State:
    """Return what is so after a job's run has ended."""
    cut = "" if state.cut == f"j{number}" else state.cut
    return with_job(state, number, standing)._replace(cut=cut)


def spent(state: State, what: str) -> State:
    return state._replace(left=state.left - {what})


def key(node: Node) -> tuple[object, ...]:
    """Return what tells this node from others: no numbers, times only from now on, and not far."""
    state, arbiter, now = node

    def away(moment: datetime | None) -> int | None:
        if moment is None:
            return None
        return max(-FAR_S, min(FAR_S, round((moment - now).total_seconds())))

    def ahead(moment: datetime | None) -> int | None:
        return None if moment is None or moment <= now else away(moment)

    fresh = arbiter._fresh(now)
    order = sorted(arbiter.waiting, key=lambda one: one.number)
    return (
        state._replace(call=_nameless(state.call), debt=None),
        state.debt and state.debt.owed,
        arbiter.debt and arbiter.debt.owed,
        arbiter.debt and max(-120, away(arbiter.debt.unloaded_at) or 0),
        tuple((one.ask.job, one.ask.ooms, one.told, _waited(one.ask, now)) for one in order),
        arbiter.lease and (arbiter.lease.ask.job, arbiter.lease.need.model, arbiter.lease.ask.ooms),
        arbiter.lease and max(-10, away(arbiter.lease.granted_at) or 0),
        arbiter.act and (arbiter.act.kind, away(arbiter.act.until), arbiter.act.goal_mib),
        arbiter.act and (arbiter.act.models, arbiter.act.answered),
        arbiter.lost,
        fresh and replace(fresh, taken_at=START),
        away(arbiter._wanted_at),
        arbiter._gone,
        arbiter._tenants_mib if arbiter.lease else None,
        ahead(arbiter._free_pause),
        ahead(arbiter._unload_pause),
        ahead(arbiter._lower_again),
        ahead(arbiter._lower_before) if arbiter.act else None,
        ahead(arbiter._turn_until),
        ahead(arbiter._pay_at),
        arbiter._failed if arbiter.debt else 0,
        arbiter._is_unknown,
        arbiter._has_failed_to_free,
        arbiter.starts.is_spent,
        # Two jobs start less than eight times, so that the count decides nothing.
        arbiter.starts.count if len(state.jobs) > 2 else 0,
        arbiter.lease and (arbiter.lease.preempted_by, arbiter.lease.ask.preempted),
        arbiter._starved_at and max(-600, away(arbiter._starved_at) or 0),
        arbiter._hopeless,
        arbiter._has_starved,
    )


def _nameless(call: Any) -> tuple[object, ...] | None:
    """Return what a call does, without its number and the debt, which are in the state."""
    if call is None:
        return None
    return type(call).__name__, getattr(call, "models", ()), getattr(call, "again", ())


def _waited(ask: Ask, now: datetime) -> float:
    """Return how long it has waited; past its bound all is alike."""
    waited_s = (now - ask.stored_at).total_seconds()
    return inf if waited_s > ask.max_wait_s else round(waited_s)
