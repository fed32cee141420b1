"""The chain of one request in MMG_EVENTS: read it, append to it, never twice.

An append is stored, superseded or unknown; a definite answer is forced by asking again with the
same bytes and the same expected sequence, of which the server stores at most one copy.
It must not decide which link comes next; `agent.core.job` does.
"""

import asyncio
from datetime import datetime
from typing import Final

import msgspec
import structlog

from agent.bus import history
from agent.bus.connection import ApiError, Bus, NoAnswer
from agent.core.job import Head
from agent.core.steps import Outcome, Stored, Superseded, Unknown
from contracts import codec, subjects, trace
from contracts.events import Link, kind_of
from contracts.subjects import Identity
from contracts.trace import Trace

APPEND_PATIENCE_S: Final = 120.0
LINKS_MAX: Final = 1000
_PAUSE_FIRST_S: Final = 0.05
_PAUSE_MAX_S: Final = 2.0
_ANSWER_S: Final = 3.0

log = structlog.get_logger()


class StoredLink(msgspec.Struct, frozen=True, kw_only=True):
    """A link's own bytes with its sequence, and the trace in its headers."""

    seq: int
    subject: str
    data: bytes
    trace: Trace | None = None


class _Message(msgspec.Struct):
    seq: int
    data: bytes = b""
    hdrs: bytes = b""
    time: datetime | None = None


class _MessageAnswer(msgspec.Struct):
    message: _Message


async def read_head(bus: Bus, who: Identity) -> Head | None:
    """Read the last link from the stream's leader; None if the chain is empty.

    Direct get may be stale on a replicated stream, so it is not used here. Raises: BusError.
    """
    query = {"last_by_subj": subjects.chain_filter(who)}
    try:
        data = await bus.api(f"STREAM.MSG.GET.{subjects.STREAM_EVENTS}", query)
    except ApiError as error:
        if error.not_found:
            return None
        raise
    message = msgspec.json.decode(data, type=_MessageAnswer).message
    belongs_to = trace.read(codec.decode_headers(message.hdrs))
    return Head(seq=message.seq, link=codec.decode_link(message.data), trace=belongs_to)


async def append(
    bus: Bus,
    who: Identity,
    link: Link,
    expected: int,
    *,
    patience_s: float = APPEND_PATIENCE_S,
    of: Trace | None = None,
) -> Outcome:
    """Append `link` after the link at sequence `expected` (0: the chain is empty).

    Its headers carry `of`, the trace of the request as the request brought it. Asks again until
    the answer is definite or `patience_s` is over. Never raises for a server that is away, slow or
    full: that is `Unknown`.
    """
    subject = subjects.chain(who, kind_of(link))
    data = codec.encode(link)
    loop = asyncio.get_running_loop()
    end = loop.time() + patience_s
    pause_s = _PAUSE_FIRST_S
    while True:
        try:
            outcome = await _append_once(bus, who, link, (subject, data, expected), of)
        except (NoAnswer, ApiError) as error:
            reason = str(error)
        else:
            if outcome is not None:
                return outcome
            reason = "the leader has not caught up"
        if loop.time() + pause_s > end:
            log.error("chain.unknown", request=str(who), kind=kind_of(link), reason=reason)
            return Unknown(reason)
        log.warning("chain.asked_again", request=str(who), kind=kind_of(link), reason=reason)
        await asyncio.sleep(pause_s)
        pause_s = min(pause_s * 2, _PAUSE_MAX_S)


async def _append_once(
    bus: Bus, who: Identity, link: Link, message: tuple[str, bytes, int], of: Trace | None
) -> Outcome | None:
    """Try once; None when the refusal came from a server that is behind the writer.

    Raises: NoAnswer, or ApiError for a refusal that says nothing about the chain.
    """
    subject, data, expected = message
    headers = codec.link_headers(link, source=f"/mmg/{bus.name}") | trace.headers(of)
    headers["Nats-Expected-Last-Subject-Sequence"] = str(expected)
    headers["Nats-Expected-Last-Subject-Sequence-Subject"] = subjects.chain_filter(who)
    try:
        ack = await bus.store(subject, data, headers, timeout_s=_ANSWER_S)
    except ApiError as error:
        if not error.stale:
            raise
        bus.appends_refused += 1
    else:
        return Stored(ack.seq)
    head = await read_head(bus, who)
    if head is None or head.seq < expected:
        return None
    if head.link.id == link.id:
        return Stored(head.seq)
    if head.seq == expected:
        return None
    return Superseded(head)


async def read_chain(bus: Bus, who: Identity) -> list[StoredLink]:
    """Read all links of a chain in order, by direct get: may lag on a replicated stream.

    Raises: NoAnswer, ApiError.
    """
    wanted = subjects.chain_filter(who)
    kept = await history.read(bus, subjects.STREAM_EVENTS, wanted, LINKS_MAX)
    return [
        StoredLink(seq=one.seq, subject=one.subject, data=one.data, trace=trace.read(one.headers))
        for one in kept
    ]
