"""Goal: what Ollama holds is told truthfully; unload and load do what they say, or why they cannot.

Method: the real client over real HTTP on the double of tests/doubles/ollama, whose own likeness
tests/integration/test_ollama_double.py shows fact by fact.
"""

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs

from agent.clock import SystemClock
from agent.core.card import Tenant, owed
from agent.ollama import Ollama
from agent.ollama.client import KEEP_ALIVE, Listed
from agent.tenants import TenantClient, TenantError, UnknownModelError
from tests.ollama_rig import BIG, EMBED, EMBED_MIB, LLAMA, LLAMA_MIB, Rig, rig
from tests.rig import until


@pytest.fixture
async def run() -> AsyncIterator[Rig]:
    async with rig() as made:
        yield made


def now() -> datetime:
    return SystemClock().now()


# --- what it holds -------------------------------------------------------------------------------


async def test_it_is_a_tenant_that_tells_what_it_holds_in_mib_rounded_up(run: Rig):
    client: TenantClient = run.ollama
    assert await client.loaded() == Tenant(name="ollama")
    await run.double.warm(LLAMA, keep_alive_s=100)
    await run.double.warm(EMBED, keep_alive_s=50)
    held = await client.loaded()
    assert (held.name, held.answers) == ("ollama", True)
    assert [(one.name, one.size_mib, one.vram_mib) for one in held.loaded] == [
        (LLAMA, LLAMA_MIB, LLAMA_MIB),
        (EMBED, EMBED_MIB, EMBED_MIB),
    ]
    expires_at = held.loaded[0].expires_at
    assert expires_at is not None
    assert timedelta(seconds=90) < expires_at - now() <= timedelta(seconds=100)
    assert expires_at.utcoffset() == timedelta(0)


async def test_a_model_that_stays_for_good_has_no_expiry(run: Rig):
    await run.ollama.load(LLAMA, None)
    assert (await run.the(LLAMA)).expires_at is None


async def test_a_model_in_use_past_its_expiry_is_owed_a_whole_keep_alive_not_a_second(run: Rig):
    run.double.trap("chat", model=LLAMA)
    await until(run.names, "the chat")
    run.double.runners.loaded[LLAMA].expires_at = now() - timedelta(minutes=1)
    (model,) = (await run.ollama.loaded()).loaded
    debt = owed(Tenant(name="ollama"), model, now())
    assert debt.keep_alive_s is not None
    assert abs(debt.keep_alive_s - KEEP_ALIVE.total_seconds()) <= 1


