"""Goal: facts 15 to 24 of docs/comfyui.md, on servers, files and routes, do not break our engine.

Method: the real engine on the double, with the trap of each fact switched on. Nothing sleeps; the
engine's waiting times are made short.
"""

import io
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from agent.core.faults import EngineDownFault, Fault, InternalFault, Remedy
from agent.core.workflow_check import flaws
from agent.engines.comfyui import api, run, socket
from agent.engines.comfyui.run import PromptLostFault
from tests.comfy_rig import WORKFLOWS, Rig, from_picture, hurry, on_step, order, pid, rig
from tests.doubles.comfyui.routes import is_foreign
from tests.doubles.comfyui.settings import SD15, SDXL
from tests.rig import until

SLOW: dict[str, Any] = {"step_ms": 20}


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch)


def vram_free(made: Rig) -> int:
    """Return the free bytes of the double's card."""
    return int(made.double.life.card.device()["vram_free"])


def png(width: int, height: int, color: str) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (width, height), color).save(out, "PNG")
    return out.getvalue()


async def test_fact_15_free_is_proved_by_the_card_and_not_by_the_answer():
    async with rig() as made:
        before = vram_free(made)
        await made.draw()
        assert vram_free(made) < before
        await made.server.api.free()
        await until(lambda: vram_free(made) == before, "free memory")
        assert made.double.log.freed == [{"unload_models": True, "free_memory": True}]
        stats = await made.server.api.stats()
        assert stats.devices[0].vram_free == before
        assert len((await made.draw(order(attempt=2))).pictures) == 1


async def test_fact_16_changing_models_loads_each_time_and_the_progress_says_so():
    async with rig(load_ms=200) as made:
        for number, name in enumerate(("sd15-text2img", "sdxl-text2img", "sd15-text2img"), start=1):
            seen = len(made.steps)
            await made.draw(order(attempt=number, workflow=name))
            assert "loading the model" in {step.message for step in made.steps[seen:]}
        loaded = [node for _, node, kind in made.double.log.executed if "Loader" in kind]
        assert len(loaded) == 3


async def test_fact_17_a_prompt_that_died_with_its_server_is_lost_and_the_next_try_works():
    async with rig(**SLOW) as made:

        def kill() -> None:
            made.double.trap("restart_empty", seconds=0.1)

        with pytest.raises(PromptLostFault) as raised:
            await made.draw(order(steps=100), on_step(2, kill))
        assert raised.value.remedy is Remedy.RETRY
        assert len((await made.draw(order(attempt=2))).pictures) == 1
        assert made.double.log.restarts == 2


