"""What it costs to hand a request over for good: stored, fsync called, answered.

Run: python -m ops.bench.enqueue [--json PATH]. The floor is nats-py publishing the same bytes into
a plain work queue of the same server. Blocks of both take turns.
"""

import asyncio
import json
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from typing import Final

import nats

from agent import client
from contracts.requests import Priority
from ops.bench.contenders import AGENT, BODY, Contender, server
from ops.bench.loops import PLAIN
from ops.bench.rows import Row, at_least, p50, report

ROUNDS: Final = 6
ALONE: Final = 300
TOGETHER: Final = 600
SIDE_BY_SIDE: Final = 100

Store = Callable[[str], Awaitable[object]]


async def alone(store: Store, name: str) -> float:
    """Return how many a second are stored, one after the other."""
    began = time.perf_counter()
    for number in range(ALONE):
        await store(f"{name}-{number}")
    return ALONE / (time.perf_counter() - began)


async def together(store: Store, name: str) -> float:
    """Return how many a second are stored by a hundred who store at once."""
    numbers = iter(range(TOGETHER))

    async def one() -> None:
        for number in numbers:
            await store(f"{name}-{number}")

    began = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(SIDE_BY_SIDE):
            group.create_task(one())
    return TOGETHER / (time.perf_counter() - began)


async def measure() -> list[Row]:
    """Let all take turns and make rows."""
    rates: dict[tuple[str, str], list[float]] = defaultdict(list)
    own = Contender(name="mmg")
    async with (
        server() as running,
        client.connect(running.url, agent=AGENT) as library,
    ):
        nc = await nats.connect(running.url)
        js = nc.jetstream()
        data = json.dumps(BODY).encode()

        async def plain(number: str) -> None:
            await js.publish(f"{PLAIN}.{number}", data)

        async def wire(number: str) -> None:
            answer = await nc.request(*own.job(number, Priority.LOW), timeout=10)
            assert b'"error"' not in answer.data, answer.data

        async def through_library(number: str) -> None:
            await library.submit(
                "bench", request_id=number, width=256, height=256, quality="draft", priority="LOW"
            )

        ways = {"plain": plain, "request on the wire": wire, "agent.client": through_library}
        for turn in range(ROUNDS):
            for how in (alone, together):
                for name, store in ways.items():
                    mark = f"{name[:5].strip()}-{how.__name__}-{turn}".replace(".", "-")
                    rates[name, how.__name__].append(await how(store, mark.replace(" ", "-")))
        await nc.close()
    return [
        Row(
            what=f"durable enqueue, {words}",
            who=name,
            figure=p50(rates[name, how]),
            unit="/s",
            floor=p50(rates["plain", how]),
            floor_of="plain js.publish",
            target=at_least(0.9),
            samples=tuple(rates[name, how]),
        )
        for how, words in (("alone", "one after the other"), ("together", "100 at once"))
        for name in list(ways)[1:]
    ]


if __name__ == "__main__":
    report(__doc__, measure)
