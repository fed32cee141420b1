"""Goal: the sketch engine keeps the engine protocol: bytes, progress, cancellation, threads.

Method: a real engine with its real thread; a gate in the stage hook holds that thread where a test
wants it. Nothing sleeps: events are waited for with a deadline.
"""

import asyncio
import io
import threading
from collections.abc import AsyncIterator

import msgspec
import pytest
from PIL import Image

from agent.core.faults import CancelledFault
from agent.engines.protocol import Brand, Engine, EngineJob, Step
from agent.engines.sketch import SketchEngine
from agent.engines.sketch.brief import STAGES

DEADLINE_S = 10
STYLES = ("technical-diagram", "report-cover", "infographic", None)
SHAPES = ((256, 256), (448, 256), (384, 320), (256, 448))


def job(**changes):
    fields = {
        "agent": "L2-05-03",
        "request_id": "r1",
        "attempt": 1,
        "prompt": "Request flow: Agent -> Queue -> Worker, 42 % local, 18 s median. Kept a month.",
        "negative_prompt": None,
        "style": "report-cover",
        "brand": Brand(palette=("#f5f1e8", "#14213d", "#d1495b", "#edae49")),
        "quality": "draft",
        "width": 256,
        "height": 256,
        "count": 1,
        "seed": 7,
    }
    return EngineJob(**{**fields, **changes})


class Gate:
    """Holds the drawing thread after a named number of stages."""

    def __init__(self, after):
        self.after, self.seen = after, 0
        self.reached, self.open = threading.Event(), threading.Event()

    def __call__(self, _stage):
        self.seen += 1
        if self.seen == self.after:
            self.reached.set()
            assert self.open.wait(DEADLINE_S), "nobody opened the gate"


async def reached(event):
    assert await asyncio.to_thread(event.wait, DEADLINE_S), "the thread never came there"


@pytest.fixture
async def engine() -> AsyncIterator[SketchEngine]:
    made = SketchEngine()
    yield made
    await made.close()


async def drawn(engine, **changes):
    return (await engine.generate(job(**changes), lambda _step: None)).pictures


async def test_it_is_an_engine_that_costs_nothing_and_is_up(engine):
    whole: Engine = engine
    assert (whole.name, whole.slot, whole.facts.models) == ("sketch", "cpu", ("sketch",))
    assert whole.price_usd(job(count=10)) == 0
    assert (await whole.health()).state == "up"


async def test_the_outcome_says_honestly_what_made_it(engine):
    made = await engine.generate(job(), lambda _step: None)
    assert (made.model_used, made.seed, made.cost_usd, made.vram_mib) == ("sketch", 7, 0, None)


@pytest.mark.parametrize("style", STYLES)
async def test_same_seed_same_bytes_and_another_seed_other_bytes(engine, style):
    first = await drawn(engine, style=style)
    assert await drawn(engine, style=style, request_id="r2", attempt=3) == first
    assert await drawn(engine, style=style, seed=8) != first


@pytest.mark.parametrize("style", STYLES)
async def test_every_style_and_shape_is_a_png_of_the_asked_size_without_text_in_it(engine, style):
    for width, height in SHAPES:
        (picture,) = await drawn(engine, style=style, width=width, height=height)
        image = Image.open(io.BytesIO(picture.data))
        image.load()
        assert (image.format, image.mode, image.size) == ("PNG", "RGB", (width, height))
        assert (picture.width, picture.height, picture.format) == (width, height, "png")
        assert not image.info


@pytest.mark.parametrize("style", STYLES)
async def test_count_gives_as_many_different_pictures_the_first_from_the_seed_itself(engine, style):
    pictures = await drawn(engine, style=style, count=10)
    assert len({picture.data for picture in pictures}) == 10
    assert await drawn(engine, style=style) == pictures[:1]


async def test_an_unknown_style_and_an_unusable_palette_still_give_a_picture(engine):
    brand = Brand(palette=("red",), logo="Example Works", font="serif")
    assert len(await drawn(engine, style="poster", brand=brand)) == 1


async def test_a_logo_is_set_as_a_word_mark_but_never_as_the_name_of_a_file(engine):
    palette = ("#ffffff", "#000000")
    bare, word, file = [
        await drawn(engine, brand=Brand(palette=palette, logo=logo))
        for logo in (None, "Example Works", "logo.png")
    ]
    assert word != bare
    assert file == bare


async def test_reports_come_in_order_on_the_loop_thread_and_end_with_the_last_stage(engine):
    steps: list[Step] = []
    threads = set()

    def report(step):
        steps.append(step)
        threads.add(threading.get_ident())

    await engine.generate(job(count=2), report)
    assert [step.step for step in steps] == list(range(1, 2 * STAGES + 1))
    assert {step.steps for step in steps} == {2 * STAGES}
    assert steps[0].message.startswith("picture 1 of 2: ")
    assert threads == {threading.get_ident()}


