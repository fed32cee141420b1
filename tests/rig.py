"""What tests of the whole path share: a real server, real processes, and a plain NATS client.

The client side knows the wire and nothing of ours, as an agent in another language would.
"""

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import nats
from nats.aio.client import Client
from nats.aio.msg import Msg

from agent.bus.connection import connect
from agent.bus.login import CLIENT, Login, client_for
from agent.bus.provision import Plan, provision
from agent.clock import SystemClock
from agent.embedded import EmbeddedServer
from agent.site.folder import SiteFolder

ROOT = Path(__file__).parent.parent
SECURED = bool(os.environ.get("SECURE"))
"""Whether each `mmg up` of a test runs with keys and TLS:  SECURE=1 pytest tests/acceptance."""
SITES: list[SiteFolder] = []
LOOK_EVERY_S = 0.02
TERMINAL = ("completed", "failed", "expired", "cancelled")
SMALL = {"width": 256, "height": 256, "quality": "draft"}
"""Options of a picture that takes a few milliseconds."""


async def until(
    look: Callable[[], Any],
    what: str,
    timeout_s: float = 20.0,
) -> Any:
    """Wait until `look` returns something true; fail naming `what` was waited for."""
    try:
        async with asyncio.timeout(timeout_s):
            while True:
                found = look()
                if isinstance(found, Awaitable):
                    found = await found
                if found:
                    return found
                await asyncio.sleep(LOOK_EVERY_S)
    except TimeoutError as error:
        raise AssertionError(f"waited {timeout_s} s in vain for {what}") from error


@asynccontextmanager
async def bus_server(folder: Path, *, ack_wait_s: float = 30.0) -> AsyncIterator[EmbeddedServer]:
    """Run a provisioned nats-server on a free port."""
    server = EmbeddedServer(folder, 0)
    await server.start()
    try:
        async with await connect([server.url], "provision") as bus:
            await provision(bus, Plan(ack_wait_s=ack_wait_s))
        yield server
    finally:
        await server.stop()


