"""What the tests of webhooks share: a gateway's part that tells, and a clock that they move.

It must not check anything itself.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any

from agent.bus import hooks
from agent.bus.connection import Bus
from agent.clock import SystemClock
from agent.core.webhook import Hook
from agent.gateway import GatewaySettings
from agent.gateway.settings import HookSettings
from agent.gateway.webhooks import Webhooks
from contracts.subjects import Identity
from tests.doubles.receiver import SECRET, Receiver
from tests.integration.gateway_rig import Story
from tests.rig import until

WHO = Identity("L2-01", "r1")
EXACT_S = 0.05
"""How long an end stays with the server in these tests: the clock here is moved by hand."""


class MovedClock(SystemClock):
    """The time of day, moved on by the test."""

    def __init__(self) -> None:
        self.moved = timedelta()

    def now(self) -> datetime:
        return super().now() + self.moved


def settings(*there: Receiver, secrets: tuple[str, ...] = (SECRET,)) -> GatewaySettings:
    allowed = frozenset(one.host for one in there)
    return GatewaySettings(port=0, hooks=HookSettings(secrets=secrets, allowed=allowed))


@asynccontextmanager
async def telling(
    bus: Bus, there: Receiver, clock: MovedClock | None = None, **options: Any
) -> AsyncIterator[Webhooks]:
    """Run what a gateway does for webhooks beside the block."""
    known = options.pop("settings", None) or settings(there)
    one = Webhooks(bus, known, clock=clock or MovedClock(), left_s=EXACT_S, **options)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(one.run(), name="webhooks")
        try:
            yield one
        finally:
            task.cancel()


async def asked(bus: Bus, url: str, who: Identity = WHO) -> Story:
    """Take up the pen for a request whose end `url` wants to be told."""
    await hooks.keep(bus, who, url, MovedClock().now())
    return Story(bus, who)


async def hook_of(bus: Bus, who: Identity = WHO) -> Hook:
    found = await hooks.read(bus, who)
    assert found is not None, f"{who} has a webhook"
    return found[0]


async def becomes(bus: Bus, state: str, who: Identity = WHO) -> Hook:
    async def look() -> Hook | None:
        if await hooks.read(bus, who) is None:
            return None
        hook = await hook_of(bus, who)
        return hook if hook.state == state else None

    found: Hook = await until(look, f"a webhook that is {state}")
    return found
