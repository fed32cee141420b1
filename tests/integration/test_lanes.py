"""Goal: a lane hands out what is there at once, and a bell that was answered delays nobody.

Method: real lanes on a real server; a pause that would be met is made too long for the test.
"""

import asyncio

import pytest

from agent.bus import lanes
from agent.bus.connection import connect
from agent.bus.lanes import Lanes
from agent.embedded import EmbeddedServer
from tests.rig import Agent


async def test_bell_that_was_answered_does_not_hold_up_the_next_look(
    server: EmbeddedServer, agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with await connect([server.url], "worker") as bus:
        mine = Lanes(bus)
        await mine.open()
        await agent.image("r1")
        await mine.wait(5.0)
        delivery = await mine.next()
        assert delivery is not None
        monkeypatch.setattr(lanes, "LOOK_AGAIN_S", (60.0,))
        async with asyncio.timeout(5):
            assert await mine.next() is None
        await mine.close()


async def test_bell_heard_in_a_pause_ends_it(
    server: EmbeddedServer, agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lanes, "LOOK_AGAIN_S", (60.0,))
    async with await connect([server.url], "worker") as bus:
        mine = Lanes(bus)
        await mine.open()
        await agent.nc.publish("mmg.queued.high.L2-01.early")  # A bell before its message.
        await mine.wait(5.0)
        async with asyncio.timeout(5), asyncio.TaskGroup() as group:
            looking = group.create_task(mine.next())
            await agent.image("late", priority="high")
        delivery = looking.result()
        assert delivery is not None
        assert delivery.subject.endswith(".late")
        await mine.close()


async def test_message_that_answers_nobody_is_handed_back_and_not_lost(
    server: EmbeddedServer, agent: Agent
) -> None:
    async with (
        await connect([server.url], "worker") as bus,
        await connect([server.url], "other") as other,
    ):
        mine, second = Lanes(bus), Lanes(other)
        await mine.open()
        await second.open()
        await agent.image("r1", priority="low")
        subject = "$JS.API.CONSUMER.MSG.NEXT.MMG_REQUESTS.lane-low"
        await bus.publish(subject, b'{"batch":1,"no_wait":true}', reply=f"{mine._inbox}.stray")
        await bus.flush()  # The stray pull is the first to be served, whatever the load.

        async with asyncio.timeout(5):
            while (delivery := await second.next()) is None:
                await second.wait(0.05)
        assert delivery.num_delivered == 2
        await mine.close()
        await second.close()
