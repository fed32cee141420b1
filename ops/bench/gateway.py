"""What the gateway costs beside a bare pass-through, its speed beside a long queue, and its leaks.

Run: python -m ops.bench.gateway [--sockets 1000] [--rate 100] [--seconds 20] [--churn 60]
[--json FILE]. Each server is a process of its own, and so are the clients. The floor, in the same
run, is a bare aiohttp server that hands the same bytes from the same bus to the same sockets.
"""

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import aiohttp

from agent.bus.connection import Bus, connect
from agent.bus.provision import Plan, provision
from agent.embedded import EmbeddedServer
from contracts import codec, subjects
from contracts.events import Started
from contracts.requests import Priority, Request
from contracts.subjects import Identity
from ops.bench.rows import Row, at_most, show, write
from ops.bench.sockets import EVERYTHING, READERS

AGENT: Final = "user"
QUEUED: Final = 10_000
ASKS: Final = 50
BURST: Final = 500
COMING: Final = 200
"""Clients that come and go."""
WARM_S: Final = 15
"""What grows once, caches and pools, has grown after this long."""
SETTLE_S: Final = 5.0
"""Whoever joins reads its chain first, and once more: that is not what is measured here."""
WAIT_S: Final = 120.0
FILES_LEFT: Final = 2
"""A look at the ledger may be under way."""
WHAT: Final = {"follow": "each follows one request", EVERYTHING: "each hears all"}
PROGRAMS: Final = ("-m", "ops.bench.sockets")
TICKS: Final = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


@asynccontextmanager
async def started(*command: str, **settings: str) -> AsyncIterator[Process]:
    """Run Python in a process of its own; it is killed at the end."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, *command), stdin=PIPE, stdout=PIPE, env={**os.environ, **settings}
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def line(process: Process) -> str:
    """Return the next line that a process says."""
    assert process.stdout is not None, "it was asked for"
    async with asyncio.timeout(WAIT_S):
        return (await process.stdout.readline()).decode().strip()


def cpu_s(pid: int) -> float:
    """Return the seconds of CPU that a process has used. Source: proc(5), Linux only."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def size(pid: int) -> dict[str, float]:
    """Return open files and resident MiB of a process. Source: proc(5), Linux only."""
    pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    files = len(list(Path(f"/proc/{pid}/fd").iterdir()))
    return {"open_files": files, "resident_mib": round(pages * os.sysconf("SC_PAGE_SIZE") / 2**20)}


class Teller:
    """Stores links at the rate asked for, each with the time at which it was sent."""

    def __init__(self, bus: Bus, whose: str, sockets: int) -> None:
        """Begin all chains."""
        self._bus = bus
        self._whose = whose
        self._sockets = sockets
        self._links = dict.fromkeys(range(sockets), 0)

    async def tell(self, rate: float, seconds: float) -> int:
        """Tell for so long; return how many links it were."""
        loop = asyncio.get_running_loop()
        began, total = loop.time(), int(rate * seconds)
        for count in range(total):
            number = count % self._sockets
            self._links[number] += 1
            who = Identity(AGENT, f"{self._whose}{number}")
            link = Started(
                id=str(uuid4()),
                n=self._links[number],
                request_id=who.request_id,
                requester=AGENT,
                message=str(time.monotonic_ns()),
                progress_percent=0,
                at=datetime.fromtimestamp(0, UTC),
                attempt=self._links[number],
                request_seq=number + 1,
                engine="sketch",
                model="sketch",
                reason="bench",
                worker="bench",
                server=None,
                queue_time_seconds=0.0,
            )
            await self._bus.publish(subjects.chain(who, "started"), codec.encode(link))
            await asyncio.sleep(max(0.0, began + (count + 1) / rate - loop.time()))
        return total


async def measure(
    what: str, url: str, server: Process, teller: Teller, whose: str, asked: argparse.Namespace
) -> dict[str, Any]:
    """Let clients listen while links are told; return delays, and CPU of the server."""
    events = asked.rate * asked.seconds
    heard = events * (READERS if what == EVERYTHING else 1)
    options = ("--whose", whose, "--sockets", str(asked.sockets), "--expect", str(heard))
    async with started(*PROGRAMS, what, url, *options) as listening:
        assert await line(listening) == "open"
        await asyncio.sleep(SETTLE_S)
        before = cpu_s(server.pid)
        await teller.tell(asked.rate, asked.seconds)
        assert await line(listening) == "heard", "in time"
        spent = cpu_s(server.pid) - before
        out, _ = await listening.communicate(b"")
    delays = sorted(json.loads(out))
    return {
        "p50_ms": round(statistics.median(delays), 2),
        "p99_ms": round(delays[int(len(delays) * 0.99)], 2),
        "cpu_s": round(spent, 2),
    }


async def fill(bus: Bus, whose: str, count: int) -> None:
    """Store requests, so that there is something to follow."""
    request = codec.encode(Request(type="image", prompt="bench"))
    for number in range(count):
        who = Identity(AGENT, f"{whose}{number}")
        await bus.publish(subjects.request(Priority.MEDIUM, who), request)
        if number % BURST == 0:
            await bus.flush()
    last = Identity(AGENT, f"{whose}last")
    await bus.store(subjects.request(Priority.LOW, last), request, timeout_s=WAIT_S)


async def place(url: str) -> dict[str, Any]:
    """Ask for places in a long queue, and for a page of it; return milliseconds."""
    took: dict[str, list[float]] = {"position": [], "page": []}
    async with aiohttp.ClientSession() as http:
        for number in range(ASKS):
            for name, path in (
                ("position", f"requests/r{number * (QUEUED // ASKS)}"),
                ("page", "queue?limit=50"),
            ):
                began = time.perf_counter()
                async with http.get(f"{url}/api/multimodal/{path}") as answer:
                    assert answer.ok, await answer.text()
                    await answer.read()
                took[name].append((time.perf_counter() - began) * 1000)
    return {f"{name}_p50_ms": round(statistics.median(ms), 2) for name, ms in took.items()}


