"""A gateway on a real nats-server, and the pen of a worker that only writes chains.

For the tests of the gateway; it must not check anything itself.
"""

import asyncio
import base64
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import aiohttp
import msgspec

from agent.assets import AssetStore
from agent.bus import chain
from agent.bus.connection import Bus, connect
from agent.bus.provision import Plan, provision
from agent.core.steps import Stored
from agent.embedded import EmbeddedServer
from agent.gateway import Gateway, GatewaySettings, HookSettings
from agent.ledger import Ledger
from contracts import codec, subjects
from contracts.events import Completed, Link, Progress, Released, Started
from contracts.requests import Request
from contracts.subjects import Identity

BODY = {"type": "image", "prompt": "a lighthouse at dusk"}
DEADLINE_S = 10.0
WHSEC = f"whsec_{base64.b64encode(bytes(32)).decode()}"
OPEN = GatewaySettings(port=0, rate_limits=False, hooks=HookSettings(secrets=(WHSEC,)))
NOW = datetime(2025, 11, 11, 10, 15, tzinfo=UTC)


class Story:
    """Writes the links of one request; `written` has their bytes as they went to the server."""

    def __init__(self, bus: Bus, who: Identity, seq: int = 1, request: Request | None = None):
        self._bus = bus
        self._request = request or Request(type="image", prompt=BODY["prompt"])
        self._request_seq = seq
        self._last_seq = 0
        self._attempt = 0
        self.who = who
        self.written: list[bytes] = []

    @property
    def n(self) -> int:
        return len(self.written)

    def _fields(self, message: str) -> dict[str, Any]:
        """Return what every link carries; the first one also the request."""
        origin = {"request": self._request, "requested_at": NOW}
        return {
            "id": str(uuid4()),
            "n": self.n + 1,
            "request_id": self.who.request_id,
            "requester": self.who.requester,
            "message": message,
            "progress_percent": 0,
            "at": NOW,
            "attempt": self._attempt,
            "request_seq": self._request_seq,
            **(origin if self.n == 0 else {}),
        }

    async def _append(self, link: Link) -> None:
        outcome = await chain.append(self._bus, self.who, link, self._last_seq)
        assert isinstance(outcome, Stored), outcome
        self._last_seq = outcome.seq
        self.written.append(codec.encode(link))

    async def started(self, message: str = "begun", engine: str = "sketch") -> None:
        self._attempt += 1
        await self._append(
            Started(
                engine=engine,
                model=engine,
                reason="only engine",
                worker="w1",
                server=None,
                queue_time_seconds=0.5,
                **self._fields(message),
            )
        )

    async def released(self, message: str = "given back") -> None:
        await self._append(Released(by="w1", reason="stop", **self._fields(message)))

    async def completed(self, seconds: float = 1.0) -> None:
        await self._append(
            Completed(
                generation_time_seconds=seconds,
                queue_time_seconds=0.5,
                model_used="sketch",
                engine="sketch",
                cost_usd=0.0,
                seed=42,
                vram_used_gb=None,
                downgraded=False,
                retry_count=0,
                reason="only engine",
                outputs=(),
                output=None,
                **self._fields("done"),
            )
        )

    async def progress(self, step: int, n: int | None = None) -> bytes:
        """Tell progress of the last link, or of link `n`, and return its bytes."""
        told = Progress(
            id=str(uuid4()),
            n=self.n if n is None else n,
            request_id=self.who.request_id,
            requester=self.who.requester,
            message=f"step {step}",
            progress_percent=step,
            at=NOW,
            attempt=self._attempt,
            step=step,
            steps=100,
            eta_s=None,
        )
        data = codec.encode(told)
        await self._bus.store(subjects.progress(self.who), data)
        return data


class Rig:
    """Everything a test of the gateway touches."""

    def __init__(self, server: EmbeddedServer, bus: Bus, own: Bus, http: aiohttp.ClientSession):
        self.server = server
        self.bus = bus
        self.own = own
        self.http = http
        self.gateway: Gateway

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.gateway.port}"

    def socket(self, request_id: str, query: str = "", **options: Any) -> Any:
        url = f"{self.url}/ws/multimodal/{request_id}{query}"
        return self.http.ws_connect(url, max_msg_size=0, **options)

    async def ask(self, method: str, path: str, **options: Any) -> tuple[int, Any, Any]:
        """Return status, JSON and headers."""
        async with self.http.request(method, f"{self.url}{path}", **options) as response:
            return response.status, msgspec.json.decode(await response.read()), response.headers

    async def post(self, body: object) -> tuple[int, Any]:
        status, answer, _ = await self.ask("POST", "/api/multimodal/generate", json=body)
        return status, answer

    async def story(self, **body: object) -> Story:
        """Send a request over HTTP and take up the pen for it."""
        status, answer = await self.post({**BODY, **body})
        assert status == 202, answer
        who = subjects.identity(answer["requester"], answer["request_id"])
        return Story(self.own, who)

    async def restart_server(self, folder: Path) -> Bus:
        """Start the killed server again where it was; return a fresh connection to it."""
        await self.server.wait()
        self.server = EmbeddedServer(folder / "nats", urlsplit(self.server.url).port or 0)
        await self.server.start()
        return await connect([self.server.url], "writer")


@asynccontextmanager
async def rig(
    folder: Path,
    plan: Plan | None = None,
    assets: AssetStore | None = None,
    settings: GatewaySettings | None = None,
    ledger: Ledger | None = None,
    **parts: Any,
) -> AsyncIterator[Rig]:
    """Run server and gateway; without streams if the plan says no replicas."""
    server = EmbeddedServer(folder / "nats", 0)
    await server.start()
    bus = await connect([server.url], "gateway", role="gateway")
    own = await connect([server.url], "writer")
    plan = plan or Plan()
    if plan.replicas:
        await provision(own, plan)
    http = aiohttp.ClientSession()
    made = Rig(server, bus, own, http)
    store = assets or AssetStore(folder / "assets", "http://mmg.test")
    made.gateway = Gateway(bus, store, settings or OPEN, ledger, **parts)
    try:
        await made.gateway.start()
        yield made
    finally:
        await http.close()
        await made.gateway.stop()
        await own.close()
        await bus.close()
        await made.server.stop()


async def frames(socket: aiohttp.ClientWebSocketResponse) -> list[bytes]:
    """Return all text frames until the socket closes, but for those that tell the place."""
    found: list[bytes] = []
    async with asyncio.timeout(DEADLINE_S):
        async for message in socket:
            assert message.type is aiohttp.WSMsgType.TEXT, message
            found.append(message.data.encode())
    return [one for one in found if not tells_place(one)]


async def frame(socket: aiohttp.ClientWebSocketResponse) -> bytes:
    """Return the next text frame that does not tell the place in the queue."""
    while True:
        found = (await socket.receive_str(timeout=DEADLINE_S)).encode()
        if not tells_place(found):
            return found


def tells_place(frame: bytes) -> bool:
    """Tell whether a frame is no link: it says where the request waits."""
    return b'"kind":"queued"' in frame


async def until(fact: Callable[[], bool]) -> None:
    """Wait for something observable."""
    async with asyncio.timeout(DEADLINE_S):
        while not fact():  # noqa: ASYNC110 - facts of several kinds, none with an event
            await asyncio.sleep(0)
