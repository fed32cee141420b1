"""Goal: every engine keeps the engine protocol. Method: one suite, run against each of them.

Nothing sleeps: what happens is waited for, with a deadline. `make live` runs the same suite against
a real ComfyUI.
"""

import asyncio
import io
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path

import pytest
from PIL import Image

from agent.core.faults import CancelledFault, EngineDownFault, Fault, Remedy, WorkflowInvalidFault
from agent.engines.comfyui import api, run
from agent.engines.protocol import Engine, Step
from contracts.requests import AspectRatio
from tests.comfy_rig import hurry
from tests.conformance.subjects import SUBJECTS, Subject
from tests.rig import until

PATIENCE_S = 1.0
"""What an engine may take beyond the step it is in."""
DEADLINE_S = 30.0
FD = Path("/proc/self/fd")


def held() -> tuple[int, int]:
    """Return how many tasks and files there are."""
    return len(asyncio.all_tasks()), len(list(FD.iterdir())) if FD.exists() else 0


WITH_WORKFLOWS = [name for name in SUBJECTS if name != "sketch"]
"""Engines that a request can ask too much of; the sketch engine draws anything."""


@pytest.fixture(params=SUBJECTS)
async def subject(request: pytest.FixtureRequest) -> AsyncIterator[Subject]:
    async with SUBJECTS[request.param]() as made:
        yield made


class Drawing:
    """A job that is being drawn, up to a step a test waits for."""

    def __init__(self, subject: Subject, group: asyncio.TaskGroup, request_id: str = "r1") -> None:
        self.job = subject.order(request_id, **subject.long)
        self.subject = subject
        self.steps: list[Step] = []
        self.times_s: list[float] = []
        self.shown = asyncio.Event()
        self.ended: BaseException | None = None
        self.task = group.create_task(self._draw(), name=f"draws {request_id}")

    async def _draw(self) -> None:
        def report(step: Step) -> None:
            self.steps.append(step)
            self.times_s.append(asyncio.get_running_loop().time())
            if step.step >= 2:
                self.shown.set()

        try:
            await self.subject.engine.generate(self.job, report)
        except CancelledFault as fault:
            self.ended = fault
        except asyncio.CancelledError as error:
            self.ended = error
            self.busy_then = await self.subject.busy()
            raise

    async def under_way(self) -> None:
        async with asyncio.timeout(DEADLINE_S):
            await self.shown.wait()


async def test_it_is_an_engine_with_facts_a_price_and_health(subject: Subject):
    engine: Engine = subject.engine
    facts = engine.facts
    assert (facts.name, facts.slot, facts.up, facts.down) == (engine.name, engine.slot, True, "")
    assert facts.models
    assert engine.price_usd(subject.order()) == 0
    health = await engine.health()
    assert health.state == "up"
    assert health.detail


async def test_a_job_gives_a_picture_of_the_asked_size_that_says_what_made_it(subject: Subject):
    made = await subject.engine.generate(subject.order(), lambda _step: None)
    (picture,) = made.pictures
    image = Image.open(io.BytesIO(picture.data))
    image.load()
    assert (image.format, image.size) == ("PNG", (256, 256))
    assert (picture.width, picture.height, picture.format) == (256, 256, "png")
    assert not image.info, "no text travels with the picture"
    assert made.model_used in subject.engine.facts.models
    assert (made.seed, made.cost_usd) == (7, 0)


async def test_progress_comes_in_order_moves_evenly_and_ends_with_the_job(subject: Subject):
    steps: list[Step] = []
    job = subject.order(steps=20)
    await subject.engine.generate(job, steps.append)
    seen = len(steps)
    await subject.engine.generate(subject.order("r2"), lambda _step: None)
    assert len(steps) == seen, "nothing is reported after the end"
    numbers, shares = [step.step for step in steps], [step.share for step in steps]
    assert numbers == sorted(numbers)
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    jumps = [after - before for before, after in pairwise([0.0, *shares])]
    assert max(jumps) <= subject.jump_max, "no jump over most of the way"
    assert len(set(shares)) >= 5
    assert all(step.message and 0 <= step.step <= step.steps for step in steps)


async def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(subject: Subject):
    async def drawn(request_id: str, seed: int) -> bytes:
        job = subject.order(request_id, seed=seed)
        return (await subject.engine.generate(job, lambda _step: None)).pictures[0].data

    first = await drawn("r1", 7)
    assert await drawn("r2", 7) == first
    assert await drawn("r3", 8) != first


async def test_count_gives_as_many_different_pictures(subject: Subject):
    job = subject.order(count=3, steps=2)
    made = await subject.engine.generate(job, lambda _step: None)
    assert len({picture.data for picture in made.pictures}) == 3


