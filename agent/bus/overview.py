"""What an operator looks at first: how the lanes and the workers stand now.

It only asks. What is switched, and by whom, is in `agent.bus.control`.
"""

import asyncio
from collections import Counter
from datetime import datetime
from typing import Final, Literal, TypeVar

import msgspec
import structlog
from nats.aio.msg import Msg

from agent.bus import history
from agent.bus.connection import ApiError, Bus, BusError, NoAnswer
from agent.bus.history import StoredMessage
from agent.core.job import StoredRequest
from contracts import codec, subjects
from contracts.errors import ContractError
from contracts.events import WorkerStatus
from contracts.requests import Priority
from contracts.status import Loaded, ModelWish, WorkerModels, WorkerReport
from contracts.subjects import Identity

ANSWERS_S: Final = 0.5
"""How long answers of workers are collected: nobody knows how many there are."""

MODELS_S: Final = 3.0
"""As long as a tenant that is away is waited for, and a little more."""
TELL_S: Final = 200.0
"""How long a load is waited for: somewhat longer than the worker itself waits."""

STORED_MAX: Final = 20_000
"""As many as the stream takes."""

Answer = TypeVar("Answer", WorkerStatus, WorkerReport, WorkerModels)

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


class _Filter(msgspec.Struct):
    subjects_filter: str


class _Subjects(msgspec.Struct):
    subjects: dict[str, int] | None = None


class _Counted(msgspec.Struct):
    state: _Subjects


async def count_by_agent(bus: Bus, agent: str = "*") -> Counter[str]:
    """Count what lies in the lanes, in hand or not, of each agent or of one. Raises: BusError."""
    return Counter(who.agent for who in await stored_of(bus, agent))


async def stored_of(bus: Bus, agent: str) -> list[Identity]:
    """Return what lies in the lanes of an agent, in hand or not. Raises: BusError."""
    question = _Filter(subjects_filter=subjects.requests_any_lane(agent))
    data = await bus.api(f"STREAM.INFO.{subjects.STREAM_REQUESTS}", question)
    found = msgspec.json.decode(data, type=_Counted).state.subjects or {}
    pairs = [subjects.raw_pair(subject) for subject in found]
    return [who for who in pairs if who is not None]


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
    return await _collect(bus, "status", WorkerStatus, worker, wait_s)


async def ask_reports(
    bus: Bus, worker: str | None = None, wait_s: float = ANSWERS_S
) -> tuple[WorkerReport, ...]:
    """Ask all workers, or one, how they stand in full; one of an earlier build is left out."""
    return await _collect(bus, "status", WorkerReport, worker, wait_s)


async def ask_models(
    bus: Bus, worker: str | None = None, wait_s: float = MODELS_S
) -> tuple[WorkerModels, ...]:
    """Ask all workers, or one, for their models; each asks its engines and tenants for that.

    Who is there answers a short question at once; so nobody waits for workers that are not.
    """
    if worker is not None:
        return await _collect(bus, "models", WorkerModels, worker, wait_s)
    names = frozenset(one.worker for one in await ask_workers(bus))
    return await _collect(bus, "models", WorkerModels, None, wait_s, names) if names else ()


async def tell_worker(
    bus: Bus, verb: Literal["load", "unload"], worker: str, wish: ModelWish, wait_s: float = TELL_S
) -> Loaded:
    """Let one worker load or unload a model, and wait until it is done.

    Raises: ContractError with the worker's own code, NoResponders where no such worker runs,
    NoAnswer without an answer: then it may or may not be done.
    """
    msg = await bus.request(subjects.rpc(verb, worker), codec.encode(wish), timeout_s=wait_s)
    try:
        if codec.header(msg.headers, "Nats-Service-Error-Code") is not None:
            body = codec.decode_error(msg.data)
            raise ContractError(body.code, body.message, body.detail)
        return codec.decode_answer(msg.data, Loaded)
    except msgspec.DecodeError as error:
        raise NoAnswer(f"worker {worker} answers what cannot be read: {error}") from error


async def _collect(
    bus: Bus,
    verb: str,
    kind: type[Answer],
    worker: str | None,
    wait_s: float,
    names: frozenset[str] = frozenset(),
) -> tuple[Answer, ...]:
    """Collect what workers answer to a verb; `names` are all that will answer, where known."""
    found: dict[str, Answer] = {}
    enough = asyncio.Event()

    async def collect(msg: Msg) -> None:
        if (msg.headers or {}).get("Status") is not None:
            enough.set()  # The server itself says that nobody listens.
            return
        try:
            answer = codec.decode_answer(msg.data, kind)
        except msgspec.DecodeError as error:
            log.warning("overview.unreadable", reason=str(error))
            return
        found[answer.worker] = answer
        if worker is not None or (names and names <= set(found)):
            enough.set()

    inbox = bus.new_inbox()
    subscription = await bus.subscribe(inbox, collect)
    try:
        await bus.publish(subjects.rpc(verb, worker), reply=inbox)
        async with asyncio.timeout(wait_s):
            await enough.wait()
    except TimeoutError:
        pass
    finally:
        await bus.unsubscribe(subscription)
    return tuple(found[name] for name in sorted(found))