async def test_fact_17_a_server_that_stays_dead_is_down(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(run, "AWAY_MAX_S", 0.2)
    async with rig(**SLOW) as made:

        def kill() -> None:
            made.double.trap("die")

        with pytest.raises(EngineDownFault, match="is gone: connection refused"):
            await made.draw(order(steps=100), on_step(2, kill))
        await until(lambda: made.engine.facts.up is False, "the engine that is down")
        assert "connection refused" in made.engine.facts.down


async def test_fact_17_a_frozen_server_is_waited_for_and_noticed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(api, "CALL_TIMEOUT_S", 0.1)
    monkeypatch.setattr(socket, "HEARTBEAT_S", 0.1)
    async with rig(**SLOW) as made:

        def freeze() -> None:
            made.double.trap("freeze", seconds=1)

        await made.draw(order(steps=30), on_step(3, freeze))
        assert len(made.double.log.sockets_opened) >= 2, "our heartbeat ended the dead socket"
        monkeypatch.setattr(run, "AWAY_MAX_S", 0.3)
        job = order(attempt=2, steps=30, seed=8)
        with pytest.raises(EngineDownFault, match="no answer within"):
            await made.draw(job, on_step(3, lambda: made.double.trap("freeze")))
        made.double.clear("freeze")


async def test_fact_18_pictures_never_depend_on_the_socket():
    for workflow in WORKFLOWS.values():
        kinds = {node["class_type"] for node in workflow.graph.values()}
        assert "SaveImageWebsocket" not in kinds
    chosen = WORKFLOWS["sd15-text2img"]
    graph = dict(chosen.graph)
    graph["9"] = {"class_type": "SaveImageWebsocket", "inputs": graph["9"]["inputs"]}
    found = [flaw.what for flaw in flaws(chosen.manifest, graph)]
    assert any("a SaveImage or PreviewImage is needed" in what for what in found)


async def test_fact_18_a_large_picture_of_somebody_else_does_not_end_our_socket():
    async with rig(**SLOW) as made:
        made.double.life.sockets.picture(bytes(11_000_000), "image/png", {}, None)
        await made.draw(order(steps=20))
        assert len(made.double.log.sockets_opened) == 1


@pytest.mark.parametrize("trap", ["missing_file_on_view", "cut_view_midway"])
async def test_fact_19_a_download_that_failed_once_is_repeated(trap: str):
    async with rig(traps={trap: {}}) as made:
        assert len((await made.draw()).pictures) == 1
        assert made.asked("GET /view") == 2


@pytest.mark.parametrize(
    ("trap", "kind"),
    [
        ("missing_file_on_view", EngineDownFault),
        ("cut_view_midway", EngineDownFault),
        ("garbage_on_view", InternalFault),
    ],
)
async def test_fact_19_a_picture_that_cannot_be_had_is_a_fault(trap: str, kind: type[Fault]):
    async with rig(traps={trap: {"times": 9}}) as made:
        with pytest.raises(kind):
            await made.draw()
        made.double.clear(trap)
        assert len((await made.draw(order(attempt=2))).pictures) == 1


async def test_fact_19_each_file_is_asked_for_in_its_own_folder(tmp_path: Path):
    for settings, folder in (({}, "temp"), ({"output_dir": tmp_path / "output"}, "output")):
        async with rig(settings, output_dir=tmp_path) as made:
            await made.draw()
            record = await made.server.api.record(pid(order()))
            (file,) = record.files("9")
            assert file.type == folder
            assert file.filename in made.double.log.viewed


async def test_fact_20_an_uploaded_picture_is_used_by_the_name_that_the_server_gave_it():
    async with rig() as made:
        made.engine._workflows["from-picture"] = from_picture()
        for attempt, color in ((1, "red"), (2, "red"), (3, "blue")):
            job = order(attempt=attempt, image=png(512, 384, color), workflow="from-picture")
            (picture,) = (await made.draw(job)).pictures
            assert (picture.width, picture.height) == (512, 384)
        names = [prompt["graph"]["10"]["inputs"]["image"] for prompt in made.double.log.prompts]
        assert names == [
            "mmg/L2-05-03.r1.png",
            "mmg/L2-05-03.r1.png",
            "mmg/L2-05-03.r1 (1).png",
        ]


async def test_fact_21_no_request_of_ours_has_an_origin(monkeypatch: pytest.MonkeyPatch):
    seen: list[tuple[str, str | None]] = []

    def look(request: Any) -> bool:
        seen.append((request.path, request.headers.get("Origin")))
        return is_foreign(request)

    monkeypatch.setattr("tests.doubles.comfyui.server.is_foreign", look)
    async with rig() as made:
        await made.draw()
        await made.engine.forget(order())
    assert {"/ws", "/prompt", "/system_stats"} <= {path for path, _ in seen}
    assert {origin for _, origin in seen} == {None}


async def test_fact_22_only_the_plain_routes_are_used_and_models_are_listed_live():
    async with rig() as made:
        await made.draw()
        assert not made.asked("GET /api") + made.asked("POST /api")
        assert await made.server.api.models("checkpoints") == (SDXL, SD15)
        made.double.settings.checkpoints += ("late.safetensors",)
        assert "late.safetensors" in await made.server.api.models("checkpoints")


async def test_fact_23_files_lie_in_a_folder_of_their_month_and_are_removed(tmp_path: Path):
    async with rig({"output_dir": tmp_path / "output"}, output_dir=tmp_path) as made:
        theirs = tmp_path / "output" / "x_00001_.png"
        theirs.parent.mkdir(exist_ok=True)
        theirs.write_bytes(b"theirs")
        job = order(count=2)
        await made.draw(job)
        ours = sorted(path.name for path in (tmp_path / "output/mmg/2026-11").iterdir())
        assert ours == [f"L2-05-03.r1.a1_0000{n}_.png" for n in (1, 2)]
        await made.engine.forget(job)
        assert list(tmp_path.rglob("*.png")) == [theirs]


async def test_fact_23_without_its_folder_nothing_is_left_in_the_output(tmp_path: Path):
    async with rig(output_dir=tmp_path) as made:
        await made.draw()
        assert not list((tmp_path / "output").rglob("*.png"))


async def test_fact_24_the_history_is_read_by_id_and_ours_are_deleted():
    async with rig() as made:
        theirs = made.double.foreign_prompt(steps=1)
        await made.draw()
        await made.engine.forget(order())
        assert not made.ours
        assert list(made.double.life.prompts.history) == [theirs]
        assert made.double.log.forgotten == [pid(order())]
        assert "GET /history" not in made.double.log.requests
