"""Goal: a prompt is extended by the model that runs, without moving it, or kept with the reason.

Method: the real client on the double; what it loaded and unloaded is counted, not guessed.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from structlog.testing import capture_logs

from agent.clock import SystemClock
from agent.core.enhancing import EXTENDED_LENGTH_MAX, Enhanced, Kept, task
from agent.ollama.enhancing import Enhancer
from contracts.requests import Style
from tests.ollama_rig import BIG, EMBED, LLAMA, Rig, rig
from tests.rig import until

FOX = "a red fox on a snowy ridge, low sun, long shadows"


@pytest.fixture
async def run() -> AsyncIterator[Rig]:
    async with rig() as made:
        made.double.trap("says", text=f'Sure! Here is the prompt:\n"{FOX}"')
        yield made


def enhancer(run: Rig, model: str | None = None, limit_s: float = 20) -> Enhancer:
    return Enhancer(run.ollama, model, SystemClock(), limit_s)


async def enhance(run: Rig, model: str | None = None, **more: Any) -> Enhanced | Kept:
    return await enhancer(run, model).enhance("a fox", None, **more)


def kept(found: Enhanced | Kept) -> str:
    assert isinstance(found, Kept)
    assert found.prompt == "a fox"
    return found.reason


async def test_the_model_that_is_loaded_extends_the_prompt_and_stays_as_it_is(run: Rig):
    await run.double.warm(LLAMA, num_ctx=8192)
    found = await enhancer(run).enhance("a fox", Style.REPORT_COVER, seed=2**31 + 5)
    assert isinstance(found, Enhanced)
    assert (found.prompt, found.model) == (FOX, LLAMA)
    assert 0 <= found.load_s <= found.took_s < 5
    assert (run.double.runners.loads, run.double.runners.unloads) == ([LLAMA], [])
    (body,) = run.double.posted()
    assert body["system"] == task(Style.REPORT_COVER)
    assert (body["prompt"], body["stream"], body["think"]) == ("a fox", False, False)
    assert body["options"] == {
        "temperature": 0.4,
        "num_predict": 400,
        "seed": 5,
        "num_ctx": 8192,
    }
    assert "keep_alive" not in body, "its own keep-alive begins again"


async def test_a_listing_without_context_lengths_leaves_the_context_to_ollama(run: Rig):
    await run.double.warm(LLAMA)
    listing = {"models": [{"name": LLAMA, "expires_at": "2026-01-01T00:00:00Z"}]}
    run.double.trap("garbage", path="/api/ps", body=json.dumps(listing))
    assert isinstance(await enhance(run), Enhanced)
    assert "num_ctx" not in run.double.posted()[0]["options"]


async def test_the_largest_model_that_is_wholly_on_the_card_is_asked():
    async with rig(models={"small": 2000, "large": 9000, "split": 10500}) as run:
        await run.double.warm("small", keep_alive_s=900)  # listed first
        await run.double.warm("large")
        run.double.trap("partial")
        await run.double.warm("split")
        found = await enhance(run)
        assert isinstance(found, Enhanced)
        assert found.model == "large:latest"
        found = await enhance(run, "split")
        assert isinstance(found, Enhanced)
        assert found.model == "split:latest", "the configured one, since it is loaded"
        assert run.double.runners.unloads == []


async def test_a_model_that_only_embeds_is_passed_over():
    async with rig(models={"big-embed": 9000, "small": 2000}) as run:
        await run.double.warm("big-embed")
        assert kept(await enhance(run)) == "no model that is loaded writes texts"
        await run.double.warm("small")
        found = await enhance(run)
        assert isinstance(found, Enhanced)
        assert found.model == "small:latest"


async def test_without_a_loaded_model_the_prompt_is_kept_and_nothing_loaded(run: Rig):
    assert kept(await enhance(run)) == "no language model is loaded"
    assert kept(await enhance(run, may_load=True)) == "no language model is loaded"
    reason = kept(await enhance(run, LLAMA))
    assert reason == f"no language model is loaded, and {LLAMA} may not be loaded now"
    assert run.double.runners.loads == []


async def test_the_configured_model_is_loaded_if_it_may_and_unloaded_with_its_answer(run: Rig):
    found = await enhance(run, LLAMA, may_load=True)
    assert isinstance(found, Enhanced)
    await run.gone(LLAMA)
    assert run.double.posted()[0]["keep_alive"] == 0
    assert "num_ctx" not in run.double.posted()[0]["options"]


async def test_the_configured_model_is_not_loaded_beside_one_that_runs(run: Rig):
    await run.double.warm(LLAMA)
    found = await enhance(run, BIG, may_load=True)
    assert isinstance(found, Enhanced)
    assert found.model == LLAMA
    assert run.double.runners.loads == [LLAMA]


async def test_a_configured_model_that_is_no_more_is_named(run: Rig):
    assert kept(await enhance(run, "gone:1b", may_load=True)) == "model 'gone:1b' not found"


async def test_a_model_that_had_to_be_loaded_anew_is_told_of(run: Rig):
    await run.double.warm(LLAMA)
    run.double.runners.loaded[LLAMA].options = {"num_batch": 64}
    run.double.settings.load_s = 1.0
    with capture_logs() as lines:
        found = await enhance(run)
    assert isinstance(found, Enhanced)
    assert found.load_s >= 1
    assert [line["event"] for line in lines] == ["ollama.reloaded", "prompt.extended"]


async def test_what_a_model_thinks_does_not_get_into_the_prompt():
    async with rig(models={"gpt-oss:20b": 12000}) as run:
        await run.double.warm("gpt-oss:20b")
        run.double.trap("says", text=f"<think>a dog?</think>{FOX}", thinking="a cat?")
        found = await enhance(run)
        assert found.prompt == FOX


FAILURES: dict[str, tuple[str, dict[str, Any], str]] = {
    "nothing": ("says", {"text": " "}, "wrote nothing"),
    "a refusal": ("says", {"text": "I'm sorry, I can't do that."}, "the model refused"),
    "an error": ("error", {"path": "/api/generate"}, "HTTP 503: server busy"),
    "an error on the way": ("breaks_off", {}, "HTTP 500: unexpected EOF"),
    "a reset": ("cut", {"path": "/api/generate"}, "connection broken"),
    "no JSON": ("garbage", {"path": "/api/generate"}, "not what Ollama answers"),
    "no end": ("garbage", {"path": "/api/generate", "body": "{}"}, "has no end"),
    "a flood": ("garbage", {"path": "/api/generate", "body": "{}", "mib": 2}, "too large"),
    "no listing": ("error", {"path": "/api/ps", "status": 500, "error": "x"}, "HTTP 500: x"),
}


@pytest.mark.parametrize("name", FAILURES)
async def test_on_any_failure_the_prompt_is_kept_with_the_reason(run: Rig, name: str):
    trap, values, words = FAILURES[name]
    await run.double.warm(LLAMA)
    run.double.trap(trap, **values)
    with capture_logs() as lines:
        reason = kept(await enhance(run))
    assert words in reason
    assert [(line["event"], line["reason"]) for line in lines] == [("prompt.kept", reason)]


async def test_a_server_that_is_away_keeps_the_prompt(run: Rig):
    await run.double.die()
    assert "no connection" in kept(await enhance(run))


async def test_a_slow_model_is_given_up_at_the_limit_and_left_alone(run: Rig):
    await run.double.warm(LLAMA)
    run.double.trap("slow_text", seconds=30)
    found = await enhancer(run, limit_s=0.3).enhance("a fox", None)
    assert kept(found) == "the language model took longer than 0.3 s"
    await until(lambda: run.double.runners.loaded[LLAMA].users == 0, "the end of the call")


async def test_a_cancellation_is_passed_on(run: Rig):
    await run.double.warm(LLAMA)
    run.double.trap("slow_text", seconds=30)
    async with asyncio.TaskGroup() as group:
        asking = group.create_task(enhance(run), name="asking")
        await until(lambda: run.double.runners.loaded[LLAMA].users, "the call")
        asking.cancel()
    assert asking.cancelled()


async def test_a_long_prompt_is_not_even_asked_about(run: Rig):
    await run.double.warm(LLAMA)
    long = "x" * (EXTENDED_LENGTH_MAX + 1)
    found = await enhancer(run).enhance(long, None)
    assert isinstance(found, Kept)
    assert (found.prompt, run.double.calls) == (long, [])


async def test_no_prompt_is_logged(run: Rig):
    await run.double.warm(EMBED)
    await run.double.warm(LLAMA)
    with capture_logs() as lines:
        await enhance(run)
    assert "fox" not in str(lines)
