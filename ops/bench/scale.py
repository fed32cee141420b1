"""What a site of N workers draws: throughput, who drew how much, CPU, messages of the bus.

Run: python -m ops.bench.scale [--workers 1,2,4,8]. For each N a new cluster of nats-servers on
loopback, N workers as processes of their own, and a backlog of requests whose drawing sleeps. It
fails if a request has no end, or more than one. Linux only (/proc).

Engine `sleep` is a worker with an engine that sleeps; `machine` gives each worker a fake machine
of its own: a simulated card of 24 GiB with ComfyUI and Ollama on it, 20 steps that sleep.
"""

import argparse
import asyncio
import json
import os
import shlex
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import nats
from nats.aio.msg import Msg

from agent.bus.connection import BusError, connect
from agent.bus.provision import Plan, provision
from contracts import subjects
from contracts.requests import Priority
from contracts.subjects import Identity
from ops.bench.idle import cpu_s
from tests.chaos.servers import Cluster

ROOT = Path(__file__).parents[2]
READY_S = 90.0
STEPS = 20
AGENTS = ("L2-01", "L2-02", "L2-03", "L2-04")
TERMINAL = ("completed", "failed", "expired", "cancelled")


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """What one N came to. Units: seconds, images a second, CPU in cores, messages an image."""

    workers: int
    images: int
    seconds: float
    per_s: float
    ratio: float
    ideal: float
    ended_once: bool
    fewest: int
    most: int
    cpu_worker: float
    cpu_servers: float
    cpu_doubles: float
    in_msgs: float
    out_msgs: float


@asynccontextmanager
async def process(folder: Path, *command: str, **settings: str) -> AsyncIterator[tuple[int, Path]]:
    """Run a Python process; yields its pid and the file with its words."""
    words = folder / "words.txt"
    await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
    with words.open("wb") as out:
        child = await asyncio.create_subprocess_exec(
            sys.executable,
            *command,
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(folder)} | settings,
            stdout=out,
            stderr=out,
        )
    try:
        yield child.pid, words
    finally:
        child.terminate()
        await child.wait()


async def says(words: Path, text: str) -> str:
    """Wait until a process has said something; return all that it said."""
    async with asyncio.timeout(READY_S):
        while text not in words.read_text(errors="replace"):  # noqa: ASYNC110, ASYNC240 - a bench
            await asyncio.sleep(0.05)
    return await asyncio.to_thread(words.read_text, errors="replace")


@asynccontextmanager
async def cluster(folder: Path, size: int) -> AsyncIterator[tuple[Cluster, list[str]]]:
    """Run provisioned servers; yields them and their addresses."""
    servers = Cluster(folder, size)
    await servers.start()
    urls = [f"nats://127.0.0.1:{port}" for port in servers.ports]
    try:
        async with asyncio.timeout(READY_S):
            while True:  # A cluster elects first.
                try:
                    async with await connect(urls, "provision", patience_s=READY_S) as bus:
                        await provision(bus, Plan(replicas=size))
                    break
                except BusError:
                    await asyncio.sleep(0.2)
        yield servers, urls
    finally:
        await servers.stop()


async def counters(servers: Cluster) -> Counter[str]:
    """Return how many messages clients have sent to the servers and got from them so far."""
    sums: Counter[str] = Counter()
    async with aiohttp.ClientSession() as session:
        for port in servers.monitors:
            async with session.get(f"http://127.0.0.1:{port}/connz?limit=10000") as answer:
                for one in (await answer.json())["connections"]:
                    sums["in"] += one["in_msgs"]
                    sums["out"] += one["out_msgs"]
    return sums


async def worker(
    stack: AsyncExitStack, folder: Path, options: argparse.Namespace, settings: dict[str, str]
) -> tuple[int, tuple[int, ...]]:
    """Start one worker and what it draws on; return its pid, and those of the doubles."""
    doubles: tuple[int, ...] = ()
    if options.engine == "sleep":
        module = "tests.doubles.sleeping_worker"
        settings |= {"SLEEP_S": str(options.seconds), "MMG_SLOTS": "cpu:1", "MMG_SKETCH": "only"}
    else:
        step_ms = str(options.seconds * 1000 / STEPS)
        quick = ("--step-ms", step_ms, "--load-ms", "0", "--decode-ms", "0")
        pid, words = await stack.enter_async_context(
            process(folder / "machine", "-m", "tests.doubles.machine", *quick)
        )
        for line in (await says(words, "MMG_OPENAI_URL")).splitlines():
            name, _, value = line.removeprefix("export ").partition("=")
            settings[name] = shlex.split(value)[0]
        module = "agent"
        doubles = (pid,)
        settings |= {"MMG_CLOUD": "off", "MMG_SKETCH": "off"}
    pid, words = await stack.enter_async_context(
        process(folder, "-m", module, "worker", **settings)
    )
    await says(words, "worker.ready")
    return pid, doubles


class Ends:
    """Hears how every request ends, and who drew it."""

    def __init__(self) -> None:
        """Nothing was heard yet."""
        self.ends: Counter[str] = Counter()
        self.drew: Counter[str] = Counter()
        self.waits_s: list[float] = []
        self.last_s = 0.0

    async def hear(self, msg: Msg) -> None:
        """Take in one link."""
        _, _, agent, request_id, kind = msg.subject.split(".")
        if kind == "started":
            link = json.loads(msg.data)
            self.drew[link["worker"]] += 1
            self.waits_s.append(link["queue_time_seconds"])
        if kind in TERMINAL:
            assert kind == "completed", msg.data
            self.ends[f"{agent}.{request_id}"] += 1
            self.last_s = time.perf_counter()


