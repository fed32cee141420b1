"""Goal: the queue says of each request where it stands, how long it waits and why, and is cleared
by nobody by accident.

Method: a real gateway on a real nats-server; requests over HTTP, chains by hand, and a worker that
only tells.
"""

import asyncio
import json
import time
from datetime import timedelta

import msgspec
import pytest

from agent.bus import control
from agent.bus.chain import read_chain
from agent.bus.lanes import Lanes
from agent.clock import SystemClock
from agent.gateway.relay import Heard
from contracts import codec, subjects
from contracts.events import Pause
from contracts.requests import Priority, Request
from contracts.status_examples import REPORT
from contracts.subjects import Identity
from tests.integration.gateway_rig import BODY, Story, frame, rig, until
from tests.integration.told_rig import told_rig

API = "/api/multimodal"
QUEUE = f"{API}/queue"


@pytest.fixture
async def gate(tmp_path):
    async with rig(tmp_path) as made:
        yield made


async def rows(gate, query=""):
    status, page, _ = await gate.ask("GET", f"{QUEUE}{query}")
    assert status == 200, page
    return page


def ids(page):
    return [one["request_id"] for one in page["queue"]]


async def test_places_follow_the_lanes_and_what_is_handed_back_has_its_old_place(gate):
    stories = {
        name: await gate.story(request_id=name, priority=priority)
        for name, priority in (("m1", "MEDIUM"), ("l1", "LOW"), ("m2", "MEDIUM"), ("h1", "HIGH"))
    }
    await gate.story(request_id="c1", priority="CRITICAL")
    assert ids(await rows(gate)) == ["c1", "h1", "m1", "m2", "l1"]
    await stories["m1"].started()
    await until(lambda: gate.gateway._hearing.board.count() == 4)
    page = await rows(gate)
    assert ids(page) == ["m1", "c1", "h1", "m2", "l1"]
    assert [one["queue_position"] for one in page["queue"]] == [None, 1, 2, 3, 4]
    assert (page["active_generations"], page["queued_requests"]) == (1, 4)
    await stories["m1"].released()
    await until(lambda: gate.gateway._hearing.board.count() == 5)
    assert ids(await rows(gate)) == ["c1", "h1", "m1", "m2", "l1"]
    _, answer = await gate.post({**BODY, "priority": "MEDIUM"})
    assert answer["queue_position"] == 5
    _, snapshot, _ = await gate.ask("GET", f"{API}/requests/m2")
    assert (snapshot["position"], snapshot["status"]) == (4, "queued")


async def test_a_gateway_that_starts_late_knows_the_same_queue(tmp_path):
    async with rig(tmp_path) as gate:
        for name in ("done", "running", "back"):
            await gate.story(request_id=name)
        lanes = Lanes(gate.own)
        await lanes.open()
        for _ in range(3):
            assert await lanes.next() is not None
        await lanes.close()
        for name in ("fresh", "cancelled"):
            await gate.story(request_id=name)
        await gate.ask("DELETE", f"{API}/requests/cancelled")
        for name in ("done", "running", "back"):
            story = await taken_up(gate, name)
            await story.started()
            if name == "done":
                await story.completed()
            elif name == "back":
                await story.released()
        await until(lambda: gate.gateway._hearing.board.count() == 2)
        heard = ids(await rows(gate))
        gate.gateway._hearing.board.load([])
        await gate.gateway._hearing.load()
        assert ids(await rows(gate)) == heard == ["running", "back", "fresh"]


async def taken_up(gate, name):
    """Return a pen for a request that is in its lane, with its own sequence."""
    who = subjects.identity("user", name)
    entry = gate.gateway._hearing.board.get(who)
    return Story(gate.own, who, seq=entry.seq)


async def test_what_was_missed_is_read_again(gate, monkeypatch):
    hearing = gate.gateway._hearing
    monkeypatch.setattr(hearing, "heard", lambda one: None)
    gate.gateway._relay._ears[:] = []
    await gate.post({**BODY, "request_id": "unheard"})
    assert hearing.board.count() == 0
    await hearing.run_once()
    assert hearing.board.count() == 0  # Once they may differ.
    await hearing.run_once()
    assert ids(await rows(gate)) == ["unheard"]


async def test_after_a_lost_connection_the_lanes_are_read_though_their_count_is_the_same(
    gate,
):
    await gate.post({**BODY, "request_id": "old"})
    hearing = gate.gateway._hearing
    gate.gateway._relay._ears[:] = []
    await gate.post({**BODY, "request_id": "new"})
    entry = hearing.board.get(subjects.identity("user", "old"))
    await gate.own.api("STREAM.MSG.DELETE.MMG_REQUESTS", {"seq": entry.seq})
    await hearing.run_once()
    assert ids(await rows(gate)) == ["old"]
    hearing.heard(Heard(what="lost"))
    await hearing.run_once()
    assert ids(await rows(gate)) == ["new"]


