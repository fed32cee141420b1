"""The engines that the suite examines, each with what it draws and how it is seen to be busy.

`comfyui` runs on the double; `live` on a real ComfyUI, where MMG_COMFYUI_LIVE names its address.
"""

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import msgspec

from agent.core.catalog import SIZES as SKETCH_SIZES
from agent.core.workflow import SIZES
from agent.engines.protocol import Engine, EngineJob
from agent.engines.sketch import SketchEngine
from contracts.requests import AspectRatio
from tests.comfy_rig import engine_on, order, plain, rig

LIVE = "MMG_COMFYUI_LIVE"
STEP_MS = 20


class Subject(msgspec.Struct, frozen=True, kw_only=True):
    """One engine under examination.

    `order` makes a quick job and `long` one that takes seconds; `busy` tells whether the engine
    holds anything of ours; `gone` turns its peer off, where it has one.
    """

    engine: Engine
    order: Callable[..., EngineJob]
    long: dict[str, Any]
    sizes: dict[AspectRatio, tuple[int, int]]
    busy: Callable[[], Awaitable[bool]]
    jump_max: float
    gone: Callable[[], Awaitable[None]] | None = None


@asynccontextmanager
async def sketch() -> AsyncIterator[Subject]:
    """The built-in engine."""
    engine = SketchEngine()

    async def busy() -> bool:
        return bool(engine._drawings) or not engine._pool._work_queue.empty()

    try:
        yield Subject(
            engine=engine,
            order=order,
            long={"width": 2048, "height": 2048, "count": 10},
            sizes=dict(SKETCH_SIZES),
            busy=busy,
            jump_max=0.5,
        )
    finally:
        await engine.close()


@asynccontextmanager
async def comfyui() -> AsyncIterator[Subject]:
    """The ComfyUI engine on the double."""
    async with rig(step_ms=STEP_MS) as made:

        async def busy() -> bool:
            prompts = made.double.life.prompts
            return prompts.running is not None or bool(prompts.pending)

        yield Subject(
            engine=made.engine,
            order=order,
            long={"steps": 100},
            sizes=dict(SIZES["sd15"]),
            busy=busy,
            jump_max=0.5,
            gone=made.double.die,
        )


@asynccontextmanager
async def live() -> AsyncIterator[Subject]:
    """The ComfyUI engine on a real server, whose history outlives a test: each has its own ids."""
    url = os.environ[LIVE]
    mark = uuid4().hex[:12]
    made: list[EngineJob] = []

    def fresh(request_id: str = "r1", **changes: Any) -> EngineJob:
        job = order(f"{mark}-{request_id}", **changes)
        made.append(job)
        return job

    async with engine_on(url, step_timeout_s=120.0) as engine, plain(url) as client:

        async def busy() -> bool:
            return bool(await client.queued())

        try:
            yield Subject(
                engine=engine,
                order=fresh,
                long={"steps": 100, "width": 512, "height": 512},
                sizes=dict(SIZES["sd15"]),
                busy=busy,
                jump_max=0.6,
            )
        finally:
            for job in made:
                await engine.forget(job)


SUBJECTS = {"sketch": sketch, "comfyui": comfyui}
if os.environ.get(LIVE):
    SUBJECTS = {"live": live}
