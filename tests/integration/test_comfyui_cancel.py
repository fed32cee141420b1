"""Goal: whatever a job is doing when it is cancelled, ComfyUI is free a step and a second later.

Method: the real engine, with its real waiting times, on doubles whose steps take 20 ms.
"""

import asyncio
import random

import pytest

from agent.core.faults import CancelledFault, HangFault
from agent.engines.comfyui import api, run
from agent.engines.protocol import EngineJob, Step
from tests.comfy_rig import Rig, hurry, on_step, order, pid, rig
from tests.rig import until

STEP_S = 0.02
LIMIT_S = STEP_S + 1.0
RIGS, EACH = 5, 20


async def cancel_at(made: Rig, job: EngineJob, step: int) -> float:
    """Draw a job and cancel it at a step, -1: at once; return how long it then took to end."""
    loop = asyncio.get_running_loop()
    reached = asyncio.Event()

    def report(heard: Step) -> None:
        if heard.step >= step:
            reached.set()

    async def draw() -> None:
        with pytest.raises(CancelledFault):
            await made.engine.generate(job, report)

    async with asyncio.TaskGroup() as group:
        drawing = group.create_task(draw(), name=job.request_id)
        if step >= 0:
            async with asyncio.timeout(20):
                await reached.wait()
        else:
            await asyncio.sleep(0)
        asked_s = loop.time()
        await made.engine.cancel(job)
        await drawing
        return loop.time() - asked_s


@pytest.mark.parametrize("lost", [0, 1])
async def test_a_hundred_of_a_hundred_cancels_free_the_engine_in_time(lost: int):
    took: list[float] = []
    chance = random.Random(lost)

    async def some(number: int) -> None:
        async with rig(step_ms=1000 * STEP_S) as made:
            for at in range(EACH):
                if lost:
                    made.double.trap("interrupt_lost", times=lost)
                job = order(f"c{number}-{at}", steps=100, seed=at)
                took.append(await cancel_at(made, job, chance.randint(-1, 8)))
                prompts = made.double.life.prompts
                assert (prompts.running, prompts.pending) == (None, [])

    async with asyncio.TaskGroup() as group:
        for number in range(RIGS):
            group.create_task(some(number), name=f"rig {number}")
    assert len(took) == RIGS * EACH == 100
    assert max(took) <= LIMIT_S


async def test_a_cancelled_task_frees_the_engine_though_an_interrupt_is_lost(
    monkeypatch: pytest.MonkeyPatch,
):
    hurry(monkeypatch)
    async with rig(step_ms=20, traps={"interrupt_lost": {"times": 2}}) as made:
        reached = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            task = group.create_task(made.draw(order(steps=100), on_step(2, reached.set)))
            async with asyncio.timeout(20):
                await reached.wait()
            task.cancel()
            await asyncio.wait({task})
            assert made.double.life.prompts.running is None
        assert task.cancelled()
        assert made.double.log.ended == [(pid(order()), "interrupted")]


async def test_cancelling_while_the_post_is_on_its_way_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch,
):
    hurry(monkeypatch)
    async with rig(step_ms=20) as made:
        made.double.trap("slow_post", seconds=0.2)
        async with asyncio.TaskGroup() as group:
            task = group.create_task(made.draw(order(steps=100)), name="posts")
            await until(lambda: made.asked("POST /prompt"), "the post")
            task.cancel()
            await asyncio.wait({task})
            prompts = made.double.life.prompts
            assert (prompts.running, prompts.pending) == (None, [])


async def test_a_hang_ends_the_prompt_and_the_server_is_free(monkeypatch: pytest.MonkeyPatch):
    hurry(monkeypatch)
    monkeypatch.setattr(run, "STOP_MAX_S", 0.3)
    trap = {"hang_at_step": {"step": 3, "seconds": 1.0}}
    async with rig({"step_timeout_s": 0.3}, step_ms=20, traps=trap) as made:
        with pytest.raises(HangFault, match="made no step for"):
            await made.draw(order(steps=20))
        assert made.double.log.interrupts, "it was asked to end"
        await until(lambda: made.double.log.ended, "the end of the hang")
        assert made.double.log.ended == [(pid(order()), "interrupted")]
        assert len((await made.draw(order("r2"))).pictures) == 1


async def test_cancel_of_a_job_on_a_server_that_died_ends_too(monkeypatch: pytest.MonkeyPatch):
    hurry(monkeypatch)
    monkeypatch.setattr(api, "CALL_TIMEOUT_S", 0.2)
    async with rig(step_ms=20) as made:
        job = order(steps=100)
        async with asyncio.TaskGroup() as group:
            reached = asyncio.Event()

            async def draw() -> None:
                with pytest.raises(CancelledFault):
                    await made.draw(job, on_step(2, reached.set))

            group.create_task(draw(), name="draws")
            async with asyncio.timeout(20):
                await reached.wait()
            await made.double.die()
            await made.engine.cancel(job)
