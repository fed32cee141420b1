"""One example of every message, and the stories they belong to.

`CHAIN` is a whole chain: started, preempted by a more urgent request, started, failed once,
started, handed back by a worker that stopped, started on another worker, completed. The other
links end requests of their own. Nothing is drawn at random: ids, times and bytes are fixed.
Must not be used for anything but documents and tests.
"""

from datetime import UTC, datetime, timedelta
from typing import Final, TypedDict

from msgspec import UNSET, Raw, UnsetType
from msgspec.structs import replace

from contracts import codec
from contracts.errors import ErrorCode, error_body
from contracts.events import (
    Cancelled,
    Completed,
    Expired,
    Failed,
    FaultRecord,
    Link,
    Output,
    Preempted,
    Progress,
    Released,
    Retrying,
    Snapshot,
    Started,
    Status,
)
from contracts.requests import AspectRatio, ImageRef, Options, Priority, Quality, Request, Style
from contracts.status_examples import LOADED, MODELS, REPORT, WISH

AGENT: Final = "L2.05.03"
SOURCE: Final = "/mmg/gpu-1"
"""Source of the links, as their headers name it."""

_STORED_AT: Final = datetime(2026, 3, 2, 9, 15, 0, 120_000, UTC)
_SEED: Final = 20_260_302
_COMFYUI: Final = "http://127.0.0.1:8188"
_ASSETS: Final = "http://127.0.0.1:54112/api/multimodal/assets/images/2026-03"


class _Envelope(TypedDict):
    """What every link carries."""

    id: str
    n: int
    request_id: str
    requester: str
    message: str
    progress_percent: int
    at: datetime
    attempt: int
    request_seq: int
    request: Request | UnsetType | None
    requested_at: datetime | UnsetType


def _at(seconds: float) -> datetime:
    return _STORED_AT + timedelta(seconds=seconds)


def _link(n: int, attempt: int, percent: int, at_s: float, message: str) -> _Envelope:
    """Return the fields of link `n` of the chain that ends well."""
    assert REQUEST.request_id is not None, "the example has one"
    return _Envelope(
        id=f"6f1d2c9a-0b7e-4c58-9a41-{n:012d}",
        n=n,
        request_id=REQUEST.request_id,
        requester=AGENT,
        message=message,
        progress_percent=percent,
        at=_at(at_s),
        attempt=attempt,
        request_seq=4711,
        request=REQUEST if n == 1 else UNSET,
        requested_at=_STORED_AT if n == 1 else UNSET,
    )


def _only(request_id: str, seq: int, at_s: float, message: str) -> _Envelope:
    """Return the fields of a first link that is also the last one."""
    return _Envelope(
        id=f"6f1d2c9a-0b7e-4c58-9a41-{seq:012d}",
        n=1,
        request_id=request_id,
        requester=AGENT,
        message=message,
        progress_percent=0,
        at=_at(at_s),
        attempt=0,
        request_seq=seq,
        request=replace(REQUEST_MINIMAL, request_id=request_id, requester=AGENT, deadline_s=60),
        requested_at=_STORED_AT,
    )


def _output(number: int, size_bytes: int, sha256: str) -> Output:
    name = f"L2-05-03.{REQUEST.request_id}.a4" + (f".{number}" if number > 1 else "")
    return Output(
        url=f"{_ASSETS}/{name}.png",
        file_path=f"generated-assets/images/2026-03/{name}.png",
        thumbnail_url=f"{_ASSETS}/{name}.thumb.webp",
        file_size_bytes=size_bytes,
        width=768,
        height=1344,
        format="png",
        sha256=sha256,
    )


REQUEST_MINIMAL: Final = Request(type="image", prompt="A lighthouse at dawn, seen from the sea")

