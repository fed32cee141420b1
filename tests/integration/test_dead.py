"""Goal: a request that was given up is found, understood, sent again or dropped, and never deleted.

Method: dead letters written as a worker writes them, on a real server; the commands as a person
types them; one real worker to carry a replay.
"""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agent.bus import control, dead, history
from agent.bus.connection import Bus, connect
from agent.clock import SystemClock
from agent.core.job import History
from agent.embedded import EmbeddedServer
from contracts import subjects
from contracts.errors import ErrorCode, error_body
from contracts.events import FaultRecord, Intake
from tests.integration.operator_rig import ASKED_AT, Shell, Writer, shell_on
from tests.rig import Agent, pictures, worker

AGENT = "L2.01"


@pytest.fixture
async def bus(server: EmbeddedServer) -> AsyncIterator[Bus]:
    async with await connect([server.url], "writer") as one:
        yield one


@pytest.fixture
def mmg(server: EmbeddedServer, tmp_path: Path, monkeypatch, capsys) -> Shell:
    return shell_on(server.url, tmp_path / "home", monkeypatch, capsys)


async def give_up(bus: Bus, *ids: str, requester: str = AGENT, dead: bool = True) -> None:
    for request_id in ids:
        await Writer(bus, subjects.identity(requester, request_id)).given_up(dead=dead)


async def listed(mmg: Shell, *arguments: str) -> list[str]:
    heard = await mmg("dead", "list", "--json", *arguments)
    assert heard.code == 0, heard.err
    return [letter["request_id"] for letter in json.loads(heard.out)["letters"]]


async def test_list_has_the_newest_first_and_only_what_waits_for_a_decision(bus, mmg):
    assert (await mmg("dead", "list")).out == "no dead letters\n"
    await give_up(bus, "r1", "r2")
    await give_up(bus, "refused", dead=False)
    await give_up(bus, "r1", requester="L3.01")
    assert await listed(mmg) == ["r1", "r2", "r1"]
    assert await listed(mmg, "--requester", "L3.01") == ["r1"]
    assert await listed(mmg, "--all") == ["r1", "r2", "r1"]
    heard = await mmg("dead", "list")
    assert [line.split()[2:4] for line in heard.out.splitlines()[:3]] == [
        ["r1", "L3.01"],
        ["r2", AGENT],
        ["r1", AGENT],
    ]
    assert "engine_down" in heard.out
    assert "\x1b" not in heard.out, "what others wrote does not steer the terminal"


async def test_a_long_list_is_read_in_batches_and_shown_up_to_its_limit(bus):
    await give_up(bus, *(f"r{n}" for n in range(5)))
    wanted = (subjects.STREAM_EVENTS, subjects.DEAD_ALL)
    sizes = [len(batch) async for batch in history.batches(bus, *wanted, size=2)]
    assert sizes == [2, 2, 1]
    assert len(await history.read(bus, *wanted, 3)) == 3
    found = await dead.read_letters(bus, limit=2)
    assert [letter.who.request_id for letter in found.letters] == ["r4", "r3"]
    assert found.total == 5


async def test_show_tells_when_what_where_why_and_what_to_do(bus, mmg):
    await give_up(bus, "r1")
    heard = await mmg("dead", "show", "r1")
    assert heard.code == 0
    assert "\x1b" not in heard.out
    for said in (
        f"dead letter r1 of {AGENT}",
        "priority  HIGH",
        f"{ASKED_AT:%Y-%m-%d %H:%M:%SZ}",
        "3 attempts",
        "10:15:00  asked",
        "10:15:00  started   comfyui/sdxl on w1 (only engine)",
        "10:15:01  retrying",
        "10:15:02  started   comfyui/sdxl on w1, attempt 2",
        "lost      w1 was not heard of again",
        "10:15:03  started   comfyui/sdxl on w1, attempt 3",
        "10:15:04  failed    engine_down: the engine does not answer",
        "3 on comfyui: engine_down",
        "usual cause  its program is not running",
        "what to do   start the engine",
        f"mmg dead replay r1 --requester {AGENT}",
        f"mmg dead drop r1 --requester {AGENT}",
    ):
        assert said in heard.out, heard.out


