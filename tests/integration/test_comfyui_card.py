"""Goal: the double of ComfyUI uses a card as ComfyUI does, so that others see what it takes.

Method: it shares a simulated card with other claims; readings come from the card itself.
"""

import asyncio
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.doubles.card import SharedCard
from tests.doubles.comfyui import Settings
from tests.doubles.comfyui.card import CONTEXT_MIB, MIB, Card, CardFullError
from tests.doubles.comfyui.failures import OUT_OF_MEMORY
from tests.doubles.comfyui.plain import client, graph
from tests.doubles.comfyui.settings import SD15, SDXL, model_mib, working_mib
from tests.rig import until

ROOT = Path(__file__).resolve().parents[2]
SDXL_MIB, SD15_MIB = 6600, 2600


@pytest.fixture
def card(tmp_path: Path) -> SharedCard:
    return SharedCard.create(tmp_path / "card.json", total_mib=24576, name="RTX 4090")


async def device(me: Any) -> dict[str, Any]:
    found: dict[str, Any] = (await me.get("/system_stats"))["devices"][0]
    return found


async def test_without_a_card_it_says_that_it_has_a_cpu():
    async with client() as me:
        assert (await device(me))["type"] == "cpu"
        assert "--cpu" in (await me.get("/system_stats"))["system"]["argv"]


async def test_it_holds_its_context_while_it_runs_and_nothing_after(card):
    async with client(card=card.path) as me:
        assert card.claims() == {"comfyui": CONTEXT_MIB}
        await me.ended(await me.post(graph(checkpoint=SDXL)))
        await me.double.die()
        assert card.claims() == {}
        await me.double.restart()
        assert card.claims() == {"comfyui": CONTEXT_MIB}
    assert card.claims() == {}


async def test_a_model_stays_on_the_card_until_it_is_freed(card):
    async with client(card=card.path) as me:
        await me.ended(await me.post(graph(checkpoint=SDXL)))
        await me.ended(await me.post(graph(checkpoint=SD15)))
        assert card.used_mib == CONTEXT_MIB + SDXL_MIB + SD15_MIB
        assert await me.say("/free", unload_models=True) == 200
        await until(lambda: card.used_mib == CONTEXT_MIB, "the memory of the models")


@pytest.mark.parametrize(
    ("checkpoint", "workflow"), [(SDXL, "sdxl-text2img"), (SD15, "sd15-text2img")]
)
async def test_at_its_peak_a_run_takes_what_the_manifest_of_its_workflow_says(
    card, checkpoint, workflow
):
    manifest = tomllib.loads((ROOT / "workflows" / f"{workflow}.toml").read_text())
    assert manifest["checkpoint"] == checkpoint
    async with client(card=card.path, traps={"hang_at_step": {"step": 2}}) as me:
        prompt_id = await me.post(graph(checkpoint=checkpoint))
        peak = CONTEXT_MIB + manifest["vram_mib"]
        await until(lambda: card.used_mib == peak, "the peak")
        assert (await device(me))["vram_free"] == (24576 - peak) * MIB
        me.double.clear("hang_at_step")
        await me.ended(prompt_id)
        assert card.used_mib == CONTEXT_MIB + model_mib(checkpoint)


async def test_an_interrupted_run_gives_its_working_memory_back(card):
    async with client(card=card.path, step_ms=50) as me:
        prompt_id = await me.post(graph(checkpoint=SDXL, steps=1000))
        await until(lambda: card.used_mib > CONTEXT_MIB + SDXL_MIB, "the run")
        await me.say("/interrupt", prompt_id=prompt_id)
        await me.ended(prompt_id)
        assert card.used_mib == CONTEXT_MIB + SDXL_MIB


async def test_free_memory_is_what_all_programs_leave(card):
    async with client(card=card.path) as me:
        card.hold("desktop", 1536)
        assert card.claim("ollama", 6700)
        found = await device(me)
        assert found["vram_total"] == 24576 * MIB
        assert found["vram_free"] == (24576 - 1536 - 6700 - CONTEXT_MIB) * MIB
        assert (found["type"], found["name"]) == ("cuda", "cuda:0 RTX 4090 : cudaMallocAsync")


@pytest.mark.parametrize("room_mib", [SDXL_MIB - 1, 12288 - 1], ids=["model", "sampling"])
async def test_what_does_not_fit_is_out_of_memory_and_works_when_there_is_room(card, room_mib):
    card.hold("others", 24576 - CONTEXT_MIB - room_mib)
    async with client(card=card.path) as me:
        kind, body = await me.verdict(await me.post(graph(checkpoint=SDXL)))
        assert kind == "execution_error"
        said = (body["exception_type"], body["exception_message"])
        assert said == OUT_OF_MEMORY["allocation"]
        assert card.claims()["comfyui"] == CONTEXT_MIB
        card.hold("others", 24576 - CONTEXT_MIB - 12288)
        kind, _ = await me.verdict(await me.post(graph(checkpoint=SDXL)))
        assert kind == "execution_success"
        assert card.used_mib <= card.total_mib


async def test_an_older_model_leaves_when_the_new_one_needs_its_place(card):
    card.hold("others", 24576 - CONTEXT_MIB - 12288 - SD15_MIB + 1)
    async with client(card=card.path) as me:
        await me.ended(await me.post(graph(checkpoint=SD15)))
        assert list(me.double.life.card.held) == [SD15]
        kind, _ = await me.verdict(await me.post(graph(checkpoint=SDXL)))
        assert kind == "execution_success"
        assert list(me.double.life.card.held) == [SDXL]


def test_it_does_not_start_where_its_context_does_not_fit(card):
    card.hold("others", 24576 - CONTEXT_MIB + 1)
    with pytest.raises(CardFullError):
        Card(Settings(card=card.path))
    assert card.claims() == {"others": 24576 - CONTEXT_MIB + 1}


def test_working_memory_is_never_negative():
    for name in (SDXL, SD15, "flux1-dev.safetensors", "other.safetensors"):
        assert working_mib(name) > 0


async def test_killed_as_a_program_it_gives_all_back(card):
    options = ("--port", "0", "--load-ms", "0", "--card", str(card.path))
    program = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.doubles.comfyui", *options),
        cwd=ROOT,
        stdout=subprocess.PIPE,
    )
    try:
        await until(lambda: card.claims() == {"comfyui": CONTEXT_MIB}, "its context")
        assert list(card.processes()) == [program.pid]
    finally:
        program.kill()
    await until(lambda: card.claims() == {}, "its memory")
    await program.wait()
