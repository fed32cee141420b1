"""How long a request lies after its worker was killed with kill -9, until another one starts it.

Run: python -m ops.bench.takeover [--json PATH]. ack_wait is 30 s, as at work. The floor is the
server itself: a plain consumer that fetched a message at the same time and never acked it.
"""

import asyncio
import os
import time
from typing import Final

import nats
from nats.aio.msg import Msg

from contracts import subjects
from contracts.subjects import Identity
from ops.bench.contenders import AGENT, Contender, server, working
from ops.bench.loops import PLAIN
from ops.bench.rows import Row, p50, report

JOBS: Final = 4
LIMIT_S: Final = 45.0
LOOK_S: Final = 0.05
KILL: Final = 9
SLOW: Final = Contender(name="mmg", seconds=120.0)


class Starts:
    """When each request was started, first and again."""

    def __init__(self) -> None:
        """Nothing was heard yet."""
        self.at_s: dict[str, list[float]] = {}

    async def hear(self, msg: Msg) -> None:
        """Note a start."""
        self.at_s.setdefault(msg.subject.split(".")[3], []).append(time.perf_counter())

    async def all(self, count: int) -> None:
        """Wait until every request was started so often. Raises: TimeoutError."""
        async with asyncio.timeout(LIMIT_S):
            while sum(len(times) >= count for times in self.at_s.values()) < JOBS:  # noqa: ASYNC110
                await asyncio.sleep(LOOK_S)


async def redelivered_s(url: str) -> float:
    """Return how long the server keeps a message from others that was fetched and not acked."""
    nc = await nats.connect(url)
    js = nc.jetstream()
    await js.publish(f"{PLAIN}.floor", b"{}")
    lane = await js.pull_subscribe(f"{PLAIN}.*", "bench", stream="PLAIN")
    await lane.fetch(1, timeout=5)
    began = time.perf_counter()
    async with asyncio.timeout(LIMIT_S):
        while True:
            try:
                await lane.fetch(1, timeout=5)
            except TimeoutError:
                continue
            break
    await nc.close()
    return time.perf_counter() - began


async def measure() -> list[Row]:
    """Kill a worker with four requests in hand while another one waits."""
    starts = Starts()
    async with server() as running, asyncio.TaskGroup() as group:
        nc = await nats.connect(running.url)
        await nc.subscribe(subjects.event(Identity(AGENT, "*"), "started"), cb=starts.hear)
        first = {"MMG_WORKER_NAME": "bench-first"}
        other = {"MMG_WORKER_NAME": "bench-other"}
        async with working(SLOW.set(first), running.url, JOBS) as pid:
            floor = group.create_task(redelivered_s(running.url))
            for number in range(JOBS):
                await nc.request(*SLOW.job(f"lost-{number}"), timeout=5)
            await starts.all(1)
            async with working(SLOW.set(other), running.url, JOBS):
                os.kill(pid, KILL)
                await starts.all(2)
        await floor
        await nc.close()
    took = [times[1] - times[0] for times in starts.at_s.values()]
    return [
        Row(
            what="kill -9 of a worker: last sign of life to the next start",
            figure=p50(took),
            unit="s",
            floor=floor.result(),
            floor_of="redelivery by the server",
            samples=tuple(took),
        )
    ]


if __name__ == "__main__":
    report(__doc__, measure)
