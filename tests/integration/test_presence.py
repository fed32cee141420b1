"""Goal: many workers keep out of each other's way, and say no more than one of them has to.

Method: real presences on a real server; others are named by a plain client.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from agent import presence
from agent.bus import lanes
from agent.bus.connection import connect
from agent.dispatch import Dispatch
from agent.embedded import EmbeddedServer
from agent.presence import Presence
from contracts.events import WorkerStatus
from tests.doubles.engine import ScriptedEngine
from tests.rig import Agent, until
from tests.worker_rig import worker_with

FREE, BUSY = 1, 0


@asynccontextmanager
async def present(server: EmbeddedServer, name: str = "w1") -> AsyncIterator[Presence]:
    status = WorkerStatus(
        worker=name,
        state="ready",
        reason="",
        running=(),
        waiting=(),
        engines=(),
        permission_errors=0,
    )
    async with await connect([server.url], name) as bus:
        here = Presence(bus, name, lambda: status)
        async with asyncio.TaskGroup() as group:
            task = group.create_task(here.run())
            yield here
            task.cancel()


async def meet(here: Presence, agent: Agent, *names: str) -> None:
    async def told() -> bool:
        for name in names:
            await agent.nc.publish(f"mmg.worker.{name}")
        return set(names) <= set(here.others)

    await until(told, "the others to be known")


async def test_alone_nobody_is_left_anything(server: EmbeddedServer) -> None:
    async with present(server) as here:
        assert here.patience_s(FREE) == 0
        assert here.patience_s(BUSY) == 0


async def test_who_has_no_free_slot_looks_after_everybody_who_has_one(
    server: EmbeddedServer, agent: Agent
) -> None:
    async with present(server) as here:
        await meet(here, agent, *(f"o{number}" for number in range(50)))
        free = [here.patience_s(FREE) for _ in range(200)]
        busy = [here.patience_s(BUSY) for _ in range(200)]
        assert max(free) + 0.9 * presence.BUSY_S < min(busy)
        assert len({round(one, 6) for one in free}) > 100
        assert max(free) <= presence.spread_s(50) <= max(busy)


async def test_one_idle_bell_a_second_is_enough_for_all_who_are_idle(
    server: EmbeddedServer, agent: Agent
) -> None:
    rung: list[tuple[str, list[str]]] = []

    async def hear(msg: object) -> None:
        idle = json.loads(msg.data)  # type: ignore[attr-defined]
        rung.append((idle["worker"], idle["kinds"]))

    await agent.nc.subscribe("mmg.idle", cb=hear)
    await agent.nc.flush()
    async with present(server) as here:
        await meet(here, agent, "w2")
        assert here.heard_idle(b'{"worker":"w2","kinds":["gpu"]}') == ("gpu",)
        assert (
            here.heard_idle(b'{"worker":"w1","kinds":["cloud"]}') == ()
        )  # One's own says nothing.
        assert here.heard_idle(b"what?") == ()
        await here.tell_idle(("gpu",))
        await here.tell_idle(("gpu", "cloud"))  # Nobody has told that of the cloud.
        await here.tell_idle(("gpu", "cloud"))
        await until(lambda: rung, "the bell")
        await here._bus.flush()
        await agent.nc.flush()
        assert rung == [("w1", ["gpu", "cloud"])]


async def test_bell_of_long_ago_silences_nobody(
    server: EmbeddedServer, agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presence, "IDLE_EVERY_S", 0.0)
    heard = asyncio.Event()

    async def hear(_msg: object) -> None:
        heard.set()

    await agent.nc.subscribe("mmg.idle", cb=hear)
    await agent.nc.flush()
    async with present(server) as here:
        await meet(here, agent, "w2")
        here.heard_idle(b'{"worker":"w2","kinds":["gpu"]}')
        await here.tell_idle(("gpu",))
        async with asyncio.timeout(5):
            await heard.wait()


async def test_newcomer_is_greeted_by_few_and_not_by_all(
    server: EmbeddedServer, agent: Agent
) -> None:
    async with present(server) as here:
        names = [f"o{number}" for number in range(presence.GREETED_MAX)]
        await meet(here, agent, *names[:-1])
        await until(lambda: not here._met.is_set(), "the last greeting")
        await meet(here, agent, names[-1])
        await until(lambda: not here._met.is_set(), "the last greeting")
        here._met = asyncio.Event()  # What the loop waits for is another one: nobody clears this.
        await meet(here, agent, "newcomer")
        assert not here._met.is_set()


async def test_each_request_goes_to_a_worker_that_is_free(
    server: EmbeddedServer, agent: Agent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presence, "BUSY_S", 3.0)  # However slow this machine is today.
    monkeypatch.setattr(lanes, "SAFETY_SWEEP_S", 2.0)
    loop, pulled_s = asyncio.get_running_loop(), [0.0]

    async def hear(_msg: object) -> None:
        pulled_s.append(loop.time())

    await agent.nc.subscribe("$JS.API.CONSUMER.MSG.NEXT.>", cb=hear)
    async with AsyncExitStack() as stack:
        workers = [
            await stack.enter_async_context(
                worker_with(
                    server,
                    tmp_path,
                    ScriptedEngine(seconds=60),
                    name=f"w{number}",
                    slots=1,
                    drain_s=0.0,
                    lookahead=16,
                )
            )
            for number in range(4)
        ]
        await until(lambda: all(len(one._presence.others) == 3 for one in workers), "all to meet")
        for count in range(1, 5):
            await until(lambda: loop.time() - pulled_s[-1] > 0.2, "nobody to look any more")
            await agent.image(f"r{count}")
            await until(partial(all_in_hand, workers, count), "somebody to take it")
        assert [one.running for one in workers] == [1, 1, 1, 1]


def all_in_hand(workers: list[Dispatch], count: int) -> bool:
    return sum(one.running for one in workers) == count


async def test_no_safety_sweep_takes_what_is_left_to_others(
    server: EmbeddedServer, agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lanes, "SAFETY_SWEEP_S", 0.01)
    async with await connect([server.url], "busy") as bus:
        mine = lanes.Lanes(bus, lambda: 1.0)
        await mine.open()
        await agent.nc.publish("mmg.queued.low.L2-01.r1")
        await until(lambda: mine._left, "the bell")
        began_s = asyncio.get_running_loop().time()
        await mine.wait()
        assert asyncio.get_running_loop().time() - began_s > 0.5
        await mine.wait()  # Nothing is left to anybody: a safety sweep.
        await mine.close()


async def test_what_waits_behind_a_run_goes_to_a_worker_that_becomes_idle(
    server: EmbeddedServer, agent: Agent, tmp_path: Path
) -> None:
    rest: dict[str, Any] = {"slots": 1, "drain_s": 0.0, "lookahead": 16}
    async with worker_with(server, tmp_path, ScriptedEngine(seconds=60), **rest) as first:
        await agent.image("r1")
        await agent.image("r2")
        await until(lambda: first.running == 2, "one worker to hold both")
        engine = ScriptedEngine(seconds=60)
        async with worker_with(server, tmp_path, engine, name="w2", **rest) as second:
            await until(lambda: second.running == 1, "the other one to get what waits")
            assert first.running == 1


async def test_idle_bell_is_nothing_to_who_holds_nothing(
    server: EmbeddedServer, agent: Agent, tmp_path: Path
) -> None:
    async with worker_with(server, tmp_path, ScriptedEngine()) as worker:

        async def heard() -> bool:
            await agent.nc.publish("mmg.idle", b'{"worker":"other","kinds":["cpu"]}')
            return bool(worker._presence._rang_s)

        await until(heard, "the bell")
        assert worker._idle_elsewhere is None