async def stored_ends(nc: Any) -> Counter[str]:
    """Count the good ends of every request in the stream itself; a bad one has failed before."""
    query = json.dumps({"subjects_filter": subjects.ENDS[0]}).encode()
    answer = await nc.request(f"$JS.API.STREAM.INFO.{subjects.STREAM_EVENTS}", query, timeout=10)
    found = json.loads(answer.data)["state"].get("subjects") or {}
    return Counter({".".join(name.split(".")[2:4]): count for name, count in found.items()})


async def publish(nc: Any, images: int, first: int = 0) -> None:
    """Store the backlog: four agents in turn, one request in ten HIGH, the others MEDIUM."""
    options = {"width": 256, "height": 256, "quality": "standard", "steps": STEPS}
    body = json.dumps({"type": "image", "prompt": "scale", "options": options}).encode()
    for number in range(first, first + images):
        who = Identity(AGENTS[number % len(AGENTS)], f"r{number}")
        lane = Priority.HIGH if number % 10 == 0 else Priority.MEDIUM
        await nc.request(subjects.request(lane, who), body, timeout=10)


async def one_size(workers: int, options: argparse.Namespace, alone: float | None) -> Row:
    """Draw a backlog with N workers; `alone` is what one of them draws a second."""
    images = workers * options.images
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mmg-scale-")))
        servers, urls = await stack.enter_async_context(cluster(folder / "nats", options.servers))
        pids: list[int] = []
        doubles: list[int] = []
        for number in range(workers):
            settings = {"MMG_NATS_URL": ",".join(urls), "MMG_WORKER_NAME": f"w{number}"}
            settings |= {"MMG_WORKER_HTTP_PORT": "0", "MMG_LOG_FORMAT": "json"}
            pid, beside = await worker(stack, folder / f"w{number}", options, settings)
            pids.append(pid)
            doubles += beside
        nc = await nats.connect(urls)
        stack.push_async_callback(nc.close)
        ends = Ends()
        await nc.subscribe(subjects.EVENTS_ALL, cb=ends.hear)
        await nc.flush()
        bus_pids = servers.pids
        before = {pid: cpu_s(pid) for pid in (*pids, *doubles, *bus_pids)}
        traffic, began = await counters(servers), time.perf_counter()
        await publish(nc, images)
        async with asyncio.timeout(60 + 4 * options.images * options.seconds):
            while len(ends.ends) < images:  # noqa: ASYNC110 - a bench
                await asyncio.sleep(0.05)
        seconds = ends.last_s - began
        used = {pid: (cpu_s(pid) - spent) / seconds for pid, spent in before.items()}
        more = await counters(servers)
        stored = await stored_ends(nc)
    per_s = images / seconds
    shares = [ends.drew[f"w{number}"] for number in range(workers)]
    return Row(
        workers=workers,
        images=images,
        seconds=seconds,
        per_s=per_s,
        ratio=per_s / (per_s if alone is None else alone),
        ideal=per_s * options.seconds / workers,
        ended_once=stored == ends.ends and set(stored.values()) == {1} and len(stored) == images,
        fewest=min(shares),
        most=max(shares),
        cpu_worker=statistics.mean(used[pid] for pid in pids),
        cpu_servers=sum(used[pid] for pid in bus_pids),
        cpu_doubles=sum(used[pid] for pid in doubles),
        in_msgs=(more["in"] - traffic["in"]) / images,
        out_msgs=(more["out"] - traffic["out"]) / images,
    )


HEAD = (
    f"{'workers':>8}{'images':>8}{'seconds':>9}{'images/s':>10}{'to one':>8}{'of ideal':>10}"
    f"{'each drew':>12}{'CPU worker':>12}{'servers':>9}{'doubles':>9}{'msgs in':>9}{'out':>7}"
    f"  one end each"
)


def line(row: Row) -> str:
    """Return a row for people; CPU in per cent of one core, messages for each image."""
    drew = f"{row.fewest} to {row.most}"
    return (
        f"{row.workers:>8}{row.images:>8}{row.seconds:>9.1f}{row.per_s:>10.2f}{row.ratio:>7.2f}x"
        f"{row.ideal:>10.1%}{drew:>12}{row.cpu_worker:>12.1%}{row.cpu_servers:>9.1%}"
        f"{row.cpu_doubles:>9.1%}{row.in_msgs:>9.1f}{row.out_msgs:>7.1f}"
        f"  {'yes' if row.ended_once else 'NO'}"
    )


async def measure(options: argparse.Namespace) -> list[Row]:
    """Measure every size, and print each as it is there."""
    rows: list[Row] = []
    print(HEAD)
    for workers in options.workers:
        alone = rows[0].per_s / rows[0].workers if rows else None
        rows.append(await one_size(workers, options, alone))
        print(line(rows[-1]), flush=True)
    return rows


def main() -> int:
    """Read the arguments and measure; return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    sizes = [1, 2, 4, 8]
    add(
        "--workers",
        type=lambda text: [int(one) for one in text.split(",")],
        default=sizes,
        help="sizes with commas; the first is what the others are compared with (1,2,4,8)",
    )
    add("--images", type=int, default=30, help="requests for each worker (%(default)s)")
    add("--seconds", type=float, default=1.0, help="what drawing one takes (%(default)s)")
    add("--engine", choices=("sleep", "machine"), default="sleep", help="(%(default)s)")
    add("--servers", type=int, choices=(1, 3), default=3, help="nats-servers (%(default)s)")
    add("--json", type=Path, metavar="FILE", help="write the rows there too, `-` for stdout")
    options = parser.parse_args()
    rows = asyncio.run(measure(options))
    if options.json is not None:
        text = msgspec.json.format(msgspec.json.encode(rows)).decode()
        if str(options.json) == "-":
            print(text)
        else:
            options.json.write_text(text + "\n", encoding="utf-8")
    return 0 if all(row.ended_once for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