class Agent:
    """An agent on the bus: publishes requests, hears events, reads chains. Knows only the wire."""

    def __init__(self, nc: Client) -> None:
        """Use `agent_on`."""
        self.nc = nc
        self.heard: list[tuple[str, bytes]] = []

    async def listen(self) -> None:
        """Keep everything that is said on any reply subject, in order."""

        async def keep(msg: Msg) -> None:
            self.heard.append((msg.subject, msg.data))

        await self.nc.subscribe("mmg.event.>", cb=keep)
        await self.nc.subscribe("mmg.progress.>", cb=keep)
        await self.nc.flush()

    async def ask(
        self, priority: str, agent: str, request_id: str, body: dict[str, Any] | bytes
    ) -> dict[str, Any]:
        """Publish a request and return the server's answer, an error included."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        subject = f"mmg.request.{priority}.{agent}.{request_id}"
        answer = await self.nc.request(subject, data, timeout=5)
        result: dict[str, Any] = json.loads(answer.data)
        return result

    async def image(
        self, request_id: str, *, priority: str = "medium", agent: str = "L2-01", **options: Any
    ) -> None:
        """Publish a small good request; fail unless it is stored."""
        body = {"type": "image", "prompt": f"Cover {request_id}", "options": SMALL | options}
        answer = await self.ask(priority, agent, request_id, body)
        assert "error" not in answer, answer

    async def chain(self, request_id: str, agent: str = "L2-01") -> list[dict[str, Any]]:
        """Read the links of a chain in order, straight from the stream."""
        links: list[dict[str, Any]] = []
        seq = 1
        while True:
            query = {"seq": seq, "next_by_subj": f"mmg.chain.{agent}.{request_id}.*"}
            answer = await self.nc.request(
                "$JS.API.DIRECT.GET.MMG_EVENTS", json.dumps(query).encode(), timeout=5
            )
            headers = answer.headers or {}
            if "Nats-Sequence" not in headers:
                return links
            seq = int(headers["Nats-Sequence"]) + 1
            links.append(json.loads(answer.data))

    async def ended(
        self, request_id: str, agent: str = "L2-01", timeout_s: float = 20.0
    ) -> list[dict[str, Any]]:
        """Wait for the end of a chain and return it."""

        async def look() -> list[dict[str, Any]] | None:
            links = await self.chain(request_id, agent)
            return links if links and links[-1]["kind"] in TERMINAL else None

        links: list[dict[str, Any]] = await until(
            look, f"the end of {agent}.{request_id}", timeout_s
        )
        return links

    async def waiting(self) -> int:
        """Return how many requests lie in the lanes, those in hand included."""
        answer = await self.nc.request("$JS.API.STREAM.INFO.MMG_REQUESTS", b"", timeout=5)
        count: int = json.loads(answer.data)["state"]["messages"]
        return count

    async def lanes_empty(self, timeout_s: float = 30.0) -> None:
        """Wait until every request has left its lane."""

        async def look() -> bool:
            return await self.waiting() == 0

        await until(look, "empty lanes", timeout_s)


async def wants_keys(url: str) -> bool:
    """Tell from a server's greeting whether it is one of a site."""
    address = urlsplit(url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    greeting = await reader.readline()
    writer.close()
    await writer.wait_closed()
    return b'"tls_required":true' in greeting


@asynccontextmanager
async def agent_on(url: str) -> AsyncIterator[Agent]:
    """Connect a plain client; to a site with keys, with the operator's."""
    options: dict[str, Any] = {"max_reconnect_attempts": -1, "reconnect_time_wait": 0.1}
    if SECURED and await wants_keys(url):
        login = Login(keys=SITES[-1].keys, ca=SITES[-1].ca)
        nc: Client
        nc, trust = client_for(login, CLIENT)
        await nc.connect(url, inbox_prefix=b"_INBOX_client", **options, **trust)
    else:
        nc = await nats.connect(url, **options)
    try:
        yield Agent(nc)
    finally:
        await nc.close()


class Process:
    """A process of ours with its own folder; its words are kept for the failure message."""

    def __init__(self, process: asyncio.subprocess.Process, words: Path) -> None:
        """Use `running`."""
        self.process = process
        self._words = words

    @property
    def words(self) -> str:
        """Everything it said so far on stdout and stderr."""
        return self._words.read_text(encoding="utf-8", errors="replace")

    async def says(self, text: str, timeout_s: float = 20.0) -> str:
        """Wait until it has said `text`; return all its words."""
        try:
            await until(lambda: text in self.words, f"{text!r}", timeout_s)
        except AssertionError as error:
            raise AssertionError(f"{error}; it said:\n{self.words}") from error
        return self.words

    async def exit_code(self, timeout_s: float = 20.0) -> int:
        """Wait for its end."""
        try:
            async with asyncio.timeout(timeout_s):
                return await self.process.wait()
        except TimeoutError as error:
            raise AssertionError(f"still running after {timeout_s} s; {self.words}") from error

    async def kill(self) -> None:
        """Kill it as kill -9 does."""
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        await self.process.wait()

    def interrupt(self) -> None:
        """Send what Ctrl-C sends."""
        self.process.send_signal(signal.SIGINT)

    def terminate(self) -> None:
        """Ask it to stop."""
        self.process.terminate()


def site_of(folder: Path) -> SiteFolder:
    """Return the site with keys of a folder, made with its first process."""
    site = SiteFolder(folder / "data" / "site")
    if not site.exists:
        site.make("trial", ["127.0.0.1"], 4222, SystemClock().now())
        SITES.append(site)
    return site


def environment(**settings: str) -> dict[str, str]:
    """Return this environment without settings of ours, plus these."""
    keep = {k: v for k, v in os.environ.items() if not k.startswith("MMG_")}
    ours = {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "MMG_WORKER_HTTP_PORT": "0"}
    return keep | ours | settings


@asynccontextmanager
async def running(folder: Path, *command: str, **settings: str) -> AsyncIterator[Process]:
    """Run `mmg COMMAND` in `folder`; killed at the end if it still runs."""
    folder.mkdir(parents=True, exist_ok=True)
    if SECURED and not {"MMG_NATS_URL", "MMG_SITE_DIR"} & settings.keys():
        settings["MMG_SITE_DIR"] = str(site_of(folder).path)
    words = folder / f"words-{'-'.join(command)[:40].replace('/', '_')}-{id(settings)}.txt"
    with words.open("wb") as out:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "agent",
            *command,
            cwd=folder,
            env=environment(**settings),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=out,
            stderr=out,
        )
    wrapped = Process(process, words)
    try:
        yield wrapped
    finally:
        if process.returncode is None:
            await wrapped.kill()


def worker(folder: Path, url: str, *arguments: str, **settings: str) -> Any:
    """Run a worker with its assets in `folder`/generated-assets."""
    return running(folder, "worker", *arguments, MMG_NATS_URL=url, **settings)


def pictures(folder: Path) -> list[Path]:
    """Return every picture below a folder's assets."""
    return sorted((folder / "generated-assets").rglob("*.png"))


def temporary(folder: Path) -> list[Path]:
    """Return every temporary file below a folder's assets."""
    return sorted((folder / "generated-assets").rglob(".*"))
