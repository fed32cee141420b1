"""Goal: what an operator switches holds, is shown with its reason, and is undone by one command.

Method: the commands as a person types them, real workers on a real server.
"""

import json
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import aiohttp
import pytest

from agent.bus import control, overview
from agent.bus.connection import Bus, connect
from agent.bus.lanes import Lanes
from agent.client import ContractError
from agent.client import connect as connect_client
from agent.embedded import EmbeddedServer
from agent.readiness import Readiness
from contracts.events import Pause
from tests.doubles.engine import ScriptedEngine
from tests.integration.operator_rig import Shell, gateway_on, shell_on
from tests.rig import Agent, until, worker
from tests.worker_rig import tools_for

NAME, OTHER = "switches-1", "switches-2"
BODY = {"type": "image", "prompt": "a lighthouse"}


@pytest.fixture
async def bus(server: EmbeddedServer) -> AsyncIterator[Bus]:
    async with await connect([server.url], "looker") as one:
        yield one


@pytest.fixture
def mmg(server: EmbeddedServer, tmp_path: Path, monkeypatch, capsys) -> Shell:
    return shell_on(server.url, tmp_path / "home", monkeypatch, capsys)


async def finding(mmg: Shell, what: str) -> dict[str, str]:
    findings: list[dict[str, str]] = json.loads((await mmg("doctor", "--json")).out)["findings"]
    (found,) = (one for one in findings if one["what"] == what)
    return found


async def state(bus: Bus, name: str) -> tuple[str, str]:
    (status,) = await overview.ask_workers(bus, name)
    return status.state, status.reason


async def test_paused_worker_stays_so_over_a_restart_and_others_go_on(
    tmp_path: Path, server: EmbeddedServer, agent: Agent, bus, mmg
):
    named = ("--worker", NAME)
    async with worker(tmp_path / "w", server.url, MMG_WORKER_NAME=NAME) as first:
        await first.says("worker.ready")
        heard = await mmg("pause", *named, "--reason", "new card")
        assert heard.code == 0
        assert f"mmg resume --worker {NAME}" in heard.out
        await first.says("worker.takes_nothing", 2.0)
        first.terminate()
        assert await first.exit_code() == 0
    async with (
        worker(tmp_path / "w", server.url, MMG_WORKER_NAME=NAME) as again,
        worker(tmp_path / "o", server.url, MMG_WORKER_NAME=OTHER) as other,
    ):
        await again.says("worker.takes_nothing")
        await other.says("worker.ready")
        await agent.image("r1")
        assert (await agent.ended("r1"))[0]["worker"] == OTHER
        assert (await state(bus, NAME))[0] == "paused"
        for shown in (await mmg("queue"), await mmg("workers"), await mmg("resume")):
            assert "new card" in shown.out
        assert f"undo: mmg resume --worker {NAME}" in (await mmg("resume")).out
        assert (await mmg("resume", *named)).out == f"worker {NAME} takes requests again\n"
        await until(lambda: "worker.takes_again" in again.words, "the end of the pause", 2.0)
        workers = json.loads((await mmg("workers", "--json")).out)
        assert [(one["worker"], one["state"]) for one in workers] == [
            (NAME, "ready"),
            (OTHER, "ready"),
        ]


async def test_pause_of_all_lanes_starts_nothing_until_resume_and_takes_requests(
    tmp_path: Path, server: EmbeddedServer, agent: Agent, bus, mmg
):
    async with worker(tmp_path / "w", server.url, MMG_WORKER_NAME=NAME) as process:
        await process.says("worker.ready")
        heard = await mmg("pause", "--reason", "new card")
        assert heard.code == 0
        assert "mmg resume" in heard.out
        await agent.image("r1", priority="critical")
        lanes = Lanes(bus)
        await lanes.open()
        assert await lanes.next() is None, "the server hands out nothing, to nobody"
        await lanes.close()
        assert await agent.chain("r1") == []
        queue = json.loads((await mmg("queue", "--json")).out)
        assert all(lane["paused_until"] for lane in queue["lanes"])
        assert queue["pause"]["reason"] == "new card"
        assert [one["worker"] for one in queue["workers"]] == [NAME]
        shown = await mmg("queue")
        assert "! all lanes are paused until it is ended by hand -> mmg resume" in shown.out
        found = await finding(mmg, "lanes")
        assert (found["state"], "new card" in found["seen"]) == ("warn", True)
        assert "but lanes are paused" in (await mmg("resume", "--worker", NAME)).out
        assert (await mmg("resume")).code == 0
        assert (await agent.ended("r1", timeout_s=5))[-1]["kind"] == "completed"
    queue = json.loads((await mmg("queue", "--json")).out)
    assert queue["pause"] is None
    assert not any(lane["paused_until"] for lane in queue["lanes"])
    assert (await finding(mmg, "lanes"))["state"] == "ok"


