"""What it costs to hand a request over for good: stored, fsync called, answered.

Run: python -m ops.bench.enqueue [--json PATH]. The floor is nats-py publishing the same bytes into
a plain work queue of the same server. All take turns: one by one where each waits for its answer,
in blocks where a hundred wait at once.
"""

import asyncio
import json
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import nats

from agent import client
from agent.client.asking import Fields
from contracts.requests import Priority
from ops.bench.contenders import AGENT, BODY, Contender, server
from ops.bench.loops import PLAIN
from ops.bench.rows import Row, at_least, p50, report

ALONE: Final = 800
ROUNDS: Final = 9
TOGETHER: Final = 400
SIDE_BY_SIDE: Final = 100

OPTIONS: Final[Fields] = {"width": 256, "height": 256, "quality": "draft", "priority": "LOW"}

Store = Callable[[str], Awaitable[object]]


async def alone(ways: Mapping[str, Store]) -> dict[str, float]:
    """Return how many a second are stored, one after the other: by the median of single ones."""
    took: dict[str, list[float]] = {name: [] for name in ways}
    names = list(ways)
    for number in range(ALONE):
        turn = number % len(names)
        for name in (*names[turn:], *names[:turn]):
            began = time.perf_counter()
            await ways[name](f"alone-{number}-{names.index(name)}")
            took[name].append(time.perf_counter() - began)
    return {name: 1 / p50(seconds) for name, seconds in took.items()}


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

        async def own_id(number: str) -> None:
            await library.submit("bench", request_id=number, **OPTIONS)  # type: ignore[misc]

        async def id_made(_number: str) -> None:
            await library.submit("bench", **OPTIONS)

        ways = {
            "plain": plain,
            "request on the wire": wire,
            "agent.client, id made by it": id_made,
            "agent.client, own id": own_id,
        }
        for name, rate in (await alone(ways)).items():
            rates[name, "alone"].append(rate)
        for turn in range(ROUNDS):
            for name, store in ways.items():
                mark = f"{store.__name__}-{turn}"
                rates[name, "together"].append(await together(store, mark))
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
