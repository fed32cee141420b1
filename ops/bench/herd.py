"""What workers say to the bus while nothing is asked for, and what one request makes them say.

Run: python -m ops.bench.herd [--workers 1,2,4,8]. N workers as processes of their own with an
engine that sleeps, on one nats-server or a cluster of three on loopback; somebody who hears
everything counts by kind. First nothing happens, then requests come one a second.
"""

import argparse
import asyncio
import tempfile
import time
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path

import nats
from nats.aio.msg import Msg

from contracts import subjects
from ops.bench.scale import Ends, cluster, counters, publish, worker

SETTLE_S = 12.0
KINDS = {
    "$JS.API.CONSUMER.MSG.NEXT": "pulls",
    "$JS.API.STREAM.INFO": "stream info",
    "$JS.API.STREAM.MSG.GET": "message get",
    "$JS.API": "other API",
    "$JS.ACK": "acks",
    "$KV": "state",
    subjects.IDLE: "idle bells",
    subjects.WORKER_ALL.removesuffix("*"): "presence",
    subjects.REQUESTS_ALL.removesuffix(">"): "requests",
    subjects.QUEUED_ALL.removesuffix(">"): "doorbells",
    subjects.CHAIN_ALL.removesuffix(">"): "links",
    subjects.EVENTS_ALL.removesuffix(">"): "events",
    subjects.PROGRESS_ALL.removesuffix(">"): "progress",
    "_INBOX": "answers",
}
Told = dict[str, float]
WAITED = ("it waited, median ms", "it waited, 95 % ms")


def kind_of(subject: str) -> str:
    """Return what kind of message a subject carries."""
    return next((kind for start, kind in KINDS.items() if subject.startswith(start)), "others")


class Tap:
    """Hears everything, and counts it."""

    def __init__(self) -> None:
        """Nothing was heard yet."""
        self.counts: Counter[str] = Counter()

    async def hear(self, msg: Msg) -> None:
        """Count one message."""
        self.counts[kind_of(msg.subject)] += 1


async def one_size(workers: int, options: argparse.Namespace) -> tuple[Told, Told]:
    """Return what is said in a second of quiet, and what one request adds, by kind.

    `delivered` is what the servers hand to clients, without what is handed to the one who counts.
    """
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mmg-herd-")))
        servers, urls = await stack.enter_async_context(cluster(folder / "nats", options.servers))
        for number in range(workers):
            settings = {"MMG_NATS_URL": ",".join(urls), "MMG_WORKER_NAME": f"w{number}"}
            settings |= {"MMG_WORKER_HTTP_PORT": "0", "MMG_LOG_FORMAT": "json"}
            await worker(stack, folder / f"w{number}", options, settings)
        nc, ear = await nats.connect(urls), await nats.connect(urls)
        stack.push_async_callback(nc.close)
        stack.push_async_callback(ear.close)
        ends, tap = Ends(), Tap()
        await nc.subscribe(subjects.EVENTS_ALL, cb=ends.hear)
        await ear.subscribe(">", cb=tap.hear)
        await ear.flush()
        await asyncio.sleep(SETTLE_S)

        async def count(seconds: float) -> Told:
            heard, handed = Counter(tap.counts), await counters(servers)
            began = time.monotonic()
            await asyncio.sleep(seconds)
            passed = time.monotonic() - began
            now, more = Counter(tap.counts), await counters(servers)
            found = {kind: (now[kind] - heard[kind]) / passed for kind in now}
            found["delivered"] = (more["out"] - handed["out"]) / passed - sum(found.values())
            return found

        quiet = await count(options.quiet)
        async with asyncio.TaskGroup() as group:
            counting = group.create_task(count(float(options.requests)))
            for number in range(options.requests):
                await publish(nc, 1, first=number)
                await asyncio.sleep(1.0)
        async with asyncio.timeout(60):
            while len(ends.ends) < options.requests:  # noqa: ASYNC110 - a bench
                await asyncio.sleep(0.05)
    asked = counting.result()
    added = {kind: asked[kind] - quiet.get(kind, 0.0) for kind in asked}
    waits = sorted(ends.waits_s)
    added[WAITED[0]] = waits[len(waits) // 2] * 1000
    added[WAITED[1]] = waits[int(0.95 * len(waits))] * 1000
    return quiet, added


def table(title: str, rows: dict[int, Told]) -> None:
    """Print one row a kind, one column a size."""
    print(f"\n{title:<38}" + "".join(f"{f'{size} workers':>12}" for size in rows))
    for kind in (*KINDS.values(), "others", "delivered", *WAITED):
        if any(round(row.get(kind, 0.0), 1) for row in rows.values()):
            print(f"{kind:<38}" + "".join(f"{row.get(kind, 0.0):>12.1f}" for row in rows.values()))


async def measure(options: argparse.Namespace) -> None:
    """Measure every size and print both tables."""
    quiet: dict[int, Told] = {}
    asked: dict[int, Told] = {}
    for workers in options.workers:
        quiet[workers], asked[workers] = await one_size(workers, options)
    table("nothing happens: messages a second", quiet)
    table("one request: messages it adds", asked)


def main() -> None:
    """Read the arguments and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add(
        "--workers",
        type=lambda text: [int(one) for one in text.split(",")],
        default=[1, 2, 4, 8],
        help="sizes with commas (1,2,4,8)",
    )
    add("--requests", type=int, default=20, help="how many requests come (%(default)s)")
    add("--quiet", type=float, default=20.0, help="seconds of quiet before (%(default)s)")
    add("--seconds", type=float, default=0.2, help="what drawing one takes (%(default)s)")
    add("--servers", type=int, choices=(1, 3), default=3, help="nats-servers (%(default)s)")
    options = parser.parse_args()
    options.engine = "sleep"
    asyncio.run(measure(options))


if __name__ == "__main__":
    main()
