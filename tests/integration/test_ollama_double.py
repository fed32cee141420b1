"""Goal: the double does what the real Ollama does, as far as anybody here relies on it.

Method: a plain HTTP client on the double; one test for each fact, from ollama/ollama at fb30760
(2026-08-21, v0.33), server/routes.go and server/sched.go.
"""

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from agent.clock import SystemClock
from tests.doubles.card import SharedCard
from tests.doubles.ollama.runners import RefusedError
from tests.doubles.ollama.settings import parse_models
from tests.doubles.ollama.wire import duration_s
from tests.ollama_rig import BIG, EMBED, LLAMA, LLAMA_MIB, Rig, rig
from tests.rig import ROOT, until

MIB = 1024 * 1024


@pytest.fixture
async def run() -> AsyncIterator[Rig]:
    async with rig() as made:
        yield made


async def expires_in_s(run: Rig, name: str) -> float:
    (found,) = [one for one in (await run.get("/api/ps"))["models"] if one["name"] == name]
    told = datetime.fromisoformat(found["expires_at"])
    return (told - SystemClock().now()).total_seconds()


# --- routes and forms ----------------------------------------------------------------------------


async def test_root_and_version_say_who_is_there(run: Rig):
    async with run.http.get("/") as answer:
        assert await answer.text() == "Ollama is running"
    assert await run.get("/api/version") == {"version": "0.33.0"}


async def test_there_is_no_unload_route(run: Rig):
    async with run.http.post("/api/unload", json={"model": LLAMA}) as answer:
        assert (answer.status, await answer.text()) == (404, "404 page not found")


async def test_tags_list_what_was_pulled_and_ps_what_is_loaded(run: Rig):
    tags = (await run.get("/api/tags"))["models"]
    assert [one["name"] for one in tags] == [LLAMA, BIG, EMBED]
    assert await run.get("/api/ps") == {"models": []}
    await run.double.warm(LLAMA)
    (found,) = (await run.get("/api/ps"))["models"]
    assert found.keys() >= {"name", "model", "size", "digest", "details", "expires_at", "size_vram"}
    assert found["context_length"] == 4096
    assert (LLAMA_MIB - 1) * MIB < found["size"] == found["size_vram"] <= LLAMA_MIB * MIB
    assert len(found["expires_at"].rpartition(".")[2]) == len("123456123+02:00")


async def test_ps_lists_the_longest_remaining_first(run: Rig):
    await run.double.warm(EMBED, keep_alive_s=100)
    await run.double.warm(LLAMA, keep_alive_s=200)
    assert [one["name"] for one in (await run.get("/api/ps"))["models"]] == [LLAMA, EMBED]


async def test_errors_are_an_object_with_a_text(run: Rig):
    missing = {"error": "model 'mistral' not found"}
    assert await run.post("/api/generate", model="mistral", keep_alive=0) == (404, missing)
    refusal = {"error": f'"{EMBED}" does not support generate'}
    assert await run.post("/api/generate", model=EMBED) == (400, refusal)
    thinks = {"error": f'"{LLAMA}" does not support thinking'}
    assert await run.post("/api/generate", model=LLAMA, prompt="x", think=True) == (400, thinks)
    status, body = await run.post("/api/generate", model=LLAMA, keep_alive="10")
    assert (status, body) == (400, {"error": 'time: invalid duration "10"'})
    async with run.http.post("/api/generate") as answer:
        assert (answer.status, await answer.json()) == (400, {"error": "missing request body"})
    run.double.trap("load_fails")
    status, body = await run.post("/api/generate", model=LLAMA)
    assert status == 500
    assert "out of memory" in body["error"]


async def test_a_full_queue_is_a_503(run: Rig):
    run.double.settings.queue_max = 0
    status, body = await run.post("/api/generate", model=LLAMA)
    assert status == 503
    assert body["error"].startswith("server busy, please try again.  maximum pending requests")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("10m", 600), ("1h30m", 5400), ("0", 0), ("0s", 0), ("1.5s", 1.5), ("-1", None), ("-1s", -1)],
)
def test_durations_are_those_of_go(text: str, seconds: float | None):
    if seconds is None:
        with pytest.raises(RefusedError):
            duration_s(text)
    else:
        assert duration_s(text) == seconds


