"""What tests of the clouds share: an engine on its double, and orders for it.

Each fault is checked here once: it names no key, and counts no less than the double charged.
"""

import io
import traceback
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from msgspec import structs
from PIL import Image

from agent.clock import SystemClock
from agent.core.faults import Fault
from agent.core.money import spent_by
from agent.engines.cloud import (
    CloudEngine,
    OpenAISettings,
    StabilitySettings,
    openai_engine,
    stability_engine,
)
from agent.engines.protocol import EngineJob, Generation, Step
from contracts.requests import AspectRatio, Quality
from tests.comfy_rig import order as any_order
from tests.doubles.clouds import CloudDouble, OpenAIDouble, StabilityDouble
from tests.doubles.clouds.server import KEY

QUICK_S = 1.0
"""Time limit of a call in these tests; 300 s and more at work."""
CENT: Any = pytest.approx


class Cloud:
    """An engine on its double."""

    def __init__(self, engine: CloudEngine, double: CloudDouble) -> None:
        self.engine = engine
        self.double = double
        self.steps: list[Step] = []

    async def draw(self, job: EngineJob | None = None) -> Generation:
        return await self.engine.generate(job or order(), self.steps.append)

    async def fails(self, job: EngineJob | None = None) -> Any:
        """Return the fault of a job, after checks that hold for every fault."""
        job = job or order()
        before = self.double.charged_usd
        with pytest.raises(Fault) as raised:
            await self.draw(job)
        fault = raised.value
        said = fault.message + "".join(traceback.format_exception(fault)) + repr(fault)
        assert KEY not in said
        assert fault.message
        charged = self.double.charged_usd - before
        spent_usd, doubt_usd = spent_by(fault, 9.0)
        assert spent_usd >= charged - 1e-9, "never less than was charged"
        assert spent_usd - doubt_usd <= charged + 1e-9, "what is no doubt was charged"
        return fault


def order(request_id: str = "r1", **changes: Any) -> EngineJob:
    """Return an order for one square picture."""
    asked = {"workflow": None, "quality": Quality.STANDARD, "steps": None, **changes}
    if "width" not in asked:
        asked.setdefault("aspect_ratio", AspectRatio.SQUARE)
    job = any_order(request_id, **asked)
    return structs.replace(job, steps=job.options.steps, cfg=job.options.cfg)


@asynccontextmanager
async def stability(
    key: str | None = KEY, settings: dict[str, Any] | None = None, **double: Any
) -> AsyncIterator[Cloud]:
    async with StabilityDouble(**double) as server:
        chosen = StabilitySettings(**{"timeout_s": QUICK_S, "url": server.url, **(settings or {})})
        engine = stability_engine(key, SystemClock(), chosen, expected_s=0.2)
        await engine.open()
        try:
            yield Cloud(engine, server)
        finally:
            await engine.close()


@asynccontextmanager
async def openai(
    key: str | None = KEY, settings: dict[str, Any] | None = None, **double: Any
) -> AsyncIterator[Cloud]:
    async with OpenAIDouble(**double) as server:
        chosen = OpenAISettings(**{"timeout_s": QUICK_S, "url": server.url, **(settings or {})})
        engine = openai_engine(key, SystemClock(), chosen, expected_s=0.2)
        await engine.open()
        try:
            yield Cloud(engine, server)
        finally:
            await engine.close()


CLOUDS = {"stability": stability, "openai": openai}


def size_of(data: bytes) -> tuple[int, int]:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image.size