async def test_pause_with_an_end_ends_by_itself(server: EmbeddedServer, agent: Agent, bus, mmg):
    await agent.image("r1")
    heard = await mmg("pause", "--for", "1s")
    assert "for 1 s from now" in heard.out
    lanes = Lanes(bus)
    await lanes.open()
    assert await lanes.next() is None
    delivery = await until(lanes.next, "the end of the pause", 5.0)
    assert delivery.subject.endswith(".r1")
    await lanes.close()


async def test_pause_of_a_worker_with_an_end_ends_by_the_clock_of_the_server(tmp_path: Path, bus):
    readiness = Readiness(await tools_for(bus, tmp_path, NAME, (ScriptedEngine(),)))
    now = await overview.server_now(bus)
    for how_long, closed in ((timedelta(hours=1), True), (timedelta(seconds=-1), False)):
        pause = Pause(paused=True, by="me", reason="lunch", at=now, until=now + how_long)
        await control.set_pause(bus, NAME, pause)
        await readiness.run_once()
        assert readiness.paused is closed
        assert (readiness.closed or "").startswith("paused by me: lunch, until ") is closed


async def test_pausing_a_worker_that_nobody_knows_says_so(server, mmg):
    heard = await mmg("pause", "--worker", "typo")
    assert heard.code == 0
    assert "No worker of this name answers now" in heard.out
    assert (await mmg("pause", "--worker", "a.b")).code == 2
    assert (await mmg("pause", "--for", "soon")).code == 2


async def test_closed_intake_refuses_everybody_who_asks_through_us_and_says_why(
    tmp_path: Path, server: EmbeddedServer, agent: Agent, mmg
):
    assert (await finding(mmg, "intake"))["state"] == "ok"
    heard = await mmg("intake", "off", "--reason", "moving house")
    assert heard.code == 0
    assert "undo: mmg intake on" in heard.out
    refused = await mmg("generate", "a lighthouse", "--no-wait")
    assert (refused.code, refused.out) == (1, "")
    assert "intake_closed" in refused.err
    assert "moving house" in refused.err
    async with connect_client(server.url, agent="L2.01") as client:
        with pytest.raises(ContractError, match="moving house") as caught:
            await client.submit("a lighthouse")
        assert caught.value.body.code == "intake_closed"
    async with gateway_on(server.url, tmp_path / "g") as url, aiohttp.ClientSession() as http:
        async with http.post(f"{url}/api/multimodal/generate", json=BODY) as response:
            answer = await response.json(content_type=None)
        assert (response.status, answer["code"]) == (503, "intake_closed")
        assert "Retry-After" in response.headers
    assert await agent.waiting() == 0
    await agent.image("raw")
    assert await agent.waiting() == 1, "who publishes on the bus itself is not refused"
    assert "the intake is closed -> mmg intake on" in (await mmg("queue")).out
    assert (await finding(mmg, "intake"))["way_out"] == "`mmg intake on` opens it"
    assert (await mmg("intake", "on")).code == 0
    assert (await mmg("generate", "a lighthouse", "--no-wait")).code == 0
    assert json.loads((await mmg("queue", "--json")).out)["intake"] is None


async def test_help_says_whom_a_closed_intake_does_not_refuse(server, mmg):
    heard = await mmg("intake", "--help")
    assert "Agents that publish on the bus without them are not refused" in heard.out


async def test_nobody_working_is_said(server, mmg):
    assert "no worker answers" in (await mmg("workers")).out
    assert (await mmg("workers", "--json")).out == "[]\n"
    assert "no worker answers" in (await mmg("queue")).out