async def test_a_part_on_the_cpu_shows(run: Rig):
    run.double.trap("partial", share=0.75)
    await run.ollama.load(LLAMA, 60)
    model = await run.the(LLAMA)
    assert model.is_partial
    assert (model.size_mib, model.vram_mib) == (LLAMA_MIB, LLAMA_MIB * 3 // 4)
    assert run.card.used_mib == model.vram_mib


AWAY: dict[str, tuple[str, dict[str, Any], str]] = {
    "an error": ("error", {"status": 500, "error": "no  such\nthing"}, "HTTP 500: no such thing"),
    "a page of a proxy": ("garbage", {}, "not what Ollama answers"),
    "another shape": ("garbage", {"body": '{"models": [{"name": 7}]}'}, "not what Ollama answers"),
    "a time without zone": (
        "garbage",
        {"body": '{"models": [{"name": "a", "expires_at": "2026-01-01T00:00:00"}]}'},
        "not what Ollama answers",
    ),
    "a flood": ("garbage", {"body": '{"models": []}', "mib": 2}, "too large"),
    "a redirect": ("redirect", {}, "HTTP 307"),
    "resets": ("cut", {"times": 2}, "connection broken"),
}


@pytest.mark.parametrize("name", AWAY)
async def test_whatever_else_it_answers_counts_as_away_and_never_raises(run: Rig, name: str):
    trap, values, words = AWAY[name]
    await run.double.warm(LLAMA)
    run.double.trap(trap, **values)
    with capture_logs() as lines:
        assert await run.ollama.loaded() == Tenant(name="ollama", answers=False)
        assert [one.name for one in (await run.ollama.loaded()).loaded] == [LLAMA]
    assert [line["event"] for line in lines] == ["ollama.away", "ollama.answers_again"]
    assert words in lines[0]["reason"]


async def test_no_models_may_also_be_null(run: Rig):
    run.double.trap("garbage", body='{"models": null}')
    assert await run.ollama.loaded() == Tenant(name="ollama")


async def test_one_that_stands_still_is_away_within_two_seconds(run: Rig):
    run.double.trap("freeze")
    began_s = SystemClock().monotonic_s()
    assert not (await run.ollama.loaded()).answers
    assert SystemClock().monotonic_s() - began_s < 5
    run.double.clear("freeze")
    assert (await run.ollama.loaded()).answers


async def test_where_nobody_listens_it_is_away_and_back_with_the_next_look(run: Rig):
    await run.double.die()
    with capture_logs() as lines:
        for _ in range(3):
            assert not (await run.ollama.loaded()).answers
    assert [line["event"] for line in lines] == ["ollama.away"], "said once"
    assert "no connection" in lines[0]["reason"]
    await run.double.restart()
    assert (await run.ollama.loaded()).answers


async def test_before_it_is_opened_and_after_it_is_closed_it_is_away():
    ollama = Ollama("http://127.0.0.1:9", SystemClock())
    assert not (await ollama.loaded()).answers
    await ollama.open()
    await ollama.close()
    await ollama.close()
    with pytest.raises(TenantError, match="not connected"):
        await ollama.unload(LLAMA)


async def test_no_proxy_of_the_environment_is_asked(run: Rig, monkeypatch: pytest.MonkeyPatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert (await run.ollama.loaded()).answers


# --- unload and load -----------------------------------------------------------------------------


async def test_an_unload_is_accepted_before_it_happens_and_readings_show_the_end():
    async with rig(unload_s=0.5) as run:
        await run.double.warm(LLAMA)
        await run.ollama.unload(LLAMA)
        assert run.card.used_mib == LLAMA_MIB
        await run.gone(LLAMA)
        assert run.double.posted() == [{"model": LLAMA, "keep_alive": 0}]


async def test_a_load_waits_until_the_model_is_there_and_sends_no_options():
    async with rig(load_s=0.2) as run:
        await run.ollama.load(LLAMA, 120)
        model = await run.the(LLAMA)
        assert not model.is_partial
        assert model.expires_at is not None
        assert timedelta(seconds=110) < model.expires_at - now() <= timedelta(seconds=120)
        assert run.double.posted() == [{"model": LLAMA, "keep_alive": 120}]


async def test_a_load_for_good_says_minus_one(run: Rig):
    await run.ollama.load(LLAMA, None)
    assert run.double.posted() == [{"model": LLAMA, "keep_alive": -1}]


async def test_an_embedding_model_comes_back_too(run: Rig):
    await run.ollama.load(EMBED, 90)
    assert await run.names() == [EMBED]
    await run.ollama.unload(EMBED)
    await run.gone(EMBED)
    await run.ollama.load(EMBED, None)
    assert (await run.the(EMBED)).expires_at is None


async def test_a_load_takes_back_the_unload_of_a_model_in_use(run: Rig):
    run.double.trap("chat", model=LLAMA)
    await until(run.names, "the chat")
    await run.ollama.unload(LLAMA)
    await run.ollama.load(LLAMA, 77)
    run.double.clear("chat")
    await until(lambda: run.double.runners.loaded[LLAMA].users == 0, "the end of the chat")
    assert await run.names() == [LLAMA]
    assert run.double.runners.unloads == []


async def test_a_model_that_is_no_more_is_named(run: Rig):
    for call in (run.ollama.unload("mistral:7b"), run.ollama.load("mistral:7b", 60)):
        with pytest.raises(UnknownModelError, match="model 'mistral:7b' not found") as raised:
            await call
        assert raised.value.model == "mistral:7b"


async def test_a_404_of_something_else_does_not_make_a_model_unknown(run: Rig):
    run.double.trap("error", path="/api/generate", status=404, error="404 page not found")
    with pytest.raises(TenantError) as raised:
        await run.ollama.load(LLAMA, 60)
    assert not isinstance(raised.value, UnknownModelError)


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "out of memory": ("load_fails", {}, "out of memory"),
    "a full queue": ("error", {}, "HTTP 503: server busy, please try again"),
    "a bad request": ("error", {"status": 400, "error": "bad"}, "HTTP 400: bad"),
    "no text": ("garbage", {"body": "[]"}, "not what Ollama answers"),
    "a late error": ("garbage", {"body": '{"error": "runner died"}'}, "runner died"),
    "a reset": ("cut", {}, "connection broken"),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_a_load_that_fails_says_why_for_people(run: Rig, name: str):
    trap, values, words = REFUSED[name]
    run.double.trap(trap, **values)
    with pytest.raises(TenantError, match=words):
        await run.ollama.load(LLAMA, 60)
    assert len(run.double.posted()) == 1, "nothing is tried twice"
    await run.ollama.load(LLAMA, 60)


async def test_a_load_that_is_given_up_is_given_up_by_ollama_too():
    async with rig(load_s=30) as run, asyncio.TaskGroup() as group:
        load = group.create_task(run.ollama.load(LLAMA, 60), name="load")
        await until(lambda: run.card.used_mib, "memory")
        load.cancel()
        await until(lambda: not run.card.used_mib, "memory back")
        assert load.cancelled(), "the cancellation was passed on"


async def test_the_memory_of_a_model_that_cannot_be_freed_stays_in_the_readings(run: Rig):
    await run.double.warm(LLAMA)
    run.double.trap("keeps_listed")
    await run.ollama.unload(LLAMA)
    assert await run.names() == [LLAMA]
    assert run.card.used_mib == LLAMA_MIB


async def test_what_somebody_loads_again_is_seen_at_the_next_look(run: Rig):
    await run.double.warm(LLAMA)
    await run.ollama.unload(LLAMA)
    await run.gone(LLAMA)
    run.double.trap("reloads", model=LLAMA)
    await until(run.names, "the reload by somebody")
    assert run.card.used_mib == LLAMA_MIB


# --- health --------------------------------------------------------------------------------------


async def test_health_says_version_and_models_or_why_it_is_down(run: Rig):
    await run.double.warm(LLAMA)
    await run.double.warm(BIG, num_ctx=8192)
    health = await run.ollama.health()
    assert (health.up, health.version, health.detail) == (True, "0.33.0", "")
    assert [one.name for one in health.models] == [BIG]
    run.double.trap("garbage", path="/api/version", body="Not Ollama")
    health = await run.ollama.health()
    assert not health.up
    assert "not what Ollama answers" in health.detail
    await run.double.die()
    health = await run.ollama.health()
    assert (health.up, health.models) == (False, ())
    assert run.double.url in health.detail


def test_the_recorded_listing_of_the_documentation_is_read():
    told = msgspec.json.decode(
        b'{"name":"mistral:latest","model":"mistral:latest","size":5137025024,"digest":"2ae6",'
        b'"details":{"parent_model":"","format":"gguf","family":"llama","families":["llama"],'
        b'"parameter_size":"7.2B","quantization_level":"Q4_0"},'
        b'"expires_at":"2024-06-04T14:38:31.83753-07:00","size_vram":5137025024}',
        type=Listed,
    )
    assert (told.name, told.size_vram, told.context_length) == ("mistral:latest", 5137025024, 0)
