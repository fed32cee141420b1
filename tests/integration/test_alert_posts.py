"""Goal: the operator's own address hears each alert once, signed, when it begins and when it ends.

Method: a real nats-server, a real receiver, alerts as workers raise them; two gateways.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

import pytest

from agent.bus import control
from agent.bus.connection import Bus, connect
from agent.config import ConfigError, load
from agent.gateway import AlertPosts, HookSettings
from contracts.events import Alert
from tests.doubles.receiver import SECRET, Receiver, receiver
from tests.rig import until

AT = datetime(2026, 3, 2, 9, 15, tzinfo=UTC)


@pytest.fixture
async def bus(server) -> AsyncIterator[Bus]:
    async with await connect([server.url], "gateway", role="gateway") as connected:
        yield connected


@pytest.fixture
async def there() -> AsyncIterator[Receiver]:
    async with receiver() as one:
        yield one


@asynccontextmanager
async def posting(*buses: Bus, url: str | None) -> AsyncIterator[None]:
    hooks = HookSettings(secrets=(SECRET,), alert_url=url)
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(AlertPosts(bus, hooks, pauses_s=(0, 0.01, 0.01)).run())
            for bus in buses
        ]
        for bus in buses:
            await bus.flush()
        yield
        for task in tasks:
            task.cancel()


async def say(bus: Bus, state: Literal["raised", "cleared"], name: str = "disk") -> None:
    at = AT if state == "raised" else AT + timedelta(minutes=1)
    await control.raise_alert(bus, Alert(name=name, state=state, message="full", by="w1", at=at))


async def test_an_alert_is_told_signed_when_it_begins_and_when_it_ends(bus, there):
    async with posting(bus, url=there.url("/alerts")):
        await say(bus, "raised")
        await say(bus, "cleared")
        await until(lambda: len(there.told) == 2, "both alerts")
    first, second = there.told
    assert first.is_signed()
    assert second.is_signed()
    assert first.json["type"] == "mmg.alert"
    assert [told.json["data"]["state"] for told in there.told] == ["raised", "cleared"]
    assert first.headers["webhook-id"] != second.headers["webhook-id"]
    assert "." not in first.headers["webhook-id"]


async def test_a_receiver_that_fails_is_told_again_under_the_same_id_and_in_order(bus, there):
    there.answers = [503, 500, 204]
    async with posting(bus, url=there.url()):
        await say(bus, "raised")
        await say(bus, "cleared")
        await until(lambda: len(there.told) == 4, "three tries and the next alert")
    ids = [told.headers["webhook-id"] for told in there.told]
    assert ids[0] == ids[1] == ids[2] != ids[3]


async def test_what_nobody_takes_is_given_up_and_the_next_alert_is_told(bus, there):
    there.answers = [500, 500, 500, 204]
    async with posting(bus, url=there.url()):
        await say(bus, "raised", "clock")
        await say(bus, "raised", "disk")
        await until(lambda: len(there.told) == 4, "three tries and the next alert")
    assert there.told[-1].json["data"]["name"] == "disk"


async def test_of_two_gateways_one_tells(server, bus, there):
    async with (
        await connect([server.url], "gateway", role="gateway") as other,
        posting(bus, other, url=there.url()),
    ):
        for number in range(6):
            await say(bus, "raised", f"a{number}")
        await until(lambda: len(there.told) >= 6, "six alerts")
        await bus.flush()
        await other.flush()
    assert len({told.headers["webhook-id"] for told in there.told}) == len(there.told) == 6


async def test_without_an_address_nothing_is_told(bus, there):
    async with asyncio.timeout(5), posting(bus, url=None):
        await say(bus, "raised")
    assert there.told == []


def test_an_address_without_a_secret_is_a_fault_of_the_settings(tmp_path: Path):
    environ = {"MMG_ALERT_WEBHOOK_URL": "https://hooks.example/x"}
    with pytest.raises(ConfigError, match="unsigned"):
        load(environ, tmp_path)
    environ["MMG_WEBHOOK_SECRET"] = SECRET
    loaded = load(environ, tmp_path)
    assert loaded.webhook.alert_url == "https://hooks.example/x"
    assert "hooks.example" not in repr(loaded.webhook)
