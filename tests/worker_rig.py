"""A worker inside the test's own process, with engines the test wrote."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any
from uuid import uuid4

from agent.assets import AssetStore
from agent.bus import lanes
from agent.bus.cancel import serve_cancels
from agent.bus.connection import Bus, connect
from agent.clock import OffsetClock, SystemClock
from agent.core.money import Limits
from agent.core.scheduler import Rules
from agent.dispatch import Dispatch
from agent.embedded import EmbeddedServer
from agent.places import Places
from agent.readiness import Readiness
from agent.slots import Slots
from agent.styles import load_styles
from agent.tools import Tools
from agent.turnstile import Turnstile
from tests.doubles.engine import ScriptedEngine
from tests.rig import ROOT


async def tools_for(
    bus: Bus,
    folder: Path,
    name: str,
    engines: tuple[ScriptedEngine, ...],
    slots: Mapping[str, int] = MappingProxyType({"cpu": 2}),
    **settings: Any,
) -> Tools:
    """Put together what a worker's jobs share, with its assets in `folder`."""
    clock = OffsetClock(SystemClock())
    turnstile = Turnstile(bus, clock, name, Limits())
    await turnstile.open(engines)
    places = {kind: Places([None] * count, clock, Rules()) for kind, count in slots.items()}
    return Tools(
        bus=bus,
        assets=AssetStore(folder / "generated-assets", "http://127.0.0.1:1", name),
        engines={engine.name: engine for engine in engines},
        book=load_styles(ROOT / "workflows"),
        clock=clock,
        new_nonce=uuid4,
        worker=name,
        ack_wait_s=await lanes.ack_wait_s(bus),
        turnstile=turnstile,
        slots=Slots(places, {}, clock),
        **settings,
    )


@asynccontextmanager
async def worker_with(
    server: EmbeddedServer,
    folder: Path,
    *engines: ScriptedEngine,
    name: str = "w1",
    slots: int = 2,
    drain_s: float = 5.0,
    lookahead: int = 1,
    **settings: Any,
) -> AsyncIterator[Dispatch]:
    """Run a worker with these engines; it drains when the block ends."""
    async with await connect([server.url], name, role="worker") as bus:
        tools = await tools_for(bus, folder, name, engines, {"cpu": slots}, **settings)
        dispatch = Dispatch(tools, Readiness(tools), drain_s, lookahead)
        answers = await serve_cancels(bus, name, tools.clock)
        try:
            async with asyncio.TaskGroup() as group:
                beside = group.create_task(tools.turnstile.run(), name="turnstile")
                running = group.create_task(dispatch.run(), name=f"worker {name}")
                running.add_done_callback(lambda _: beside.cancel())
                try:
                    yield dispatch
                finally:
                    dispatch.stop()
        finally:
            await bus.unsubscribe(answers)
