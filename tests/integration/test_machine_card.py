"""Goal: a worker shares the card of a whole machine as the arbiter's rules say, end to end.

Method: real worker processes on a real nats-server and on the fake machine, whose ComfyUI and
Ollama claim memory on one simulated card. Each row of the rules once; what happened is read from
the chain, the doubles and the card. Where a wait is minutes at work, the worker is hurried.
"""

from pathlib import Path

import pytest

from agent.embedded import EmbeddedServer
from tests.doubles.card import Fault
from tests.doubles.machine import LLMS, Machine
from tests.machine_rig import Requests, held, llms, worker_on
from tests.rig import Agent, until


@pytest.fixture
def requests(agent: Agent) -> Requests:
    return Requests(agent)


async def test_a_second_sdxl_image_finds_sdxl_resident_and_unloads_nothing(
    tmp_path: Path, server: EmbeddedServer, requests: Requests
) -> None:
    async with (
        Machine(llm="llama3:8b") as machine,
        worker_on(machine, server.url, tmp_path) as worker,
    ):
        first = await requests.image("r1")
        second = await requests.image("r2")
        assert "rule 2" in first["reason"]
        assert "rule 1: ComfyUI already holds sdxl-1.0" in second["reason"]
        assert first["model_used"] == second["model_used"] == "sdxl-1.0"
        assert machine.ollama.runners.unloads == []
        assert machine.ollama.runners.loads == ["llama3:8b"]
        assert not worker.log("card.freecomfyui", "card.unloadmodels")


@pytest.mark.parametrize(
    ("llm", "quality", "model"),
    [
        ("mistral:7b", "standard", "sdxl-1.0"),
        ("llama3:8b", "standard", "sdxl-1.0"),
        ("llama3:8b", "draft", "sd-1.5"),
    ],
)
async def test_what_fits_beside_the_llm_is_drawn_beside_it(
    tmp_path: Path,
    server: EmbeddedServer,
    requests: Requests,
    llm: str,
    quality: str,
    model: str,
) -> None:
    async with Machine(llm=llm) as machine, worker_on(machine, server.url, tmp_path):
        end = await requests.image("r1", lane="critical", quality=quality)
        assert (end["model_used"], end["downgraded"]) == (model, False)
        assert llms(machine) == [llm]
        assert machine.ollama.runners.unloads == []
        assert machine.card.used_mib <= machine.card.total_mib


async def test_a_13b_llm_is_unloaded_for_sdxl_and_is_back_with_its_keep_alive(
    tmp_path: Path, server: EmbeddedServer, requests: Requests
) -> None:
    async with (
        Machine(llm="llama2:13b", keep_alive_s=900) as machine,
        worker_on(machine, server.url, tmp_path),
    ):
        before = machine.ollama.runners.loaded["llama2:13b"].until()
        end = await requests.image("r1", lane="high")
        assert "rule" in end["reason"]
        assert (end["model_used"], end["downgraded"]) == ("sdxl-1.0", False)
        assert machine.ollama.runners.unloads == ["llama2:13b"]
        await until(lambda: llms(machine) == ["llama2:13b"], "the LLM", 20)
        after = machine.ollama.runners.loaded["llama2:13b"].until()
        assert abs((after - before).total_seconds()) < 5
        assert held(machine) == []
        await until(
            lambda: machine.card.claims().get("comfyui") == 450, "only ComfyUI's context", 5
        )
        assert machine.card.used_mib == 450 + LLMS["llama2:13b"]


async def test_a_desktop_that_holds_memory_counts_and_is_left_alone(
    tmp_path: Path, server: EmbeddedServer, requests: Requests
) -> None:
    async with (
        Machine(llm="llama3:8b", desktop_mib=1536) as machine,
        worker_on(machine, server.url, tmp_path),
    ):
        end = await requests.image("r1", lane="high")
        assert (end["model_used"], llms(machine)) == ("sdxl-1.0", ["llama3:8b"])
        machine.comfyui.life.card.unload()
        machine.card.hold("desktop", 3500)
        end = await requests.image("r2", lane="high")
        assert end["model_used"] == "sdxl-1.0"
        assert machine.ollama.runners.unloads == ["llama3:8b"], "now it does not fit beside it"
        await until(lambda: llms(machine) == ["llama3:8b"], "the LLM")


