"""The links of a chain and what travels beside them.

A link is an event: exactly these bytes reach subscribers, WebSocket clients and the ledger.
Tolerant in: readers ignore fields they do not know. Must not decide anything.
"""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Final, Literal

from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from contracts.errors import ErrorBody
from contracts.requests import Request

Instant = Annotated[datetime, Meta(tz=True)]
Percent = Annotated[int, Meta(ge=0, le=100)]


class Status(StrEnum):
    """The state of a request as the spec's table names it."""

    QUEUED = "queued"
    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


Queued = Annotated[Status, Meta(extra_json_schema={"const": "queued"})]
Processing = Annotated[Status, Meta(extra_json_schema={"const": "processing"})]
Done = Annotated[Status, Meta(extra_json_schema={"const": "completed"})]
Lost = Annotated[Status, Meta(extra_json_schema={"const": "failed"})]
Stopped = Annotated[Status, Meta(extra_json_schema={"const": "cancelled"})]


class Output(Struct, frozen=True, kw_only=True):
    """One stored picture. Units: size in bytes, width and height in pixels as produced."""

    url: str
    file_path: str
    thumbnail_url: str
    file_size_bytes: int
    width: int
    height: int
    format: str
    sha256: str


class FaultRecord(Struct, frozen=True, kw_only=True):
    """One try that went wrong."""

    attempt: int
    engine: str | None
    error: ErrorBody


class LinkFields(Struct, frozen=True, kw_only=True, tag_field="kind"):
    """What every link carries.

    `n` is the place in the chain from 1 and the resume token; `id` is unique; `request_seq` is
    the sequence of the stored request this chain belongs to. Only the first link has `request`
    (whole, but for webhook_url) and `requested_at`.
    """

    id: str
    n: Annotated[int, Meta(ge=1)]
    request_id: str
    requester: str
    message: str
    progress_percent: Percent
    at: Instant
    attempt: Annotated[int, Meta(ge=0)]
    request_seq: int
    request: Request | UnsetType | None = UNSET
    requested_at: Instant | UnsetType = UNSET


class Started(LinkFields, frozen=True, kw_only=True, tag="started"):
    """An attempt began. Units: `queue_time_seconds` since the request was stored."""

    status: Processing = Status.PROCESSING
    engine: str
    model: str
    workflow: str | None = None
    reason: str
    worker: str
    server: str | None
    queue_time_seconds: float


class Retrying(LinkFields, frozen=True, kw_only=True, tag="retrying"):
    """A try failed; the next one is due at `due_at`."""

    status: Processing = Status.PROCESSING
    error: ErrorBody
    delay_s: float
    due_at: Instant
    next_engine: str | None


class Preempted(LinkFields, frozen=True, kw_only=True, tag="preempted"):
    """A more urgent request took the slot; this one is queued again."""

    status: Queued = Status.QUEUED
    by: str
    reason: str


class Released(LinkFields, frozen=True, kw_only=True, tag="released"):
    """Its worker gave the request back, for instance because it stopped."""

    status: Queued = Status.QUEUED
    by: str
    reason: str


class Completed(LinkFields, frozen=True, kw_only=True, tag="completed"):
    """The pictures are stored; `output` is the first of `outputs`.

    Units: seconds; `vram_used_gb` in GiB, null where nothing was measured; `cost_usd` in US
    dollars for all attempts.
    """

    status: Done = Status.COMPLETED
    generation_time_seconds: float
    queue_time_seconds: float
    model_used: str
    engine: str
    cost_usd: float
    seed: int
    vram_used_gb: float | None
    downgraded: bool
    retry_count: int
    reason: str
    outputs: tuple[Output, ...]
    output: Output | None


class Failed(LinkFields, frozen=True, kw_only=True, tag="failed"):
    """The request was given up. `dead` marks the dead letter: its tries were spent.

    An unreadable request has `request: null` and its bytes, base64, in `raw_bytes`.
    """

    status: Lost = Status.FAILED
    error: ErrorBody
    faults: tuple[FaultRecord, ...] = ()
    dead: bool = False
    raw_bytes: bytes | UnsetType = UNSET


