"""A site as people meet it: a real nats-server, gateway and worker, and a page in Chromium.

The browser is Debian's (`/usr/bin/chromium`, or CHROMIUM); playwright only drives it. It must not
check anything itself, but for what no test may leave behind: an error on the console.
"""

import asyncio
import os
import shutil
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
from playwright.async_api import ConsoleMessage, Page, async_playwright

from agent.app import _gateway
from agent.building import open_bus
from agent.bus.connection import Bus, connect
from agent.clock import SystemClock
from agent.config import load
from agent.embedded import EmbeddedServer
from contracts import subjects
from contracts.events import Alert
from tests.doubles.machine import Machine
from tests.machine_rig import worker_on
from tests.rig import bus_server, running, until

API = "/api/multimodal"
WAIT_MS = 15_000
WORKER = "w1-work"
"""What a worker in a site's folder is called."""
WIDE = {"width": 1360, "height": 900}
PHONE = {"width": 360, "height": 780}


def chromium() -> str:
    """Return the browser; the tests fail without one, they are not skipped."""
    found = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    assert found, "no Chromium; apt-get install chromium, or name one in CHROMIUM"
    return found


def free_port() -> int:
    """Return a port that nobody listens on, and that a restarted gateway can have again."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


class Window:
    """A page and what went wrong on it; `expected` are parts of words that may be said."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.faults: list[str] = []
        self.asked: list[str] = []
        self.expected: tuple[str, ...] = ()
        page.set_default_timeout(WAIT_MS)
        page.on("console", self._on_console)
        page.on("pageerror", lambda error: self.faults.append(f"uncaught: {error}"))
        page.on("request", lambda request: self.asked.append(request.url))

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.faults.append(f"{message.text} {message.location.get('url', '')}")

    @property
    def unexpected(self) -> list[str]:
        """What nobody expected on the console."""
        return [one for one in self.faults if not any(part in one for part in self.expected)]

    async def sees(self, text: str, within: str = "body") -> None:
        """Wait until a text is visible there."""
        await self.page.locator(within).get_by_text(text).first.wait_for(state="visible")

    async def holds(self, expression: str) -> None:
        """Wait until an expression is true; the page's policy bans waiting in the page itself."""
        await until(lambda: self.page.evaluate(expression), expression, WAIT_MS / 1000)

    async def text(self, selector: str) -> str:
        """Return the text of the first such element."""
        return await self.page.locator(selector).first.inner_text()


class Site:
    """The processes and how to reach them."""

    def __init__(self, folder: Path, server: EmbeddedServer, bus: Bus, port: int) -> None:
        self.folder = folder
        self.server = server
        self.bus = bus
        self.port = port
        self.http: aiohttp.ClientSession
        self._gateway = AsyncExitStack()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start_gateway(self, *, apart: bool = False, **settings: str) -> None:
        """Run a gateway, `apart` as a process of its own, and wait until it answers."""
        wanted = {
            "MMG_NATS_URL": self.server.url,
            "MMG_HTTP_PORT": str(self.port),
            "MMG_DATA_DIR": str(self.folder / "gateway" / "data"),
            "MMG_ASSETS_DIR": str(self.folder / "work" / "generated-assets"),
            "MMG_RATE_LIMITS": "off",
            **settings,
        }
        async with AsyncExitStack() as stack:
            if apart:
                await stack.enter_async_context(running(self.folder / "apart", "gateway", **wanted))
            else:
                config = load(wanted, self.folder)
                bus = await stack.enter_async_context(await open_bus(config, "gateway"))
                await stack.enter_async_context(_gateway(config, bus))
            await until(self._answers, "the gateway")
            self._gateway = stack.pop_all()

    async def stop_gateway(self) -> None:
        """End it; one that is apart is killed as kill -9 does."""
        await self._gateway.aclose()

    async def _answers(self) -> bool:
        try:
            async with self.http.get(f"{self.url}/readyz") as answer:
                return answer.status == 200
        except aiohttp.ClientError:
            return False

    async def ask(self, method: str, path: str, body: Any = None) -> Any:
        """Return the JSON of an answer that is good."""
        async with self.http.request(method, f"{self.url}{API}{path}", json=body) as answer:
            told = msgspec.json.decode(await answer.read())
            assert answer.status < 300, told
            return told

    async def generate(self, prompt: str, **fields: Any) -> str:
        """Ask for an image over HTTP; return its id."""
        body = {"type": "image", "prompt": prompt, **fields}
        told: str = (await self.ask("POST", "/generate", body))["request_id"]
        return told

    async def alert(self, name: str, message: str, state: Any = "raised") -> None:
        """Say what a worker says when something begins or is over."""
        told = Alert(name=name, state=state, message=message, by=WORKER, at=SystemClock().now())
        await self.bus.store(subjects.alert(name), msgspec.json.encode(told))

    def worker(self, machine: Machine, **settings: Any) -> Any:
        """Run a worker on a fake machine, on this bus."""
        return worker_on(machine, self.server.url, self.folder / "work", **settings)


@asynccontextmanager
async def site(folder: Path, *, apart: bool = False, **settings: str) -> AsyncIterator[Site]:
    """Run server and gateway in this process; workers are for the test, and apart."""
    async with (
        bus_server(folder / "nats", ack_wait_s=3.0) as server,
        await connect([server.url], "writer", role="worker") as bus,
        aiohttp.ClientSession() as http,
    ):
        made = Site(folder, server, bus, free_port())
        made.http = http
        await made.start_gateway(apart=apart, **settings)
        try:
            yield made
        finally:
            await made.stop_gateway()


@asynccontextmanager
async def window(url: str, **options: Any) -> AsyncIterator[Window]:
    """Open a page; at the end nothing unexpected may stand on its console."""
    async with async_playwright() as driver:
        browser = await driver.chromium.launch(
            executable_path=chromium(), args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        try:
            context = await browser.new_context(**{"viewport": WIDE, **options})
            made = Window(await context.new_page())
            await made.page.goto(url)
            yield made
            assert not made.unexpected, made.unexpected
        finally:
            await browser.close()
        await asyncio.sleep(0)


@asynccontextmanager
async def dashboard(site: Site, **options: Any) -> AsyncIterator[Window]:
    """Open the dashboard of a site."""
    async with window(f"{site.url}/multimodal", **options) as made:
        yield made
