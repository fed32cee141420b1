"""`mmg queue`: what waits in each lane, in which order it will be taken, and what holds it up.

Reads the lanes' numbers and the stored requests; it takes nothing out and changes nothing.
"""

import argparse
import asyncio
from datetime import datetime
from typing import Final

import msgspec

from agent.bus import control, history, overview
from agent.bus.connection import Bus
from agent.bus.history import StoredMessage
from agent.clock import SystemClock
from agent.commands import exits, session, workers
from agent.commands.wording import age, cut, plain, since, until
from agent.config import Config
from contracts import codec, subjects
from contracts.errors import ContractError
from contracts.events import Intake, Pause, WorkerStatus
from contracts.requests import Priority

SHOWN_MAX: Final = 50
WORKERS_S: Final = 0.3


class Lane(msgspec.Struct, frozen=True, kw_only=True):
    """One lane: `waiting` in it, `in_work` handed to a worker; the age of the oldest of both.

    `paused_until` is None where the lane is not paused.
    """

    priority: Priority
    waiting: int
    in_work: int
    oldest_s: float | None
    paused_until: datetime | None


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One stored request; `prompt` is None where its body cannot be read."""

    priority: Priority
    request_id: str
    requester: str
    age_s: float
    prompt: str | None


class Queue(msgspec.Struct, frozen=True, kw_only=True):
    """All lanes, the first requests in the order of service, and what an operator switched.

    `pause` says who paused the lanes, where that was noted; `intake` is None while it is open.
    """

    lanes: tuple[Lane, ...]
    requests: tuple[Entry, ...]
    pause: Pause | None
    intake: Intake | None
    workers: tuple[WorkerStatus, ...]


def run(arguments: argparse.Namespace) -> int:
    """Print the queue."""
    now = SystemClock().now()
    queue = asyncio.run(_read(session.read_config(), now))
    if arguments.json:
        print(msgspec.json.encode(queue).decode())
    else:
        _print(queue, now)
    return exits.OK


async def _read(config: Config, now: datetime) -> Queue:
    async with session.plain_bus(config) as bus:
        return await read_queue(bus, now)


async def read_queue(bus: Bus, now: datetime) -> Queue:
    """Read numbers and requests; what changes meanwhile may show in one and not in the other.

    Raises: BusError.
    """
    lanes: list[Lane] = []
    entries: list[Entry] = []
    for lane in await overview.read_lanes(bus):
        wanted = subjects.lane_filter(lane.priority)
        kept = await history.read(bus, subjects.STREAM_REQUESTS, wanted, SHOWN_MAX)
        stored = [_entry(lane.priority, message, now) for message in kept]
        lanes.append(
            Lane(
                priority=lane.priority,
                waiting=lane.waiting,
                in_work=lane.in_work,
                oldest_s=stored[0].age_s if stored else None,
                paused_until=lane.paused_until,
            )
        )
        entries += stored
    intake = await control.read_intake(bus)
    return Queue(
        lanes=tuple(lanes),
        requests=tuple(entries[:SHOWN_MAX]),
        pause=await _note(bus, lanes),
        intake=None if intake is None or intake.open else intake,
        workers=await overview.ask_workers(bus, wait_s=WORKERS_S),
    )


async def _note(bus: Bus, lanes: list[Lane]) -> Pause | None:
    """Return who paused the lanes, if they are; a note that is older than the pause is none."""
    if not any(lane.paused_until for lane in lanes):
        return None
    note = await control.read_lanes_note(bus)
    return note if note is not None and note.paused else None


def _entry(priority: Priority, message: StoredMessage, now: datetime) -> Entry:
    who = subjects.raw_pair(message.subject)
    try:
        prompt = codec.decode_request(message.data).prompt
    except ContractError:
        prompt = None  # A worker will answer it with its `failed` link.
    return Entry(
        priority=priority,
        request_id=who.request_id if who else message.subject,
        requester=who.requester if who else "?",
        age_s=round(max(0.0, (now - message.stored_at).total_seconds()), 1),
        prompt=prompt,
    )


def _print(queue: Queue, now: datetime) -> None:
    _print_switches(queue, now)
    print(f"{'lane':<10}{'waiting':>8}{'in work':>9}  oldest")
    for lane in queue.lanes:
        oldest = "-" if lane.oldest_s is None else age(lane.oldest_s)
        paused = "" if lane.paused_until is None else "  paused"
        print(
            f"{lane.priority:<10}{lane.waiting:>8}{lane.in_work:>9}  {oldest:<7}{paused}".rstrip()
        )
    if not queue.requests:
        return
    width = max(len(entry.request_id) for entry in queue.requests)
    print()
    for entry in queue.requests:
        prompt = cut(entry.prompt) if entry.prompt is not None else "(unreadable)"
        who = f"{plain(entry.request_id):<{width}}  {entry.requester}"
        print(f"{entry.priority:<10}{age(entry.age_s):>8}  {who}  {prompt}")
    hidden = sum(lane.waiting + lane.in_work for lane in queue.lanes) - len(queue.requests)
    if hidden > 0:
        print(f"... and {hidden} more")


def _print_switches(queue: Queue, now: datetime) -> None:
    """Say first what holds things up, by whom, and how to end it."""
    lines: list[str] = []
    paused = [lane for lane in queue.lanes if lane.paused_until is not None]
    if paused:
        which = "all lanes are" if len(paused) == len(subjects.LANES) else _names(paused)
        lines.append(f"{which} paused {until(paused[0].paused_until, now)} -> mmg resume")
        lines += [] if queue.pause is None else [_by(queue.pause, now)]
    if queue.intake is not None:
        lines += ["the intake is closed -> mmg intake on", _by(queue.intake, now)]
    lines += [
        f"worker {one.worker} {plain(one.reason)} -> mmg resume --worker {one.worker}"
        for one in queue.workers
        if one.state == "paused"
    ]
    lines += [
        f"worker {one.worker} takes nothing: {plain(one.reason)} -> mmg doctor"
        for one in queue.workers
        if one.state == "closed"
    ]
    if not queue.workers:
        lines.append(workers.NOBODY)
    for line in lines:
        print(f"! {line}")
    if lines:
        print()


def _names(lanes: list[Lane]) -> str:
    return f"lanes {', '.join(lane.priority for lane in lanes)} are"


def _by(switched: Intake | Pause, now: datetime) -> str:
    return f"  by {plain(switched.by)}, {since(switched.at, now)}: {plain(switched.reason)}"