async def test_a_lost_worker_is_named_before_the_end(bus, mmg):
    writer = Writer(bus, subjects.identity("user", "r1"))
    await writer.started()
    error = error_body(ErrorCode.WORKER_LOST, "worker w1 was lost in attempt 1")
    faults = (FaultRecord(attempt=1, engine="sketch", error=error),)
    await writer.append(writer.pen.failed(error, History(faults=faults), dead=True))
    heard = await mmg("dead", "show", "r1")
    lines = [line.split()[:2] for line in heard.out.splitlines()]
    assert ["lost", "w1"] in lines
    assert "mmg dead replay r1\n" in heard.out, "the user needs no --requester"


async def test_replay_is_carried_to_its_picture_and_the_old_one_leaves_the_list(
    tmp_path: Path, server: EmbeddedServer, agent: Agent, bus, mmg
):
    await give_up(bus, "r1", "r2")
    heard = await mmg("dead", "replay", "r1", "--priority", "critical")
    assert heard.code == 0, heard.err
    new = heard.out.strip()
    assert f"mmg watch {new} --requester {AGENT}" in heard.err
    assert await listed(mmg) == ["r2"]
    async with worker(tmp_path / "w", server.url, "--once") as process:
        assert await process.exit_code() == 0, process.words
    first, *_, last = await agent.chain(new)
    assert last["kind"] == "completed"
    assert first["requester"] == AGENT
    request = first["request"]
    assert (request["replay_of"], request["priority"]) == ("r1", "CRITICAL")
    assert request["prompt"] == f"Cover \x1b[31m of {AGENT}"
    assert len(pictures(tmp_path / "w")) == 1
    again = await mmg("dead", "replay", "r1")
    assert (again.code, again.out) == (1, "")
    assert f"was replayed as {new}" in again.err
    assert await agent.waiting() == 0
    shown = await mmg("dead", "show", "r1")
    assert f"off the list: replayed as {new} by " in shown.out


async def test_dropped_leaves_the_list_keeps_its_chain_and_can_still_be_replayed(
    agent: Agent, bus, mmg
):
    await give_up(bus, "r1")
    before = await agent.chain("r1")
    for _ in range(2):
        heard = await mmg("dead", "drop", "r1", "--requester", AGENT)
        assert (heard.code, heard.err) == (0, "")
    assert await listed(mmg) == []
    assert await agent.chain("r1") == before
    (fact,) = await history.read(
        bus, subjects.STREAM_EVENTS, "mmg.asset.L2-01.r1.dismissed", history.BATCH
    )
    told = json.loads(fact.data)
    assert (told["kind"], told["reason"], told["requester"]) == ("dismissed", "dropped", AGENT)
    assert "off the list: dropped by " in (await mmg("dead", "show", "r1")).out
    assert (await mmg("dead", "replay", "r1")).code == 0
    assert await agent.waiting() == 1


@pytest.mark.parametrize("verb", ["show", "replay", "drop"])
async def test_what_is_no_dead_letter_is_not_found_and_one_of_several_is_asked_for(
    agent: Agent, bus, mmg, verb
):
    await give_up(bus, "refused", dead=False)
    for request_id in ("refused", "unknown"):
        heard = await mmg("dead", verb, request_id)
        assert (heard.code, heard.out) == (1, "")
        assert f"not_found: there is no dead letter {request_id}" in heard.err
    await give_up(bus, "r1")
    await give_up(bus, "r1", requester="L3.01")
    heard = await mmg("dead", verb, "r1")
    assert heard.code == 2
    assert "L2.01, L3.01" in heard.err
    assert (await mmg("dead", verb, "r1", "--requester", "L3.01")).code == 0
    assert await listed(mmg, "--requester", AGENT) == ["r1"]


async def test_a_replay_that_is_refused_leaves_the_letter_in_the_list(agent: Agent, bus, mmg):
    await give_up(bus, "r1")
    closed = Intake(open=False, by="me", reason="moving", at=SystemClock().now())
    await control.set_intake(bus, closed)
    heard = await mmg("dead", "replay", "r1")
    assert (heard.code, heard.out) == (1, "")
    assert "intake_closed" in heard.err
    assert await listed(mmg) == ["r1"]
    assert await agent.waiting() == 0


async def test_the_doctor_counts_dead_letters_and_says_what_to_run(bus, mmg):
    await give_up(bus, "r1", "r2")
    findings = json.loads((await mmg("doctor", "--json")).out)["findings"]
    (found,) = (one for one in findings if one["what"] == "dead letters")
    assert found["state"] == "warn"
    assert found["seen"].startswith("2, the newest at")
    assert "`mmg dead list`" in found["way_out"]
