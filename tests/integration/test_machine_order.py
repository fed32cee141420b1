"""Goal: on a whole machine the most urgent request draws next, one worker has the card, and who
goes leaves nothing behind.

Method: real worker processes on a real nats-server and on the fake machine. What happened, and
when, is read from the chains and the doubles.
"""

from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from agent.embedded import EmbeddedServer
from tests.doubles.machine import Machine
from tests.machine_rig import Requests, Worker, llms, worker_on
from tests.rig import Agent, until

STEP_MS, DECODE_MS = 100, 100
BESIDE_S = 0.7
"""What a loaded machine with two cores may take beside the times of the double."""


@pytest.fixture
def requests(agent: Agent) -> Requests:
    return Requests(agent)


def at(link: dict[str, Any]) -> datetime:
    return datetime.fromisoformat(link["at"])


async def start_of(requests: Requests, name: str) -> dict[str, Any]:
    """Return the last `started` of a chain."""
    chain = await requests.agent.chain(name)
    return next(link for link in reversed(chain) if link["kind"] == "started")


async def behind(requests: Requests, count: int) -> None:
    """Queue requests of LOW."""
    for number in range(count):
        await requests.ask(f"low{number}", lane="low", steps=100)


async def test_critical_behind_a_thousand_low_interrupts_and_starts_within_step_and_decode(
    tmp_path: Path, server: EmbeddedServer, requests: Requests
) -> None:
    speed = {"step_ms": STEP_MS, "decode_ms": DECODE_MS}
    async with (
        Machine(comfyui=speed) as machine,
        worker_on(machine, server.url, tmp_path) as worker,
    ):
        await behind(requests, 1000)
        await until(lambda: machine.comfyui.life.prompts.running, "a run")
        await requests.ask("now", lane="critical")
        end = await requests.end("now")
        assert end["kind"] == "completed"
        assert end["queue_time_seconds"] <= (STEP_MS + DECODE_MS) / 1000 + BESIDE_S
        (line,) = worker.log("card.preempt")
        assert line["by"].startswith("L2-01.now")
        chain = await requests.agent.chain(line["job"].split("#")[0].split(".")[1])
        assert [link["kind"] for link in chain][:2] == ["started", "preempted"]


async def test_critical_waits_for_a_run_that_will_be_over_soon_and_is_the_next_job(
    tmp_path: Path, server: EmbeddedServer, requests: Requests
) -> None:
    async with (
        Machine(comfyui={"step_ms": 10}) as machine,
        worker_on(machine, server.url, tmp_path) as worker,
    ):
        await requests.image("first")
        for number in range(4):
            await requests.ask(f"low{number}", lane="low", steps=40)
        await until(lambda: machine.comfyui.life.prompts.running, "a run")
        await requests.ask("now", lane="critical")
        await requests.end("now")
        for number in range(4):
            await requests.end(f"low{number}")
        began = at(await start_of(requests, "now"))
        later = [at(await start_of(requests, f"low{n}")) for n in range(1, 4)]
        assert began < min(later)
        assert not worker.log("card.preempt")


async def test_a_request_is_preempted_at_most_twice(
    tmp_path: Path, server: EmbeddedServer, requests: Requests
) -> None:
    async with (
        Machine(comfyui={"step_ms": 30}) as machine,
        worker_on(machine, server.url, tmp_path, MMG_PREEMPT_AFTER_S="1") as worker,
    ):
        await requests.ask("low", lane="low", steps=60)
        for number in range(3):
            await until(lambda: _runs(machine, worker, "low"), "the run of low")
            await requests.ask(f"now{number}", lane="critical")
            end = await requests.end(f"now{number}")
            assert end["kind"] == "completed"
        end = await requests.end("low")
        kinds = await requests.kinds("low")
        assert kinds.count("preempted") == 2
        assert (end["kind"], end["attempt"], end["retry_count"]) == ("completed", 3, 2)
        assert "retrying" not in kinds


def _runs(machine: Machine, worker: Worker, name: str) -> bool:
    running = machine.comfyui.life.prompts.running
    assert worker.process.returncode is None
    return running is not None and running[3].get("mmg", {}).get("request_id") == name


async def test_a_second_worker_on_the_card_stands_by_and_takes_over_when_the_first_is_killed(
    tmp_path: Path, server: EmbeddedServer, requests: Requests
) -> None:
    async with (
        Machine(clouds=("stability",), comfyui={"step_ms": 20}) as machine,
        worker_on(machine, server.url, tmp_path / "a", hurry=20, name="w1") as first,
        worker_on(machine, server.url, tmp_path / "b", hurry=20, name="w2") as second,
    ):
        one, two = "w1-a", "w2-b"
        names = [f"r{number}" for number in range(4)]
        for name in names:
            await requests.ask(name, local_only=True)
        for number in range(4):
            await requests.ask(f"p{number}", quality="premium", aspect_ratio="1:1")
        ends = [await requests.end(name) for name in names]
        assert {end["kind"] for end in ends} == {"completed"}
        drawn_by = {(await start_of(requests, name))["worker"] for name in names}
        assert drawn_by == {one}, "only who has the lock draws on the card"
        sold_to = {(await start_of(requests, f"p{n}"))["worker"] for n in range(4)}
        assert sold_to <= {one, two}
        await requests.ask("last", local_only=True, steps=40)
        await until(lambda: machine.comfyui.life.prompts.running, "a run")
        await first.kill()
        end = await requests.end("last")
        assert end["kind"] == "completed"
        assert (await start_of(requests, "last"))["worker"] == two
        assert second.log("gpu.card")


async def test_a_request_that_has_ended_unloads_no_llm_when_it_is_handed_over_again(
    tmp_path: Path, server: EmbeddedServer, requests: Requests
) -> None:
    async with Machine(llm="llama2:13b") as machine:
        dies = "before settle"
        async with worker_on(machine, server.url, tmp_path, MMG_CRASH_POINT=dies) as first:
            await requests.image("r1", lane="high")
            await first.exit_code()
        async with worker_on(machine, server.url, tmp_path, name="w2") as second:
            await requests.agent.lanes_empty()
            ended = await second.logs("job.ended")
            assert (ended["ended"], ended["why"]) == ("settled", "already ended")
            await until(lambda: llms(machine) == ["llama2:13b"], "the LLM", 40)
            assert machine.ollama.runners.unloads == ["llama2:13b"], "for the picture, no more"


async def test_a_worker_killed_between_unload_and_reload_leaves_a_debt_that_the_next_one_pays(
    tmp_path: Path, server: EmbeddedServer, requests: Requests
) -> None:
    async with Machine(llm="llama2:13b", keep_alive_s=900, comfyui={"step_ms": 20}) as machine:
        async with worker_on(machine, server.url, tmp_path) as first:
            await requests.ask("r1", lane="high", steps=60)
            await until(lambda: machine.comfyui.life.prompts.running, "a run")
            assert llms(machine) == []
            await first.kill()
        async with worker_on(machine, server.url, tmp_path, name="w2"):
            await until(lambda: llms(machine) == ["llama2:13b"], "the LLM", 40)
            left_s = machine.ollama.runners.loaded["llama2:13b"].session_s
            assert 895 <= left_s <= 900
            assert (await requests.end("r1"))["kind"] == "completed"
