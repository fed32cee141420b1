"""What mmg adds to one picture, and how busy it keeps the engine.

Run: python -m ops.bench.engine [--json PATH]. The floor of the same run is a bare aiohttp client
that does the same job on the same ComfyUI double: WebSocket, POST, wait, /view, write, fsync.
"""

import asyncio
import json
import os
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import nats
from nats.aio.msg import Msg

from agent.assets import AssetStore
from agent.bus.connection import connect
from agent.bus.provision import Plan, provision
from agent.clock import SystemClock
from agent.core.picture import Picture
from agent.embedded import EmbeddedServer
from contracts import subjects
from contracts.requests import Priority
from contracts.subjects import Identity
from ops.bench.rows import Row, at_least, at_most, p50, p95, report

ROOT = Path(__file__).parents[2]
SIZE = 1024
JOBS = 80
QUEUED = 50
WAIT_S = 60.0


@asynccontextmanager
async def process(folder: Path, *command: str, **settings: str) -> AsyncIterator[Path]:
    """Run a Python process; yields the file with its words."""
    words = folder / f"{command[1].replace('.', '-')}-{command[-1].replace('/', '-')}.txt"
    with words.open("wb") as out:
        child = await asyncio.create_subprocess_exec(
            sys.executable,
            *command,
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(ROOT)} | settings,
            stdout=out,
            stderr=out,
        )
    try:
        yield words
    finally:
        child.terminate()
        await child.wait()


async def answers(url: str) -> None:
    """Wait until a web server answers."""
    async with asyncio.timeout(WAIT_S), aiohttp.ClientSession() as session:
        while True:
            try:
                async with session.get(f"{url}/system_stats"):
                    return
            except aiohttp.ClientError:
                await asyncio.sleep(0.05)


async def says(words: Path, text: str) -> None:
    """Wait until a process has said something."""
    async with asyncio.timeout(WAIT_S):
        while text not in words.read_text(errors="replace"):  # noqa: ASYNC110, ASYNC240 - a bench
            await asyncio.sleep(0.05)


def graph(seed: int, prefix: str) -> dict[str, Any]:
    """Return the graph that mmg sends for a standard picture, with one sampler step."""
    text = (ROOT / "workflows" / "sdxl-text2img.json").read_text(encoding="utf-8")
    filled: dict[str, Any] = json.loads(text)
    for node in filled.values():
        if node["class_type"] == "KSampler":
            node["inputs"] |= {"seed": seed, "steps": 1}
        if node["class_type"] == "EmptyLatentImage":
            node["inputs"] |= {"width": SIZE, "height": SIZE, "batch_size": 1}
        if node["class_type"] == "SaveImage":
            node["inputs"] |= {"filename_prefix": prefix}
    return filled


async def bare(url: str, jobs: int, folder: Path) -> list[float]:
    """Do the jobs as a minimal client would; returns milliseconds each."""
    took = []
    client = uuid.uuid4().hex
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(f"{url}/ws?clientId={client}", max_msg_size=0) as ws,
    ):
        for number in range(jobs):
            began = time.perf_counter()
            body = {"prompt": graph(10_000 + number, f"bare/{number}"), "client_id": client}
            async with session.post(f"{url}/prompt", json=body) as answer:
                prompt_id = (await answer.json())["prompt_id"]
            file = await executed(ws, prompt_id)
            async with session.get(f"{url}/view", params=file) as answer:
                picture = await answer.read()
            await asyncio.to_thread(keep, folder / f"bare-{number}.png", picture)
            took.append((time.perf_counter() - began) * 1000)
    return took


async def executed(ws: aiohttp.ClientWebSocketResponse, prompt_id: str) -> dict[str, str]:
    """Wait for the end of a prompt; return the file that it made."""
    file: dict[str, str] = {}
    async for message in ws:
        if message.type != aiohttp.WSMsgType.TEXT:
            continue
        event = json.loads(message.data)
        payload = event["data"]
        if payload.get("prompt_id") != prompt_id:
            continue
        if event["type"] == "executed":
            file = payload["output"]["images"][0]
        if event["type"] == "execution_success":
            return file
    raise RuntimeError("the socket fell")


def keep(path: Path, data: bytes) -> None:
    """Write a file so that it is on the disk."""
    with path.open("wb") as out:
        out.write(data)
        out.flush()
        os.fsync(out.fileno())


class Requests:
    """A requester on the bus that notes when each of its requests has ended."""

    def __init__(self, nc: Any) -> None:
        """Use with `listen`."""
        self._nc = nc
        self._ended: dict[str, asyncio.Future[float]] = {}

    async def listen(self) -> None:
        """Hear every end."""

        async def hear(msg: Msg) -> None:
            kind = msg.subject.rsplit(".", 1)[1]
            if kind in ("completed", "failed"):
                assert kind == "completed", msg.data
                self._ended[msg.subject.split(".")[3]].set_result(time.perf_counter())

        await self._nc.subscribe(subjects.event_filter(Identity("bench", "*")), cb=hear)

    async def publish(self, name: str) -> asyncio.Future[float]:
        """Publish a request; the future is the time of its end."""
        future = self._ended[name] = asyncio.get_running_loop().create_future()
        options = {"steps": 1, "width": SIZE, "height": SIZE}
        body = {"type": "image", "prompt": "bench", "options": options}
        await self._nc.request(
            subjects.request(Priority.HIGH, Identity("bench", name)), json.dumps(body).encode()
        )
        return future