REQUEST_FULL: Final = Request(
    type="image",
    prompt="The pump station as an exploded view, parts labelled A to F",
    options=Options(
        quality=Quality.PREMIUM,
        style=Style.TECHNICAL_DIAGRAM,
        seed=7,
        negative_prompt="photo",
        count=3,
        enhance_prompt=True,
        previews=True,
        steps=40,
        cfg=6.5,
        width=1152,
        height=896,
        model="sdxl-1.0",
        workflow="sdxl-img2img",
        image=ImageRef(asset="L2-05-03.pump-station-4"),
    ),
    request_id="pump-station-6",
    priority=Priority.HIGH,
    requester=AGENT,
    webhook_url="https://agents.example.org/hooks/images",
    deadline_s=900,
    local_only=True,
    dry_run=True,
    replay_of="pump-station-5",
)

REQUEST: Final = Request(
    type="image",
    prompt="Cover of the harbour report 2026: cranes, calm water, morning light",
    options=Options(
        quality=Quality.HIGH,
        style=Style.REPORT_COVER,
        aspect_ratio=AspectRatio.TALL,
        seed=_SEED,
        count=2,
        steps=30,
    ),
    request_id="mmg-20260302-091500-5f0c2a7e",
    priority=Priority.MEDIUM,
    requester=AGENT,
)
"""The request of `CHAIN`, as its first link shows it."""

STARTED: Final = Started(
    **_link(1, 1, 0, 0.4, "Started on comfyui."),
    engine="comfyui",
    model="sdxl-1.0",
    reason="comfyui is free and has the memory",
    worker="gpu-1",
    server=_COMFYUI,
    queue_time_seconds=0.4,
)

PREEMPTED: Final = Preempted(
    **_link(2, 1, 41, 15.1, "A more urgent request took the slot; queued again."),
    by="L1-01-01.incident-42",
    reason="CRITICAL goes before MEDIUM",
)

_STARTED_AGAIN: Final = Started(
    **_link(3, 2, 0, 42.0, "Started on comfyui."),
    engine="comfyui",
    model="sdxl-1.0",
    reason="comfyui is free and has the memory",
    worker="gpu-1",
    server=_COMFYUI,
    queue_time_seconds=42.0,
)

RETRYING: Final = Retrying(
    **_link(4, 2, 35, 55.3, "The engine does not answer; next try in 5 s."),
    error=error_body(ErrorCode.ENGINE_DOWN, "comfyui does not answer"),
    delay_s=5.0,
    due_at=_at(60.3),
    next_engine="comfyui",
)

_STARTED_THIRD: Final = Started(
    **_link(5, 3, 0, 60.4, "Started on comfyui."),
    engine="comfyui",
    model="sdxl-1.0",
    reason="the second of three tries on comfyui",
    worker="gpu-1",
    server=_COMFYUI,
    queue_time_seconds=60.4,
)

RELEASED: Final = Released(
    **_link(6, 3, 47, 74.0, "Its worker stopped; queued again."),
    by="gpu-1",
    reason="the worker stopped",
)

_STARTED_ELSEWHERE: Final = Started(
    **_link(7, 4, 0, 74.2, "Started on comfyui."),
    engine="comfyui",
    model="sdxl-1.0",
    reason="comfyui is free and has the memory",
    worker="gpu-2",
    server=_COMFYUI,
    queue_time_seconds=74.2,
)

_OUTPUTS: Final = (
    _output(1, 1_482_113, "5d8e4a1c0b7f39266a4e1d9c8b7f30415263748596a7b8c9d0e1f20314253647"),
    _output(2, 1_507_240, "0c1b2a3948576675849302b1c0dfeefd0c1b2a3948576675849302b1c0dfeefd"),
)

COMPLETED: Final = Completed(
    **_link(8, 4, 100, 101.9, "2 pictures."),
    generation_time_seconds=27.3,
    queue_time_seconds=74.2,
    model_used="sdxl-1.0",
    engine="comfyui",
    cost_usd=0.0,
    seed=_SEED,
    vram_used_gb=8.4,
    downgraded=False,
    retry_count=3,
    reason="comfyui is free and has the memory",
    outputs=_OUTPUTS,
    output=_OUTPUTS[0],
)