async def test_chat_that_loads_the_llm_in_mid_lease_neither_breaks_the_run_nor_is_undone(
    tmp_path: Path, server: EmbeddedServer, requests: Requests
) -> None:
    async with (
        Machine(llm="llama2:13b", comfyui={"step_ms": 50}) as machine,
        worker_on(machine, server.url, tmp_path) as worker,
    ):
        await requests.ask("r1", lane="high", steps=30)
        await until(lambda: machine.comfyui.life.prompts.running, "the run")
        machine.ollama.trap("chat", model="llama2:13b", seconds=0.1)
        end = await requests.end("r1")
        assert (end["kind"], end["model_used"]) == ("completed", "sdxl-1.0")
        alert = await worker.logs("card.alert")
        assert alert["what"] == "tenant_grew"
        await worker.logs("card.cleardebt")
        assert llms(machine) == ["llama2:13b"]
        assert machine.ollama.runners.loads == ["llama2:13b", "llama2:13b"], "the chat's, no third"


async def test_an_llm_that_came_back_slow_in_mid_lease_is_whole_again_afterwards(
    tmp_path: Path, server: EmbeddedServer, requests: Requests
) -> None:
    async with (
        Machine(llm="llama3:70b", comfyui={"step_ms": 100}) as machine,
        worker_on(machine, server.url, tmp_path),
    ):
        await requests.ask("r1", lane="high", steps=20)
        await until(lambda: machine.comfyui.life.prompts.running, "the run")
        machine.ollama.trap("chat", model="llama3:70b", seconds=0.2)
        end = await requests.end("r1")
        assert (end["kind"], end["model_used"]) == ("completed", "sdxl-1.0")

        def is_whole() -> bool:
            runner = machine.ollama.runners.loaded.get("llama3:70b")
            return runner is not None and runner.vram_mib == LLMS["llama3:70b"]

        await until(is_whole, "the whole LLM on the card")
        assert held(machine) == []


@pytest.mark.parametrize("stuck", ["keeps_listed", "keeps_memory"])
async def test_an_unload_that_never_frees_leads_to_the_next_rule(
    tmp_path: Path, server: EmbeddedServer, requests: Requests, stuck: str
) -> None:
    async with (
        Machine(llm="llama2:13b") as machine,
        worker_on(machine, server.url, tmp_path, hurry=40) as worker,
    ):
        machine.ollama.trap(stuck)
        end = await requests.image("r1", lane="high")
        assert (end["model_used"], end["downgraded"]) == ("sd-1.5", True)
        assert "rule 5" in end["reason"]
        assert {"unload_failed"} == {line["what"] for line in worker.log("card.alert")}
        await requests.ask("r2", lane="high", quality="high")
        machine.ollama.clear(stuck)
        end = await requests.end("r2")
        assert (end["model_used"], end["downgraded"]) == ("sdxl-1.0", False), "never smaller"
        await until(lambda: llms(machine) == ["llama2:13b"], "the LLM")


async def test_low_unloads_nothing_before_its_max_wait_and_then_once(
    tmp_path: Path, server: EmbeddedServer, requests: Requests
) -> None:
    async with (
        Machine(llm="llama2:13b") as machine,
        worker_on(machine, server.url, tmp_path, MMG_MAX_WAIT_S="low:1") as worker,
    ):
        await requests.ask("r1", lane="low", quality="high")
        end = await requests.end("r1")
        waits = [(line["rule"], line["wait_for"]) for line in worker.log("card.wait")]
        assert waits.index((7, "memory")) < waits.index((4, "unloading"))
        assert end["model_used"] == "sdxl-1.0"
        assert end["queue_time_seconds"] >= 1
        assert machine.ollama.runners.unloads == ["llama2:13b"]
        await until(lambda: llms(machine) == ["llama2:13b"], "the LLM")
        await requests.ask("r2", lane="low", quality="high", deadline_s=2)
        end = await requests.end("r2")
        assert end["kind"] == "expired", "past its max wait it was not granted an unload again"
        assert machine.ollama.runners.unloads == ["llama2:13b"], "once in ten minutes"