async def test_pages_by_cursor_show_each_request_once_while_the_queue_moves(gate):
    for number in range(12):
        await gate.post({**BODY, "request_id": f"r{number:02d}"})
    seen, query, ahead = [], "?limit=5", 0
    while True:
        page = await rows(gate, query)
        seen += ids(page)
        if page["next_cursor"] is None:
            break
        query = f"?limit=5&cursor={page['next_cursor']}"
        await gate.post({**BODY, "request_id": f"urgent{ahead}", "priority": "HIGH"})
        await gate.ask("DELETE", f"{API}/requests/r{ahead:02d}")
        ahead += 1
    assert seen == [f"r{number:02d}" for number in range(12)]
    assert page["queue"][-1]["queue_position"] == 12
    assert ids(await rows(gate, "?offset=3&limit=2")) == ["r03", "r04"]
    assert ids(await rows(gate, "?priority=high")) == ["urgent0", "urgent1"]
    assert ids(await rows(gate, "?requester=nobody")) == []


@pytest.mark.parametrize(
    ("query", "path"),
    [
        ("?limit=0", "$.limit"),
        ("?limit=1001", "$.limit"),
        ("?offset=-1", "$.offset"),
        ("?priority=urgent", "$.priority"),
        ("?cursor=x", "$.cursor"),
        ("?cursor=bnVsbA&offset=1", "$.cursor"),
        ("?colour=red", "$.colour"),
        ("?limit=1&limit=2", None),
    ],
)
async def test_what_cannot_be_meant_is_refused_with_its_place(gate, query, path):
    status, answer, _ = await gate.ask("GET", f"{QUEUE}{query}")
    assert (status, answer["code"], answer.get("path")) == (400, "invalid_request", path)


async def test_each_waiting_request_has_a_sentence_and_a_worker_that_holds_it_has_the_word(
    tmp_path,
):
    async with told_rig(tmp_path) as told:
        gate, teller = told.gate, told.teller
        for name in ("one", "two"):
            await gate.post({**BODY, "request_id": name})
        wait = msgspec.structs.replace(
            REPORT.waits[0],
            request_id="one",
            requester="user",
            start_s=7.0,
            early_s=5.0,
            late_s=9.0,
        )
        teller.say(waits=(wait,))
        told.look_again()
        one, two = (await rows(gate))["queue"]
        assert one["waits_for"] == wait.sentence
        assert (one["estimated_wait_seconds"], one["estimated_wait_band"]) == (7.0, [5.0, 9.0])
        assert "1 of its own class comes before it" in two["waits_for"]
        now = SystemClock().now()
        await control.pause_lanes(gate.own, now)
        await control.note_lanes(gate.own, Pause(paused=True, by="ada", reason="new card", at=now))
        page = await rows(gate)
        assert page["paused"] is True
        for one in page["queue"]:
            assert one["waits_for"] == "all lanes are paused by ada (new card); undo: mmg resume"


async def test_without_a_worker_nobody_promises_and_the_sentence_says_so(gate):
    _, answer = await gate.post({**BODY, "request_id": "r1"})
    assert (answer["queue_position"], answer["estimated_wait_seconds"]) == (1, None)
    page = await rows(gate)
    assert page["workers"] == 0
    assert page["gpu_status"]["total_vram_gb"] is None
    assert "no worker answers" in page["gpu_status"]["reason"]
    assert "start one with `mmg worker`" in page["queue"][0]["waits_for"]


async def test_a_run_is_expected_to_take_what_such_runs_took(gate):
    hearing = gate.gateway._hearing

    async def begun(request_id, engine):
        asked = await gate.story(request_id=request_id)
        await until(lambda: hearing.board.get(asked.who))
        story = await taken_up(gate, request_id)
        await story.started(engine=engine)
        return story

    for number, (engine, seconds) in enumerate([("comfyui", 20.0), ("sketch", 1.0)] * 2):
        story = await begun(f"past{number}", engine)
        await story.completed(seconds)
    for engine in ("comfyui", "sketch", "stability"):
        await begun(engine, engine)
    await until(lambda: len(hearing.board.running()) == 3)
    rests = {
        entry.who.request_id: hearing.rest(entry, entry.running.started_at)
        for entry in hearing.board.running()
    }
    assert rests["comfyui"].rest_s == pytest.approx(20.0)
    assert rests["sketch"].rest_s == pytest.approx(1.0)
    assert rests["stability"].rest_s == pytest.approx(hearing.pace.mean_s), "never heard of"
    late = hearing.board.running()[0]
    assert hearing.rest(late, late.running.started_at + timedelta(hours=1)).rest_s == 0.0


