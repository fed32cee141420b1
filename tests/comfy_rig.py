"""What tests of the ComfyUI engine share: an engine on a server, its orders, and what it leaves.

Works on the double and on a real server alike; it must not check anything itself.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from msgspec import structs

from agent.clock import SystemClock
from agent.core import catalog
from agent.core.workflow import Workflow
from agent.engines.comfyui import ComfyEngine, run, socket
from agent.engines.comfyui.engine import ComfySettings, prompt_id
from agent.engines.comfyui.graph import Values, fill, prefix
from agent.engines.protocol import Brand, EngineJob, Generation, Report, Step
from agent.styles import load_styles
from agent.workflows import load_workflows
from contracts.requests import Options, Quality
from tests.doubles.comfyui import ComfyDouble
from tests.rig import ROOT, until

WORKFLOWS = load_workflows([ROOT / "workflows"])
BOOK = load_styles(ROOT / "workflows")
SMALL = {"width": 256, "height": 256, "steps": 4, "workflow": "sd15-text2img"}
PROMPT = "Request flow: Agent -> Queue -> Worker, 42 % local."
QUICK_LOOK_S = 0.05


def order(request_id: str = "r1", **changes: Any) -> EngineJob:
    """Return the order for a small picture; `changes` are fields of the job or options."""
    fields = {name: changes.pop(name) for name in tuple(changes) if name in _FIELDS}
    asked = {**SMALL, "quality": Quality.DRAFT, **changes}
    if "aspect_ratio" in changes:
        asked = {name: value for name, value in asked.items() if name not in ("width", "height")}
    options = Options(**asked)
    sheet = catalog.sheet(BOOK, options.style)
    width, height = catalog.size(options, sheet)
    job = EngineJob(
        agent="L2-05-03",
        request_id=request_id,
        attempt=1,
        prompt=PROMPT,
        negative_prompt=options.negative_prompt,
        style=options.style,
        brand=Brand(palette=sheet.brand.palette),
        quality=options.quality,
        width=width,
        height=height,
        count=options.count,
        seed=7,
        workflow=options.workflow,
        options=options,
        sheet=sheet,
        month="2026-11",
    )
    return _replaced(job, fields)


_FIELDS = ("agent", "attempt", "seed", "prompt", "server", "earlier", "image", "month")


def _replaced(job: EngineJob, fields: dict[str, Any]) -> EngineJob:
    values = {name: getattr(job, name) for name in job.__struct_fields__}
    return EngineJob(**{**values, **fields})


def from_picture() -> Workflow:
    """Return a workflow that redraws a picture with no more nodes than any ComfyUI has."""
    chosen = WORKFLOWS["sd15-text2img"]
    holes = structs.replace(chosen.manifest.holes, width=(), height=(), batch=(), image="10.image")
    manifest = structs.replace(chosen.manifest, name="from-picture", holes=holes, takes_image=True)
    graph: dict[str, Any] = dict(chosen.graph)
    graph["5"] = {"class_type": "VAEEncode", "inputs": {"pixels": ["10", 0], "vae": ["4", 2]}}
    graph["10"] = {"class_type": "LoadImage", "inputs": {"image": ""}}
    return Workflow(manifest=manifest, graph=graph)


def pid(job: EngineJob) -> str:
    """Return the id of a job's prompt."""
    return prompt_id(job.agent, job.request_id, job.attempt)


def graph_of(job: EngineJob, *, preview: bool = True, steps: int = 4) -> dict[str, Any]:
    """Return the graph that the engine posts for a small order."""
    values = Values(
        prompt=job.prompt,
        negative="",
        seed=job.seed,
        steps=steps,
        cfg=7.0,
        width=256,
        height=256,
        batch=1,
        prefix=prefix(job.agent, job.request_id, job.attempt, job.month),
    )
    return dict(fill(WORKFLOWS["sd15-text2img"], values, preview=preview))


