"""Goal: the doctor tells what there is to draw with, names what is wrong with a way out, and draws
one picture with each engine when asked.

Method: the command as a process of its own on the fake machine, whose card its NVML shows.
"""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from agent.bus import books
from agent.bus.connection import connect
from agent.embedded import EmbeddedServer
from tests.doubles.machine import Machine
from tests.machine_rig import worker_on
from tests.rig import environment

LLAMA = "llama3:8b"
Rows = dict[str, tuple[str, str]]


async def doctor(
    machine: Machine, server: EmbeddedServer, folder: Path, *arguments: str, **settings: str
) -> tuple[int, Rows]:
    """Run it; return its exit code and each row's state and words."""
    folder.mkdir(exist_ok=True)
    bus = {"MMG_NATS_URL": server.url, "MMG_ACK_WAIT_S": "3"}
    wanted = {**bus, **machine.environment(), **settings}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "agent", "doctor", "--json", *arguments),
        cwd=folder,
        env=environment(**wanted),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(60):
        out, err = await process.communicate()
    assert out, err.decode()
    report: dict[str, Any] = json.loads(out)
    for one in report["findings"]:
        assert one["state"] == "ok" or one["way_out"]
    assert process.returncode is not None
    bad = [row for row in report["findings"] if row["state"] == "fail"]
    assert bool(bad) is (process.returncode != 0), bad
    return process.returncode, {
        one["what"]: (one["state"], one["seen"]) for one in report["findings"]
    }


async def test_it_tells_card_driver_ollama_comfyui_models_keys_and_budgets(
    tmp_path: Path, server: EmbeddedServer
) -> None:
    async with Machine(llm=LLAMA, clouds=("stability",)) as machine:
        code, rows = await doctor(machine, server, tmp_path / "home")
        assert code == 0, [row for row in rows.items() if row[1][0] == "fail"]
        assert rows["NVML"] == ("ok", "answers")
        assert rows["driver"][0] == "ok"
        assert machine.card.uuid in rows["card"][1]
        assert "beside the card" in rows["Ollama"][1]
        assert LLAMA in rows["Ollama"][1]
        assert "RTX 4090" in rows[f"ComfyUI device {machine.comfyui.url}"][1]
        assert "sdxl-text2img" in rows["model files"][1]
        assert rows["engine stability"][0] == "ok"
        assert rows["key openai"] == ("ok", "none: openai is not used")
        assert rows["budgets"][1].startswith("$10.00 a day")
        assert rows["money"] == ("ok", "$0.00 of $10.00 spent today")
        assert machine.asked_clouds == 0, "what it asks of a cloud costs nothing"


@pytest.mark.parametrize("fault", ["lost", "driver_upgraded"])
async def test_a_card_that_does_not_answer_is_named_with_a_way_out(
    tmp_path: Path, server: EmbeddedServer, fault: Any
) -> None:
    async with Machine() as machine:
        machine.card.fault = fault
        _, rows = await doctor(machine, server, tmp_path / "home")
        assert rows["NVML"][0] == "warn"
        assert "card" in rows["NVML"][1] or "driver" in rows["NVML"][1]


async def test_comfyui_on_the_cpu_beside_a_card_ollama_away_and_a_bad_key_are_warnings(
    tmp_path: Path, server: EmbeddedServer
) -> None:
    async with Machine(clouds=("stability",), comfyui={"card": None}) as machine:
        await machine.ollama.die()
        _, rows = await doctor(machine, server, tmp_path / "home", STABILITY_API_KEY="sk-forged")
        device = rows[f"ComfyUI device {machine.comfyui.url}"]
        assert device == ("warn", "the CPU, although there is a card")
        assert rows["Ollama"][0] == "warn"
        assert rows["engine stability"][0] == "warn"
        assert "sk-forged" not in json.dumps(rows)


async def test_asked_to_it_draws_with_what_is_free_of_charge_and_buys_only_with_paid(
    tmp_path: Path, server: EmbeddedServer
) -> None:
    home = tmp_path / "home"
    settings = {"MMG_SKETCH": "fallback"}
    async with Machine(clouds=("stability",)) as machine:
        code, rows = await doctor(machine, server, home, "--generate", **settings)
        assert code == 0, [row for row in rows.items() if row[1][0] == "fail"]
        for engine in ("comfyui", "sketch"):
            state, seen = rows[f"picture by {engine}"]
            assert state == "ok"
            assert Path(seen.partition(" s: ")[2]).read_bytes().startswith(b"\x89PNG")
        assert rows["picture by stability"][1].startswith("not tried: it costs $0.0")
        assert machine.asked_clouds == 0
        code, rows = await doctor(machine, server, home, "--generate", "--paid", **settings)
        assert code == 0, [row for row in rows.items() if row[1][0] == "fail"]
        assert Path(rows["picture by stability"][1].partition(" s: ")[2]).is_file()
        assert machine.asked_clouds == 1
        async with await connect([server.url], "books") as bus:
            found = await books.read_money(bus)
        assert found.holds == ()
        assert found.spent_usd == pytest.approx(machine.charged_usd)


async def test_a_card_that_a_worker_keeps_is_drawn_on_by_that_worker(
    tmp_path: Path, server: EmbeddedServer
) -> None:
    async with Machine() as machine, worker_on(machine, server.url, tmp_path) as worker:
        code, rows = await doctor(machine, server, tmp_path / "home", "--generate")
        assert code == 0, [row for row in rows.items() if row[1][0] == "fail"]
        path = Path(rows["picture by comfyui"][1].partition(" s: ")[2])
        assert path.is_relative_to(tmp_path / "generated-assets")
        assert worker.log("card.grant") or worker.log("job.ended")
