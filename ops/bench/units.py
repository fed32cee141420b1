"""What each call on the bus costs its servers, one server or three: the prices of a simulation.

Run: python -m ops.bench.units [--servers 3]. Every call is made by the code that makes it in a
worker or a gateway, by 32 callers at once. `servers` is the CPU of all servers together for one
call; `each second` is what this machine carried with the caller beside it. Linux only (/proc).
"""

import argparse
import asyncio
import json
import os
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from uuid import uuid4

import msgspec
from msgspec.structs import replace

from agent.bus import books, chain, control, state
from agent.bus.connection import Bus, connect
from agent.bus.lanes import Delivery, Lanes
from agent.clock import SystemClock
from agent.core import money
from agent.core.money import Books, Limits
from agent.core.steps import Stored
from agent.ledger.projection import Projection
from contracts import codec, subjects
from contracts.examples import COMPLETED, REQUEST, STARTED
from contracts.requests import Priority
from contracts.subjects import Identity
from ops.bench.idle import cpu_s
from ops.bench.scale import cluster
from tests.chaos.servers import Cluster

CALLERS = 32
EARS = 100
SETTLE_S = 2.0
STORE_S = 1.5
"""The stream takes 20,000 requests, and all that are pulled must have been stored."""
WRITERS = (1, 8, 64)
NAMES = iter(range(10**9))

Call = Callable[[int], Awaitable[object]]


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """What one call costs. Units: calls a second, CPU microseconds, milliseconds."""

    name: str
    per_s: float
    servers_us: float
    caller_us: float
    mean_ms: float


class Lab:
    """Servers, and what was measured on them so far."""

    def __init__(self, servers: Cluster, bus: Bus, seconds: float) -> None:
        """Use `lab`."""
        self.servers = servers
        self.bus = bus
        self.seconds = seconds
        self.costs: list[Cost] = []

    def spent_s(self) -> float:
        """Return the CPU seconds of all servers so far."""
        return sum(cpu_s(pid) for pid in self.servers.pids)

    @asynccontextmanager
    async def timing(
        self, name: str, callers: int = 1, *, unanswered: bool = False
    ) -> AsyncIterator[list[int]]:
        """Time the block and note it; the block says how many calls it made."""
        calls: list[int] = []
        spent, own, began = self.spent_s(), time.process_time(), time.perf_counter()
        yield calls
        passed, count = time.perf_counter() - began, max(1, sum(calls))
        own_s = time.process_time() - own
        if unanswered:
            await asyncio.sleep(SETTLE_S)  # What nobody answers is still being done.
        cost = Cost(
            name=name,
            per_s=count / passed,
            servers_us=(self.spent_s() - spent) / count * 1e6,
            caller_us=own_s / count * 1e6,
            mean_ms=passed / count * callers * 1e3,
        )
        self.costs.append(cost)
        print(line(cost), flush=True)

    async def drive(
        self, name: str, call: Call, callers: int = CALLERS, *, seconds: float | None = None
    ) -> None:
        """Let callers make one call after the other for a while."""
        end_s = time.perf_counter() + (seconds or self.seconds)

        async def one(caller: int, calls: list[int]) -> None:
            while time.perf_counter() < end_s:
                await call(caller)
                calls.append(1)

        async with self.timing(name, callers) as calls, asyncio.TaskGroup() as group:
            for caller in range(callers):
                group.create_task(one(caller, calls))


def line(cost: Cost) -> str:
    """Return a row for people."""
    return (
        f"{cost.name:<44}{cost.per_s:>12,.0f}{cost.servers_us:>12.0f}{cost.caller_us:>12.0f}"
        f"{cost.mean_ms:>10.2f}"
    )


