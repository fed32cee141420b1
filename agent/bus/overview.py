"""What an operator looks at first: how the lanes and the workers stand now.

It only asks. What is switched, and by whom, is in `agent.bus.control`.
"""

import asyncio
from datetime import datetime
from typing import Final

import msgspec
import structlog
from nats.aio.msg import Msg

from agent.bus import history
from agent.bus.connection import ApiError, Bus, BusError
from agent.bus.history import StoredMessage
from agent.core.job import StoredRequest
from contracts import codec, subjects
from contracts.errors import ContractError
from contracts.events import WorkerStatus
from contracts.requests import Priority

ANSWERS_S: Final = 0.5
"""How long answers of workers are collected: nobody knows how many there are."""

STORED_MAX: Final = 20_000
"""As many as the stream takes."""

log = structlog.get_logger()


class LaneState(msgspec.Struct, frozen=True, kw_only=True):
    """One lane: `waiting` in it, `in_work` handed to a worker; `paused_until` None: not paused."""

    priority: Priority
    waiting: int
    in_work: int
    paused_until: datetime | None


class _Config(msgspec.Struct):
    pause_until: datetime | None = None


class _Consumer(msgspec.Struct):
    name: str
    config: _Config
    num_pending: int = 0
    num_ack_pending: int = 0
    paused: bool = False


class _Consumers(msgspec.Struct):
    consumers: list[_Consumer] = []


class _Stream(msgspec.Struct):
    ts: datetime


async def read_lanes(bus: Bus) -> tuple[LaneState, ...]:
    """Return the lanes that are there, in the order in which they are served. Raises: BusError."""
    try:
        data = await bus.api(f"CONSUMER.LIST.{subjects.STREAM_REQUESTS}", {"offset": 0})
    except ApiError as error:
        if error.not_found:
            raise BusError("the streams are not there; run `mmg provision`") from error
        raise
    found = {one.name: one for one in msgspec.json.decode(data, type=_Consumers).consumers}
    return tuple(
        LaneState(
            priority=priority,
            waiting=one.num_pending,
            in_work=one.num_ack_pending,
            paused_until=one.config.pause_until if one.paused else None,
        )
        for priority in subjects.LANES
        if (one := found.get(subjects.durable(priority))) is not None
    )


async def read_stored(bus: Bus, priority: Priority | None = None) -> list[StoredRequest]:
    """Return what lies in the lanes, or in one, in the order of service; in hand or not.

    Raises: BusError.
    """
    lanes = subjects.LANES if priority is None else (priority,)
    found: list[StoredRequest] = []
    for lane in lanes:
        wanted = subjects.lane_filter(lane)
        kept = await history.read(bus, subjects.STREAM_REQUESTS, wanted, STORED_MAX)
        found += [one for message in kept if (one := _stored(lane, message)) is not None]
    return found


def _stored(priority: Priority, message: StoredMessage) -> StoredRequest | None:
    """Read a request in its lane; one without a body that can be read is there all the same."""
    who = subjects.raw_pair(message.subject)
    if who is None:
        log.warning("overview.unreadable", reason=f"no request subject: {message.subject!r}")
        return None
    try:
        request = codec.public(codec.decode_request(message.data))
    except ContractError:
        request = None  # A worker will answer it with its `failed` link.
    return StoredRequest(
        who=who,
        priority=priority,
        seq=message.seq,
        stored_at=message.stored_at,
        request=request,
    )


async def server_now(bus: Bus) -> datetime:
    """Return the time by the server's clock, which decides when a pause ends. Raises: BusError."""
    data = await bus.api(f"STREAM.INFO.{subjects.STREAM_REQUESTS}")
    return msgspec.json.decode(data, type=_Stream).ts


async def ask_workers(
    bus: Bus, worker: str | None = None, wait_s: float = ANSWERS_S
) -> tuple[WorkerStatus, ...]:
    """Ask all workers, or one, how they stand; whoever is slower than `wait_s` is not in it.

    Returns at once where nobody listens, and with the answer where one was asked.
    """
    found: dict[str, WorkerStatus] = {}
    enough = asyncio.Event()

    async def collect(msg: Msg) -> None:
        if (msg.headers or {}).get("Status") is not None:
            enough.set()  # The server itself says that nobody listens.
            return
        try:
            status = msgspec.json.decode(msg.data, type=WorkerStatus)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            log.warning("overview.unreadable", reason=str(error))
            return
        found[status.worker] = status
        if worker is not None:
            enough.set()

    inbox = bus.new_inbox()
    subscription = await bus.subscribe(inbox, collect)
    try:
        await bus.publish(subjects.rpc("status", worker), reply=inbox)
        async with asyncio.timeout(wait_s):
            await enough.wait()
    except TimeoutError:
        pass
    finally:
        await bus.unsubscribe(subscription)
    return tuple(found[name] for name in sorted(found))