class Expired(LinkFields, frozen=True, kw_only=True, tag="expired"):
    """The request did not start within its `deadline_s`."""

    status: Lost = Status.FAILED
    error: ErrorBody
    faults: tuple[FaultRecord, ...] = ()


class Cancelled(LinkFields, frozen=True, kw_only=True, tag="cancelled"):
    """Somebody asked for it to stop."""

    status: Stopped = Status.CANCELLED
    by: str


Link = Started | Retrying | Preempted | Released | Completed | Failed | Expired | Cancelled

LINK_TYPES: Final = (
    Started,
    Retrying,
    Preempted,
    Released,
    Completed,
    Failed,
    Expired,
    Cancelled,
)
TERMINAL_KINDS: Final = frozenset({"completed", "failed", "expired", "cancelled"})


def kind_of(link: Link) -> str:
    """Return the wire name of a link's kind."""
    tag = type(link).__struct_config__.tag
    assert isinstance(tag, str), "every link class has a string tag"
    return tag


def is_terminal(link: Link) -> bool:
    """Tell whether a link closes its chain: nothing follows it."""
    return isinstance(link, Completed | Failed | Expired | Cancelled)


class Progress(Struct, frozen=True, kw_only=True, tag_field="kind", tag="progress"):
    """Step progress: no link, not fenced, last value only.

    `n` is the place of the `started` link it belongs to; show it only until the next link.
    """

    id: str
    n: int
    request_id: str
    requester: str
    message: str
    progress_percent: Percent
    at: Instant
    attempt: int
    step: int
    steps: int
    eta_s: float | None
    status: Processing = Status.PROCESSING


class Snapshot(Struct, frozen=True, kw_only=True):
    """The state of one request for who was away.

    `chain` holds the links' own bytes in order; `result` is the terminal one or null. `position`
    and `eta_s` are null where they are not known. `request` lacks webhook_url.
    """

    request_id: str
    requester: str
    status: Status
    priority: str | None
    request: Request | None
    requested_at: Instant | None
    position: int | None
    eta_s: float | None
    progress: Progress | None
    result: Raw | None
    chain: tuple[Raw, ...]


class AssetFact(Struct, frozen=True, kw_only=True):
    """What happened to a request after its chain was closed: pinned, dismissed, pruned, rated.

    Only a `rated` fact has a `rating`, from 1 (useless) to 5.
    """

    id: str
    request_id: str
    requester: str
    kind: str
    by: str
    at: Instant
    reason: str = ""
    rating: Annotated[int, Meta(ge=1, le=5)] | None = None


class Alert(Struct, frozen=True, kw_only=True):
    """Something a person should know: raised when it begins, cleared when it is over."""

    name: str
    state: Literal["raised", "cleared"]
    message: str
    by: str
    at: Instant


class Intake(Struct, frozen=True, kw_only=True):
    """Whether new requests are taken, as kept in the state bucket; absent means open."""

    open: bool
    by: str
    reason: str
    at: Instant


class Pause(Struct, frozen=True, kw_only=True):
    """Whether something is paused, as kept in the state bucket; absent means it is not.

    It ends by itself at `until`; None: when somebody ends it.
    """

    paused: bool
    by: str
    reason: str
    at: Instant
    until: Instant | None = None


class WorkerStatus(Struct, frozen=True, kw_only=True):
    """How one worker stands, as it answers operators and tells every ten seconds.

    `waiting` are requests that it holds until a slot for them is free.
    """

    worker: str
    state: Literal["ready", "paused", "closed", "stopping"]
    reason: str
    running: tuple[str, ...]
    engines: tuple[str, ...]
    permission_errors: int
    waiting: tuple[str, ...] = ()


class Idle(Struct, frozen=True, kw_only=True):
    """A worker has free slots of these kinds and finds nothing in the lanes."""

    worker: str
    kinds: tuple[str, ...]


class LinkHead(Struct, frozen=True, kw_only=True):
    """The few fields a relay needs of any event, also of kinds it does not know."""

    id: str
    n: int
    kind: str
    status: str
    attempt: int = 0
