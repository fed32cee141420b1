"""Goal: an address may hold no ComfyUI, or be one of several: the engine says so and goes on.

Method: small programs that answer oddly, and two doubles.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from agent.core.faults import EngineDownFault
from tests.comfy_rig import engine_on, hurry, order
from tests.doubles.comfyui import ComfyDouble


@asynccontextmanager
async def answering(value: Any) -> AsyncIterator[str]:
    """Run a program that answers everything with the same JSON."""

    async def answer(_: web.Request) -> web.Response:
        return web.json_response(value)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@pytest.mark.parametrize(
    "value", [{}, [], "hello", {"system": None}, {"system": {"comfyui_version": 5}}]
)
async def test_another_program_at_the_address_is_down_and_said_to_be_another(value: Any):
    async with answering(value) as url, engine_on(url, connected=False) as engine:
        health = await engine.health()
        assert health.state == "down"
        assert "not what ComfyUI answers" in health.detail
        assert not engine.facts.up


async def test_a_server_without_a_version_is_too_old():
    async with answering({"system": {}}) as url, engine_on(url, connected=False) as engine:
        assert "too old" in (await engine.health()).detail


async def test_each_of_several_servers_is_a_place_and_gets_its_own_jobs(
    monkeypatch: pytest.MonkeyPatch,
):
    hurry(monkeypatch)
    async with ComfyDouble() as one, ComfyDouble() as two, engine_on(one.url, two.url) as engine:
        assert engine.places == (one.url, two.url)
        for double in (one, two):
            await engine.generate(order(server=double.url), lambda _step: None)
            assert len(double.log.prompts) == 1
        await two.die()
        with pytest.raises(EngineDownFault):
            await engine.generate(order("r2", server=two.url), lambda _step: None)
        assert engine.facts.up, "the other one is"
        await engine.generate(order("r2", attempt=2, server=one.url), lambda _step: None)
