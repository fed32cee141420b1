"""A site with keys on a real nats-server: everybody with the rights that `mmg key` gives them."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from nats.aio.msg import Msg

from agent.bus.connection import WHO_AM_I, Bus, connect
from agent.bus.login import Login
from agent.bus.provision import Plan, provision
from agent.clock import SystemClock
from agent.embedded import EmbeddedServer, reload
from agent.site.folder import SiteFolder
from contracts import subjects
from contracts.requests import Priority

ALICE, BOB = "L2.01", "L2.02"
"""Two agents: the first may use HIGH and below, the second everything."""


class Site:
    """A running site. `folder` is what `mmg key` works on."""

    def __init__(self, site: SiteFolder, server: EmbeddedServer, folder: Path) -> None:
        self.folder = site
        self.server = server
        self._folder = folder

    @property
    def settings(self) -> dict[str, str]:
        """What a process of ours is told."""
        return {"MMG_NATS_URL": self.server.url, "MMG_SITE_DIR": str(self.folder.path)}

    def login(self, who: str) -> Login:
        """Return what a role, or an agent by its id, logs in with."""
        seed = self.folder.seed_of(who).read_text(encoding="utf-8").strip()
        return Login(seed=seed, ca=self.folder.ca)

    async def bus(self, who: str) -> Bus:
        """Connect as a role or as an agent."""
        role = who if who in self.folder.roster().roles and who != "operator" else "client"
        return await connect([self.server.url], who, role=role, patience_s=3, login=self.login(who))

    async def reload(self) -> None:
        """Let the server take over what `mmg key` has written."""
        assert await asyncio.to_thread(reload, self._folder), "the server has not reloaded"


@asynccontextmanager
async def site_in(folder: Path, *, provisioned: bool = True) -> AsyncIterator[Site]:
    """Make a site and run its server; ALICE and BOB are on it."""
    folder.mkdir(exist_ok=True)
    site = SiteFolder(folder / "site")
    site.make("trial", ["127.0.0.1", "localhost"], 4222, SystemClock().now())
    for agent, highest in ((ALICE, Priority.HIGH), (BOB, Priority.CRITICAL)):
        site.add_agent(agent, highest)
    server = EmbeddedServer(folder / "nats", 0, (site.tls_conf, site.accounts_conf))
    await server.start()
    try:
        running = Site(site, server, folder / "nats")
        if provisioned:
            async with await running.bus("provision") as bus:
                await provision(bus, Plan(ack_wait_s=3.0))
        yield running
    finally:
        await server.stop()


class People:
    """Opens one connection for each role or agent that a test names, and closes them all."""

    def __init__(self, site: Site, stack: AsyncExitStack) -> None:
        self._site = site
        self._stack = stack

    async def get(self, who: str) -> Bus:
        return await self._stack.enter_async_context(await self._site.bus(who))


async def settled(bus: Bus) -> None:
    """Return when the server has judged all that was said before: one connection keeps order.

    A flush would not do: nats-py 2.16.0 sends its ping past what it has not written yet.
    """
    await bus.request(WHO_AM_I)


async def refused(bus: Bus, subject: str, data: bytes = b"", **how) -> bool:
    """Publish; tell whether exactly that was refused."""
    before = bus.permission_errors
    await bus.publish(subject, data, **how)
    await settled(bus)
    return bus.permission_errors == before + 1


async def deaf(bus: Bus, subject: str) -> bool:
    """Subscribe; tell whether that was refused."""
    before = bus.permission_errors

    async def hear(_: Msg) -> None:
        raise AssertionError(f"{bus.name} heard something on {subject}")

    await bus.subscribe(subject, hear)
    await settled(bus)
    return bus.permission_errors == before + 1


async def stored(bus: Bus, stream: str) -> int:
    state = json.loads(await bus.api(f"STREAM.INFO.{stream}"))["state"]
    return int(state["messages"])


async def requests_in(bus: Bus) -> list[str]:
    question = {"subjects_filter": subjects.REQUESTS_ANY}
    info = json.loads(await bus.api("STREAM.INFO.MMG_REQUESTS", question))
    return sorted(info["state"].get("subjects") or {})
