"""Goal: what any cloud can answer ends as a picture or as a fault that says what was spent.

Method: the real engines over real HTTP on doubles that keep a ledger; after each case the money
the engine names is compared with the ledger, and the number of calls with one.
"""

import asyncio
import traceback
from collections.abc import AsyncIterator
from typing import Any

import pytest

from agent.core.faults import CancelledFault, EngineDownFault, Remedy
from agent.core.money import PaidCancelledFault
from agent.core.routing import EngineFacts
from agent.engines.cloud.engine import REST_MAX_S
from agent.engines.protocol import Engine, EngineJob
from contracts.errors import ErrorCode
from contracts.requests import AspectRatio, Quality
from tests.cloud_rig import CENT, CLOUDS, QUICK_S, Cloud, order, size_of
from tests.rig import until


@pytest.fixture(params=CLOUDS)
async def cloud(request: pytest.FixtureRequest) -> AsyncIterator[Cloud]:
    async with CLOUDS[request.param]() as made:
        yield made


async def test_a_picture_comes_with_its_real_size_its_model_and_what_it_cost(cloud: Cloud):
    made = await cloud.draw()
    (picture,) = made.pictures
    assert size_of(picture.data) == (picture.width, picture.height)
    assert made.model_used in cloud.engine.facts.models
    assert made.cost_usd == CENT(cloud.double.charged_usd)
    assert made.cost_usd > 0
    assert made.seed == 7


async def test_it_is_an_engine_that_is_up_with_a_key_and_down_without():
    for name, make in CLOUDS.items():
        async with make() as with_key, make(None) as without:
            engine: Engine = with_key.engine
            facts = engine.facts
            assert (facts.name, facts.slot, facts.up, facts.down) == (name, "cloud", True, "")
            assert engine.places == ()
            assert isinstance(facts, EngineFacts)
            assert facts.ignores_seed is (name == "openai")
            assert set(facts.by_quality.values()) <= set(facts.models)
            assert not without.engine.facts.up
            assert without.engine.facts.down == f"no key: set {name.upper()}_API_KEY"
            assert (await without.engine.health()).state == "down"
            await without.engine.run_once()
            fault = await without.fails()
            assert isinstance(fault, EngineDownFault)
            assert without.double.seen == []


@pytest.mark.parametrize("quality", Quality)
async def test_the_price_before_is_not_below_the_price_after(cloud: Cloud, quality: Quality):
    for ratio in AspectRatio:
        job = order(f"r{ratio}", quality=quality, aspect_ratio=ratio, count=2)
        made = await cloud.draw(job)
        assert len({picture.data for picture in made.pictures}) == 2
        assert cloud.engine.price_usd(job) >= made.cost_usd - 1e-9
    assert sum(charge.usd for charge in cloud.double.ledger) > 0


async def test_progress_moves_evenly_while_the_cloud_draws_and_ends_with_the_job(cloud: Cloud):
    cloud.double.draw_s = 0.2
    await cloud.draw()
    shares = [step.share for step in cloud.steps]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert len(set(shares)) >= 5
    assert max(b - a for a, b in zip([0.0, *shares], shares, strict=False)) <= 0.5
    assert all(step.message for step in cloud.steps)
    seen = len(cloud.steps)
    await cloud.engine.generate(order("r2"), lambda _step: None)
    assert len(cloud.steps) == seen


PAID_AND_LOST: dict[str, tuple[str, dict[str, Any]]] = {
    "cut after it was drawn": ("cut", {"when": "drawn"}),
    "cut in the middle of the answer": ("cut", {"when": "midway"}),
    "no answer in time": ("hang", {}),
    "bad gateway": ("proxy", {"status": 502}),
    "gateway timeout": ("proxy", {"status": 504}),
    "an answer that is no JSON": ("garbage", {}),
    "an answer of another shape": ("garbage", {"body": "[1]"}),
    "an answer without a picture": ("garbage", {"body": "{}"}),
    "bytes that are no picture": ("no_png", {}),
}


