"""Goal: each provider gets what its API takes and nothing else, and its prices are the real ones.

Method: as in test_clouds; what arrived is read from the doubles, which refuse what the schemas do.
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.clock import SystemClock
from agent.core.faults import Remedy
from agent.core.routing import EngineFacts
from agent.engines.cloud import openai as openai_wire
from agent.engines.cloud import stability as stability_wire
from agent.engines.cloud.pauses import pause_s, seconds
from agent.engines.cloud.prices import Usage, openai_usd
from contracts.errors import ErrorCode
from contracts.requests import AspectRatio, Quality
from tests.cloud_rig import CENT, openai, order, size_of, stability
from tests.doubles.clouds import StabilityDouble

V1 = {"api": "v1"}

# --- Stability -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("quality", "path", "model", "usd"),
    [
        (Quality.DRAFT, "core", "stable-image-core", 0.03),
        (Quality.STANDARD, "core", "stable-image-core", 0.03),
        (Quality.HIGH, "sd3", "sd3.5-large", 0.065),
        (Quality.PREMIUM, "ultra", "stable-image-ultra", 0.08),
    ],
)
async def test_stability_draws_a_quality_with_its_model_and_price(quality, path, model, usd):
    async with stability() as cloud:
        made = await cloud.draw(order(quality=quality, negative_prompt="fog", cfg=20.0))
        (seen,) = cloud.double.paid
        assert seen.path == f"/v2beta/stable-image/generate/{path}"
        assert seen.content_type == "multipart/form-data"
        assert seen.fields["negative_prompt"] == "fog"
        assert {"width", "height"}.isdisjoint(seen.fields)
        assert seen.fields.get("cfg_scale") == ("10" if path == "sd3" else None)
        assert (made.model_used, made.cost_usd) == (model, CENT(usd))
        facts = cloud.engine.facts
        assert isinstance(facts, EngineFacts)
        assert facts.by_quality[quality] == model


async def test_stability_draws_with_the_model_that_is_asked_for():
    async with stability() as cloud:
        made = await cloud.draw(order(model="sd3.5-medium", quality=Quality.DRAFT))
        assert (made.model_used, made.cost_usd) == ("sd3.5-medium", CENT(0.035))
        cloud.double.trap("retired")
        await cloud.fails(order("r2", model="sd3.5-medium"))
        assert cloud.engine.facts.up, "one model of several"


@pytest.mark.parametrize(
    ("wanted", "ratio"),
    [
        (AspectRatio.SQUARE, "1:1"),
        (AspectRatio.WIDE, "16:9"),
        (AspectRatio.CLASSIC, "5:4"),
        (AspectRatio.TALL, "9:16"),
    ],
)
async def test_stability_gets_the_nearest_ratio_it_has_and_the_real_size_is_told(wanted, ratio):
    async with stability() as cloud:
        (picture,) = (await cloud.draw(order(aspect_ratio=wanted))).pictures
        assert cloud.double.paid[0].fields["aspect_ratio"] == ratio
        assert (picture.width, picture.height) == size_of(picture.data)
        across, down = (int(part) for part in ratio.split(":"))
        assert picture.width / picture.height == pytest.approx(across / down, rel=0.06)


async def test_stability_passes_the_seed_and_reports_it_and_the_same_seed_is_the_same_picture():
    async with stability() as cloud:
        first, again = await cloud.draw(order()), await cloud.draw(order("r2"))
        assert first.pictures == again.pictures
        assert first.seed == 7
        assert cloud.double.paid[0].fields["seed"] == "7"
        several = await cloud.draw(order("r3", count=3))
        assert [seen.fields["seed"] for seen in cloud.double.paid[2:]] == ["7", "8", "9"]
        assert several.seed == 7
        assert several.cost_usd == CENT(0.09)
        assert len({picture.data for picture in several.pictures}) == 3


async def test_a_blurred_picture_on_a_200_is_a_fault_that_was_paid_for_and_no_picture():
    for settings, usd in ((None, 0.03), (V1, 0.009)):
        async with stability(settings=settings) as cloud:
            cloud.double.trap("filtered")
            fault = await cloud.fails()
            assert fault.code is ErrorCode.CONTENT_FILTERED
            assert fault.remedy is Remedy.OTHER_ENGINE
            assert not fault.body().retryable
            assert fault.spent_usd == CENT(usd) == cloud.double.charged_usd


@pytest.mark.parametrize("reason", ["ERROR", "", "PARTIAL"])
async def test_a_picture_that_does_not_end_as_a_success_is_none(reason):
    for settings in (None, V1):
        async with stability(settings=settings) as cloud:
            cloud.double.trap("ended_as", reason=reason)
            fault = await cloud.fails()
            assert fault.code is ErrorCode.UNKNOWN_OUTCOME
            assert fault.spent_usd == CENT(cloud.double.charged_usd)


async def test_pictures_that_were_paid_before_one_failed_are_counted():
    async with stability() as cloud:
        cloud.double.traps._set = [("", {}), ("", {}), ("moderated", {})]
        fault = await cloud.fails(order(count=4))
        assert fault.code is ErrorCode.CONTENT_FILTERED
        assert fault.spent_usd == CENT(0.06) == cloud.double.charged_usd
        cloud.double.traps._set = [("", {}), ("cut", {"when": "drawn"})]
        lost = await cloud.fails(order("r2", count=4))
        assert lost.spent_usd == CENT(0.06)
        assert cloud.double.charged_usd == CENT(0.12)


async def test_an_account_that_runs_dry_is_found_out_by_the_free_question_too():
    async with stability(credit_usd=0.05) as cloud:
        await cloud.draw()
        fault = await cloud.fails(order("r2"))
        assert fault.code is ErrorCode.BUDGET_EXCEEDED
        await cloud.engine.run_once()
        assert "out of credits" in cloud.engine.facts.down
        cloud.double.credit_usd = 5.0
        await cloud.engine.run_once()
        assert cloud.engine.facts.up
        assert "500.0 credits left" in (await cloud.engine.health()).detail


async def test_the_burst_limit_of_stability_answers_429_until_its_time_is_over():
    async with stability(calls_max=2, rest_s=60.0) as cloud:
        await cloud.draw(order(count=2))
        fault = await cloud.fails(order("r2"))
        assert (fault.code, fault.pause_s) == (ErrorCode.RATE_LIMITED, 60.0)


async def test_v1_draws_sdxl_with_sizes_it_allows_and_says_its_errors_in_message():
    async with stability(settings=V1) as cloud:
        job = order(aspect_ratio=AspectRatio.CLASSIC, negative_prompt="fog", steps=100, cfg=30.0)
        made = await cloud.draw(job)
        fields = cloud.double.paid[0].fields
        assert (fields["width"], fields["height"], fields["steps"]) == (1152, 896, 50)
        assert fields["text_prompts"][1] == {"text": "fog", "weight": -1.0}
        assert made.model_used == "stable-diffusion-xl-1024-v1-0"
        assert made.cost_usd == CENT(0.015)
        assert cloud.engine.price_usd(job) == CENT(0.015)
        cloud.double.trap("rejected")
        fault = await cloud.fails(order("r2"))
        assert fault.code is ErrorCode.INVALID_REQUEST
        assert "Invalid prompts detected" in fault.message
        too_long = await cloud.fails(order("r3", prompt="x" * 2001))
        assert too_long.code is ErrorCode.INVALID_REQUEST
        assert cloud.engine.price_usd(order("r3", prompt="x" * 2001)) == 0


async def test_v1_learns_from_the_list_that_its_model_is_gone():
    async with stability(settings=V1) as cloud:
        await cloud.engine.run_once()
        assert cloud.engine.facts.up
        assert isinstance(cloud.double, StabilityDouble)
        cloud.double.engines.clear()
        await cloud.engine.run_once()
        assert "any more" in cloud.engine.facts.down
        assert (await cloud.fails()).code is ErrorCode.MODEL_MISSING


@given(width=st.integers(256, 2048), height=st.integers(256, 2048), wanted=st.integers(0, 2**32))
def test_any_size_and_seed_become_what_stability_takes(width, height, wanted):
    assert stability_wire.ratio(width, height) in stability_wire.RATIOS
    assert stability_wire.size_v1(width, height) in stability_wire.SIZES_V1
    sent = [stability_wire.seed(wanted, index) for index in range(10)]
    assert all(1 <= seed <= 2**32 - 2 for seed in sent)
    assert len(set(sent)) == 10
    assert 1 <= wanted <= 2**32 - 2 - 10 or sent[0] != 0


# --- OpenAI --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("quality", "sent"),
    [
        (Quality.DRAFT, "low"),
        (Quality.STANDARD, "medium"),
        (Quality.HIGH, "high"),
        (Quality.PREMIUM, "high"),
    ],
)
async def test_openai_gets_what_its_models_take_and_nothing_else(quality, sent):
    async with openai() as cloud:
        job = order(quality=quality, negative_prompt="fog", count=2, aspect_ratio=AspectRatio.WIDE)
        made = await cloud.draw(job)
        (seen,) = cloud.double.paid
        assert seen.fields.keys() == {"model", "prompt", "n", "size", "quality", "output_format"}
        assert seen.fields["prompt"].endswith("\n\nAvoid: fog")
        assert (seen.fields["quality"], seen.fields["n"]) == (sent, 2)
        assert seen.fields["size"] == "1344x768"
        assert [(p.width, p.height) for p in made.pictures] == [(1344, 768)] * 2
        assert made.model_used == "gpt-image-2.5-flare"
        assert made.cost_usd == CENT(cloud.double.charged_usd)


async def test_openai_costs_what_usage_says_and_without_it_what_was_foreseen():
    usage = Usage(input_tokens=100, output_tokens=1000)
    assert openai_usd("gpt-image-2", usage) == CENT(100 * 8e-6 + 1000 * 30e-6)
    async with openai() as cloud:
        cloud.double.trap("no_usage")
        assert (await cloud.draw()).cost_usd == CENT(cloud.engine.price_usd(order()))


async def test_a_large_picture_is_not_dearer_than_was_foreseen():
    async with openai() as cloud:
        job = order(width=2048, height=2048, quality=Quality.HIGH)
        made = await cloud.draw(job)
        assert made.cost_usd > 0.8
        assert cloud.engine.price_usd(job) >= made.cost_usd


async def test_fewer_pictures_than_were_bought_are_a_fault_that_was_paid_for():
    async with openai() as cloud:
        cloud.double.trap("fewer")
        fault = await cloud.fails(order(count=3))
        assert fault.code is ErrorCode.UNKNOWN_OUTCOME
        assert fault.spent_usd == CENT(cloud.double.charged_usd)


async def test_a_retired_model_is_named_with_the_setting_that_changes_it():
    async with openai(settings={"model": "dall-e-3"}) as cloud:
        fault = await cloud.fails()
        assert fault.code is ErrorCode.MODEL_MISSING
        assert "'dall-e-3'" in fault.message
        assert "MMG_OPENAI_MODEL" in fault.message
        await cloud.engine.run_once()
        assert not cloud.engine.facts.up


async def test_a_model_that_will_be_switched_off_is_warned_of():
    async with openai(settings={"model": "gpt-image-1.5"}) as cloud:
        await cloud.engine.run_once()
        health = await cloud.engine.health()
        assert health.state == "up"
        assert health.warnings == ("OpenAI switches its model off on 2026-12-01",)
        assert cloud.engine.ends_on == "2026-12-01"


async def test_the_reset_of_openais_limits_is_read_as_a_duration():
    async with openai() as cloud:
        cloud.double.trap("rate_reset", reset="6m30s")
        assert (await cloud.fails()).pause_s == 390.0
        assert cloud.engine._rest_until_s - SystemClock().monotonic_s() <= 120


@given(width=st.integers(16, 128), height=st.integers(16, 128))
def test_any_size_becomes_one_that_openai_takes(width, height):
    asked = (width * 16, height * 16)
    made = openai_wire.size("gpt-image-2.5-flare", *asked)
    assert made[0] % 16 == made[1] % 16 == 0
    assert max(made) <= 3 * min(made)
    assert max(made) <= 3840
    assert made[0] * made[1] >= 655_360
    shape = max(asked) / min(asked)
    if shape <= 3 and asked[0] * asked[1] >= 655_360:
        assert made == asked
    assert openai_wire.size("gpt-image-1.5", *asked) in openai_wire.FIXED_SIZES


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, 20.0),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "soon"}, 20.0),
        ({"retry-after": "-1"}, 20.0),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "1s"}, 1.0),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "120ms"}, 0.12),
        ({"x-ratelimit-remaining-requests": "3", "x-ratelimit-reset-requests": "9s"}, 20.0),
    ],
)
def test_a_pause_is_read_from_whichever_header_tells_it(headers, expected):
    assert pause_s(headers, 20.0) == expected
    assert seconds("1h2m3.5s") == 3723.5
    assert seconds("") is None
