"""A gateway with keys on a real nats-server, and one client for each kind of caller.

For the tests of access; it must not check anything itself.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from agent.clock import SystemClock
from agent.gateway import GatewaySettings
from agent.gateway import keys as key_file
from agent.gateway.keys import MadeKey, Role
from contracts.requests import Priority
from tests.integration.gateway_rig import Rig, rig

API = "/api/multimodal"
IMAGE = {"type": "image", "prompt": "a lighthouse at dusk"}


class Guarded:
    """A gateway that wants keys; `ann` and `bob` are requesters, `olga` is an operator."""

    def __init__(self, gate: Rig, path: Path) -> None:
        self.gate = gate
        self.path = path
        self.keys: dict[str, MadeKey] = {}

    def add(self, name: str, agent: str, role: Role, highest: Priority) -> None:
        self.keys[name] = key_file.add(self.path, agent, role, highest, name, SystemClock())

    def bearer(self, name: str | None) -> dict[str, str]:
        if name is None:
            return {}
        return {"Authorization": f"Bearer {self.keys[name].token}"}

    async def ask(
        self, name: str | None, method: str, path: str, **options: Any
    ) -> tuple[int, Any]:
        """Ask in somebody's name; return status and JSON."""
        headers = {**self.bearer(name), **options.pop("headers", {})}
        status, answer, _ = await self.gate.ask(method, path, headers=headers, **options)
        return status, answer

    async def works(self) -> bool:
        """Tell whether a good request is still taken."""
        status, _ = await self.ask("ann", "POST", f"{API}/generate", json=IMAGE)
        return status == 202


@asynccontextmanager
async def guarded(folder: Path, **more: Any) -> AsyncIterator[Guarded]:
    """Run a gateway that wants keys."""
    path = folder / "keys.json"
    made = Guarded(None, path)  # type: ignore[arg-type] # The keys come before the gateway.
    made.add("ann", "L2.05.03", Role.REQUESTER, Priority.HIGH)
    made.add("bob", "L3.01", Role.REQUESTER, Priority.CRITICAL)
    made.add("olga", "L1.00", Role.OPERATOR, Priority.CRITICAL)
    settings = GatewaySettings(
        **{"port": 0, "keys_file": path, "rate_limits": False, **more},
    )
    async with rig(folder, settings=settings) as gate:
        made.gate = gate
        yield made


async def raw(port: int, head: str, *, half_s: float | None = None) -> str:
    """Send bytes as they are; return all that comes back. `half_s`: wait so long in the middle."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(head.encode())
        await writer.drain()
        async with asyncio.timeout(half_s or 10.0):
            return (await reader.read()).decode(errors="replace")
    finally:
        writer.close()


async def handshake(gate: Rig, path: str, **options: Any) -> int:
    """Try to open a WebSocket; return the status that refused it, or 101."""
    try:
        async with gate.http.ws_connect(f"{gate.url}{path}", **options):
            return 101
    except aiohttp.WSServerHandshakeError as refused:
        return refused.status


@asynccontextmanager
async def fresh_connections(site: Guarded) -> AsyncIterator[None]:
    """Let each request have its own connection: one that is kept would be closed as idle too."""
    kept = site.gate.http
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as http:
        site.gate.http = http
        try:
            yield
        finally:
            site.gate.http = kept