@pytest.mark.parametrize("name", PAID_AND_LOST)
async def test_a_paid_call_whose_end_is_not_known_is_never_sent_again_and_counts(
    cloud: Cloud, name: str
):
    trap, values = PAID_AND_LOST[name]
    cloud.double.trap(trap, **values)
    fault = await cloud.fails()
    assert (fault.code, fault.remedy) == (ErrorCode.UNKNOWN_OUTCOME, Remedy.OTHER_ENGINE)
    assert not fault.body().retryable, "the story asks no engine twice that answered so"
    assert len(cloud.double.paid) == 1
    assert len(cloud.double.ledger) == 1
    assert fault.spent_usd >= cloud.double.charged_usd


async def test_a_call_that_is_cut_before_anything_is_drawn_may_have_been_drawn_and_counts(
    cloud: Cloud,
):
    cloud.double.trap("cut", when="before")
    fault = await cloud.fails()
    assert fault.code is ErrorCode.UNKNOWN_OUTCOME
    assert fault.spent_usd == CENT(cloud.engine.price_usd(order()))
    assert len(cloud.double.paid) == 1


async def test_a_call_that_never_left_costs_nothing_and_another_engine_may_try(cloud: Cloud):
    await cloud.double.stop()
    fault = await cloud.fails()
    assert (fault.code, fault.remedy) == (ErrorCode.ENGINE_DOWN, Remedy.OTHER_ENGINE)
    assert fault.spent_usd == 0
    assert "cannot be reached: no connection" in fault.message


ERRORS: dict[str, tuple[str, dict[str, Any], ErrorCode, str]] = {
    "500": ("error", {"status": 500}, ErrorCode.ENGINE_DOWN, "cannot draw now: HTTP 500"),
    "503": ("error", {"status": 503}, ErrorCode.ENGINE_DOWN, "cannot draw now: HTTP 503"),
    "403 the key may not": ("forbidden", {}, ErrorCode.ENGINE_DOWN, "does not permit"),
    "413": ("too_large", {}, ErrorCode.INVALID_REQUEST, "10MiB"),
    "422": ("rejected", {}, ErrorCode.INVALID_REQUEST, "was rejected"),
    "out of credits": ("no_credits", {}, ErrorCode.BUDGET_EXCEEDED, "out of credits"),
    "the model is gone": ("retired", {}, ErrorCode.MODEL_MISSING, "any more"),
    "the prompt is moderated": ("moderated", {}, ErrorCode.CONTENT_FILTERED, "this prompt"),
    "a redirect": ("redirect", {}, ErrorCode.ENGINE_DOWN, "HTTP 307"),
}


@pytest.mark.parametrize("name", ERRORS)
async def test_an_error_is_a_fault_with_its_code_that_costs_nothing(cloud: Cloud, name: str):
    trap, values, code, words = ERRORS[name]
    cloud.double.trap(trap, **values)
    fault = await cloud.fails()
    assert (fault.code, fault.remedy) == (code, Remedy.OTHER_ENGINE)
    assert words in fault.message
    assert fault.spent_usd == 0
    assert len(cloud.double.paid) == 1, "one call, whatever it answered"
    assert cloud.double.ledger == []


@pytest.mark.parametrize("name", ["forbidden", "no_credits", "retired"])
async def test_what_no_job_can_change_keeps_jobs_away_until_a_free_question_says_better(
    cloud: Cloud, name: str
):
    cloud.double.trap(name)
    fault = await cloud.fails()
    assert (cloud.engine.facts.up, cloud.engine.facts.down) == (False, fault.message)
    assert (await cloud.engine.health()).detail == fault.message
    await cloud.engine.run_once()
    assert cloud.engine.facts.up
    assert len((await cloud.draw()).pictures) == 1


@pytest.mark.parametrize("name", ["moderated", "rejected", "error", "cut"])
async def test_what_is_about_one_job_keeps_no_other_away(cloud: Cloud, name: str):
    cloud.double.trap(name)
    await cloud.fails()
    assert cloud.engine.facts.up


async def test_a_wrong_key_is_said_without_the_key():
    for make in CLOUDS.values():
        async with make("sk-secret-of-somebody") as cloud:
            fault = await cloud.fails()
            assert fault.code is ErrorCode.ENGINE_DOWN
            assert f"check {cloud.engine.name.upper()}_API_KEY" in fault.message
            await cloud.engine.run_once()
            health = await cloud.engine.health()
            said = f"{fault!r} {fault.message} {fault.detail} {health} {cloud.engine.facts}"
            said += f"{cloud.engine!r} {cloud.engine._line!r} {cloud.engine._provider!r}"
            said += "".join(traceback.format_exception(fault))
            assert "sk-" not in said
            assert not cloud.engine.facts.up


