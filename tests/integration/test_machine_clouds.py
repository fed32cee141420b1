"""Goal: on a whole machine, requests go to the cloud when they should, and never when they should
not; what is bought is in the books.

Method: real worker processes on a real nats-server and on the fake machine; what the clouds were
asked and what they charged is read from their doubles. Where a wait is minutes at work, the worker
is hurried.
"""

from pathlib import Path
from typing import Any

import pytest

from agent.bus import books
from agent.bus.connection import connect
from agent.embedded import EmbeddedServer
from tests.doubles.machine import Machine
from tests.machine_rig import Requests, llms, worker_on
from tests.rig import Agent, until

BOTH = ("stability", "openai")
SQUARE: dict[str, Any] = {"aspect_ratio": "1:1"}
"""Sizes that clouds have; at ComfyUI its pictures take a moment."""


@pytest.fixture
def requests(agent: Agent) -> Requests:
    return Requests(agent)


async def spent_usd(server: EmbeddedServer) -> float:
    """Return what the books say was spent, what is held counted."""
    async with await connect([server.url], "auditor") as bus:
        found = await books.read_money(bus)
    return found.spent_usd + found.held_usd


async def test_while_comfyui_is_down_every_request_that_may_go_to_the_cloud_gets_an_image(
    tmp_path: Path, server: EmbeddedServer, requests: Requests
) -> None:
    async with (
        Machine(clouds=BOTH) as machine,
        worker_on(machine, server.url, tmp_path),
    ):
        await machine.comfyui.die()
        lanes = ("critical", "high", "medium", "low") * 3
        for number, lane in enumerate(lanes):
            await requests.ask(f"r{number}", lane=lane, **SQUARE)
        await requests.ask("stays", local_only=True)
        for number in range(len(lanes)):
            end = await requests.end(f"r{number}")
            assert (end["kind"], end["engine"]) == ("completed", "stability"), end
        assert "stands in: comfyui is down" in (await requests.image("last", **SQUARE))["reason"]
        assert len(machine.stability.ledger) == len(lanes) + 1
        assert await requests.kinds("stays") == []
        await machine.comfyui.restart()
        end = await requests.end("stays")
        assert (end["kind"], end["engine"]) == ("completed", "comfyui")


async def test_with_stability_down_too_openai_draws_and_its_breaker_keeps_others_away(
    tmp_path: Path, server: EmbeddedServer, requests: Requests
) -> None:
    async with (
        Machine(clouds=BOTH) as machine,
        worker_on(machine, server.url, tmp_path, MMG_SLOTS="cloud:1") as worker,
    ):
        await machine.comfyui.die()
        await machine.stability.stop()
        for number in range(6):
            end = await requests.image(f"r{number}", **SQUARE)
            assert end["engine"] == "openai"
        assert [line["engine"] for line in worker.log("breaker.open")] == ["stability"]
        assert len(machine.openai.ledger) == 6


async def test_a_breaker_opens_after_three_faults_and_half_open_tries_one(
    tmp_path: Path, server: EmbeddedServer, requests: Requests
) -> None:
    async with (
        Machine(clouds=BOTH, stability={"draw_s": 0.3}) as machine,
        worker_on(machine, server.url, tmp_path, hurry=15, MMG_CLOUD="on") as worker,
    ):
        machine.stability.trap("error", times=9, status=500)
        ends = [await requests.image(f"r{number}", **SQUARE) for number in range(4)]
        assert [end["engine"] for end in ends] == ["openai"] * 4
        assert len(machine.stability.paid) == 3, "the fourth did not ask"
        assert "faults" in ends[3]["reason"]
        await worker.logs("breaker.open")
        machine.stability.traps.clear()

        async def is_tried() -> bool:
            await requests.image(f"t{len(machine.openai.ledger)}", **SQUARE)
            return len(machine.stability.paid) > 3

        await until(is_tried, "a trial")
        asked = len(machine.stability.paid)
        assert asked == 4, "one job is the trial"
        await worker.logs("breaker.closed")
        end = await requests.image("after", **SQUARE)
        assert end["engine"] == "stability"