@asynccontextmanager
async def site(folder: Path, steps_ms: int, port: int) -> AsyncIterator[tuple[str, Requests]]:
    """Run server, double and worker; yields the double's address and a requester."""
    async with AsyncExitStack() as stack:
        server = EmbeddedServer(folder / "nats", 0)
        await server.start()
        stack.push_async_callback(server.stop)
        async with await connect([server.url], "provision") as bus:
            await provision(bus, Plan())
        url = f"http://127.0.0.1:{port}"
        double = ("-m", "tests.doubles.comfyui", "--port", str(port), "--steps-ms", str(steps_ms))
        quick = ("--load-ms", "0", "--encode-ms", "0", "--decode-ms", "0")
        await stack.enter_async_context(process(folder, *double, *quick))
        await answers(url)
        words = await stack.enter_async_context(
            process(
                folder,
                "-m",
                "agent",
                "worker",
                MMG_NATS_URL=server.url,
                MMG_COMFYUI_URL=url,
                MMG_WORKER_HTTP_PORT="0",
            )
        )
        await says(words, "worker.ready")
        nc = await nats.connect(server.url)
        stack.push_async_callback(nc.close)
        requests = Requests(nc)
        await requests.listen()
        yield url, requests


async def overhead(jobs: int) -> list[Row]:
    """Compare one job at a time: mmg, and the bare client, in turns."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        async with site(folder, 20, 8391) as (url, requests):
            await bare(url, 3, folder)
            ours, floor = [], []
            for number in range(jobs):
                began = time.perf_counter()
                ended = await (await requests.publish(f"job{number}"))
                ours.append((ended - began) * 1000)
                floor += await bare(url, 1, folder)
    what = "a picture of the ComfyUI double, publish to completed"
    rows = [
        Row(
            what=f"{what}, {word}",
            figure=middle(ours),
            unit="ms",
            floor=middle(floor),
            floor_of="bare client",
        )
        for word, middle in (("p50", p50), ("p95", p95))
    ]
    added = Row(
        what="added by mmg to such a picture, p50",
        figure=p50(ours) - p50(floor),
        unit="ms",
        target=at_most(6.0, "figure"),
    )
    return [*rows, added]


async def full(url: str, jobs: int) -> float:
    """Queue all jobs in the double itself: it never waits. Returns seconds, first end to last."""
    client = uuid.uuid4().hex
    ends = []
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(f"{url}/ws?clientId={client}", max_msg_size=0) as ws,
    ):
        for number in range(jobs):
            body = {"prompt": graph(20_000 + number, f"full/{number}"), "client_id": client}
            async with session.post(f"{url}/prompt", json=body) as answer:
                await answer.read()
        async for message in ws:
            if message.type == aiohttp.WSMsgType.TEXT and "execution_success" in message.data:
                ends.append(time.perf_counter())
                if len(ends) == jobs:
                    return ends[-1] - ends[0]
    raise RuntimeError("the socket fell")


async def busy(jobs: int, thumbnails: int) -> list[Row]:
    """Queue many jobs of 200 ms and see how much of the time the double draws.

    The floor is the same number of jobs queued in the double itself, in the same run.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        async with site(folder, 200, 8392) as (url, requests):
            floor_s = await full(url, jobs)
            futures = [await requests.publish(f"job{number}") for number in range(jobs)]
            await futures[0]
            if thumbnails:
                await more_thumbnails(folder, thumbnails)
            ends = [await future for future in futures]
    beside = f", {thumbnails} further thumbnails made beside" if thumbnails else ""
    return [
        Row(
            what=f"executor busy, {jobs} waiting, 200 ms each{beside}",
            figure=100 * floor_s / (ends[-1] - ends[0]),
            unit="%",
            floor=100.0,
            floor_of="queued in the double",
            target=at_least(97.0, "figure"),
        )
    ]


async def more_thumbnails(folder: Path, count: int) -> None:
    """Make thumbnails of further pictures, as a gateway on the same host does."""
    store = AssetStore(folder / "further", "http://127.0.0.1:1")
    source = next((folder / "generated-assets").rglob("*.png"))
    data = await asyncio.to_thread(source.read_bytes)
    picture = Picture(data=data, width=SIZE, height=SIZE, format="png")
    who = Identity("bench", "further")
    stored_at = SystemClock().now()
    outputs = await store.store(who, 1, stored_at, [picture] * count, {})
    await store.thumbnails(outputs)


async def measure() -> list[Row]:
    """Measure what is added, then how busy the double is."""
    return [*await overhead(JOBS), *await busy(QUEUED, 0), *await busy(QUEUED, 10)]


if __name__ == "__main__":
    report(__doc__, measure)
