"""What tests on a whole fake machine share: a worker process on it, and what it said and did.

It must not check anything itself.
"""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.doubles.comfyui.settings import SD15, SDXL
from tests.doubles.machine import Machine
from tests.rig import Agent, Process, environment, until

SMALL = {"width": 256, "height": 256, "steps": 4}
"""A small picture of quality standard: SDXL, unless options say otherwise."""
READY = "worker.ready"
NAMES = {SDXL: "sdxl-1.0", SD15: "sd-1.5"}


class Worker(Process):
    """A worker process; `log` reads what it said."""

    def log(self, *events: str) -> list[dict[str, Any]]:
        """Return the lines of these events, in order."""
        lines = (line for line in self.words.splitlines() if line.startswith("{"))
        return [line for line in map(json.loads, lines) if line.get("event") in events]

    async def logs(self, event: str, count: int = 1, timeout_s: float = 20.0) -> dict[str, Any]:
        """Wait for the line of an event that comes `count`-th; return it."""
        try:
            await until(lambda: len(self.log(event)) >= count, event, timeout_s)
        except AssertionError as error:
            raise AssertionError(f"{error}; it said:\n{self.words}") from error
        return self.log(event)[count - 1]


@asynccontextmanager
async def worker_on(
    machine: Machine,
    url: str,
    folder: Path,
    *,
    hurry: float = 1.0,
    name: str = "w1",
    **settings: str,
) -> AsyncIterator[Worker]:
    """Run a worker on the machine; ready when the block begins, killed at its end."""
    folder.mkdir(parents=True, exist_ok=True)
    words = folder / f"words-{name}-{len(list(folder.iterdir()))}.txt"
    wanted = {"MMG_NATS_URL": url, "MMG_WORKER_NAME": f"{name}-{folder.name}"[-60:]}
    wanted |= machine.environment() | {"HURRY": str(hurry)} | settings
    with words.open("wb") as out:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.hurried_worker", "worker"),
            cwd=folder,
            env=environment(**wanted),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=out,
            stderr=out,
        )
    worker = Worker(process, words)
    try:
        await until(lambda: process.returncode is not None or READY in worker.words, READY)
        if process.returncode is not None:
            raise AssertionError(f"it ended; it said:\n{worker.words}")
        yield worker
    finally:
        if process.returncode is None:
            await worker.kill()


class Requests:
    """Publishes requests for small pictures and waits for their ends."""

    def __init__(self, agent: Agent) -> None:
        self.agent = agent

    async def ask(
        self, name: str, *, lane: str = "medium", who: str = "L2-01", **fields: Any
    ) -> None:
        """Publish one; `fields` are those of the request, or of its options."""
        top = {k: fields.pop(k) for k in ("local_only", "dry_run", "deadline_s") if k in fields}
        size = {} if "aspect_ratio" in fields else SMALL
        body = {"type": "image", "prompt": f"Cover {name}", "options": size | fields} | top
        answer = await self.agent.ask(lane, who, name, body)
        assert "error" not in answer, answer

    async def end(
        self, name: str, *, who: str = "L2-01", timeout_s: float = 30.0
    ) -> dict[str, Any]:
        """Wait for the end of a chain; return its last link."""
        return (await self.agent.ended(name, who, timeout_s))[-1]

    async def image(
        self, name: str, *, lane: str = "medium", timeout_s: float = 30.0, **fields: Any
    ) -> dict[str, Any]:
        """Publish one and return its `completed`."""
        await self.ask(name, lane=lane, **fields)
        end = await self.end(name, timeout_s=timeout_s)
        assert end["kind"] == "completed", end
        return end

    async def kinds(self, name: str) -> list[str]:
        """Return the kinds of a chain's links."""
        return [link["kind"] for link in await self.agent.chain(name)]


def held(machine: Machine) -> list[str]:
    """Return the models that ComfyUI holds, by the names of requests."""
    return [NAMES[name] for name in machine.comfyui.life.card.held]


def llms(machine: Machine) -> list[str]:
    """Return the models that Ollama has loaded."""
    return sorted(machine.ollama.runners.loaded)
