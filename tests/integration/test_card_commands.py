"""Goal: an operator sees the card, moves models and replays decisions from the command line.

Method: the commands as a person types them, a real worker process on the fake machine.
"""

import asyncio
import json
import signal
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent.commands import gpu
from agent.embedded import EmbeddedServer
from contracts.status_examples import REPORT
from tests.doubles.machine import Machine
from tests.integration.operator_rig import Shell, shell_on
from tests.machine_rig import Requests, held, llms, worker_on
from tests.rig import Agent, environment, until

LLAMA = "llama3:8b"


@pytest.fixture
def mmg(
    server: EmbeddedServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Shell:
    return shell_on(server.url, tmp_path / "home", monkeypatch, capsys)


def test_the_card_is_drawn_as_a_strip_of_what_each_program_holds():
    (card,) = REPORT.cards
    strip = gpu.strip(card)
    assert len(strip) == gpu.STRIP + 1
    assert strip.count("C") == round(12288 / 24576 * gpu.STRIP)
    assert strip.index("|") == gpu.STRIP - round(2048 / 24576 * gpu.STRIP)
    assert set(strip) == set("Cox.|")


def test_what_a_worker_reports_is_said_in_words():
    text = "\n".join(gpu.lines((REPORT,)))
    for words in (
        "! tenant_grew",
        "L2-05-03.cover-1#4711 (HIGH) draws with sdxl-1.0, 6 s more expected",
        "llama2:13b 10.0 GB comes back when nobody waits",
        "1. L1.01.01 harbour-21 (LOW): starts in about 6 s (2 s to 9 s)",
        "What would change it: a higher priority.",
        "#813 grant",
        "64 °C, 97 % busy",
    ):
        assert words in text


def test_words_of_others_never_reach_the_terminal_as_they_are():
    (card,) = REPORT.cards
    evil = msgspec.structs.replace(card, state="missing", missing="gone \x1b[2J")
    text = "\n".join(gpu.lines((msgspec.structs.replace(REPORT, cards=(evil,)),)))
    assert "\x1b" not in text


async def test_a_model_is_loaded_shown_and_unloaded_from_the_command_line(
    tmp_path: Path, server: EmbeddedServer, mmg: Shell
) -> None:
    async with Machine() as machine, worker_on(machine, server.url, tmp_path):
        heard = await mmg("load", LLAMA, "--keep-alive", "10m", "--reason", "chats")
        assert heard.code == 0, heard.err
        assert f"{LLAMA} is loaded" in heard.out
        assert llms(machine) == [LLAMA]
        shown = await mmg("models")
        assert f"* {LLAMA}" in shown.out
        assert "sdxl-1.0" in shown.out
        assert "cannot run" in shown.out
        seen = await mmg("gpu")
        assert f"ollama 6.5 GB: {LLAMA}" in seen.out
        assert "[" in seen.out
        (report,) = json.loads((await mmg("gpu", "--json")).out)
        assert report["cards"][0]["tenants"][0]["models"][0]["name"] == LLAMA
        heard = await mmg("unload", LLAMA, "--json")
        assert json.loads(heard.out)["models"] == [["ollama", LLAMA]]
        heard = await mmg("unload", LLAMA)
        assert (heard.code, "model_missing" in heard.err) == (1, True)
        heard = await mmg("load", LLAMA, "--worker", "nobody")
        assert (heard.code, "not_found" in heard.err) == (1, True)
        assert held(machine) == []


async def test_watching_the_card_writes_a_report_again_and_again_until_ctrl_c(
    tmp_path: Path, server: EmbeddedServer
) -> None:
    # A shell without job control starts background work with SIGINT ignored, and that is inherited.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    async with Machine() as machine, worker_on(machine, server.url, tmp_path):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "agent", "gpu", "--watch", "--json"),
            cwd=tmp_path,
            env=environment(MMG_NATS_URL=server.url),
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None
        async with asyncio.timeout(20):
            lines = [json.loads(await process.stdout.readline()) for _ in range(2)]
            assert [report["cards"][0]["uuid"] for (report,) in lines] == [machine.card.uuid] * 2
            process.send_signal(signal.SIGINT)
            assert await process.wait() == 130


async def test_decisions_of_a_worker_replay_the_same_and_a_changed_one_does_not(
    tmp_path: Path,
    server: EmbeddedServer,
    agent: Agent,
    mmg: Shell,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with (
        Machine(llm="llama2:13b") as machine,
        worker_on(machine, server.url, tmp_path) as worker,
    ):
        await Requests(agent).image("r1", lane="high")
        await until(lambda: llms(machine) == ["llama2:13b"], "the LLM")
        await worker.logs("card.cleardebt")
        worker.terminate()
        assert await worker.exit_code() == 0
    monkeypatch.setenv("MMG_DATA_DIR", str(tmp_path / "data"))
    (path,) = (tmp_path / "data" / "decisions").glob("*.jsonl")
    records: list[dict[str, Any]] = [json.loads(line) for line in path.read_bytes().splitlines()]
    names = [name for one in records if one["kind"] == "arbiter" for name, _ in one["decided"]]
    for what in ("wait", "writedebt", "unloadmodels", "grant", "reload", "cleardebt"):
        assert what in names
    assert [one["kind"] for one in records].count("route") == 1
    assert b"Cover r1" not in path.read_bytes(), "prompts are not recorded"
    heard = await mmg("replay", *(str(one["seq"]) for one in records))
    assert heard.code == 0, heard.out + heard.err
    assert heard.out.count(": same") == len(records)
    granted = next(one for one in records if "grant" in json.dumps(one["decided"]))
    granted["before"]["settings"]["reserve_mib"] = 20_000
    granted["seq"] = 999_999
    with path.open("a") as file:
        file.write(json.dumps(granted) + "\n")
    heard = await mmg("replay", "999999")
    assert heard.code == 1
    assert "DIFFERENT" in heard.out
    assert "then" in heard.out
    assert "now" in heard.out
    heard = await mmg("replay", "999999", "--json")
    assert json.loads(heard.out)["same"] is False
    heard = await mmg("replay", "888888")
    assert (heard.code, "no decision 888888" in heard.err) == (1, True)
