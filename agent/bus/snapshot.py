"""The state of one request for who was away: read from the streams, answered on the bus.

Order: the chain first, then the lane, then the chain again where both were empty, because a
request leaves its lane only after its last link is stored. No state of its own.
"""

import asyncio
from datetime import datetime
from typing import Final

import msgspec
import structlog
from msgspec import UNSET, UnsetType
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from agent.bus.chain import StoredLink, read_chain, read_head
from agent.bus.connection import ApiError, Bus, BusError
from agent.bus.lanes import Waiting, find_waiting
from contracts import codec, subjects
from contracts.errors import HTTP_STATUS, ContractError, ErrorBody, ErrorCode, error_body
from contracts.events import TERMINAL_KINDS, Progress, Snapshot, Status
from contracts.requests import Request
from contracts.subjects import Identity

DIRECT_GET_LAG_S: Final = 0.1
"""How far a direct get may be behind its leader on a replicated stream."""

log = structlog.get_logger()


class _First(msgspec.Struct):
    """What the first link says about the request."""

    request: Request | None = None
    requested_at: datetime | UnsetType = UNSET


class _Body(msgspec.Struct):
    data: bytes = b""


class _StoredAnswer(msgspec.Struct):
    message: _Body


async def read_snapshot(bus: Bus, who: Identity) -> Snapshot | None:
    """Read the state of a request; None if nothing of it is known. Raises: BusError."""
    links = await read_chain(bus, who)
    heads = [codec.decode_head(link.data) for link in links]
    queued = not heads or heads[-1].status == Status.QUEUED
    waiting = await find_waiting(bus, who) if queued else None
    if not links and waiting is None:
        if await read_head(bus, who) is None:
            return None
        await asyncio.sleep(DIRECT_GET_LAG_S)
        links = await read_chain(bus, who)
        heads = [codec.decode_head(link.data) for link in links]
    ended = bool(heads) and heads[-1].kind in TERMINAL_KINDS
    progress = None if ended or not heads else await _progress(bus, who, heads[-1].n)
    request, priority, requested_at = _origin(links, waiting)
    return Snapshot(
        request_id=who.request_id,
        requester=who.requester,
        status=Status(heads[-1].status) if heads else Status.QUEUED,
        priority=priority,
        request=request,
        requested_at=requested_at,
        position=None,
        eta_s=None,
        progress=progress,
        result=msgspec.Raw(links[-1].data) if ended else None,
        chain=tuple(msgspec.Raw(link.data) for link in links),
    )


def _origin(
    links: list[StoredLink], waiting: Waiting | None
) -> tuple[Request | None, str | None, datetime | None]:
    """Return request, priority and stored time from the first link or from the lane."""
    if links:
        first = msgspec.json.decode(links[0].data, type=_First)
        requested_at = None if first.requested_at is UNSET else first.requested_at
        priority = first.request.priority if first.request is not None else None
        return first.request, priority, requested_at
    if waiting is None:
        return None, None, None
    try:
        received = codec.receive(waiting.subject, None, waiting.data)
    except ContractError:
        return None, None, waiting.stored_at  # A worker will answer it with its `failed` link.
    return codec.public(received.request), received.priority, waiting.stored_at


async def _progress(bus: Bus, who: Identity, n: int) -> Progress | None:
    """Return the last progress if it belongs to link `n`: progress is not fenced."""
    query = {"last_by_subj": subjects.progress(who)}
    try:
        data = await bus.api(f"STREAM.MSG.GET.{subjects.STREAM_PROGRESS}", query)
    except ApiError as error:
        if error.not_found:
            return None
        raise
    progress = codec.decode_progress(msgspec.json.decode(data, type=_StoredAnswer).message.data)
    return progress if progress.n == n else None


async def serve_snapshots(bus: Bus) -> Subscription:
    """Answer `mmg.snapshot.*.*`, sharing the questions with every other answerer."""

    async def answer(msg: Msg) -> None:
        who = subjects.parse_pair(msg.subject)
        if who is None:
            return
        try:
            snapshot = await read_snapshot(bus, who)
        except BusError as error:
            log.warning("snapshot.failed", request=str(who), reason=str(error))
            return  # Silence makes the asker ask again, perhaps somebody nearer to the server.
        if snapshot is None:
            await respond_error(
                bus, msg, error_body(ErrorCode.NOT_FOUND, f"no request {who} is known")
            )
            return
        await bus.respond(msg, codec.encode(snapshot))

    return await bus.subscribe(subjects.SNAPSHOT_ALL, answer, queue=subjects.QUEUE_SNAPSHOT)


async def respond_error(bus: Bus, msg: Msg, body: ErrorBody) -> None:
    """Answer with the error object and the header that NATS services use for it (ADR-32)."""
    headers = {
        "Nats-Service-Error": body.message,
        "Nats-Service-Error-Code": str(HTTP_STATUS.get(body.code, 500)),
    }
    await bus.respond(msg, codec.encode(body), headers)


async def ask_snapshot(bus: Bus, who: Identity, timeout_s: float = 1.0) -> Snapshot | None:
    """Ask whoever answers for a snapshot; None if the request is not known.

    Raises: NoResponders if nobody answers such questions now, NoAnswer without an answer.
    """
    msg = await bus.request(subjects.snapshot(who), timeout_s=timeout_s)
    if codec.header(msg.headers, "Nats-Service-Error-Code") is not None:
        return None
    return codec.decode_snapshot(msg.data)
