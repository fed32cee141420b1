"""How one worker stands, in full: what it answers operators on `mmg.rpc.status`.

Everything is bounded, so that an answer fits into one message: lists by the numbers below, texts
by `TEXT_MAX`. Tolerant in: readers ignore fields they do not know. Must not decide anything.
"""

from typing import Annotated, Final, Literal

from msgspec import Meta, Struct

from contracts.events import Instant, WorkerStatus
from contracts.requests import Priority

TEXT_MAX: Final = 400
JOBS_MAX: Final = 100
MODELS_MAX: Final = 50
HOLDS_MAX: Final = 50
DECISIONS_MAX: Final = 50


class HeldModel(Struct, frozen=True, kw_only=True):
    """A model that a tenant holds. Units: MiB; what is not on the card runs on the CPU.

    `expires_at` null: it stays until somebody unloads it.
    """

    name: str
    size_mib: int
    vram_mib: int
    expires_at: Instant | None


class TenantState(Struct, frozen=True, kw_only=True):
    """A program beside ComfyUI on the card; one that does not answer may hold anything."""

    name: str
    answers: bool
    models: tuple[HeldModel, ...]


class ComfyState(Struct, frozen=True, kw_only=True):
    """The ComfyUI that draws on the card.

    `models` are those it holds, `held_mib` what it would give back; `foreign` counts prompts of
    people. `device` is what it computes with.
    """

    answers: bool
    device: Literal["card", "cpu", "unknown"]
    models: tuple[str, ...]
    held_mib: int
    foreign: int


class LeaseState(Struct, frozen=True, kw_only=True):
    """Who has the card now. Units: `rest_s` is what it is expected to take yet."""

    job: str
    requester: str
    priority: Priority
    model: str
    vram_mib: int
    granted_at: Instant
    rest_s: float
    downgraded: bool
    preempted_by: str


class OwedModel(Struct, frozen=True, kw_only=True):
    """A model that was unloaded for a job and comes back; `keep_alive_s` null: for good."""

    tenant: str
    name: str
    vram_mib: int
    keep_alive_s: int | None


class DebtState(Struct, frozen=True, kw_only=True):
    """What the card owes its tenants; at `due_at` it is paid even if jobs wait."""

    unloaded_at: Instant
    due_at: Instant
    models: tuple[OwedModel, ...]


class ActState(Struct, frozen=True, kw_only=True):
    """What is being done to the card; nobody is granted meanwhile. `until` is its deadline."""

    kind: Literal["freeing", "unloading", "reloading"]
    begun_at: Instant
    until: Instant
    models: tuple[str, ...]


class CardState(Struct, frozen=True, kw_only=True):
    """One card and what is known of it; null: not told, or not known yet.

    `state`: `ready`; `cpu`, ComfyUI draws without a card; `missing`, with the reason in `missing`.
    `other_mib` is used by programs that are neither ComfyUI nor tenants. `xid` is the last critical
    error of the driver.
    """

    server: str
    state: Literal["ready", "cpu", "missing"]
    missing: str
    name: str | None
    uuid: str | None
    driver: str | None
    total_mib: int | None
    free_mib: int | None
    used_mib: int | None
    other_mib: int | None
    reserve_mib: int
    temperature_c: int | None
    utilisation_percent: int | None
    power_w: float | None
    xid: str | None
    measured_at: Instant | None
    comfyui: ComfyState
    tenants: tuple[TenantState, ...]
    lease: LeaseState | None
    debt: DebtState | None
    act: ActState | None


class RunningJob(Struct, frozen=True, kw_only=True):
    """A request that this worker carries and that waits for no slot."""

    job: str
    request_id: str
    requester: str
    priority: Priority
    stored_at: Instant
    attempt: int
    engine: str
    model: str
    slot: str
    reason: str
    started_at: Instant | None
    progress_percent: int


class WaitingJob(Struct, frozen=True, kw_only=True):
    """A request that this worker holds until a slot is free for it.

    `sentence` is for people: what it waits for, which rule says so, what would change it. Units:
    `start_s` seconds until its expected start, between `early_s` and `late_s` two times out of
    three; null: no end is in sight. `left_s` until it is past its class's bound `max_wait_s`.
    """

    job: str
    request_id: str
    requester: str
    priority: Priority
    stored_at: Instant
    slot: str
    place: int
    rule: int
    sentence: str
    start_s: float | None
    early_s: float | None
    late_s: float | None
    max_wait_s: float
    left_s: float


class SlotState(Struct, frozen=True, kw_only=True):
    """The slots of one kind: how many there are, are taken, and are waited for."""

    kind: str
    size: int
    taken: int
    waiting: int


class BreakerState(Struct, frozen=True, kw_only=True):
    """The breaker of an engine. `half_open`: one job tries it; open until `until`."""

    state: Literal["closed", "open", "half_open"]
    faults: int
    until: Instant | None


