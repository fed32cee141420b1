"""Whether a worker grows: open files, tasks and memory between two points of a long run.

Run: python -m ops.bench.growth [--jobs 2000] [--from 500]. One worker on the ComfyUI double, small
pictures. Beside it: what is left of ours in the double's history, queue and output folder.
Linux only (/proc).
"""

import argparse
import asyncio
import json
import os
import tempfile
import time
from pathlib import Path

import aiohttp
import nats
from nats.aio.msg import Msg

from agent.app import machine
from agent.config import load
from agent.logs import configure
from contracts import subjects
from contracts.requests import Priority
from contracts.subjects import Identity
from ops.bench.engine import answers, process

PORT = 8393
IN_FLIGHT = 4


def reading() -> dict[str, float]:
    """Return what this process holds now."""
    fields = Path("/proc/self/statm").read_text(encoding="ascii").split()
    return {
        "open files": len(os.listdir("/proc/self/fd")),  # noqa: PTH208 - as the kernel lists it
        "tasks": len(asyncio.all_tasks()),
        "memory MB": int(fields[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6,
    }


async def left(url: str, output: Path) -> dict[str, int]:
    """Return what the double still has of ours."""
    async with aiohttp.ClientSession() as session:
        async with session.get(f"{url}/history") as answer:
            history = len(await answer.json())
        async with session.get(f"{url}/queue") as answer:
            queue = sum(len(items) for items in (await answer.json()).values())
    files = [path for path in (output / "mmg").rglob("*") if path.is_file()]
    return {"history": history, "queue": queue, "output files": len(files)}


async def run(url: str, folder: Path, jobs: int, begin: int) -> None:
    """Carry all jobs through one worker in this process and compare two readings."""
    output = folder / "comfy" / "output"
    settings = {
        "MMG_NATS_PORT": "0",
        "MMG_HTTP_PORT": "0",
        "MMG_WORKER_HTTP_PORT": "0",
        "MMG_COMFYUI_URL": url,
        "MMG_COMFYUI_OUTPUT_DIR": str(output),
    }
    configure("json", "error", None, "bench")
    async with machine(load(settings, folder)) as running, asyncio.TaskGroup() as group:
        group.create_task(running.dispatch.run())
        nc = await nats.connect(running.nats_url)
        gate = asyncio.Semaphore(IN_FLIGHT)
        done = 0
        readings: list[dict[str, float]] = []

        async def hear(msg: Msg) -> None:
            nonlocal done
            if msg.subject.endswith((".completed", ".failed")):
                done += 1
                gate.release()
                if done in (begin, jobs):
                    readings.append(reading())

        await nc.subscribe(subjects.event_filter(Identity("bench", "*")), cb=hear)
        body = {"type": "image", "prompt": "x", "options": {"steps": 1, "width": 256}}
        body["options"] |= {"height": 256}  # type: ignore[operator]
        data = json.dumps(body).encode()
        began = time.monotonic()
        for number in range(jobs):
            await gate.acquire()
            await nc.request(
                subjects.request(Priority.LOW, Identity("bench", f"job{number}")), data, timeout=10
            )
        for _ in range(IN_FLIGHT):
            await gate.acquire()
        print(f"{jobs} jobs in {time.monotonic() - began:.0f} s")
        running.dispatch.stop()
        await nc.close()
    print(f"{'':<12}{f'job {begin}':>12}{f'job {jobs}':>12}")
    for name in readings[0]:
        print(f"{name:<12}{readings[0][name]:>12.1f}{readings[1][name]:>12.1f}")
    for name, count in (await left(url, output)).items():
        print(f"left in the double's {name}: {count}")


async def measure(jobs: int, begin: int) -> None:
    """Start the double and run."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        quick = ("--load-ms", "0", "--encode-ms", "0", "--decode-ms", "0", "--steps-ms", "1")
        place = ("--port", str(PORT), "--output-dir", str(folder / "comfy"))
        async with process(folder, "-m", "tests.doubles.comfyui", *place, *quick):
            url = f"http://127.0.0.1:{PORT}"
            await answers(url)
            await run(url, folder, jobs, begin)


def main() -> None:
    """Read the arguments and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=2000, help="jobs in all (2000)")
    parser.add_argument("--from", dest="begin", type=int, default=500, help="first reading (500)")
    arguments = parser.parse_args()
    asyncio.run(measure(arguments.jobs, arguments.begin))


if __name__ == "__main__":
    main()
