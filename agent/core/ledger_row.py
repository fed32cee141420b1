"""One row of the ledger, and how each stored message changes it. Pure.

A message sets columns to what it carries and never adds to them, and the first link of a chain
sets them all. So folding messages again from any point behind which nothing was left out gives
the same row: that is why the ledger may be replayed over itself. Must not know SQL.
"""

from datetime import UTC, datetime
from typing import Final, assert_never
from urllib.parse import urlsplit

import msgspec
from msgspec import UNSET
from msgspec.structs import replace

from agent.core.job import StoredRequest
from contracts.errors import ErrorBody
from contracts.events import (
    AssetFact,
    Cancelled,
    Completed,
    Expired,
    Failed,
    Link,
    LinkHead,
    Output,
    Preempted,
    Released,
    Retrying,
    Started,
    Status,
    kind_of,
)
from contracts.requests import Request
from contracts.subjects import Identity

IMAGE: Final = "image"
"""What a request is that cannot be read, and what its chain does not say: there are no others."""
INTEGER_MAX: Final = 2**63 - 1
"""The largest number that SQLite keeps; JSON has larger ones."""


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """What the ledger says of one request; the fields are the columns, in their order.

    The first nineteen are the spec's. `requester_key` and `id` name the row; `n`, `kind` and
    `message` are those of the last link. Instants are text of one width, UTC, so that they sort.
    Units: as the names say, GiB and US dollars; `outputs` is the JSON of all outputs.
    """

    id: str
    request_type: str = IMAGE
    status: str
    priority: str | None = None
    prompt: str | None = None
    requester_agent: str
    quality_tier: str | None = None
    model_used: str | None = None
    generation_time_sec: float | None = None
    vram_used_gb: float | None = None
    cost_usd: float | None = None
    output_path: str | None = None
    output_url: str | None = None
    file_size_bytes: int | None = None
    created_at: str
    started_at: str | None = None
    completed_at: str | None = None
    error_message: str | None = None
    retry_count: int = 0

    requester_key: str
    style: str | None = None
    request_seq: int
    requested_at: str | None = None
    replay_of: str | None = None
    n: int
    kind: str
    message: str = ""
    attempts: int = 0
    engine: str | None = None
    workflow: str | None = None
    reason: str | None = None
    worker: str | None = None
    queue_time_sec: float | None = None
    ended_at: str | None = None
    downgraded: bool = False
    seed: int | None = None
    sha256: str | None = None
    thumbnail_url: str | None = None
    output_count: int = 0
    outputs: str = "[]"
    error_code: str | None = None
    dead: bool = False
    pinned: bool = False
    rating: int | None = None
    dismissed: bool = False
    pruned_at: str | None = None


class AskedOptions(msgspec.Struct, frozen=True):
    """What of a request's options has a column, whatever else a newer version knows."""

    quality: str | None = None
    style: str | None = None


class Asked(msgspec.Struct, frozen=True):
    """What of a request has a column."""

    type: str = IMAGE
    prompt: str | None = None
    priority: str | None = None
    options: AskedOptions = AskedOptions()
    replay_of: str | None = None


class Stub(msgspec.Struct, frozen=True):
    """What is read of a link that a newer version wrote: enough to keep its chain."""

    at: datetime
    request_seq: int = 0
    request: Asked | msgspec.UnsetType | None = UNSET
    requested_at: datetime | msgspec.UnsetType = UNSET
    message: str = ""


def fold(row: Row | None, who: Identity, link: Link) -> Row:
    """Return the row after a link; `row` is None where the ledger has none.

    A chain whose first links are no longer kept begins with what the link says.
    """
    if row is None or link.n == 1:
        row = _first(who, link.n, link)
    row = replace(
        row,
        status=link.status.value,
        n=link.n,
        kind=kind_of(link),
        message=link.message,
        attempts=link.attempt,
        retry_count=max(0, link.attempt - 1),
    )
    match link:
        case Started():
            return _started(row, link)
        case Retrying():
            return _error(row, link.error)
        case Preempted() | Released():
            return replace(row, started_at=None, worker=None, reason=link.reason)
        case Completed():
            return _completed(row, link)
        case Failed():
            return replace(_error(row, link.error), ended_at=instant(link.at), dead=link.dead)
        case Expired():
            return replace(_error(row, link.error), ended_at=instant(link.at))
        case Cancelled():
            return replace(row, ended_at=instant(link.at), reason=f"cancelled by {link.by}")
        case _:
            assert_never(link)


def fold_unknown(row: Row | None, who: Identity, head: LinkHead, stub: Stub) -> Row:
    """Return the row after a link of a kind that is not known here: state and place move on."""
    if row is None or head.n == 1:
        row = _first(who, head.n, stub)
    return replace(
        row,
        status=head.status,
        n=head.n,
        kind=head.kind,
        message=stub.message,
        attempts=head.attempt,
        retry_count=max(0, head.attempt - 1),
    )


