"""How throughput grows from one worker to eight on one server, with an engine that only sleeps.

Run: python -m ops.bench.workers [--json PATH]. Each worker is a process with one slot and jobs of
0.2 s, so that the machine has little to do: what is measured is whether workers hinder each other.
"""

import asyncio
import time
from contextlib import AsyncExitStack
from typing import Final

import nats
from nats.aio.msg import Msg

from contracts import subjects
from contracts.requests import Priority
from contracts.subjects import Identity
from ops.bench.contenders import AGENT, Contender, server, working
from ops.bench.rows import Row, at_least, report

SECONDS: Final = 0.2
EACH: Final = 40
MANY: Final = 8
LIMIT_S: Final = 90.0


async def drained(workers: int) -> tuple[float, float]:
    """Return jobs a second of so many workers: from the first tenth to nine tenths, and in all."""
    count = EACH * workers
    ends: list[float] = []
    done = asyncio.Event()

    async def hear(_msg: Msg) -> None:
        ends.append(time.perf_counter())
        if len(ends) == count:
            done.set()

    async with server() as running, AsyncExitStack() as stack:
        nc = await nats.connect(running.url)
        for number in range(workers):
            settings = {"MMG_WORKER_NAME": f"bench-{number}"}
            who = Contender(name="mmg", seconds=SECONDS).set(settings)
            await stack.enter_async_context(working(who, running.url))
        await nc.subscribe(subjects.event(Identity(AGENT, "*"), "completed"), cb=hear)
        await nc.flush()
        async with asyncio.timeout(LIMIT_S):
            for number in range(count):
                job = Contender(name="mmg").job(f"w{workers}-{number}", Priority.HIGH)
                await nc.request(*job, timeout=10)
            await done.wait()
        await nc.close()
    first, last = count // 10, count * 9 // 10
    steady = (last - first) / (ends[last] - ends[first])
    return steady, (count - 1) / (ends[-1] - ends[0])


async def measure() -> list[Row]:
    """Measure one worker, then eight."""
    one, many = await drained(1), await drained(MANY)
    return [
        Row(
            what=f"jobs of 0.2 s, {MANY} workers, {words}",
            figure=many[place],
            unit="jobs/s",
            floor=one[place],
            floor_of="one worker",
            target=at_least(7.0),
        )
        for place, words in enumerate(("while all have work", "to the last of them"))
    ]


if __name__ == "__main__":
    report(__doc__, measure)