@asynccontextmanager
async def lab(size: int, seconds: float) -> AsyncIterator[Lab]:
    """Run servers and one connection."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mmg-units-")))
        servers, urls = await stack.enter_async_context(cluster(folder / "nats", size))
        bus = await stack.enter_async_context(await connect(urls, "units"))
        yield Lab(servers, bus, seconds)


async def empty_lanes(here: Lab) -> None:
    """Pull from lanes that have nothing: what an idle worker does."""
    lanes = [Lanes(here.bus) for _ in range(CALLERS)]
    for one in lanes:
        await one.open()
    await here.drive("pull that finds nothing", lambda n: lanes[n].next((Priority.LOW,)))
    for one in lanes:
        await one.close()


async def requests(here: Lab) -> None:
    """Store requests, then pull, keep alive and ack each."""
    body = codec.encode(REQUEST)

    left = 0

    async def store(_: int) -> None:
        nonlocal left
        who = Identity("bench", f"r{next(NAMES)}")
        await here.bus.store(subjects.request(Priority.LOW, who), body)
        left += 1

    await here.drive("request stored, with its doorbell", store, seconds=STORE_S)
    lanes = [Lanes(here.bus) for _ in range(CALLERS)]
    for one in lanes:
        await one.open()
    held: list[Delivery] = []

    async def pull(number: int, calls: list[int]) -> None:
        nonlocal left
        while left > 0:
            left -= 1
            delivery = await lanes[number].next((Priority.LOW,))
            if delivery is not None:
                held.append(delivery)
                calls.append(1)

    name = "pull that brings a request"
    async with here.timing(name, CALLERS) as calls, asyncio.TaskGroup() as group:
        for number in range(CALLERS):
            group.create_task(pull(number, calls))
    for one in lanes:
        await one.close()
    async with here.timing("sign of life of a held delivery", unanswered=True) as calls:
        for delivery in held:
            await delivery.in_progress()
        await here.bus.flush()
        calls.append(len(held))
    async with here.timing("ack", unanswered=True) as calls:
        for delivery in held:
            await delivery.ack()
        await here.bus.flush()
        calls.append(len(held))


async def fill(here: Lab, count: int) -> None:
    """Store chains of earlier requests, and say what memory their subjects take."""
    if not count:
        return
    links = (("started", codec.encode(STARTED)), ("completed", codec.encode(COMPLETED)))
    before, numbers = memory_mb(here), iter(range(count))

    async def store() -> None:
        for number in numbers:
            for kind, data in links:
                await here.bus.store(subjects.chain(Identity("old", f"f{number}"), kind), data)

    async with asyncio.TaskGroup() as group:
        for _ in range(8 * CALLERS):
            group.create_task(store())
    more = (memory_mb(here) - before) / len(here.servers.pids)
    print(f"  {count:,} chains: each server holds {more:,.0f} MB more in memory")


def memory_mb(here: Lab) -> float:
    """Return what all servers hold in memory."""
    pages = sum(
        int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
        for pid in here.servers.pids
    )
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


async def chains(here: Lab, options: argparse.Namespace) -> None:
    """Append two links to each chain, read heads and chains."""
    who = [Identity("bench", f"c{number}") for number in range(10**5)]
    made = 0

    async def append(_: int) -> None:
        nonlocal made
        number, made = made, made + 1
        first = await chain.append(here.bus, who[number], replace(STARTED, id=str(uuid4())), 0)
        assert isinstance(first, Stored), first
        last = replace(COMPLETED, id=str(uuid4()))
        assert isinstance(await chain.append(here.bus, who[number], last, first.seq), Stored)

    await fill(here, options.fill)
    await here.drive("chain of two links", append)
    await here.drive("head of a chain", lambda n: chain.read_head(here.bus, who[n]))
    await here.drive("chain by direct get", lambda n: chain.read_chain(here.bus, who[n]))
    kept = json.loads(await here.bus.api(f"STREAM.INFO.{subjects.STREAM_EVENTS}"))["state"]
    print(f"  a chain of two links takes {kept['bytes'] / (kept['messages'] / 2):,.0f} bytes")
    with tempfile.TemporaryDirectory(prefix="mmg-units-") as name:
        ledger = Projection(here.bus, Path(name) / "ledger.sqlite3")
        async with here.timing("link folded into the ledger") as calls:
            await ledger.fold_all()
            calls.append(int(kept["messages"]))


async def questions(here: Lab) -> None:
    """Ask what every worker asks every five seconds."""
    info = f"STREAM.INFO.{subjects.STREAM_REQUESTS}"
    await here.drive("stream info", lambda _: here.bus.api(info))
    await here.drive("key of the state bucket", lambda _: control.read_pause(here.bus, "w1"))


async def purses(here: Lab) -> None:
    """Set money aside and give it back, with ever more writers of the one key."""
    today = SystemClock().now().date()

    refused = 0

    async def buy(number: int) -> None:
        nonlocal refused
        hold = money.hold_for(f"bench.b{number}", 1, "stability", worker=f"w{number}", usd=0.04)
        try:
            await books.reserve(here.bus, hold, Limits(day_usd=1e6), today)
            await books.refund(here.bus, hold.id, today)
        except books.BooksError:
            refused += 1

    for writers in WRITERS:
        name, refused = f"money held and given back, {writers} buyers", 0
        await here.drive(name, buy, callers=writers)
        if refused:
            print(f"  {refused} of them gave up: others were first {books.ROUNDS_MAX} times")
    bought = {f"bench.full{number:010}": 40_000 for number in range(money.REQUESTS_MAX)}
    found, revision = await books._read(here.bus, books.MONEY_KEY, Books())  # noqa: SLF001
    await state.write(here.bus, books.MONEY_KEY, replace(found, requests=bought), revision)
    await here.drive(f"the same, {WRITERS[1]} buyers, full books", buy, callers=WRITERS[1])


async def ears(here: Lab) -> None:
    """Say something that a hundred connections hear, and progress that is stored."""
    heard = 0

    async def hear(_msg: object) -> None:
        nonlocal heard
        heard += 1

    urls = [f"nats://127.0.0.1:{port}" for port in here.servers.ports]
    async with AsyncExitStack() as stack:
        for number in range(EARS):  # Spread over the servers, as clients are.
            first = number % len(urls)
            one = await connect([*urls[first:], *urls[:first]], f"ear{number}")
            await stack.enter_async_context(one)
            await one.subscribe(subjects.IDLE, hear)
            await one.flush()
        async with here.timing(f"delivery to one of {EARS} who listen") as calls:
            for _ in range(100):
                await here.bus.publish(subjects.IDLE, b"x" * 60)
                await here.bus.flush()
            while heard < 100 * EARS:  # noqa: ASYNC110 - a bench
                await asyncio.sleep(0.01)
            calls.append(heard)


async def progress(here: Lab) -> None:
    """Publish progress as drawing does, without waiting, and see when all is stored."""
    count = int(500 * here.seconds)
    async with here.timing("progress stored") as calls:
        for number in range(count):
            await here.bus.publish(
                subjects.progress(Identity("bench", f"p{number % 50}")), b"x" * 300
            )
        while True:
            found = await here.bus.api(f"STREAM.INFO.{subjects.STREAM_PROGRESS}")
            if json.loads(found)["state"]["last_seq"] >= count:
                break
            await asyncio.sleep(0.01)
        calls.append(count)


async def measure(options: argparse.Namespace) -> list[Cost]:
    """Measure all and print each."""
    print(f"{'':<44}{'each second':>12}{'servers us':>12}{'caller us':>12}{'ms':>10}")
    async with lab(options.servers, options.seconds) as here:
        await empty_lanes(here)
        await requests(here)
        await chains(here, options)
        for part in (questions, purses, ears, progress):
            await part(here)
        return here.costs


def main() -> None:
    """Read the arguments and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--servers", type=int, choices=(1, 3), default=3, help="nats-servers (%(default)s)")
    add("--seconds", type=float, default=4.0, help="for each call (%(default)s)")
    add("--fill", type=int, default=0, help="chains that are there before (%(default)s)")
    add("--json", type=Path, metavar="FILE", help="write the costs there too")
    options = parser.parse_args()
    costs = asyncio.run(measure(options))
    if options.json is not None:
        options.json.write_bytes(msgspec.json.format(msgspec.json.encode(costs)) + b"\n")


if __name__ == "__main__":
    main()
