"""`mmg queue`: what waits in each lane, and in which order it will be taken.

Reads the lanes' numbers and the stored requests; it takes nothing out and changes nothing.
"""

import argparse
import asyncio
from datetime import datetime
from typing import Final

import msgspec
from nats.aio.msg import Msg

from agent.bus.connection import API_PREFIX, ApiError, Bus, BusError, NoAnswer, NoResponders
from agent.clock import SystemClock
from agent.commands import exits, session
from agent.config import Config
from contracts import codec, subjects
from contracts.errors import ContractError
from contracts.requests import Priority

SHOWN_MAX: Final = 50
ANSWER_S: Final = 5.0
PROMPT_MAX: Final = 44


class Lane(msgspec.Struct, frozen=True, kw_only=True):
    """One lane: `waiting` in it, `in_work` handed to a worker; the age of the oldest of both."""

    priority: Priority
    waiting: int
    in_work: int
    oldest_s: float | None


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One stored request; `prompt` is None where its body cannot be read."""

    priority: Priority
    request_id: str
    requester: str
    age_s: float
    prompt: str | None


class Queue(msgspec.Struct, frozen=True, kw_only=True):
    """All lanes, and the first requests in the order in which they are served."""

    lanes: tuple[Lane, ...]
    requests: tuple[Entry, ...]


def run(arguments: argparse.Namespace) -> int:
    """Print the queue."""
    queue = asyncio.run(_read(session.read_config()))
    if arguments.json:
        print(msgspec.json.encode(queue).decode())
    else:
        _print(queue)
    return exits.OK


async def _read(config: Config) -> Queue:
    async with session.plain_bus(config) as bus:
        return await read_queue(bus, SystemClock().now())


class _Consumer(msgspec.Struct):
    name: str
    num_pending: int = 0
    num_ack_pending: int = 0


class _Consumers(msgspec.Struct):
    consumers: list[_Consumer] = []


async def read_queue(bus: Bus, now: datetime) -> Queue:
    """Read numbers and requests; what changes meanwhile may show in one and not in the other.

    Raises: BusError.
    """
    try:
        data = await bus.api(f"CONSUMER.LIST.{subjects.STREAM_REQUESTS}", {"offset": 0})
    except ApiError as error:
        if error.code == 404:  # noqa: PLR2004 - not found
            raise BusError("the streams are not there; run `mmg provision`") from error
        raise
    numbers = {one.name: one for one in msgspec.json.decode(data, type=_Consumers).consumers}
    lanes: list[Lane] = []
    entries: list[Entry] = []
    for priority in subjects.LANES:
        number = numbers.get(subjects.durable(priority), _Consumer(name=""))
        stored = await _stored(bus, priority, now)
        lanes.append(
            Lane(
                priority=priority,
                waiting=number.num_pending,
                in_work=number.num_ack_pending,
                oldest_s=stored[0].age_s if stored else None,
            )
        )
        entries += stored
    return Queue(lanes=tuple(lanes), requests=tuple(entries[:SHOWN_MAX]))


async def _stored(bus: Bus, priority: Priority, now: datetime) -> list[Entry]:
    """Read the first requests of a lane, oldest first, by direct get. Raises: BusError."""
    inbox = bus.new_inbox()
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    entries: list[Entry] = []

    async def collect(msg: Msg) -> None:
        status = (msg.headers or {}).get("Status")
        if done.done():
            return
        if status in ("204", "404"):
            done.set_result(None)
        elif status is not None:
            done.set_exception(NoResponders(f"no stream {subjects.STREAM_REQUESTS}: {status}"))
        else:
            entries.append(_entry(priority, msg, now))

    subscription = await bus.subscribe(inbox, collect)
    query = {"seq": 1, "batch": SHOWN_MAX, "next_by_subj": subjects.lane_filter(priority)}
    subject = f"{API_PREFIX}.DIRECT.GET.{subjects.STREAM_REQUESTS}"
    try:
        await bus.nc.publish(subject, msgspec.json.encode(query), reply=inbox)
        async with asyncio.timeout(ANSWER_S):
            await done
    except TimeoutError as error:
        raise NoAnswer(f"no list of the lane {priority.lane} within {ANSWER_S} s") from error
    finally:
        await subscription.unsubscribe()
    return entries


def _entry(priority: Priority, msg: Msg, now: datetime) -> Entry:
    headers = msg.headers or {}
    subject = headers["Nats-Subject"]
    stored_at = msgspec.convert(headers["Nats-Time-Stamp"], datetime)
    who = subjects.raw_pair(subject)
    try:
        prompt = codec.decode_request(msg.data).prompt
    except ContractError:
        prompt = None  # A worker will answer it with its `failed` link.
    return Entry(
        priority=priority,
        request_id=who.request_id if who else subject,
        requester=who.requester if who else "?",
        age_s=round(max(0.0, (now - stored_at).total_seconds()), 1),
        prompt=prompt,
    )


def _print(queue: Queue) -> None:
    print(f"{'lane':<10}{'waiting':>8}{'in work':>9}  oldest")
    for lane in queue.lanes:
        oldest = "-" if lane.oldest_s is None else _age(lane.oldest_s)
        print(f"{lane.priority:<10}{lane.waiting:>8}{lane.in_work:>9}  {oldest}")
    if not queue.requests:
        return
    width = max(len(entry.request_id) for entry in queue.requests)
    print()
    for entry in queue.requests:
        prompt = _cut(entry.prompt) if entry.prompt is not None else "(unreadable)"
        age = _age(entry.age_s)
        who = f"{entry.request_id:<{width}}  {entry.requester}"
        print(f"{entry.priority:<10}{age:>8}  {who}  {prompt}")
    hidden = sum(lane.waiting + lane.in_work for lane in queue.lanes) - len(queue.requests)
    if hidden > 0:
        print(f"... and {hidden} more")


def _cut(prompt: str) -> str:
    line = "".join(char if char.isprintable() else " " for char in prompt)
    return line if len(line) <= PROMPT_MAX else f"{line[: PROMPT_MAX - 1]}…"


def _age(seconds: float) -> str:
    """Show an age in the unit a person would use."""
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
