"""Goal: a worker beside a ComfyUI carries requests through its ups and downs, and leaves nothing.

Method: real worker processes on a real nats-server; ComfyUI is the double in this process, which is
killed, restarted and read. What happened is read from the streams, the log and the double.
"""

import json
from pathlib import Path
from typing import Any

from agent.embedded import EmbeddedServer
from tests.doubles.comfyui import ComfyDouble
from tests.rig import Agent, Process, pictures, until, worker

LONG: dict[str, Any] = {"steps": 60}
"""With steps of 100 ms: 6 s, longer than the time after which another worker takes over (3 s)."""


def beside(folder: Path, server: EmbeddedServer, double: ComfyDouble, **settings: str) -> Any:
    """Run a worker whose ComfyUI is the double."""
    return worker(folder, server.url, MMG_COMFYUI_URL=double.url, **settings)


def said(process: Process, event: str) -> list[dict[str, Any]]:
    """Return the lines of a worker's log with this event."""
    lines = (line for line in process.words.splitlines() if line.startswith("{"))
    return [line for line in map(json.loads, lines) if line.get("event") == event]


def ours(double: ComfyDouble) -> list[str]:
    """Return the ids of ours that the double still holds."""
    prompts = double.life.prompts
    items = [*prompts.pending, *([prompts.running] if prompts.running else [])]
    return [item[1] for item in items if "mmg" in item[3]] + [
        name for name, entry in prompts.history.items() if "mmg" in entry["prompt"][3]
    ]


async def drawing(double: ComfyDouble) -> None:
    """Wait until a prompt of ours runs."""
    await until(lambda: double.life.prompts.running, "a running prompt")


async def test_a_request_is_drawn_by_comfyui_and_nothing_of_ours_is_left_there(
    tmp_path: Path, server: EmbeddedServer, agent: Agent
) -> None:
    folder = tmp_path / "comfyui"
    async with ComfyDouble(output_dir=folder, step_ms=2) as double:
        theirs = double.foreign_prompt(steps=30)
        settings = {"MMG_COMFYUI_OUTPUT_DIR": str(folder / "output")}
        async with beside(tmp_path, server, double, **settings) as process:
            await process.says("worker.ready")
            await agent.image("r1", count=2)
            chain = await agent.ended("r1")
            assert [link["kind"] for link in chain] == ["started", "completed"]
            assert (chain[0]["engine"], chain[0]["model"]) == ("comfyui", "sd-1.5")
            assert chain[0]["server"] == double.url
            assert chain[-1]["model_used"] == "sd-1.5"
            await process.says("job.ended")
            (up,) = said(process, "comfyui.state")
            assert (up["server"], up["state"]) == (double.url, "up")
            (ended,) = said(process, "job.ended")
            assert (ended["ended"], ended["request"]) == ("completed", "L2-01.r1")
            await until(lambda: not ours(double), "an empty history")

            def files() -> list[str]:
                return [path.name for path in (folder / "output").rglob("*.png")]

            await until(lambda: files() == ["x_00001_.png"], "no file there but theirs")
        assert len(pictures(tmp_path)) == 2
        assert dict(double.log.ended)[theirs] == "success"
        assert theirs in double.life.prompts.history, "what is theirs stays"


async def test_a_comfyui_that_goes_is_named_and_a_request_waits_for_its_return(
    tmp_path: Path, server: EmbeddedServer, agent: Agent
) -> None:
    async with (
        ComfyDouble() as double,
        beside(tmp_path, server, double) as process,
    ):
        await process.says("worker.ready")
        await agent.image("before")
        await agent.ended("before")
        await double.die()
        await agent.image("meanwhile")
        await until(lambda: len(said(process, "comfyui.state")) == 2, "the word that it is down")
        down = said(process, "comfyui.state")[-1]
        assert (down["server"], down["state"]) == (double.url, "down")
        assert "refused" in down["reason"]
        await double.restart()
        chain = await agent.ended("meanwhile", timeout_s=30)
        assert chain[-1]["kind"] == "completed"
        assert said(process, "comfyui.state")[-1]["state"] == "up"


async def test_a_comfyui_that_restarts_in_mid_job_costs_a_try_and_no_request(
    tmp_path: Path, server: EmbeddedServer, agent: Agent
) -> None:
    async with (
        ComfyDouble(step_ms=50) as double,
        beside(tmp_path, server, double) as process,
    ):
        await process.says("worker.ready")
        await agent.image("r1", steps=40)
        await drawing(double)
        await double.die()
        await double.restart()
        chain = await agent.ended("r1", timeout_s=40)
        assert [link["kind"] for link in chain] == ["started", "retrying", "started", "completed"]
        assert chain[1]["error"]["code"] == "engine_down"
        assert "has lost the prompt" in chain[1]["error"]["message"]


async def test_sketch_stands_in_while_comfyui_is_away_and_says_why(
    tmp_path: Path, server: EmbeddedServer, agent: Agent
) -> None:
    async with (
        ComfyDouble() as double,
        beside(tmp_path, server, double, MMG_SKETCH="fallback") as process,
    ):
        await process.says("worker.ready")
        await agent.image("with")
        assert (await agent.ended("with"))[0]["engine"] == "comfyui"
        await double.die()
        await agent.image("without")
        chain = await agent.ended("without", timeout_s=40)
        drawn = [link for link in chain if link["kind"] == "started"][-1]
        assert chain[-1]["kind"] == "completed"
        assert drawn["engine"] == "sketch"
        await agent.image("without2")
        (started, _) = await agent.ended("without2")
        assert started["reason"].startswith("sketch stands in: comfyui is down (")
        assert "refused" in started["reason"]
        await double.restart()
        await until(lambda: said(process, "comfyui.state")[-1]["state"] == "up", "its return")
        await agent.image("again")
        assert (await agent.ended("again"))[0]["engine"] == "comfyui"


async def test_the_prompt_of_a_killed_worker_is_adopted_and_runs_once(
    tmp_path: Path, server: EmbeddedServer, agent: Agent
) -> None:
    async with ComfyDouble(step_ms=100) as double:
        async with beside(tmp_path, server, double, MMG_WORKER_NAME="w1") as first:
            await first.says("worker.ready")
            await agent.image("r1", **LONG)
            await drawing(double)
            await first.kill()
        async with beside(tmp_path, server, double, MMG_WORKER_NAME="w2") as second:
            chain = await agent.ended("r1", timeout_s=40)
            assert [link["kind"] for link in chain] == ["started", "started", "completed"]
            await second.says("comfyui.adopted")
            assert len(double.log.prompts) == 1
            assert dict(double.log.ended) == {double.log.prompts[0]["prompt_id"]: "success"}
            await until(lambda: not ours(double), "an empty history")
        assert len(pictures(tmp_path)) == 1


async def test_a_worker_that_stops_hands_back_and_frees_comfyui(
    tmp_path: Path, server: EmbeddedServer, agent: Agent
) -> None:
    async with ComfyDouble(step_ms=100) as double:
        async with beside(tmp_path, server, double, MMG_DRAIN_S="0") as process:
            await process.says("worker.ready")
            await agent.image("r1", **LONG)
            await drawing(double)
            process.terminate()
            assert await process.exit_code() == 0
        assert not ours(double)
        assert (await agent.chain("r1"))[-1]["kind"] == "released"
