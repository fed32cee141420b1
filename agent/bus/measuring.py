"""How full the streams are, how deep each lane is, and how long its oldest request has waited.

For metrics: it asks, a few questions a time, and changes nothing. What waits is what lies in a lane
and has no chain, or one whose last link gave it back: the server's own numbers cannot tell that
from what a worker draws.
"""

import re
from datetime import datetime
from typing import Final

import msgspec

from agent.bus import history
from agent.bus.connection import ApiError, Bus
from agent.bus.history import StoredMessage
from contracts import subjects
from contracts.requests import Priority
from contracts.subjects import Identity

STREAMS: Final = (subjects.STREAM_REQUESTS, subjects.STREAM_EVENTS, subjects.STREAM_PROGRESS)
PAGE: Final = 32
PAGES_MAX: Final = 16
"""So many requests in work before the oldest that waits: more, and it is not looked for."""
_QUEUED_KINDS: Final = ("released", "preempted")
_TOKEN: Final = re.compile(subjects.TOKEN_PATTERN)


class _Limits(msgspec.Struct):
    max_bytes: int = -1
    max_msgs: int = -1


class _State(msgspec.Struct):
    messages: int = 0
    bytes: int = 0
    first_seq: int = 0
    last_seq: int = 0


class StreamFigures(msgspec.Struct):
    """How full one stream is, as the server tells; `ts` is the server's time."""

    config: _Limits
    state: _State
    ts: datetime


class _Place(msgspec.Struct):
    consumer_seq: int = 0
    stream_seq: int = 0


class ConsumerFigures(msgspec.Struct):
    """How far one consumer is, as the server tells."""

    name: str
    delivered: _Place
    ack_floor: _Place
    num_pending: int = 0
    num_ack_pending: int = 0
    num_redelivered: int = 0
    num_waiting: int = 0


class _Consumers(msgspec.Struct):
    consumers: list[ConsumerFigures] = []


class LaneFigures(msgspec.Struct, frozen=True, kw_only=True):
    """One lane. `stored` counts what lies in it, `waiting` what of it has not begun.

    Units: `oldest_s` is how long the oldest of these has waited; 0 where none waits.
    """

    priority: Priority
    stored: int
    waiting: int
    oldest_s: float


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """All of it, read together; a stream that is not there is not in it."""

    streams: dict[str, StreamFigures]
    consumers: dict[str, tuple[ConsumerFigures, ...]]
    lanes: tuple[LaneFigures, ...]


async def measure(bus: Bus) -> Figures:
    """Ask the server for everything. Raises: BusError."""
    streams: dict[str, StreamFigures] = {}
    consumers: dict[str, tuple[ConsumerFigures, ...]] = {}
    for name in STREAMS:
        try:
            found = await bus.api(f"STREAM.INFO.{name}")
            listed = await bus.api(f"CONSUMER.LIST.{name}", {"offset": 0})
        except ApiError as error:
            if error.not_found:
                continue
            raise
        streams[name] = msgspec.json.decode(found, type=StreamFigures)
        consumers[name] = tuple(msgspec.json.decode(listed, type=_Consumers).consumers)
    lanes: list[LaneFigures] = []
    if subjects.STREAM_REQUESTS in streams and subjects.STREAM_EVENTS in streams:
        now = streams[subjects.STREAM_REQUESTS].ts
        by_name = {one.name: one for one in consumers[subjects.STREAM_REQUESTS]}
        for priority in subjects.LANES:
            consumer = by_name.get(subjects.durable(priority))
            if consumer is not None:
                lanes.append(await _lane(bus, priority, consumer, now))
    return Figures(streams=streams, consumers=consumers, lanes=tuple(lanes))


async def _lane(
    bus: Bus, priority: Priority, consumer: ConsumerFigures, now: datetime
) -> LaneFigures:
    """Look for the oldest request that has not begun; those before it are in work."""
    stored = consumer.num_pending + consumer.num_ack_pending
    oldest, in_work = None, 0
    if stored:
        oldest, in_work = await _oldest(bus, priority)
    waited_s = (now - oldest.stored_at).total_seconds() if oldest is not None else 0.0
    return LaneFigures(
        priority=priority,
        stored=stored,
        waiting=max(1, stored - in_work) if oldest is not None else 0,
        oldest_s=max(0.0, waited_s),
    )


async def _oldest(bus: Bus, priority: Priority) -> tuple[StoredMessage | None, int]:
    """Return the oldest request that has not begun, and how many on these pages have."""
    in_work, first = 0, 1
    for _ in range(PAGES_MAX):
        page = await history.read(
            bus, subjects.STREAM_REQUESTS, subjects.lane_filter(priority), PAGE, first
        )
        if not page:
            break
        begun = await _begun(bus, page)
        in_work += sum(1 for message in page if message.seq in begun)
        waiting = next((message for message in page if message.seq not in begun), None)
        if waiting is not None:
            return waiting, in_work
        first = page[-1].seq + 1
    return None, in_work


async def _begun(bus: Bus, page: list[StoredMessage]) -> set[int]:
    """Return the sequences of those requests that are in work, or at their end."""
    whose = {
        message.seq: who
        for message in page
        if (who := subjects.raw_pair(message.subject)) is not None and _is_plain(who)
    }
    wanted = [subjects.chain_filter(who) for who in whose.values()]
    last: dict[Identity, StoredMessage] = {}
    for link in await history.read_last(bus, subjects.STREAM_EVENTS, wanted):
        owner = subjects.parse_pair(link.subject)
        if owner is not None and (owner not in last or last[owner].seq < link.seq):
            last[owner] = link
    return {seq for seq, who in whose.items() if who in last and _is_begun(last[who].subject)}


def _is_plain(who: Identity) -> bool:
    """Tell whether both tokens are such: another spelling could be a wildcard."""
    return all(_TOKEN.fullmatch(one) for one in (who.agent, who.request_id))


def _is_begun(subject: str) -> bool:
    kind = subject.rsplit(".", 1)[1]
    return kind not in _QUEUED_KINDS
