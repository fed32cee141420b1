"""How a CRITICAL gets past 10,000 LOW: how many start before it, and how soon it starts.

Run: python -m ops.bench.jump [--json PATH]. One slot, jobs of 50 ms. Each CRITICAL is published
5 ms after a LOW has started, so that no other start is on its way. The floor is a plain nats-py
loop that sweeps the same four lanes.
"""

import asyncio
import time
from typing import Final

import msgspec
import nats
from nats.aio.client import Client
from nats.aio.msg import Msg

from contracts import subjects
from contracts.requests import Priority
from contracts.subjects import Identity
from ops.bench.contenders import AGENT, Contender, server, working
from ops.bench.rows import Row, at_most, p50, p99, report

QUEUED: Final = 10_000
BURST: Final = 500
SECONDS: Final = 0.05
LATER_S: Final = 0.005
TIMES: Final = 50
LIMIT_S: Final = 30.0


class Jump(msgspec.Struct):
    """What was heard of one CRITICAL. Units: milliseconds from publishing to its start."""

    low_before: int
    took_ms: float


class Ear:
    """Hears starts in their order."""

    def __init__(self) -> None:
        """Nothing was heard yet."""
        self.starts: list[tuple[str, float]] = []
        self._news = asyncio.Event()

    async def hear(self, msg: Msg) -> None:
        """Note a start."""
        self.starts.append((msg.subject.split(".")[3], time.perf_counter()))
        self._news.set()

    async def next(self) -> None:
        """Wait for the next start. Raises: TimeoutError."""
        self._news.clear()
        async with asyncio.timeout(LIMIT_S):
            await self._news.wait()

    async def of(self, number: str) -> int:
        """Wait for the start of one and return its place in `starts`. Raises: TimeoutError."""
        first = len(self.starts)
        while True:
            for place in range(max(0, first - 1), len(self.starts)):
                if self.starts[place][0] == number:
                    return place
            await self.next()


async def fill(nc: Client, who: Contender, name: str, count: int) -> None:
    """Store LOW requests, many at a time."""
    for first in range(0, count, BURST):
        async with asyncio.TaskGroup() as group:
            for number in range(first, min(first + BURST, count)):
                job = who.job(f"{name}-{number}", Priority.LOW)
                group.create_task(nc.request(*job, timeout=30))


async def jumps(url: str, name: str) -> list[Jump]:
    """Measure one contender on a server with a long queue."""
    who = Contender(name=name, seconds=SECONDS)
    found = []
    nc = await nats.connect(url)
    try:
        ear = Ear()
        await nc.subscribe(subjects.event(Identity(AGENT, "*"), "started"), cb=ear.hear)
        await nc.flush()
        async with working(who, url):
            for count in range(TIMES):
                await ear.next()
                await asyncio.sleep(LATER_S)
                began, before = time.perf_counter(), len(ear.starts)
                number = f"{name}-urgent-{count}"
                await nc.request(*who.job(number, Priority.CRITICAL), timeout=5)
                place = await ear.of(number)
                took_ms = 1000 * (ear.starts[place][1] - began)
                found.append(Jump(low_before=place - before, took_ms=took_ms))
    finally:
        await nc.close()
    return found


async def measure() -> list[Row]:
    """Measure both and make rows."""
    found = {}
    for name in ("lanes", "mmg"):
        async with server() as running:
            nc = await nats.connect(running.url)
            await fill(nc, Contender(name=name), name, QUEUED)
            await nc.close()
            found[name] = await jumps(running.url, name)
    ours, floor = found["mmg"], found["lanes"]
    took = {name: [one.took_ms for one in jumps_] for name, jumps_ in found.items()}
    return [
        Row(
            what=f"LOW that start before one of {TIMES} CRITICAL, {QUEUED:,} waiting",
            figure=float(sum(one.low_before for one in ours)),
            floor=float(sum(one.low_before for one in floor)),
            floor_of="plain loop, 4 lanes",
            target=at_most(0, "figure"),
        ),
        *(
            Row(
                what=f"CRITICAL to its start, a job of 50 ms runs, {word}",
                figure=middle(took["mmg"]),
                unit="ms",
                floor=middle(took["lanes"]),
                floor_of="plain loop, 4 lanes",
            )
            for word, middle in (("p50", p50), ("p99", p99))
        ),
    ]


if __name__ == "__main__":
    report(__doc__, measure)