@asynccontextmanager
async def engine_on(*urls: str, connected: bool = True, **settings: Any) -> AsyncIterator[Any]:
    """Run an engine on these servers, its sockets open unless not `connected`."""
    chosen = ComfySettings(**{"step_timeout_s": 5.0, **settings})
    engine = ComfyEngine(urls, WORKFLOWS, SystemClock(), worker="w1", settings=chosen)
    await engine.open()
    try:
        async with _beside(engine.run()):
            for server in engine._servers.values() if connected else ():
                await until(server.socket.opened.is_set, "an open socket")
            yield engine
    finally:
        await engine.close()


@asynccontextmanager
async def _beside(endless: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run what never ends beside a block; what the block raises leaves as it was raised."""
    try:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(endless, name="engine")
            try:
                yield
            finally:
                task.cancel()
    except BaseExceptionGroup as several:
        raise several.exceptions[0] from None


class Rig:
    """An engine on a double. `steps` keeps what was reported, in order."""

    def __init__(self, double: ComfyDouble, engine: ComfyEngine) -> None:
        """Use `rig`."""
        self.double = double
        self.engine = engine
        self.steps: list[Step] = []

    @property
    def server(self) -> Any:
        """The engine's only server."""
        return next(iter(self.engine._servers.values()))

    async def draw(self, job: EngineJob | None = None, report: Report | None = None) -> Generation:
        """Make the pictures of a job, by default the small one."""
        return await self.engine.generate(job or order(), report or self.steps.append)

    def asked(self, request: str) -> int:
        """Return how often the double was asked something, as `GET /queue`."""
        return sum(line.startswith(request) for line in self.double.log.requests)

    @property
    def ours(self) -> list[str]:
        """The ids of ours that the double still has in queue or history."""
        prompts = self.double.life.prompts
        items = [*prompts.pending, *([prompts.running] if prompts.running else [])]
        held = [item[1] for item in items if "mmg" in item[3]]
        return held + [k for k, v in prompts.history.items() if "mmg" in v["prompt"][3]]


@asynccontextmanager
async def rig(
    settings: dict[str, Any] | None = None, *, connected: bool = True, **double: Any
) -> AsyncIterator[Rig]:
    """Run an engine, with these settings, on a double with those."""
    async with (
        ComfyDouble(**double) as server,
        engine_on(server.url, connected=connected, **(settings or {})) as engine,
    ):
        yield Rig(server, engine)


def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the engine look, doubt and come back in hundredths of what it takes at work."""
    monkeypatch.setattr(run, "LOOK_EVERY_S", QUICK_LOOK_S)
    monkeypatch.setattr(run, "DEAF_S", 2 * QUICK_LOOK_S)
    monkeypatch.setattr(run, "STOP_AGAIN_S", 0.01)
    monkeypatch.setattr(socket, "REOPEN_FIRST_S", 0.01)


def on_step(number: int, then: Callable[[], Any]) -> Report:
    """Return a report that calls `then` once, when the sampler has done so many steps."""
    called: list[int] = []

    def report(step: Step) -> None:
        if step.message.startswith("step") and step.step >= number and not called:
            called.append(step.step)
            then()

    return report


class Plain:
    """A plain HTTP client of a ComfyUI, real or not: what somebody else would use."""

    def __init__(self, http: aiohttp.ClientSession) -> None:
        """Use `plain`."""
        self.http = http

    async def get(self, path: str) -> Any:
        """Return what a GET answers."""
        async with self.http.get(path) as answer:
            return await answer.json()

    async def post(self, path: str, **body: Any) -> Any:
        """Return what a POST answers, or its text."""
        async with self.http.post(path, json=body) as answer:
            text = await answer.text()
            return await answer.json() if text.startswith("{") else text

    async def queued(self) -> list[str]:
        """Return the ids that run or wait."""
        queue = await self.get("/queue")
        return [item[1] for key in ("queue_running", "queue_pending") for item in queue[key]]


@asynccontextmanager
async def plain(url: str) -> AsyncIterator[Plain]:
    """Open a plain client."""
    async with aiohttp.ClientSession(url) as http:
        yield Plain(http)


def socket_of(path: Path) -> bool:
    """Tell whether an open file of this process is a connection."""
    try:
        return path.readlink().name.startswith("socket:")
    except OSError:
        return False
