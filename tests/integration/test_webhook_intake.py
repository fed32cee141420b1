"""Goal: the address of a webhook is judged at the door, kept out of every link, and told.

Method: requests over HTTP and on the bus, with a real worker, and a real receiver.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from agent.assets import AssetStore
from agent.bus import hooks
from agent.bus.cancel import cancel
from agent.bus.connection import Bus, connect
from agent.clock import SystemClock
from agent.embedded import EmbeddedServer
from agent.gateway import Gateway, GatewaySettings
from contracts import codec
from contracts.requests import Request
from contracts.subjects import Identity
from tests.doubles.engine import ScriptedEngine
from tests.doubles.receiver import SECRET, Receiver, receiver
from tests.rig import Agent
from tests.webhook_rig import WHO, becomes, hook_of, settings, telling
from tests.worker_rig import worker_with


@pytest.fixture
async def bus(server: EmbeddedServer) -> AsyncIterator[Bus]:
    async with await connect([server.url], "gateway", role="gateway") as connected:
        yield connected


@pytest.fixture
async def there() -> AsyncIterator[Receiver]:
    async with receiver() as one:
        yield one


async def test_a_request_from_the_bus_is_told_and_no_link_carries_the_address(
    server, bus, agent, tmp_path, there
):
    async with worker_with(server, tmp_path, ScriptedEngine()), telling(bus, there):
        await image_with_hook(agent, "r1", there.url())
        links = await agent.ended("r1")
        await becomes(bus, "delivered")
    assert there.told[0].json["data"] == links[-1]
    for subject, data in agent.heard:
        assert b"webhook_url" not in data, subject
        assert there.host.encode() not in data, subject


async def test_a_request_cancelled_in_its_lane_is_told(bus, agent, there):
    await image_with_hook(agent, "r1", there.url())
    async with telling(bus, there):
        await cancel(bus, WHO, "ann", SystemClock())
        await becomes(bus, "delivered")
    assert there.told[0].json["type"] == "mmg.cancelled"


async def test_the_first_address_stands_and_a_full_bucket_takes_no_more(bus, monkeypatch):
    await hooks.keep(bus, WHO, "https://a.example/", SystemClock().now())
    await hooks.keep(bus, WHO, "https://b.example/", SystemClock().now())
    assert (await hook_of(bus)).url == "https://a.example/"
    monkeypatch.setattr(hooks, "ROOM", 1e-9)
    with pytest.raises(hooks.NoRoomError):
        await hooks.keep(bus, Identity("L2-01", "r2"), "https://a.example/", SystemClock().now())


async def image_with_hook(agent: Agent, request_id: str, url: str) -> None:
    body = codec.encode(Request(type="image", prompt="a cover", webhook_url=url))
    answer = await agent.ask("high", "L2-01", request_id, body)
    assert "error" not in answer, answer


async def test_the_gateway_takes_a_webhook_it_can_tell_and_refuses_all_others(bus, there, tmp_path):
    known = {"requester": "L2.01", "type": "image", "prompt": "a cover"}
    for secrets, url, wanted in (
        ((SECRET,), there.url(), 202),
        ((SECRET,), "http://127.0.0.1:9/", 400),
        ((SECRET,), "https://127.0.0.1/", 400),
        ((SECRET,), "https://[::ffff:10.0.0.1]/", 400),
        ((SECRET,), "https://agent.example:8443/", 400),
        ((SECRET,), "http://agent.example/", 400),
        ((), there.url(), 501),
    ):
        async with gateway(bus, settings(there, secrets=secrets), tmp_path) as address:
            body = {**known, "request_id": f"w{wanted}", "webhook_url": url}
            async with aiohttp.ClientSession() as http, http.post(address, json=body) as response:
                answer = await response.json()
        assert response.status == wanted, (url, answer)
        if wanted != 202:
            assert answer["path"] == "$.webhook_url"
            assert await hooks.read(bus, Identity("L2-01", f"w{wanted}")) is None
    assert (await hook_of(bus, Identity("L2-01", "w202"))).url == there.url()


@asynccontextmanager
async def gateway(bus: Bus, known: GatewaySettings, folder: Path) -> AsyncIterator[str]:
    running = Gateway(bus, AssetStore(folder / "assets", "http://mmg.test"), known)
    await running.start()
    try:
        yield f"http://127.0.0.1:{running.port}/api/multimodal/generate"
    finally:
        await running.stop()