def fold_fact(row: Row, fact: AssetFact) -> Row:
    """Return the row after what happened to it since its chain ended; other kinds change nothing.

    A fact about a request whose chain is not known has no row to change.
    """
    match fact.kind:
        case "pinned" | "unpinned":
            return replace(row, pinned=fact.kind == "pinned")
        case "rated":
            return replace(row, rating=fact.rating)
        case "dismissed":
            return replace(row, dismissed=True)
        case "pruned":
            return replace(row, pruned_at=instant(fact.at))
        case _:
            return row


def queued(stored: StoredRequest) -> Row:
    """Return the row of a request that lies in its lane and has no chain yet."""
    row = Row(
        id=stored.who.request_id,
        status=Status.QUEUED.value,
        requester_agent=stored.who.requester,
        created_at=instant(stored.stored_at),
        requester_key=stored.who.agent,
        request_seq=stored.seq,
        requested_at=instant(stored.stored_at),
        n=0,
        kind="",
    )
    row = row if stored.request is None else _asked(row, stored.request)
    return replace(row, priority=stored.priority.value)


def storable(row: Row) -> bool:
    """Tell whether SQLite can keep a row: a link may carry a number that is too large for it."""
    return all(
        abs(value) <= INTEGER_MAX
        for value in msgspec.structs.astuple(row)
        if isinstance(value, int)
    )


def instant(at: datetime) -> str:
    """Return an instant as the ledger keeps it: UTC, microseconds, always 27 characters."""
    return f"{at.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%f}Z".rjust(27, "0")


def _first(who: Identity, n: int, link: Link | Stub) -> Row:
    """Return the row as it is before the first link that is kept; all columns are set."""
    asked_at = None if link.requested_at is UNSET else link.requested_at
    row = Row(
        id=who.request_id,
        status=Status.QUEUED.value,
        requester_agent=who.requester,
        created_at=instant(asked_at or link.at),
        requester_key=who.agent,
        request_seq=link.request_seq,
        requested_at=None if asked_at is None else instant(asked_at),
        n=n,
        kind="",
    )
    return _asked(row, link.request) if isinstance(link.request, Request | Asked) else row


def _asked(row: Row, request: Request | Asked) -> Row:
    options = request.options
    return replace(
        row,
        request_type=request.type,
        priority=_text(request.priority),
        prompt=request.prompt,
        quality_tier=_text(options.quality),
        style=_text(options.style),
        replay_of=request.replay_of,
    )


def _text(value: str | None) -> str | None:
    """Return the plain text of a value that may be one of an enum."""
    return None if value is None else str(value)


def _started(row: Row, link: Started) -> Row:
    """An error of an earlier try is over; what a later end does not carry stays from here."""
    return replace(
        row,
        engine=link.engine,
        model_used=link.model,
        workflow=link.workflow,
        reason=link.reason,
        worker=link.worker,
        queue_time_sec=link.queue_time_seconds,
        started_at=instant(link.at),
        error_code=None,
        error_message=None,
    )


def _completed(row: Row, link: Completed) -> Row:
    first = link.output or (link.outputs[0] if link.outputs else None)
    row = replace(
        row,
        engine=link.engine,
        model_used=link.model_used,
        reason=link.reason,
        generation_time_sec=link.generation_time_seconds,
        queue_time_sec=link.queue_time_seconds,
        vram_used_gb=link.vram_used_gb,
        cost_usd=link.cost_usd,
        seed=link.seed,
        downgraded=link.downgraded,
        completed_at=instant(link.at),
        ended_at=instant(link.at),
        error_code=None,
        error_message=None,
        output_count=len(link.outputs),
        outputs=msgspec.json.encode([_relative(output) for output in link.outputs]).decode(),
    )
    return row if first is None else _pictured(row, _relative(first))


def _pictured(row: Row, output: Output) -> Row:
    return replace(
        row,
        output_path=output.file_path,
        output_url=output.url,
        thumbnail_url=output.thumbnail_url,
        file_size_bytes=output.file_size_bytes,
        sha256=output.sha256,
    )


def _relative(output: Output) -> Output:
    """Return an output with addresses below the gateway that is asked, whatever it is called."""
    return replace(output, url=_path(output.url), thumbnail_url=_path(output.thumbnail_url))


def _path(url: str) -> str:
    try:
        return urlsplit(url).path
    except ValueError:
        return url


def _error(row: Row, error: ErrorBody) -> Row:
    return replace(row, error_code=error.code.value, error_message=error.message)