# --- loading, keeping, unloading -----------------------------------------------------------------


async def test_a_call_without_prompt_loads_and_has_no_load_duration(run: Rig):
    status, body = await run.post("/api/generate", model=LLAMA, keep_alive="10m")
    assert (status, body["done"], body["done_reason"], body["response"]) == (200, True, "load", "")
    assert "load_duration" not in body
    assert run.card.used_mib == LLAMA_MIB
    assert 590 < await expires_in_s(run, LLAMA) <= 600
    assert run.double.runners.loads == [LLAMA]


async def test_loading_what_is_loaded_only_sets_its_keep_alive(run: Rig):
    await run.double.warm(LLAMA)
    assert 290 < await expires_in_s(run, LLAMA) <= 300
    await run.post("/api/generate", model=LLAMA, keep_alive=50)
    assert 40 < await expires_in_s(run, LLAMA) <= 50
    await run.post("/api/generate", model=LLAMA)
    assert 40 < await expires_in_s(run, LLAMA) <= 50
    assert run.double.runners.loads == [LLAMA]


async def test_a_negative_keep_alive_is_forever_which_shows_as_292_years(run: Rig):
    await run.post("/api/generate", model=LLAMA, keep_alive=-1)
    assert 291 < await expires_in_s(run, LLAMA) / timedelta(days=365.25).total_seconds() < 293


async def test_a_model_goes_by_itself_when_its_keep_alive_is_over(run: Rig):
    await run.post("/api/generate", model=LLAMA, keep_alive=0.1)
    assert run.double.runners.loads == [LLAMA]
    await run.gone(LLAMA)
    assert run.double.runners.unloads == [LLAMA]


async def test_the_answer_to_an_unload_comes_before_the_memory_is_free():
    async with rig(unload_s=0.5, free_s=30) as run:
        await run.double.warm(LLAMA)
        status, body = await run.post("/api/generate", model=LLAMA, keep_alive=0)
        assert (status, body["done_reason"]) == (200, "unload")
        assert await run.names() == [LLAMA]
        await until(lambda: run.double.runners.unloads, "off the list")
        assert await run.names() == []
        assert run.card.used_mib == LLAMA_MIB, "its memory is free a little later"


async def test_unloading_what_is_not_loaded_is_fine_too(run: Rig):
    status, body = await run.post("/api/generate", model=LLAMA, keep_alive=0)
    assert (status, body["done_reason"]) == (200, "unload")
    assert run.double.runners.unloads == []


async def test_a_model_in_use_goes_when_its_chat_ends(run: Rig):
    run.double.trap("chat", model=LLAMA)
    await until(run.names, "the chat")
    await run.post("/api/generate", model=LLAMA, keep_alive=0)
    assert await expires_in_s(run, LLAMA) <= 0, "listed as stopping"
    assert await run.names() == [LLAMA]
    run.double.clear("chat")
    await run.gone(LLAMA)


async def test_a_load_takes_the_unload_of_a_busy_model_back(run: Rig):
    run.double.trap("chat", model=LLAMA)
    await until(run.names, "the chat")
    await run.post("/api/generate", model=LLAMA, keep_alive=0)
    await run.post("/api/generate", model=LLAMA, keep_alive=100)
    run.double.clear("chat")
    await until(lambda: run.double.runners.loaded[LLAMA].users == 0, "the end of the chat")
    assert 90 < await expires_in_s(run, LLAMA) <= 100
    assert run.double.runners.unloads == []


async def test_a_model_that_is_being_loaded_has_memory_is_not_listed_and_cannot_be_unloaded():
    async with rig(load_s=0.6) as run, asyncio.TaskGroup() as group:
        load = group.create_task(run.post("/api/generate", model=LLAMA), name="load")
        await until(lambda: run.card.used_mib, "memory")
        assert await run.names() == []
        assert (await run.post("/api/generate", model=LLAMA, keep_alive=0))[0] == 200
        assert (await load)[1]["done_reason"] == "load"
        assert await run.names() == [LLAMA]
        assert run.double.runners.unloads == []