async def test_a_run_out_of_memory_frees_and_is_drawn_once_more(
    tmp_path: Path, server: EmbeddedServer, requests: Requests
) -> None:
    async with Machine() as machine, worker_on(machine, server.url, tmp_path):
        machine.comfyui.trap("oom", times=1)
        end = await requests.image("r1")
        assert (end["model_used"], end["downgraded"]) == ("sdxl-1.0", False)
        assert await requests.kinds("r1") == ["started", "completed"]
        assert machine.comfyui.log.requests.count("POST /free") == 1


async def test_a_second_run_out_of_memory_draws_with_the_smaller_model(
    tmp_path: Path, server: EmbeddedServer, requests: Requests
) -> None:
    async with Machine() as machine, worker_on(machine, server.url, tmp_path):
        machine.comfyui.trap("oom", times=2)
        end = await requests.image("r1")
        assert (end["model_used"], end["downgraded"]) == ("sd-1.5", True)
        assert await requests.kinds("r1") == ["started", "completed"]


async def test_a_high_quality_that_ran_out_of_memory_twice_goes_to_the_cloud(
    tmp_path: Path, server: EmbeddedServer, requests: Requests
) -> None:
    async with (
        Machine(clouds=("stability",)) as machine,
        worker_on(machine, server.url, tmp_path),
    ):
        machine.comfyui.trap("oom", times=2)
        end = await requests.image("r1", quality="high", aspect_ratio="1:1")
        assert (end["engine"], end["downgraded"]) == ("stability", False)
        assert "memory" in (await requests.agent.chain("r1"))[1]["error"]["message"]


@pytest.mark.parametrize("fault", ["lost", "driver_gone"])
async def test_a_card_that_goes_in_mid_run_costs_a_try_and_comes_back_by_itself(
    tmp_path: Path, server: EmbeddedServer, requests: Requests, fault: Fault
) -> None:
    async with (
        Machine(comfyui={"step_ms": 50}) as machine,
        worker_on(machine, server.url, tmp_path, hurry=20) as worker,
    ):
        await requests.ask("r1", steps=30)
        await until(lambda: machine.comfyui.life.prompts.running, "the run")
        machine.card.fault = fault
        await worker.logs("card.alert")
        assert {"card_lost"} == {line["what"] for line in worker.log("card.alert")}
        await until(lambda: not machine.comfyui.life.prompts.running, "the end of the run")
        machine.card.fault = None
        end = await requests.end("r1")
        assert end["kind"] == "completed"
        kinds = await requests.kinds("r1")
        assert kinds[:2] == ["started", "retrying"]
        assert kinds.count("retrying") == 1


async def test_without_a_card_requests_go_to_the_cloud_and_local_only_waits_for_it(
    tmp_path: Path, server: EmbeddedServer, requests: Requests
) -> None:
    async with Machine(clouds=("stability",)) as machine:
        machine.card.fault = "driver_gone"
        async with worker_on(machine, server.url, tmp_path, hurry=20):
            await requests.ask("stays", local_only=True)
            end = await requests.image("goes", aspect_ratio="1:1")
            assert end["engine"] == "stability"
            assert await requests.kinds("stays") == []
            machine.card.fault = None
            end = await requests.end("stays")
            assert (end["kind"], end["engine"]) == ("completed", "comfyui")
            assert len(machine.stability.ledger) == 1
