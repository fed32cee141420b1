"""What the gateway costs beside a bare pass-through, and how fast it places ten thousand requests.

Run: python -m ops.bench.gateway [--sockets 1000] [--rate 100] [--seconds 20]. Each server is a
process of its own, and so are the clients. The floor, in the same run, is a bare aiohttp server
that hands the same bytes from the same bus to the same sockets and knows nothing else.
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
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import aiohttp
import nats
from aiohttp import web
from nats.aio.msg import Msg

from agent.bus.connection import Bus, connect
from agent.bus.provision import Plan, provision
from agent.embedded import EmbeddedServer
from contracts import codec, subjects
from contracts.events import Started
from contracts.requests import Priority, Request
from contracts.subjects import Identity

AGENT = "user"
QUEUED = 10_000
ASKS = 50
BURST = 500
SETTLE_S = 5.0
"""Whoever joins reads its chain first, and once more: that is not what is measured here."""
WAIT_S = 60.0
HERE = ("-m", "ops.bench.gateway")
TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


async def bare(nats_url: str) -> None:
    """Hand each event to the sockets of its request, until killed. Prints the port."""
    sockets: dict[str, set[web.WebSocketResponse]] = {}

    async def hear(msg: Msg) -> None:
        for socket in sockets.get(msg.subject.split(".")[3], ()):
            await socket.send_str(msg.data.decode())

    async def serve(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        mine = sockets.setdefault(request.match_info["id"], set())
        mine.add(socket)
        async for _ in socket:
            pass
        mine.discard(socket)
        return socket

    nc = await nats.connect(nats_url)
    await nc.subscribe(subjects.EVENTS_ALL, cb=hear)
    app = web.Application()
    app.add_routes([web.get("/ws/multimodal/{id}", serve)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()


async def clients(url: str, whose: str, count: int) -> None:
    """Follow `count` requests; prints `open`, and the delays in ms once stdin is closed."""
    delays: list[float] = []
    opened = 0

    async def follow(http: aiohttp.ClientSession, number: int) -> None:
        nonlocal opened
        async with http.ws_connect(f"{url}/ws/multimodal/{whose}{number}") as socket:
            opened += 1
            async for message in socket:
                now = time.monotonic_ns()
                sent = json.loads(message.data).get("message", "")
                if sent.isdigit():
                    delays.append((now - int(sent)) / 1e6)

    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as http, asyncio.TaskGroup() as group:
        tasks = [group.create_task(follow(http, number)) for number in range(count)]
        while opened < count:  # noqa: ASYNC110 - a bench
            await asyncio.sleep(0.05)
        print("open", flush=True)
        await asyncio.to_thread(sys.stdin.read)
        for task in tasks:
            task.cancel()
    print(json.dumps(delays), flush=True)


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


async def tell(bus: Bus, whose: str, asked: argparse.Namespace) -> None:
    """Store links at the rate asked for, each with the time at which it was sent."""
    loop = asyncio.get_running_loop()
    began, links = loop.time(), dict.fromkeys(range(asked.sockets), 0)
    for count in range(asked.rate * asked.seconds):
        number = count % asked.sockets
        links[number] += 1
        who = Identity(AGENT, f"{whose}{number}")
        link = Started(
            id=str(uuid4()),
            n=links[number],
            request_id=who.request_id,
            requester=AGENT,
            message=str(time.monotonic_ns()),
            progress_percent=0,
            at=datetime.fromtimestamp(0, UTC),
            attempt=links[number],
            request_seq=number + 1,
            engine="sketch",
            model="sketch",
            reason="bench",
            worker="bench",
            server=None,
            queue_time_seconds=0.0,
        )
        await bus.publish(subjects.chain(who, "started"), codec.encode(link))
        await asyncio.sleep(max(0.0, began + (count + 1) / asked.rate - loop.time()))


async def measure(
    url: str, whose: str, server: Process, bus: Bus, asked: argparse.Namespace
) -> dict[str, Any]:
    """Let the clients follow while links are told; return delays and CPU of the server."""
    command = (*HERE, "--clients", url, "--whose", whose, "--sockets", str(asked.sockets))
    async with started(*command) as following:
        assert await line(following) == "open"
        await asyncio.sleep(SETTLE_S)
        before = cpu_s(server.pid)
        await tell(bus, whose, asked)
        await asyncio.sleep(1.0)
        spent = cpu_s(server.pid) - before
        out, _ = await following.communicate(b"")
    delays = sorted(json.loads(out))
    return {
        "heard": len(delays),
        "p50_ms": round(statistics.median(delays), 2),
        "p99_ms": round(delays[int(len(delays) * 0.99)], 2),
        "cpu_percent": round(100 * spent / (asked.seconds + 1), 1),
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


async def bench(asked: argparse.Namespace) -> None:
    """Measure both servers on one bus, then the long queue."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = EmbeddedServer(folder / "nats", 0)
        await server.start()
        stack.push_async_callback(server.stop)
        bus = await stack.enter_async_context(await connect([server.url], "bench"))
        await provision(bus, Plan())
        for whose in ("bare", "mmg"):
            await fill(bus, whose, asked.sockets)
        floor = await stack.enter_async_context(started(*HERE, "--bare", server.url))
        floor_url = f"http://127.0.0.1:{await line(floor)}"
        settings = {
            "MMG_NATS_URL": server.url,
            "MMG_HTTP_PORT": str(asked.port),
            "MMG_DATA_DIR": str(folder / "data"),
            "MMG_RATE_LIMITS": "off",
            "MMG_LOG_LEVEL": "error",
            "MMG_LOG_DIR": str(folder / "logs"),
        }
        ours = await stack.enter_async_context(started("-m", "agent", "gateway", **settings))
        url = f"http://127.0.0.1:{asked.port}"
        await ready(url)
        for name, address, process in (("bare", floor_url, floor), ("mmg", url, ours)):
            print(name, await measure(address, name, process, bus, asked), flush=True)
        await fill(bus, "r", QUEUED)
        await ready(url)
        print("queue of", QUEUED, await place(url), flush=True)


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
    """Run the part that the arguments name; without one, the bench."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sockets", type=int, default=1000)
    parser.add_argument("--rate", type=int, default=100)
    parser.add_argument("--seconds", type=int, default=20)
    parser.add_argument("--port", type=int, default=54119)
    parser.add_argument("--bare", metavar="NATS_URL", help=argparse.SUPPRESS)
    parser.add_argument("--clients", metavar="URL", help=argparse.SUPPRESS)
    parser.add_argument("--whose", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.bare is not None:
        asyncio.run(bare(asked.bare))
    elif asked.clients is not None:
        asyncio.run(clients(asked.clients, asked.whose, asked.sockets))
    else:
        asyncio.run(bench(asked))


if __name__ == "__main__":
    main()
