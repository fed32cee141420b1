"""Goal: what else the arbiter's rules promise holds on a whole machine: other models, people's own
prompts, a slow LLM, a frozen driver, the order of the specification.

Method: as in test_machine_card: real worker processes on a real nats-server and the fake machine.
"""

from pathlib import Path

import pytest

from agent.embedded import EmbeddedServer
from tests.doubles.machine import LLMS, Machine
from tests.machine_rig import Requests, held, llms, worker_on
from tests.rig import Agent, until

FULL = {"llm": "llama3:8b", "desktop_mib": 1000}
"""Beside this SDXL fits only if ComfyUI holds nothing else."""


@pytest.fixture
def requests(agent: Agent) -> Requests:
    return Requests(agent)


async def test_comfyui_frees_its_other_models_before_an_llm_has_to_go(
    tmp_path: Path, server: EmbeddedServer, requests: Requests
) -> None:
    async with Machine(**FULL) as machine, worker_on(machine, server.url, tmp_path) as worker:
        await requests.image("small", quality="draft")
        assert held(machine) == ["sd-1.5"]
        end = await requests.image("large", lane="critical")
        assert (end["model_used"], held(machine)) == ("sdxl-1.0", ["sdxl-1.0"])
        (freed,) = worker.log("card.freecomfyui")
        assert freed["reason"].startswith("rule 3")
        assert machine.ollama.runners.unloads == []


async def test_a_new_worker_frees_models_that_an_earlier_one_left_and_keeps_the_llm(
    tmp_path: Path, server: EmbeddedServer, requests: Requests
) -> None:
    async with Machine(**FULL) as machine:
        async with worker_on(machine, server.url, tmp_path):
            await requests.image("small", quality="draft")
        async with worker_on(machine, server.url, tmp_path, name="w2"):
            end = await requests.image("large", lane="critical")
            assert (end["model_used"], held(machine)) == ("sdxl-1.0", ["sdxl-1.0"])
            assert machine.ollama.runners.unloads == []


async def test_peoples_own_prompts_are_waited_for_and_never_interrupted(
    tmp_path: Path, server: EmbeddedServer, requests: Requests
) -> None:
    async with (
        Machine(comfyui={"step_ms": 50}) as machine,
        worker_on(machine, server.url, tmp_path) as worker,
    ):
        await requests.image("before", quality="draft")
        theirs = machine.comfyui.foreign_prompt(steps=20)
        await until(lambda: machine.comfyui.life.prompts.running, "their run")
        await requests.ask("r1", lane="critical")
        await until(lambda: "other people's prompts" in worker.words, "the reason of the wait")
        end = await requests.end("r1")
        assert end["kind"] == "completed"
        assert dict(machine.comfyui.log.ended)[theirs] == "success"
        assert "POST /interrupt" not in machine.comfyui.log.requests


async def test_an_llm_that_comes_back_with_a_part_on_the_cpu_is_told_to_people(
    tmp_path: Path, server: EmbeddedServer, requests: Requests
) -> None:
    async with (
        Machine(llm="llama2:13b") as machine,
        worker_on(machine, server.url, tmp_path) as worker,
    ):
        machine.ollama.trap("partial", times=1)
        await requests.image("r1", lane="high")
        alert = await worker.logs("card.alert")
        assert alert["what"] == "partial_offload"
        assert "llama2:13b" in alert["reason"]
        assert llms(machine) == ["llama2:13b"]
        assert machine.ollama.runners.loaded["llama2:13b"].vram_mib < LLMS["llama2:13b"]


async def test_with_downgrade_first_nobody_unloads_what_a_smaller_model_can_do_without(
    tmp_path: Path, server: EmbeddedServer, requests: Requests
) -> None:
    async with (
        Machine(llm="llama2:13b") as machine,
        worker_on(machine, server.url, tmp_path, MMG_DOWNGRADE_FIRST="yes"),
    ):
        end = await requests.image("r1", lane="high")
        assert (end["model_used"], end["downgraded"]) == ("sd-1.5", True)
        assert machine.ollama.runners.unloads == []
        end = await requests.image("r2", lane="high", quality="high")
        assert (end["model_used"], end["downgraded"]) == ("sdxl-1.0", False)
        assert machine.ollama.runners.unloads == ["llama2:13b"]


async def test_while_the_driver_hangs_the_card_is_unknown_and_nobody_is_granted(
    tmp_path: Path, server: EmbeddedServer, requests: Requests
) -> None:
    async with (
        Machine(clouds=("stability",)) as machine,
        worker_on(machine, server.url, tmp_path, hurry=20) as worker,
    ):
        await requests.image("before")
        machine.card.fault = "hang"
        await requests.ask("stays", local_only=True)
        end = await requests.image("goes", aspect_ratio="1:1")
        assert end["engine"] == "stability"
        assert worker.log("gpu.hang", "gpu.missing")
        machine.card.fault = None
        end = await requests.end("stays")
        assert (end["kind"], end["engine"]) == ("completed", "comfyui")
        assert machine.comfyui.log.requests.count("POST /prompt") == 2
