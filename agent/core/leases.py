"""The words between the arbiter and who performs it: what jobs ask for and what is decided.

Data only. `agent.core.arbiter` says in which order a shell performs the decisions.
"""

from datetime import datetime
from typing import Literal

import msgspec

from agent.core.card import Debt, Owed
from contracts.requests import Priority, Quality

# --- what is asked for -------------------------------------------------------------------------


class Need(msgspec.Struct, frozen=True, kw_only=True):
    """A model and what a job with it takes at its peak."""

    model: str
    vram_mib: int


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """A job's wish for the card.

    `smaller` is what it may be downgraded to; None: nothing (quality high or premium, a model or
    workflow that was named, no smaller workflow here). `cloud`: allowed by request, settings and
    budget. `seq` is the sequence of its stored request. `ooms`: runs of it that ran out of memory
    before, `preempted`: how often it was interrupted for a CRITICAL; both on whichever worker.
    Units: `run_s` is what its run is expected to take, `run_error_s` by how much runs of its kind
    missed that, `max_wait_s` its class's bound, counted from `stored_at`.
    """

    job: str
    priority: Priority
    quality: Quality
    need: Need
    stored_at: datetime
    max_wait_s: float
    smaller: Need | None = None
    cloud: bool = False
    requester: str = ""
    seq: int = 0
    run_s: float = 10.0
    run_error_s: float = 5.0
    ooms: int = 0
    preempted: int = 0

    @property
    def model(self) -> str:
        """The model it needs."""
        return self.need.model


class Elsewhere(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker does beside the card.

    `running`: requesters with the number of their jobs in slots of other kinds. `cloud_s`: for each
    cloud slot, after how long it would take up a job that is sent there now, those that wait for
    it counted; empty: at once. Units: `cloud_run_s` is what a job takes there.
    """

    running: tuple[tuple[str, int], ...] = ()
    cloud_s: tuple[float, ...] = ()
    cloud_run_s: float = 15.0


class Lease(msgspec.Struct, frozen=True, kw_only=True):
    """The right to the card for one job, until it is released or revoked.

    `preempted_by` is the job for which it is being interrupted.
    """

    ask: Ask
    need: Need
    granted_at: datetime
    downgraded: bool
    preempted_by: str = ""


# --- what is decided ---------------------------------------------------------------------------


class Measure(msgspec.Struct, frozen=True, kw_only=True):
    """Take a reading now; answered by `reading`."""

    reason: str


class Grant(msgspec.Struct, frozen=True, kw_only=True):
    """The job has the card and draws with this model. `rule` is the number that fitted."""

    job: str
    model: str
    vram_mib: int
    downgraded: bool
    rule: int
    reason: str


class Downgrade(msgspec.Struct, frozen=True, kw_only=True):
    """The grant that follows is for a smaller model than the job asked for."""

    job: str
    wanted: str
    model: str
    reason: str


class FreeComfyUI(msgspec.Struct, frozen=True, kw_only=True):
    """Ask ComfyUI to free all models; answered by `freed` or `free_failed` with the number."""

    number: int
    reason: str


class WriteDebt(msgspec.Struct, frozen=True, kw_only=True):
    """Store the debt; what follows it in the same answer may happen only after that."""

    debt: Debt
    reason: str


class UnloadModels(msgspec.Struct, frozen=True, kw_only=True):
    """Ask the tenants to unload these; answered by `unloaded` or `unload_failed`.

    For `job`. `debt` is all that is owed then: what the `WriteDebt` before it stored.
    """

    number: int
    job: str
    models: tuple[Owed, ...]
    debt: Debt
    reason: str


class Reload(msgspec.Struct, frozen=True, kw_only=True):
    """Load these with their keep-alive; answered by `reloaded` or `reload_failed`.

    `again` are those of them that are loaded with a part on the CPU: unload them first, because
    loading a loaded model changes nothing but its keep-alive.
    """

    number: int
    models: tuple[Owed, ...]
    again: tuple[Owed, ...]
    reason: str


class ClearDebt(msgspec.Struct, frozen=True, kw_only=True):
    """Delete the stored debt: the models are back."""

    reason: str


class ToCloud(msgspec.Struct, frozen=True, kw_only=True):
    """The job is to be done in the cloud and does not wait for the card any more."""

    job: str
    reason: str


class Refuse(msgspec.Struct, frozen=True, kw_only=True):
    """This card cannot do the job: next candidate, or back to its lane."""

    job: str
    why: Literal["no_card", "too_big", "out_of_memory"]
    reason: str


class Revoke(msgspec.Struct, frozen=True, kw_only=True):
    """The lease has ended under the job: interrupt its run, which is a fault of the engine."""

    job: str
    reason: str


class Preempt(msgspec.Struct, frozen=True, kw_only=True):
    """Interrupt the job that draws: `by` needs the card now. Answered by `release`.

    It goes back to its lane as `preempted`, and no try is counted. Units: `lost_s` GPU seconds are
    thrown away, `rest_s` more would have been needed.
    """

    job: str
    by: str
    lost_s: float
    rest_s: float
    reason: str


WaitFor = Literal[
    "reading", "comfyui", "card", "memory", "night", "freeing", "unloading", "reloading"
]


class Wait(msgspec.Struct, frozen=True, kw_only=True):
    """The job waits without a slot; told when what it waits for changes.

    `until` says what would end it.
    """

    job: str
    wait_for: WaitFor
    rule: int
    until: str
    reason: str


class Alert(msgspec.Struct, frozen=True, kw_only=True):
    """Something people should know; the arbiter goes on by itself."""

    what: Literal[
        "card_lost",
        "card_unknown",
        "free_failed",
        "unload_failed",
        "reload_failed",
        "partial_offload",
        "tenant_grew",
        "critical_starves",
    ]
    reason: str


Decision = (
    Measure
    | Grant
    | Downgrade
    | FreeComfyUI
    | WriteDebt
    | UnloadModels
    | Reload
    | ClearDebt
    | ToCloud
    | Refuse
    | Revoke
    | Preempt
    | Wait
    | Alert
)
Decisions = tuple[Decision, ...]
