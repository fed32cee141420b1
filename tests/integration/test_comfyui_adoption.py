"""Goal: what a lost worker's prompt makes is used by who takes over, and never made twice.

Method: two engines on one double; the first is gone without a word in mid-run.
"""

import asyncio
from typing import Any

import pytest

from agent.core.faults import CancelledFault
from agent.engines.protocol import EngineJob
from tests.comfy_rig import Rig, engine_on, hurry, on_step, order, pid, rig
from tests.rig import until

STEPS = 40


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch)


async def abandon(made: Rig, job: EngineJob) -> None:
    """Let a worker vanish while its prompt runs: nobody stops it, nobody reads it."""
    reached = asyncio.Event()
    sessions = made.server.api

    async with asyncio.TaskGroup() as group:
        task = group.create_task(made.draw(job, on_step(2, reached.set)), name="lost worker")
        async with asyncio.timeout(20):
            await reached.wait()
        url, sessions.url = sessions.url, "http://127.0.0.1:9"
        task.cancel()
        await asyncio.wait({task})
        sessions.url = url
    assert made.double.life.prompts.running is not None, "it goes on"


def second(made: Rig, **changes: Any) -> EngineJob:
    """Return the order of who takes over the first attempt."""
    return order(attempt=2, steps=STEPS, earlier=((1, made.double.url),), **changes)


async def test_a_running_prompt_of_a_lost_worker_is_waited_for():
    async with rig(step_ms=20) as made, engine_on(made.double.url) as other:
        await abandon(made, order(steps=STEPS))
        adopted = await other.generate(second(made), lambda _step: None)
        assert len(adopted.pictures) == 1
        assert [prompt["prompt_id"] for prompt in made.double.log.prompts] == [pid(order())]
        assert other.adopted == 1
        await other.forget(second(made))
        assert not made.ours


async def test_a_finished_prompt_of_a_lost_worker_is_fetched():
    async with rig() as made, engine_on(made.double.url) as other:
        await made.draw(order(steps=STEPS))
        adopted = await other.generate(second(made), lambda _step: None)
        assert len(adopted.pictures) == 1
        assert len(made.double.log.prompts) == 1


async def test_a_prompt_that_failed_or_is_lost_is_drawn_anew():
    async with rig(traps={"fail": {}}) as made:
        with pytest.raises(Exception, match="told to fail"):
            await made.draw(order(steps=STEPS))
        await made.draw(second(made))
        assert len(made.double.log.prompts) == 2
        await made.double.restart()
        await made.draw(order(attempt=3, steps=STEPS, earlier=second(made).earlier))
        assert len(made.double.log.prompts) == 3


async def test_waiting_for_an_adopted_prompt_leaves_the_socket_alone():
    async with rig(step_ms=20) as made, engine_on(made.double.url) as other:
        await abandon(made, order(steps=STEPS))
        opened = len(made.double.log.sockets_opened)
        await other.generate(second(made), lambda _step: None)
        assert len(made.double.log.sockets_opened) == opened


async def test_cancel_stops_an_adopted_prompt():
    async with rig(step_ms=20) as made, engine_on(made.double.url) as other:
        await abandon(made, order(steps=100))
        async with asyncio.TaskGroup() as group:

            async def take_over() -> None:
                with pytest.raises(CancelledFault):
                    await other.generate(second(made), lambda _step: None)

            seen = made.asked("GET /queue")
            group.create_task(take_over(), name="takes over")
            await until(lambda: made.asked("GET /queue") > seen, "the search for it")
            await other.cancel(second(made))
        assert made.double.log.ended == [(pid(order()), "interrupted")]
        assert len(made.double.log.prompts) == 1


async def test_cancelling_the_task_that_adopts_frees_the_engine_before_it_leaves():
    async with rig(step_ms=20) as made, engine_on(made.double.url) as other:
        await abandon(made, order(steps=100))
        async with asyncio.TaskGroup() as group:
            seen = made.asked("GET /queue")
            task = group.create_task(other.generate(second(made), lambda _step: None))
            await until(lambda: made.asked("GET /queue") > seen + 1, "the search for it")
            task.cancel()
            await asyncio.wait({task})
            assert made.double.life.prompts.running is None
        assert task.cancelled()