async def test_with_all_engines_down_requests_wait_and_recover_by_themselves(
    tmp_path: Path, server: EmbeddedServer, requests: Requests
) -> None:
    async with (
        Machine(clouds=("stability",)) as machine,
        worker_on(machine, server.url, tmp_path, hurry=15) as worker,
    ):
        await machine.comfyui.die()
        machine.stability.trap("error", times=1000, status=503)
        for number in range(4):
            await requests.ask(f"r{number}", **SQUARE)
        await until(lambda: len(machine.stability.paid) >= 3, "tries at the cloud")
        await requests.ask("late", deadline_s=1, **SQUARE)
        await until(lambda: worker.log("breaker.open"), "an open breaker")
        await machine.comfyui.restart()
        for number in range(4):
            end = await requests.end(f"r{number}")
            assert (end["kind"], end["engine"]) == ("completed", "comfyui")
        assert (await requests.end("late"))["kind"] in ("expired", "completed")
        assert machine.stability.ledger == []


async def test_local_only_reaches_no_cloud_whatever_happens(
    tmp_path: Path, server: EmbeddedServer, requests: Requests
) -> None:
    bounds = "critical:0,high:0,medium:0,low:0"
    async with (
        Machine(clouds=BOTH, llm="llama2:13b") as machine,
        worker_on(machine, server.url, tmp_path, hurry=20, MMG_CLOUD="on", MMG_MAX_WAIT_S=bounds),
    ):
        lanes = ("critical", "high", "medium", "low") * 5
        for number, lane in enumerate(lanes):
            quality = ("premium", "high", "standard")[number % 3]
            await requests.ask(f"r{number}", lane=lane, quality=quality, local_only=True)
        await until(lambda: machine.comfyui.life.prompts.running, "the first run")
        machine.comfyui.trap("oom", times=1)
        await machine.comfyui.die()
        await machine.comfyui.restart()
        for number in range(len(lanes)):
            end = await requests.end(f"r{number}")
            assert end["engine"] == "comfyui", end
        assert machine.asked_clouds == 0


async def test_medium_and_low_stay_while_the_card_is_idle_or_busy_for_less_than_their_wait(
    tmp_path: Path, server: EmbeddedServer, requests: Requests
) -> None:
    async with (
        Machine(clouds=BOTH, llm="llama3:8b") as machine,
        worker_on(machine, server.url, tmp_path),
    ):
        for number in range(10):
            lane = ("medium", "low")[number % 2]
            end = await requests.image(f"r{number}", lane=lane)
            assert end["engine"] == "comfyui"
        for number in range(8):
            await requests.ask(f"b{number}", lane=("medium", "low")[number % 2])
        for number in range(8):
            assert (await requests.end(f"b{number}"))["engine"] == "comfyui"
        assert machine.asked_clouds == 0


async def test_who_would_wait_too_long_for_a_busy_card_goes_to_the_cloud(
    tmp_path: Path, server: EmbeddedServer, requests: Requests
) -> None:
    async with (
        Machine(clouds=BOTH, comfyui={"step_ms": 100}) as machine,
        worker_on(machine, server.url, tmp_path, MMG_MAX_WAIT_S="medium:1"),
    ):
        await requests.ask("long", lane="high", steps=25)
        await until(lambda: machine.comfyui.life.prompts.running, "the run")
        end = await requests.image("r1", **SQUARE)
        assert end["engine"] == "stability"
        assert "longer than its 1 s" in end["reason"]
        assert (await requests.end("long"))["engine"] == "comfyui"


async def test_premium_goes_to_the_cloud_first_and_says_so(
    tmp_path: Path, server: EmbeddedServer, requests: Requests
) -> None:
    async with Machine(clouds=BOTH) as machine, worker_on(machine, server.url, tmp_path):
        end = await requests.image("r1", quality="premium", **SQUARE)
        assert end["engine"] == "stability"
        assert "premium goes to the cloud first" in end["reason"]
        assert len(machine.stability.ledger) == 1
        assert await spent_usd(server) == pytest.approx(machine.charged_usd)


