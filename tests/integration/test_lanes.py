"""Goal: a lane hands out what is there at once, and a bell that was answered delays nobody.

Method: real lanes on a real server; a pause that would be met is made too long for the test.
"""

import asyncio
from functools import partial

import pytest
from structlog.testing import capture_logs

from agent.bus import lanes
from agent.bus.connection import connect
from agent.bus.lanes import Lanes
from agent.embedded import EmbeddedServer
from contracts.subjects import Identity
from tests.rig import Agent, until


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

        async def is_late() -> bool:
            # Again, because a pull may come before its message can be pulled.
            await bus.publish(subject, b'{"batch":1,"no_wait":true}', reply=f"{mine._inbox}.stray")
            await bus.flush()
            return any(line["event"] == "lanes.late" for line in said)

        with capture_logs() as said:
            await until(is_late, "a message that nobody waits for")
        async with asyncio.timeout(5):
            while (delivery := await second.next()) is None:
                await second.wait(0.05)
        assert delivery.num_delivered >= 2
        await mine.close()
        await second.close()


def is_full(got: list[str], count: int) -> bool:
    return len(got) == count


async def test_who_is_patient_leaves_every_request_to_who_is_not(
    server: EmbeddedServer, agent: Agent
) -> None:
    got: list[str] = []

    async def take(mine: Lanes, name: str) -> None:
        while True:
            await mine.wait(60.0)
            delivery = await mine.next()
            if delivery is not None:
                got.append(name)
                await delivery.ack()

    async with (
        await connect([server.url], "worker") as bus,
        await connect([server.url], "other") as other,
    ):
        busy, free = Lanes(bus, lambda: 60.0), Lanes(other)
        await busy.open()
        await free.open()
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(take(busy, "busy")), group.create_task(take(free, "free"))]
            for number in range(20):
                await agent.image(f"r{number}")
                await until(partial(is_full, got, number + 1), "somebody to take it")
            await until(lambda: len(busy._left) == 20, "all bells to be heard by the other")
            for task in tasks:
                task.cancel()
        assert got == ["free"] * 20
        await busy.close()
        await free.close()


async def test_bell_that_is_left_to_others_counts_in_the_end(
    server: EmbeddedServer, agent: Agent
) -> None:
    async with await connect([server.url], "worker") as bus:
        mine = Lanes(bus, lambda: 0.05)
        await mine.open()
        await agent.image("r1")
        async with asyncio.timeout(5):
            await mine.wait(60.0)
        delivery = await mine.next()
        assert delivery is not None
        assert delivery.subject.endswith(".r1")
        await mine.close()


async def test_bell_of_a_request_that_another_has_begun_is_forgotten(
    server: EmbeddedServer, agent: Agent
) -> None:
    async with await connect([server.url], "worker") as bus:
        mine = Lanes(bus, lambda: 60.0)
        await mine.open()
        await agent.nc.publish("mmg.queued.low.L2-01.r1")
        await agent.nc.publish("mmg.event.L2-01.r2.released")
        await until(lambda: len(mine._left) == 2, "both bells")
        mine.taken(Identity("L2-01", "r1"))
        assert set(mine._left) == {Identity("L2-01", "r2")}
        await mine.close()
        assert not mine._left