async def test_a_load_whose_caller_goes_away_is_given_up():
    async with rig(load_s=30) as run, asyncio.TaskGroup() as group:
        load = group.create_task(run.post("/api/generate", model=LLAMA), name="load")
        await until(lambda: run.card.used_mib, "memory")
        load.cancel()
        await until(lambda: not run.card.used_mib, "memory back")
        assert run.double.runners.loads == []


async def test_without_room_a_model_is_split_between_card_and_cpu(run: Rig):
    run.card.hold("comfyui", 20_000)
    await run.post("/api/generate", model=LLAMA)
    (found,) = (await run.get("/api/ps"))["models"]
    assert 0.5 * found["size"] < found["size_vram"] < 0.75 * found["size"]
    assert run.card.free_mib < LLAMA_MIB / 32


async def test_a_further_model_that_takes_over_80_percent_of_what_is_free_sends_another_away(
    run: Rig,
):
    await run.double.warm(LLAMA)
    await run.double.warm(EMBED)
    assert run.double.runners.unloads == []
    await run.double.warm(BIG)
    assert await run.names() == [BIG]
    assert sorted(run.double.runners.unloads) == [LLAMA, EMBED]
    assert run.card.used_mib == 20480


async def test_an_embedding_model_loads_by_an_embedding_of_nothing_and_unloads_like_any(run: Rig):
    status, body = await run.post("/api/embed", model=EMBED, keep_alive=50, input=[])
    assert (status, body["embeddings"]) == (200, [])
    assert 40 < await expires_in_s(run, EMBED) <= 50
    await run.post("/api/generate", model=EMBED, keep_alive=0)
    await run.gone(EMBED)


# --- options -------------------------------------------------------------------------------------


async def test_options_of_an_answer_do_not_load_a_model_anew(run: Rig):
    await run.double.warm(LLAMA)
    options = {"temperature": 0.1, "seed": 3, "num_predict": 5, "num_gpu": -1}
    status, body = await run.post(
        "/api/generate", model=LLAMA, prompt="x", stream=False, options=options
    )
    assert status == 200
    assert body["load_duration"] < 1e9
    assert run.double.runners.loads == [LLAMA]


@pytest.mark.parametrize("options", [{"num_ctx": 8192}, {"num_batch": 64}, {"num_gpu": 10}])
async def test_options_of_the_runner_load_a_model_anew(run: Rig, options: dict[str, int]):
    await run.double.warm(LLAMA)
    await run.post("/api/generate", model=LLAMA, options=options)
    assert run.double.runners.loads == [LLAMA, LLAMA]


async def test_no_num_ctx_loads_anew_what_was_loaded_with_one_and_the_listed_one_does_not(run: Rig):
    await run.double.warm(LLAMA, num_ctx=8192)
    (found,) = (await run.get("/api/ps"))["models"]
    await run.post("/api/generate", model=LLAMA, options={"num_ctx": found["context_length"]})
    assert run.double.runners.loads == [LLAMA]
    await run.post("/api/generate", model=LLAMA)
    assert run.double.runners.loads == [LLAMA, LLAMA]


# --- texts ---------------------------------------------------------------------------------------


async def test_texts_come_line_by_line_unless_told_otherwise(run: Rig):
    run.double.trap("says", text="a red fox")
    async with run.http.post("/api/generate", json={"model": LLAMA, "prompt": "fox"}) as answer:
        assert answer.content_type == "application/x-ndjson"
        lines = [json.loads(line) for line in (await answer.text()).splitlines()]
    assert "".join(line["response"] for line in lines) == "a red fox"
    assert [line["done"] for line in lines] == [False, False, False, True]
    status, body = await run.post("/api/generate", model=LLAMA, prompt="fox", stream=False)
    assert (status, body["response"], body["done_reason"]) == (200, "a red fox", "stop")
    assert all(isinstance(body[key], int) for key in ("total_duration", "eval_duration"))


async def test_durations_are_nanoseconds():
    async with rig(load_s=0.2) as run:
        _, body = await run.post("/api/generate", model=LLAMA, prompt="fox", stream=False)
        assert 0.2e9 <= body["load_duration"] <= body["total_duration"] < 5e9