async def test_a_follower_is_told_its_place_again_when_it_changes(gate, monkeypatch):
    monkeypatch.setattr("agent.gateway.following.PLACE_EVERY_S", 0.0)
    await gate.post({**BODY, "request_id": "first"})
    story = await gate.story(request_id="mine")
    async with gate.socket("mine") as socket:

        async def told():
            async with asyncio.timeout(10):
                return json.loads(await socket.receive_str())

        assert (await told())["position"] == 2
        await gate.ask("DELETE", f"{API}/requests/first")
        frame_two = await told()
        assert (frame_two["kind"], frame_two["n"], frame_two["position"]) == ("queued", 0, 1)
        await story.started()
        assert await frame(socket) == story.written[0]


CLEAR = f"{QUEUE}/clear"


async def test_clearing_counts_first_and_then_ends_what_was_counted_and_no_more(gate):
    for number in range(5):
        await gate.post({**BODY, "request_id": f"l{number}", "priority": "LOW"})
    await gate.post({**BODY, "request_id": "m", "requester": "L2.01"})
    status, told, _ = await gate.ask("POST", CLEAR, json={"priority": "LOW"})
    assert (status, told["impact"]["count"], told["cancelled"]) == (200, 5, 0)
    assert told["impact"]["by_requester"] == {"user": 5}
    assert gate.gateway._hearing.board.count() == 6
    await gate.post({**BODY, "request_id": "late", "priority": "LOW"})
    running = await taken_up(gate, "l0")
    await running.started()
    await until(lambda: gate.gateway._hearing.board.count() == 6)
    body = {"priority": "LOW", "confirm": told["confirm"], "reason": "a wrong loop"}
    status, done, _ = await gate.ask("POST", CLEAR, json=body)
    assert (status, done["cancelled"], done["failed"], done["left"]) == (200, 4, [], 0)
    assert ids(await rows(gate)) == ["l0", "m", "late"]
    (link,) = await read_chain(gate.own, subjects.identity("user", "l3"))
    assert b"a wrong loop" in link.data
    status, done, _ = await gate.ask("POST", CLEAR, json=body)
    assert (status, done["cancelled"]) == (200, 0)


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({}, None),
        ({"all": True, "priority": "LOW"}, None),
        ({"priority": "urgent"}, "$.priority"),
        ({"requester": "a-b"}, "$.requester"),
        ({"all": True, "confirm": "guessed"}, "$.confirm"),
        ({"everything": True}, "$"),
    ],
)
async def test_a_clear_that_is_not_clear_is_refused(gate, body, path):
    await gate.post(BODY)
    status, answer, _ = await gate.ask("POST", CLEAR, json=body)
    assert (status, answer["code"], answer.get("path")) == (400, "invalid_request", path)
    assert gate.gateway._hearing.board.count() == 1


async def test_a_count_of_one_thing_confirms_no_other(gate):
    await gate.post({**BODY, "priority": "LOW"})
    _, told, _ = await gate.ask("POST", CLEAR, json={"priority": "LOW"})
    body = {"all": True, "confirm": told["confirm"]}
    status, answer, _ = await gate.ask("POST", CLEAR, json=body)
    assert (status, answer["path"]) == (400, "$.confirm")


async def test_ten_thousand_queued_are_placed_and_paged_without_reading_them(gate, record_property):
    request = codec.encode(Request(type="image", prompt="a lighthouse"))
    for number in range(10_000):
        who = Identity(f"L2-{number % 40:02d}", f"r{number}")
        await gate.own.publish(subjects.request(Priority.MEDIUM, who), request)
        if number % 500 == 499:
            await gate.own.flush()
    board = gate.gateway._hearing.board
    async with asyncio.timeout(30):
        await until_count(board, 10_000)
    spent = []
    for number in (0, 5000, 9999):
        began = time.perf_counter()
        _, snapshot, _ = await gate.ask(
            "GET", f"{API}/requests/r{number}?requester=L2.{number % 40:02d}"
        )
        spent.append(time.perf_counter() - began)
        assert snapshot["position"] == number + 1
    began = time.perf_counter()
    page = await rows(gate, "?limit=50&offset=9000")
    record_property("page_ms", round((time.perf_counter() - began) * 1000, 1))
    record_property("position_ms", round(sorted(spent)[1] * 1000, 1))
    assert [page["queue"][0]["queue_position"], len(page["queue"])] == [9001, 50]
    assert page["queue"][0]["prompt"] == "a lighthouse"


async def until_count(board, count):
    while board.count() != count:  # noqa: ASYNC110 - the fact has no event
        await asyncio.sleep(0)