LIMITED = {
    "with Retry-After": ("rate_limit", {"retry_after": 34}, 34.0),
    "with Retry-After as a date": ("rate_date", {"seconds": 30}, 30.0),
    "without Retry-After": ("rate_limit", {}, None),
}


@pytest.mark.parametrize("name", LIMITED)
async def test_too_many_calls_are_a_pause_that_routing_sees(cloud: Cloud, name: str):
    trap, values, expected_s = LIMITED[name]
    cloud.double.trap(trap, **values)
    fault = await cloud.fails()
    assert (fault.code, fault.spent_usd) == (ErrorCode.RATE_LIMITED, 0)
    assert fault.body().retryable
    default_s = {"stability": 60.0, "openai": 20.0}[cloud.engine.name]
    assert fault.pause_s == pytest.approx(expected_s or default_s, abs=1.0)
    assert "wants a pause of" in cloud.engine.facts.down
    assert len(cloud.double.paid) == 1


async def test_a_job_that_has_no_other_engine_waits_the_pause_out(cloud: Cloud):
    cloud.double.trap("rate_limit", retry_after="0.3")
    await cloud.fails()
    asked = len(cloud.double.paid)
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    made = await cloud.draw(order("r2"))
    assert loop.time() - began_s >= 0.25
    assert len(made.pictures) == 1
    assert len(cloud.double.paid) == asked + 1


async def test_a_job_that_waits_a_pause_out_can_be_cancelled_and_costs_nothing(cloud: Cloud):
    cloud.double.trap("rate_limit", retry_after="100")
    await cloud.fails()
    fault = await _cancelled(cloud, order("r2"), lambda: "wants a pause" in cloud.steps[-1].message)
    assert fault.spent_usd == 0
    assert len(cloud.double.paid) == 1


async def test_cancel_ends_a_job_at_once_and_the_call_under_way_counts_as_spent(cloud: Cloud):
    cloud.double.draw_s = 30.0
    fault = await _cancelled(cloud, order(), lambda: cloud.double.busy == 1)
    assert isinstance(fault, CancelledFault)
    assert fault.spent_usd == CENT(cloud.engine.price_usd(order()))
    await until(lambda: cloud.double.busy == 0, "the end of the connection")
    cloud.double.draw_s = 0.0
    assert len((await cloud.draw(order("r2"))).pictures) == 1


async def _cancelled(cloud: Cloud, job: EngineJob, when: Any) -> PaidCancelledFault:
    loop = asyncio.get_running_loop()
    async with asyncio.TaskGroup() as group:
        task = group.create_task(cloud.fails(job), name="draws")
        await until(lambda: cloud.steps and when(), "the moment to cancel")
        asked_s = loop.time()
        await cloud.engine.cancel(job)
        await asyncio.wait({task}, timeout=5)
        assert loop.time() - asked_s < 1.0
    fault = task.result()
    assert isinstance(fault, PaidCancelledFault)
    return fault


async def test_a_task_that_is_cancelled_leaves_nothing_open(cloud: Cloud):
    cloud.double.draw_s = 30.0
    async with asyncio.TaskGroup() as group:
        task = group.create_task(cloud.draw(), name="draws")
        await until(lambda: cloud.double.busy == 1, "the call")
        task.cancel()
        await asyncio.wait({task}, timeout=5)
    assert task.cancelled()
    assert cloud.engine._errands == {}
    await until(lambda: cloud.double.busy == 0, "the end of the connection")


async def test_a_job_has_more_time_than_its_calls_so_that_none_is_cut_off(cloud: Cloud):
    calls = {"stability": 3, "openai": 1}[cloud.engine.name]
    assert cloud.engine.time_limit_s(order(count=3)) > calls * QUICK_S + REST_MAX_S


async def test_the_rest_of_the_protocol_does_nothing_and_does_not_fail(cloud: Cloud):
    await cloud.engine.cancel(order("elsewhere"))
    await cloud.engine.forget(order("elsewhere"))
    assert await cloud.engine.leftovers() == ()