class EngineState(Struct, frozen=True, kw_only=True):
    """One engine; `ready`: a job could go there now, else `reason` says why not.

    Units: `price_usd` for one picture of quality standard; 0: it costs nothing.
    """

    name: str
    slot: str
    up: bool
    ready: bool
    reason: str
    models: tuple[str, ...]
    price_usd: float
    breaker: BreakerState


class HoldState(Struct, frozen=True, kw_only=True):
    """Money set aside for a call whose end is not known yet."""

    request: str
    engine: str
    worker: str
    usd: float


class UnknownState(Struct, frozen=True, kw_only=True):
    """A paid call whose end nobody knows: it counts as spent, and the bill may not have it."""

    request: str
    engine: str
    day: str
    usd: float


class MoneyState(Struct, frozen=True, kw_only=True):
    """Budgets and what is spent, of all workers together. Units: US dollars; null: no limit.

    `day` is UTC, YYYY-MM-DD. `by_requester` is of that day, the largest first. `unknown` is of all
    days, the newest first.
    """

    day: str
    spent_usd: float
    held_usd: float
    day_limit_usd: float | None
    request_limit_usd: float | None
    requester_limit_usd: float | None
    by_requester: tuple[tuple[str, float], ...]
    holds: tuple[HoldState, ...]
    unknown: tuple[UnknownState, ...] = ()


class RaisedAlert(Struct, frozen=True, kw_only=True):
    """An alert that this worker has raised and not cleared yet."""

    name: str
    message: str
    since: Instant


class Decided(Struct, frozen=True, kw_only=True):
    """One decision of the arbiter or of routing; `mmg replay SEQ` plays it again.

    `what`: grant, wait, tocloud, unloadmodels ... or `route`. `seq` 0: it is not recorded.
    """

    seq: int
    at: Instant
    what: str
    job: str
    rule: int | None
    reason: str


class WorkerReport(WorkerStatus, frozen=True, kw_only=True):
    """How one worker stands, in full: the answer to `mmg.rpc.status`.

    `at` is the server's time. Newest `decisions` first.
    """

    at: Instant
    version: str
    started_at: Instant
    cards: tuple[CardState, ...]
    jobs: tuple[RunningJob, ...]
    waits: tuple[WaitingJob, ...]
    slots: tuple[SlotState, ...]
    engine_states: tuple[EngineState, ...]
    money: MoneyState
    alerts: tuple[RaisedAlert, ...]
    decisions: tuple[Decided, ...]


class WorkflowState(Struct, frozen=True, kw_only=True):
    """A workflow of an engine; `problems` say why it cannot run here, none: it can."""

    name: str
    model: str
    vram_mib: int
    problems: tuple[str, ...]


class EngineModels(Struct, frozen=True, kw_only=True):
    """What one engine can draw with; `loaded` are the models that it holds on the card."""

    name: str
    slot: str
    ready: bool
    reason: str
    models: tuple[str, ...]
    loaded: tuple[str, ...]
    workflows: tuple[WorkflowState, ...]


class TenantModels(Struct, frozen=True, kw_only=True):
    """The models of a tenant: what it holds now, and what it could load."""

    name: str
    answers: bool
    loaded: tuple[HeldModel, ...]
    installed: tuple[str, ...]


class WorkerModels(Struct, frozen=True, kw_only=True):
    """The models of one worker: the answer to `mmg.rpc.models`."""

    worker: str
    engines: tuple[EngineModels, ...]
    tenants: tuple[TenantModels, ...]


class ModelWish(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an operator wants of `mmg.rpc.load.<worker>` or `mmg.rpc.unload.<worker>`.

    `model` is required to load; to unload, null means all. `engine` is an engine or a tenant by
    name; null: whoever has the model. `unload_others`: make room first, for good. Units:
    `keep_alive_s` after which a tenant unloads it by itself; null: when somebody says so.
    """

    model: Annotated[str, Meta(min_length=1, max_length=200)] | None = None
    engine: Annotated[str, Meta(min_length=1, max_length=64)] | None = None
    unload_others: bool = False
    keep_alive_s: Annotated[int, Meta(ge=1, le=31_536_000)] | None = None
    by: Annotated[str, Meta(max_length=120)] = "operator"
    reason: Annotated[str, Meta(max_length=400)] = "not given"


class Loaded(Struct, frozen=True, kw_only=True):
    """What came of `mmg.rpc.load.<worker>` or `mmg.rpc.unload.<worker>`.

    `models` are those that were loaded or unloaded, by engine or tenant. Units: MiB that are free
    on the card, as measured before and after; null: there is no card to measure.
    """

    worker: str
    verb: Literal["load", "unload"]
    models: tuple[tuple[str, str], ...]
    message: str
    took_s: float
    free_before_mib: int | None
    free_after_mib: int | None