async def test_a_chat_is_answered_loads_and_unloads(run: Rig):
    messages = [{"role": "user", "content": "fox"}]
    run.double.trap("says", text="hello you")
    _, body = await run.post("/api/chat", model=LLAMA, messages=messages, stream=False)
    assert body["message"] == {"role": "assistant", "content": "hello you"}
    _, body = await run.post("/api/chat", model=LLAMA, keep_alive=0)
    assert body["done_reason"] == "unload"
    await run.gone(LLAMA)


async def test_what_a_model_thinks_is_apart_from_what_it_says():
    async with rig(models={"qwen3:8b": 5000}) as run:
        run.double.trap("says", text="a fox", thinking="hm")
        ask = {"model": "qwen3:8b", "prompt": "fox", "stream": False}
        _, body = await run.post("/api/generate", **ask)
        assert (body["response"], body["thinking"]) == ("a fox", "hm")
        _, body = await run.post("/api/generate", **ask, think=False)
        assert "thinking" not in body


async def test_an_error_in_a_text_comes_with_a_200_where_lines_are_sent(run: Rig):
    run.double.trap("breaks_off", times=2)
    async with run.http.post("/api/generate", json={"model": LLAMA, "prompt": "x"}) as answer:
        assert answer.status == 200
        assert json.loads((await answer.text()).splitlines()[-1]) == {"error": "unexpected EOF"}
    status, _ = await run.post("/api/generate", model=LLAMA, prompt="x", stream=False)
    assert status == 500


# --- what goes wrong, and control ----------------------------------------------------------------


async def test_somebody_who_uses_a_model_loads_it_again(run: Rig):
    run.double.trap("reloads", model=LLAMA, every_s=0.05)
    await until(run.names, "the first use")
    await run.post("/api/generate", model=LLAMA, keep_alive=0)
    await until(lambda: len(run.double.runners.loads) > 1, "the next use")
    run.double.clear("reloads")
    await run.post("/api/generate", model=LLAMA, keep_alive=0)
    await run.gone(LLAMA)


async def test_an_unload_may_never_happen_or_leave_the_memory_behind(run: Rig):
    await run.double.warm(LLAMA)
    run.double.trap("keeps_listed")
    await run.post("/api/generate", model=LLAMA, keep_alive=0)
    run.double.trap("keeps_memory")
    run.double.clear("keeps_listed")
    await until(lambda: run.double.runners.unloads, "off the list")
    assert run.card.used_mib == LLAMA_MIB
    run.double.clear("keeps_memory")
    assert run.card.used_mib == 0


async def test_a_process_that_dies_gives_all_memory_back_and_comes_back_empty(run: Rig):
    await run.double.warm(LLAMA)
    await run.double.die()
    assert run.card.used_mib == 0
    await run.double.restart()
    assert await run.get("/api/ps") == {"models": []}


async def test_traps_are_set_and_cleared_over_http_and_a_wrong_one_is_refused(run: Rig):
    assert (await run.post("/double/trap", name="says", text="x"))[0] == 200
    assert (await run.get("/double/traps"))["set"]["says"]["text"] == "x"
    assert (await run.post("/double/trap", name="says", off=True)) == (200, {"set": {}})
    assert (await run.post("/double/trap", name="sings"))[0] == 400
    assert (await run.post("/double/trap", name="says", loud=1))[0] == 400
    await run.post("/api/generate", model=LLAMA)
    log = await run.get("/double/log")
    assert (log["loads"], log["loaded"], list(log["card"].values())) == ([LLAMA], [LLAMA], [6700])
    assert log["calls"][-1] == {"method": "POST", "path": "/api/generate", "body": {"model": LLAMA}}


def test_models_are_named_with_their_size():
    assert parse_models("a:8b=6700,b=1") == {"a:8b": 6700, "b": 1}
    with pytest.raises(ValueError, match="'c' is not name=MiB"):
        parse_models("a=1,c")


async def test_it_runs_alone_on_a_card_that_it_shares(tmp_path: Path):
    card = SharedCard.create(tmp_path / "card.json")
    arguments = ("--port", "0", "--card", str(card.path), "--models", "a:8b=5000", "--load", "a:8b")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.doubles.ollama", *arguments),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(20):
            assert (await process.stdout.readline()).startswith(b"Ollama double: http://127")
        assert card.used_mib == 5000
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0
        assert card.used_mib == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