async def come_and_go(url: str, server: Process, teller: Teller, seconds: int) -> dict[str, Any]:
    """Let clients come and go while links are told; return what is left of them."""

    async def once(for_s: int) -> int:
        options = ("--whose", "mmg", "--sockets", str(COMING), "--seconds", str(for_s))
        async with started(*PROGRAMS, "churn", url, *options) as churning:
            await teller.tell(20, for_s)
            return int(await line(churning))

    async def rested() -> dict[str, float]:
        async with asyncio.timeout(WAIT_S), aiohttp.ClientSession() as http:
            while True:
                async with http.get(f"{url}/metrics") as answer:
                    text = await answer.text()
                if "\nmmg_sockets 0.0" in text:
                    return size(server.pid)
                await asyncio.sleep(0.2)

    await once(min(WARM_S, seconds))
    before = await rested()
    came = await once(seconds)
    return {"came": came, "before": before, "after": await rested()}


async def bench(asked: argparse.Namespace) -> list[Row]:
    """Measure both servers on one bus, then the clients that come and go, then the long queue."""
    took: dict[tuple[str, str], dict[str, Any]] = {}
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = EmbeddedServer(folder / "nats", 0)
        await server.start()
        stack.push_async_callback(server.stop)
        bus = await stack.enter_async_context(await connect([server.url], "bench"))
        await provision(bus, Plan())
        tellers = {whose: Teller(bus, whose, asked.sockets) for whose in ("bare", "mmg")}
        for whose in tellers:
            await fill(bus, whose, asked.sockets)
        # One server at a time: each hears the whole bus, also what is told for the other.
        async with started(*PROGRAMS, "bare", server.url) as floor:
            url = f"http://127.0.0.1:{await line(floor)}"
            for what in WHAT:
                took[what, "bare"] = await measure(what, url, floor, tellers["bare"], "bare", asked)
        settings = {
            "MMG_NATS_URL": server.url,
            "MMG_HTTP_PORT": str(asked.port),
            "MMG_DATA_DIR": str(folder / "data"),
            "MMG_RATE_LIMITS": "off",
            "MMG_LOG_LEVEL": "error",
            "MMG_LOG_DIR": str(folder / "logs"),
        }
        async with started("-m", "agent", "gateway", **settings) as ours:
            url = f"http://127.0.0.1:{asked.port}"
            await ready(url)
            for what in WHAT:
                took[what, "mmg"] = await measure(what, url, ours, tellers["mmg"], "mmg", asked)
            went = await come_and_go(url, ours, tellers["mmg"], asked.churn)
            await fill(bus, "r", QUEUED)
            await ready(url)
            placed = await place(url)
    return [*_followed(took, asked), *_left(went), *_placed(placed)]


def _followed(
    took: dict[tuple[str, str], dict[str, Any]], asked: argparse.Namespace
) -> Iterator[Row]:
    for what, words in WHAT.items():
        mine, bare = took[what, "mmg"], took[what, "bare"]
        named = f"gateway: {asked.sockets:,} clients, {asked.rate} events a second, {words}"
        yield Row(
            what=f"{named}: CPU",
            figure=mine["cpu_s"],
            unit=f"s in {asked.seconds} s",
            floor=bare["cpu_s"],
            floor_of="bare pass-through",
            target=at_most(0.5) if what == EVERYTHING else None,
            note="" if what == EVERYTHING else "the ledger is folded in the same process",
        )
        for key in ("p50_ms", "p99_ms"):
            yield Row(
                what=f"{named}: {key[:3]}",
                figure=mine[key],
                unit="ms",
                floor=bare[key],
                floor_of="bare pass-through",
            )


def _left(went: dict[str, Any]) -> Iterator[Row]:
    for key, unit in (("open_files", "files"), ("resident_mib", "MiB")):
        yield Row(
            what=f"gateway: left of {went['came']:,} clients, {COMING} at a time",
            figure=went["after"][key] - went["before"][key],
            unit=unit,
            target=at_most(FILES_LEFT, "figure") if key == "open_files" else None,
        )


def _placed(placed: dict[str, Any]) -> Iterator[Row]:
    named = f"gateway: {QUEUED:,} queued"
    yield Row(
        what=f"{named}: place and expected start, p50",
        figure=placed["position_p50_ms"],
        unit="ms",
        target=at_most(10.0, "figure"),
    )
    yield Row(what=f"{named}: a page of 50, p50", figure=placed["page_p50_ms"], unit="ms")


async def ready(url: str) -> None:
    """Wait until a gateway answers."""
    async with asyncio.timeout(WAIT_S), aiohttp.ClientSession() as http:
        while True:
            try:
                async with http.get(f"{url}/readyz") as answer:
                    if answer.ok:
                        return
            except aiohttp.ClientError:
                await asyncio.sleep(0.1)


def main() -> None:
    """Run the bench."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sockets", type=int, default=1000)
    parser.add_argument("--rate", type=int, default=100, help="events a second")
    parser.add_argument("--seconds", type=int, default=10, help="for each of four measurements")
    parser.add_argument("--churn", type=int, default=60, help="seconds that clients come and go")
    parser.add_argument("--port", type=int, default=54119)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there, too")
    asked = parser.parse_args()
    rows = asyncio.run(bench(asked))
    if asked.json is not None:
        write(rows, asked.json)
    show(rows)


if __name__ == "__main__":
    main()