@pytest.mark.parametrize("ratio", AspectRatio)
async def test_every_aspect_ratio_has_the_size_of_its_model(subject: Subject, ratio: AspectRatio):
    job = subject.order(aspect_ratio=ratio, steps=1)
    (picture,) = (await subject.engine.generate(job, lambda _step: None)).pictures
    assert (picture.width, picture.height) == subject.sizes[ratio]
    assert Image.open(io.BytesIO(picture.data)).size == subject.sizes[ratio]


async def test_cancel_ends_a_running_job_within_a_step_and_a_second(subject: Subject):
    loop = asyncio.get_running_loop()
    async with asyncio.TaskGroup() as group:
        drawing = Drawing(subject, group)
        await drawing.under_way()
        seen = len(drawing.steps)
        await until(lambda: len(drawing.steps) >= seen + 3, "three more steps")
        step_s = max(after - before for before, after in pairwise(drawing.times_s))
        asked_s = loop.time()
        await subject.engine.cancel(drawing.job)
        await asyncio.wait({drawing.task}, timeout=DEADLINE_S)
        took_s = loop.time() - asked_s
    assert isinstance(drawing.ended, CancelledFault)
    assert took_s <= step_s + PATIENCE_S
    assert not await subject.busy(), "the engine is free"
    again = await subject.engine.generate(subject.order("r2"), lambda _step: None)
    assert len(again.pictures) == 1


async def test_cancelling_the_task_frees_the_engine_before_the_cancellation_leaves(
    subject: Subject,
):
    async with asyncio.TaskGroup() as group:
        drawing = Drawing(subject, group)
        await drawing.under_way()
        drawing.task.cancel()
        await asyncio.wait({drawing.task}, timeout=DEADLINE_S)
    assert drawing.task.cancelled()
    assert isinstance(drawing.ended, asyncio.CancelledError)
    assert not drawing.busy_then, "busy when the cancellation left"
    again = await subject.engine.generate(subject.order("r2"), lambda _step: None)
    assert len(again.pictures) == 1


async def test_cancel_and_forget_of_an_unknown_job_do_nothing(subject: Subject):
    await subject.engine.cancel(subject.order("elsewhere"))
    await subject.engine.forget(subject.order("elsewhere"))
    made = await subject.engine.generate(subject.order(), lambda _step: None)
    assert len(made.pictures) == 1
    await subject.engine.forget(subject.order())
    await subject.engine.forget(subject.order())


async def test_two_jobs_after_each_other_and_a_second_attempt_of_the_first(subject: Subject):
    for request_id, attempt in (("r1", 1), ("r2", 1), ("r1", 2)):
        job = subject.order(request_id, attempt=attempt)
        made = await subject.engine.generate(job, lambda _step: None)
        assert len(made.pictures) == 1


@pytest.mark.parametrize("subject", WITH_WORKFLOWS, indirect=True)
async def test_what_cannot_be_drawn_is_a_fault_with_code_remedy_and_a_sentence(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
):
    with pytest.raises(WorkflowInvalidFault) as raised:
        await subject.engine.generate(subject.order(workflow="sdxl-img2img"), lambda _step: None)
    fault: Fault = raised.value
    assert fault.remedy is Remedy.GIVE_UP
    assert fault.body().code == "workflow_invalid"
    assert fault.message
    if subject.gone is None:
        return
    hurry(monkeypatch)
    monkeypatch.setattr(run, "AWAY_MAX_S", 0.1)
    monkeypatch.setattr(api, "CALL_TIMEOUT_S", 0.2)
    await subject.gone()
    with pytest.raises(EngineDownFault) as down:
        await subject.engine.generate(subject.order("r2"), lambda _step: None)
    assert down.value.remedy is Remedy.OTHER_ENGINE
    assert down.value.body().code == "engine_down"


async def test_jobs_leak_no_task_file_or_connection(subject: Subject):
    async def one(number: int) -> None:
        async with asyncio.TaskGroup() as group:
            drawing = Drawing(subject, group, f"c{number}")
            await drawing.under_way()
            await subject.engine.cancel(drawing.job)
        await subject.engine.generate(subject.order(f"r{number}"), lambda _step: None)

    await one(0)  # The first opens connections that are kept.
    before = held()
    for number in range(1, 6):
        await one(number)
    tasks, files = held()
    assert tasks <= before[0]
    assert files <= before[1] + 1, "a connection may be open while another is being closed"


async def test_closing_gives_back_tasks_and_files():
    for name, make in SUBJECTS.items():
        before = held()
        async with make() as subject:
            await subject.engine.generate(subject.order(), lambda _step: None)
        for _ in range(5):
            await asyncio.sleep(0)
        tasks, files = held()
        assert tasks <= before[0], name
        assert files <= before[1], name
