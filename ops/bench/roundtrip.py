"""What mmg adds to one round trip on a shared card: LLM off, image, LLM back.

Run: python -m ops.bench.roundtrip [--trips 20]. A fake machine has a 13B LLM on its card, beside
which SDXL does not fit. The floor, in turns with ours on the same machine, is a bare client that
does the same by hand: unload, wait until ComfyUI shows the memory, draw, fetch, free, load.
"""

import argparse
import asyncio
import shlex
import statistics
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import nats

from agent.bus.connection import connect
from agent.bus.provision import Plan, provision
from agent.embedded import EmbeddedServer
from ops.bench.engine import Requests, executed, graph, keep, process, says

LLM = "llama2:13b"
NEED_MIB = 12288 + 2048
KEEP_ALIVE_S = 3600
MIB = 1024 * 1024
LOOK_S = 0.005
WAIT_S = 30.0
TIMES = ("--unload-s", "0.2", "--load-s", "0.5", "--step-ms", "10", "--load-ms", "200")


class Machine:
    """The ComfyUI and the Ollama of a fake machine, as a bare client uses them."""

    def __init__(self, http: aiohttp.ClientSession, comfyui: str, ollama: str) -> None:
        """Use the servers at these addresses."""
        self.http = http
        self.comfyui = comfyui
        self.ollama = ollama

    async def listed(self) -> bool:
        """Tell whether the LLM is loaded."""
        async with self.http.get(f"{self.ollama}/api/ps") as answer:
            return any(model["name"] == LLM for model in (await answer.json())["models"])

    async def is_away(self) -> bool:
        """Tell whether the LLM is not loaded."""
        return not await self.listed()

    async def device(self) -> dict[str, Any]:
        """Return ComfyUI's device."""
        async with self.http.get(f"{self.comfyui}/system_stats") as answer:
            found: dict[str, Any] = (await answer.json())["devices"][0]
        return found

    async def has_room(self) -> bool:
        """Tell whether SDXL fits."""
        free: int = (await self.device())["vram_free"]
        return free >= NEED_MIB * MIB

    async def has_freed(self) -> bool:
        """Tell whether ComfyUI holds no model."""
        held: int = (await self.device())["torch_vram_total"]
        return held == 0

    async def post(self, url: str, body: dict[str, Any]) -> None:
        """Post and wait for the whole answer."""
        async with self.http.post(url, json=body) as answer:
            await answer.read()


async def until(look: Callable[[], Awaitable[bool]]) -> None:
    """Wait until something is true."""
    async with asyncio.timeout(WAIT_S):
        while not await look():  # noqa: ASYNC110 - nobody tells when it is
            await asyncio.sleep(LOOK_S)


@asynccontextmanager
async def site(folder: Path) -> AsyncIterator[tuple[Machine, Requests]]:
    """Run a fake machine, a server and a worker."""
    async with AsyncExitStack() as stack:
        server = EmbeddedServer(folder / "nats", 0)
        await server.start()
        stack.push_async_callback(server.stop)
        async with await connect([server.url], "provision") as bus:
            await provision(bus, Plan())
        machine = ("-m", "tests.doubles.machine", "--llm", LLM, "--keep-alive-s", "3600", *TIMES)
        words = await stack.enter_async_context(process(folder, *machine))
        await says(words, "MMG_OPENAI_URL")
        lines = words.read_text(encoding="utf-8").splitlines()
        exported = (shlex.split(line)[1].partition("=") for line in lines)
        settings = {name: value for name, _, value in exported}
        ours = {"MMG_NATS_URL": server.url, "MMG_WORKER_HTTP_PORT": "0"}
        command = ("-m", "agent", "worker")
        words = await stack.enter_async_context(process(folder, *command, **(settings | ours)))
        await says(words, "worker.ready")
        nc = await nats.connect(server.url)
        stack.push_async_callback(nc.close)
        requests = Requests(nc)
        await requests.listen()
        http = await stack.enter_async_context(aiohttp.ClientSession())
        yield Machine(http, settings["MMG_COMFYUI_URL"], settings["MMG_OLLAMA_URL"]), requests


async def by_hand(machine: Machine, number: int, folder: Path) -> float:
    """Make the round trip as a bare client; return its milliseconds."""
    began = time.perf_counter()
    model = {"model": LLM, "stream": False}
    await machine.post(f"{machine.ollama}/api/generate", model | {"keep_alive": 0})
    await until(machine.is_away)
    await until(machine.has_room)
    client = uuid.uuid4().hex
    url = f"{machine.comfyui}/ws?clientId={client}"
    async with machine.http.ws_connect(url, max_msg_size=0) as ws:
        body = {"prompt": graph(30_000 + number, f"trip/{number}"), "client_id": client}
        async with machine.http.post(f"{machine.comfyui}/prompt", json=body) as answer:
            prompt_id = (await answer.json())["prompt_id"]
        file = await executed(ws, prompt_id)
    async with machine.http.get(f"{machine.comfyui}/view", params=file) as answer:
        picture = await answer.read()
    await asyncio.to_thread(keep, folder / f"trip-{number}.png", picture)
    await machine.post(f"{machine.comfyui}/free", {"unload_models": True, "free_memory": True})
    await until(machine.has_freed)
    await machine.post(f"{machine.ollama}/api/generate", model | {"keep_alive": KEEP_ALIVE_S})
    await until(machine.listed)
    return (time.perf_counter() - began) * 1000


async def by_mmg(machine: Machine, number: int, requests: Requests) -> float:
    """Make the round trip by a request; return the milliseconds until the LLM is back."""
    began = time.perf_counter()
    ended = await requests.publish(f"trip{number}")
    await until(machine.is_away)
    await ended
    await until(machine.listed)
    return (time.perf_counter() - began) * 1000


async def measure(trips: int) -> None:
    """Go both ways in turns and compare."""
    ours, floor = [], []
    with tempfile.TemporaryDirectory() as name:
        async with site(Path(name)) as (machine, requests):
            await by_mmg(machine, trips, requests)
            for number in range(trips):
                floor.append(await by_hand(machine, number, Path(name)))
                ours.append(await by_mmg(machine, number, requests))
    for who, took in (("by hand", floor), ("mmg, publish to LLM back", ours)):
        print(f"{who:<26} p50 {statistics.median(took):7.1f} ms   worst {max(took):7.1f} ms")
    added = statistics.median(ours) - statistics.median(floor)
    print(f"added by mmg at p50: {added:.1f} ms, target: at most 150 ms")


def main() -> None:
    """Read the arguments and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trips", type=int, default=20, help="round trips each (%(default)s)")
    arguments = parser.parse_args()
    asyncio.run(measure(arguments.trips))


if __name__ == "__main__":
    main()