@pytest.mark.parametrize("style", STYLES)
async def test_every_style_has_the_announced_number_of_stages(engine, style):
    steps: list[Step] = []
    await engine.generate(job(style=style), steps.append)
    assert [step.step for step in steps] == list(range(1, STAGES + 1))


async def test_a_held_drawing_thread_holds_the_progress():
    gate = Gate(after=4)
    engine = SketchEngine(on_stage=gate)
    steps: list[Step] = []
    async with asyncio.TaskGroup() as group:
        work = group.create_task(engine.generate(job(), steps.append), name="held")
        await reached(gate.reached)
        assert [step.step for step in steps] == [1, 2, 3]
        assert not work.done()
        gate.open.set()
    assert len(steps) == STAGES
    await engine.close()


async def test_cancel_stops_within_a_stage_and_frees_the_thread():
    gate = Gate(after=3)
    engine = SketchEngine(on_stage=gate)
    steps: list[Step] = []

    async def refused():
        with pytest.raises(CancelledFault):
            await engine.generate(job(count=10), steps.append)

    async with asyncio.TaskGroup() as group:
        group.create_task(refused(), name="cancelled")
        await reached(gate.reached)
        await engine.cancel(job(count=10))
        gate.open.set()
    assert gate.seen == 3
    assert len(steps) == 2
    assert len(await drawn(engine)) == 1
    await engine.close()


async def test_cancel_of_a_job_that_waits_for_a_thread_does_not_wait_for_the_other():
    gate = Gate(after=1)
    engine = SketchEngine(on_stage=gate)
    async with asyncio.TaskGroup() as group:
        first = group.create_task(engine.generate(job(), lambda _step: None), name="first")
        await reached(gate.reached)
        waiting = job(request_id="r2")

        async def refused():
            with pytest.raises(CancelledFault):
                await engine.generate(waiting, lambda _step: None)

        async with asyncio.TaskGroup() as inner:
            inner.create_task(refused(), name="second")
            await asyncio.sleep(0)
            await engine.cancel(waiting)
        assert not first.done()
        gate.open.set()
    await engine.close()


async def test_cancelling_the_task_frees_the_thread_before_the_cancellation_leaves():
    gate = Gate(after=2)
    engine = SketchEngine(on_stage=gate)
    steps: list[Step] = []
    async with asyncio.TaskGroup() as group:
        work = group.create_task(engine.generate(job(count=3), steps.append), name="task")
        await reached(gate.reached)
        work.cancel()
        await asyncio.sleep(0)
        work.cancel()
        await asyncio.sleep(0)
        assert not work.done(), "the thread is still held"
        gate.open.set()
    assert work.cancelled()
    assert gate.seen == 2
    assert len(steps) == 1
    assert len(await drawn(engine)) == 1
    await engine.close()


async def test_cancel_of_an_unknown_job_does_nothing(engine):
    await engine.cancel(job(request_id="elsewhere"))
    assert len(await drawn(engine)) == 1


async def test_close_ends_what_is_drawn_and_the_engine_is_down():
    gate = Gate(after=2)
    engine = SketchEngine(on_stage=gate)

    async def refused():
        with pytest.raises(CancelledFault):
            await engine.generate(job(), lambda _step: None)

    async with asyncio.TaskGroup() as group:
        group.create_task(refused(), name="drawn")
        await reached(gate.reached)
        closing = group.create_task(engine.close(), name="closing")
        await asyncio.sleep(0)
        gate.open.set()
        await closing
    assert (await engine.health()).state == "down"


async def test_a_broken_drawing_is_raised_and_the_engine_goes_on():
    def broken(_stage):
        if not engine_broken.is_set():
            engine_broken.set()
            raise OSError("no memory for a font")

    engine_broken = threading.Event()
    engine = SketchEngine(on_stage=broken)
    with pytest.raises(OSError, match="no memory"):
        await engine.generate(job(), lambda _step: None)
    assert len(await drawn(engine)) == 1
    await engine.close()


async def test_several_threads_draw_at_once_with_the_same_bytes(engine):
    several = SketchEngine(threads=2)
    jobs = [job(request_id=f"r{n}", seed=n, style=STYLES[n]) for n in range(4)]
    async with asyncio.TaskGroup() as group:
        works = [group.create_task(several.generate(one, lambda _step: None)) for one in jobs]
    for one, work in zip(jobs, works, strict=True):
        alone = await engine.generate(msgspec.structs.replace(one, attempt=2), lambda _step: None)
        assert work.result().pictures == alone.pictures
    await several.close()
