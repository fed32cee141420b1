"""A gateway with its ledger on a real nats-server, and pens for chains.

For the tests of the history; it must not check anything itself.
"""

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import msgspec

from agent.assets import AssetStore
from agent.bus.connection import Bus, connect
from agent.embedded import EmbeddedServer
from agent.gateway import Gateway, GatewaySettings
from agent.ledger import Ledger
from contracts.subjects import Identity
from tests.ledger_rig import Chain, Message, following, position, publish
from tests.rig import until

API = "/api/multimodal"
PRICES = {"draft": 0.03, "standard": 0.03, "high": 0.065, "premium": 0.08}


class Rig(NamedTuple):
    """A gateway with a ledger, and a client of each kind."""

    bus: Bus
    http: aiohttp.ClientSession
    url: str
    path: Path
    assets: Path

    async def get(self, route: str, **query: Any) -> tuple[int, Any]:
        """Return status and JSON."""
        asked = {name: str(value) for name, value in query.items()}
        async with self.http.get(f"{self.url}{API}/{route}", params=asked) as response:
            return response.status, msgspec.json.decode(await response.read())

    async def found(self, **query: Any) -> list[str]:
        """Return the ids on a page."""
        status, page = await self.get("history", **query)
        assert status == 200, page
        return [one["request_id"] for one in page["generations"]]

    async def told(self, messages: list[Message]) -> None:
        """Store messages and wait until the ledger has them."""
        last = await publish(self.bus, messages)
        await until(lambda: position(self.path) == last, "the rows")


@asynccontextmanager
async def gateway_on(server: EmbeddedServer, folder: Path) -> AsyncIterator[Rig]:
    path, assets = folder / "data" / "ledger.sqlite3", folder / "assets"
    store = AssetStore(assets, "http://mmg.test")
    async with await connect([server.url], "gateway", role="gateway") as bus:
        gateway = Gateway(
            bus, store, GatewaySettings(port=0, rate_limits=False), Ledger(path, PRICES)
        )
        await gateway.start()
        try:
            async with following(bus, path) as one, aiohttp.ClientSession() as http:
                await until(lambda: one.caught_up, "the ledger")
                yield Rig(bus, http, f"http://127.0.0.1:{gateway.port}", path, assets)
        finally:
            await gateway.stop()


def chain(name: str, seq: int, agent: str = "L2-01") -> Chain:
    return Chain(Identity(agent, name), random.Random(name), seq=seq)


def completed(
    name: str, seq: int, engine: str = "comfyui", model: str = "sdxl-1.0"
) -> list[Message]:
    one = chain(name, seq)
    return [one.message(one.started()), one.message(one.completed(engine, model))]