CHAIN: Final[tuple[Link, ...]] = (
    STARTED,
    PREEMPTED,
    _STARTED_AGAIN,
    RETRYING,
    _STARTED_THIRD,
    RELEASED,
    _STARTED_ELSEWHERE,
    COMPLETED,
)

_DOWN: Final = error_body(ErrorCode.ENGINE_DOWN, "comfyui does not answer")

FAILED: Final = replace(
    Failed(
        **_only("harbour-17", 4718, 131.0, "comfyui does not answer; its tries are spent."),
        error=_DOWN,
        faults=tuple(FaultRecord(attempt=n, engine="comfyui", error=_DOWN) for n in (1, 2, 3)),
        dead=True,
    ),
    n=6,
    attempt=3,
    requested_at=UNSET,
)
"""The sixth link: three times started, twice `retrying` between."""

FAILED_UNREADABLE: Final = replace(
    Failed(
        **_only("harbour-18", 4719, 0.1, "unknown field 'size'"),
        error=error_body(ErrorCode.INVALID_REQUEST, "unknown field 'size'", "$.size"),
        raw_bytes=b'{"type":"image","prompt":"a harbour","size":"1024x1024"}',
    ),
    request=None,
)

EXPIRED: Final = replace(
    Expired(
        **_only("harbour-19", 4720, 75.0, "it did not start within 60 s"),
        error=error_body(ErrorCode.EXPIRED, "it did not start within 60 s", "$.deadline_s"),
    ),
    attempt=1,
)
"""Written by the worker that was about to begin the first attempt."""

CANCELLED: Final = Cancelled(**_only("harbour-20", 4721, 8.0, "Cancelled by L2.05.03."), by=AGENT)

PROGRESS: Final = Progress(
    id="6f1d2c9a-0b7e-4c58-9a41-000000000101",
    n=STARTED.n,
    request_id=STARTED.request_id,
    requester=AGENT,
    message="Step 12 of 30.",
    progress_percent=38,
    at=_at(14.2),
    attempt=STARTED.attempt,
    step=12,
    steps=30,
    eta_s=20.7,
)

SNAPSHOT: Final = Snapshot(
    request_id=COMPLETED.request_id,
    requester=AGENT,
    status=Status.COMPLETED,
    priority=Priority.MEDIUM,
    request=REQUEST,
    requested_at=_STORED_AT,
    position=None,
    eta_s=None,
    progress=None,
    result=Raw(codec.encode(COMPLETED)),
    chain=tuple(Raw(codec.encode(link)) for link in CHAIN),
)

SNAPSHOT_RUNNING: Final = Snapshot(
    request_id=STARTED.request_id,
    requester=AGENT,
    status=Status.PROCESSING,
    priority=Priority.MEDIUM,
    request=REQUEST,
    requested_at=_STORED_AT,
    position=None,
    eta_s=20.7,
    progress=PROGRESS,
    result=None,
    chain=(Raw(codec.encode(STARTED)),),
)

ERROR: Final = error_body(
    ErrorCode.NOT_FOUND, "no request L2-05-03.mmg-20260302-091500-00000000 is known"
)

LINKS: Final[dict[str, Link]] = {
    "started": STARTED,
    "retrying": RETRYING,
    "preempted": PREEMPTED,
    "released": RELEASED,
    "completed": COMPLETED,
    "failed": FAILED,
    "failed-unreadable": FAILED_UNREADABLE,
    "expired": EXPIRED,
    "cancelled": CANCELLED,
}
"""Name of the example -> link; the name begins with the kind."""

EXAMPLES: Final[dict[str, codec.Message]] = {
    "request-minimal": REQUEST_MINIMAL,
    "request-full": REQUEST_FULL,
    **LINKS,
    "progress": PROGRESS,
    "snapshot": SNAPSHOT,
    "snapshot-running": SNAPSHOT_RUNNING,
    "error": ERROR,
    "status": REPORT,
    "models": MODELS,
    "model-wish": WISH,
    "loaded": LOADED,
}
"""Name of the example -> message; the name begins with that of its schema."""
