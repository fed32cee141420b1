"""Goal: `python -m tests.doubles.machine` is a machine for a person: `mmg up` in another shell runs
on it, its parts can be broken from outside, and Ctrl-C ends it and leaves nothing.

Method: both as processes; the settings pass between them as the lines that it prints.
"""

import asyncio
import shlex
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from tests.doubles.card import SharedCard
from tests.doubles.machine import Machine
from tests.doubles.machine.__main__ import parser
from tests.rig import Process, environment, running, until

PROGRAM = ("-m", "tests.doubles.machine")
OPTIONS = ("--llm", "llama3:8b", "--desktop-mib", "1536", "--clouds", "stability", "--step-ms", "2")


@asynccontextmanager
async def program(folder: Path) -> AsyncIterator[tuple[Process, dict[str, str]]]:
    """Run the machine; yields it with the settings that it told."""
    words, file = folder / "machine.txt", folder / "environment"
    with words.open("wb") as out:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, *PROGRAM, *OPTIONS, "--environment", str(file)),
            *("--trap", "comfyui:oom:times=1,spelling=cuda"),
            env=environment(),
            stdout=out,
            stderr=out,
        )
    wrapped = Process(process, words)
    try:
        await wrapped.says("export STABILITY_API_KEY=")
        lines = file.read_text(encoding="utf-8").splitlines()
        told = (shlex.split(line)[1].partition("=") for line in lines)
        yield wrapped, {name: value for name, _, value in told}
    finally:
        if process.returncode is None:
            await wrapped.kill()


async def test_mmg_up_runs_on_the_machine_and_ctrl_c_ends_it_without_a_trace(
    tmp_path: Path,
) -> None:
    async with program(tmp_path) as (machine, settings):
        card = SharedCard(Path(settings["MMG_DOUBLE_CARD"]))
        assert card.claims()["desktop"] == 1536
        free = {"MMG_NATS_PORT": "0", "MMG_HTTP_PORT": "0"}
        async with (
            running(tmp_path / "site", "up", **settings, **free) as up,
            aiohttp.ClientSession() as http,
        ):
            words = (await up.says("try ")).split()
            url = words[words.index("gateway", words.index("bus")) + 1]
            body = {"type": "image", "prompt": "A quiet cover", "options": {"steps": 2}}
            async with http.post(f"{url}/api/multimodal/generate", json=body) as answer:
                assert answer.status == 202, await answer.text()
                request_id = (await answer.json())["request_id"]

            async def is_drawn() -> bool:
                path = f"{url}/api/multimodal/requests/{request_id}"
                async with http.get(path) as answer:
                    return bool((await answer.json()).get("status") == "completed")

            await until(is_drawn, "the image")
            comfyui = settings["MMG_COMFYUI_URL"]
            async with http.get(f"{comfyui}/double/log") as answer:
                asked = (await answer.json())["requests"]
            assert asked.count("POST /prompt") == 2, "the trap: out of memory once"
        machine.interrupt()
        assert await machine.exit_code() == 0
        assert not card.path.parent.exists()
        assert not (tmp_path / "environment").exists()
        assert "Traceback" not in machine.words


def test_its_help_tells_how_to_use_it(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parser().parse_args(["--help"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert "mmg up" in said
    assert "--desktop-mib" in said


@pytest.mark.parametrize("bad", [["--clouds", "azure"], ["--llms", "llama3"]])
def test_it_refuses_what_it_does_not_know(
    bad: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parser().parse_args(bad)
    assert bad[1] in capsys.readouterr().err


def test_a_cloud_that_nobody_knows_is_refused_in_process_too() -> None:
    with pytest.raises(ValueError, match="azure"):
        Machine(clouds=("azure",))