async def test_a_seed_never_goes_to_an_engine_that_ignores_it(
    tmp_path: Path, server: EmbeddedServer, requests: Requests
) -> None:
    async with (
        Machine(clouds=BOTH) as machine,
        worker_on(machine, server.url, tmp_path, hurry=15, MMG_CLOUD_ORDER="openai,stability"),
    ):
        await machine.comfyui.die()
        end = await requests.image("r1", seed=7, **SQUARE)
        assert (end["engine"], end["seed"]) == ("stability", 7)
        end = await requests.image("r2", **SQUARE)
        assert end["engine"] == "openai"
        await machine.stability.stop()
        await requests.ask("r3", seed=7, **SQUARE)
        await requests.image("r4", **SQUARE)
        assert len(machine.openai.ledger) == 2
        await machine.comfyui.restart()
        assert (await requests.end("r3"))["engine"] == "comfyui"


async def test_a_spent_budget_leads_to_the_next_engine_with_the_reason_in_the_link(
    tmp_path: Path, server: EmbeddedServer, requests: Requests
) -> None:
    async with (
        Machine(clouds=("stability",)) as machine,
        worker_on(machine, server.url, tmp_path, MMG_CLOUD_DAY_USD="0.05"),
    ):
        first = await requests.image("r1", quality="premium", **SQUARE)
        assert (first["engine"], first["cost_usd"]) == ("comfyui", 0)
        assert "budget" in first["reason"]
        assert machine.stability.ledger == []


async def test_a_worker_killed_in_a_paid_call_leaves_an_unknown_outcome_that_is_not_bought_again(
    tmp_path: Path, server: EmbeddedServer, requests: Requests
) -> None:
    async with Machine(clouds=BOTH, stability={"draw_s": 0.5}) as machine:
        await machine.comfyui.die()
        async with worker_on(machine, server.url, tmp_path) as first:
            await requests.ask("r1", **SQUARE)
            await until(lambda: machine.stability.busy, "a paid call")
            await first.kill()
        async with worker_on(machine, server.url, tmp_path):
            end = await requests.end("r1")
            assert (end["kind"], end["engine"]) == ("completed", "openai")
            assert len(machine.stability.paid) == 1
            chain = await requests.agent.chain("r1")
            assert [link["kind"] for link in chain] == ["started", "started", "completed"]
            assert await spent_usd(server) >= machine.charged_usd - 1e-9


async def test_a_dry_run_answers_with_the_candidates_and_runs_nothing(
    tmp_path: Path, server: EmbeddedServer, requests: Requests
) -> None:
    async with (
        Machine(clouds=BOTH, llm="llama2:13b") as machine,
        worker_on(machine, server.url, tmp_path),
    ):
        await requests.ask("r1", lane="high", dry_run=True, quality="premium", **SQUARE)
        end = await requests.end("r1")
        assert end["kind"] == "completed"
        assert end["outputs"] == []
        assert end["engine"] == "stability"
        assert await requests.kinds("r1") == ["completed"]
        assert machine.asked_clouds == 0
        assert machine.comfyui.log.requests.count("POST /prompt") == 0
        assert machine.ollama.runners.unloads == []


async def test_a_prompt_is_extended_by_the_llm_before_the_llm_is_unloaded(
    tmp_path: Path, server: EmbeddedServer, requests: Requests
) -> None:
    words = "A quiet cover with one strong form in soft morning light, calm and precise."
    async with (
        Machine(llm="llama2:13b") as machine,
        worker_on(machine, server.url, tmp_path),
    ):
        machine.ollama.trap("says", text=words)
        end = await requests.image("r1", lane="high", enhance_prompt=True)
        assert "the prompt was extended by llama2:13b" in end["reason"]
        graph = machine.comfyui.life.prompts
        assert machine.ollama.runners.unloads == ["llama2:13b"]
        assert any(words in str(entry["prompt"]) for entry in graph.history.values()) or any(
            words in path.read_text() for path in tmp_path.rglob("*.json")
        )
        await until(lambda: llms(machine) == ["llama2:13b"], "the LLM")
        machine.ollama.trap("error", path="/api/generate", times=9, status=500)
        end = await requests.image("r2", enhance_prompt=True, quality="draft")
        assert "the prompt is used as it is" in end["reason"]
