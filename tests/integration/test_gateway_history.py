"""Goal: people find what was asked for and what became of it, with every filter, page by page.

Method: a real gateway with its ledger on a real nats-server; requests and chains as agents and
workers write them; answers over HTTP.
"""

import random
import time
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import msgspec
import pytest

from agent.assets import AssetStore
from agent.bus.connection import connect
from agent.embedded import EmbeddedServer
from agent.gateway import Gateway, GatewaySettings
from agent.ledger import Ledger
from contracts import codec, subjects
from contracts.requests import Priority
from contracts.subjects import Identity
from tests.integration.history_rig import API, PRICES, Rig, chain, completed, gateway_on
from tests.ledger_rig import Chain, Message
from tests.rig import until


@pytest.fixture
async def rig(server: EmbeddedServer, tmp_path: Path) -> AsyncIterator[Rig]:
    async with gateway_on(server, tmp_path) as running:
        yield running


async def test_a_generation_looks_as_the_strategy_shows_it(rig):
    await rig.told(completed("r1", 1))
    status, page = await rig.get("history")
    assert status == 200
    (one,) = page.pop("generations")
    assert page == {"total": 1, "page": 1, "limit": 50, "next_cursor": None}
    shown = {
        "request_id": "r1",
        "type": "image",
        "status": "completed",
        "prompt": "Cover L2-01.r1",
        "model_used": "sdxl-1.0",
        "generation_time_seconds": 2.5,
        "cost_usd": 0.0,
        "created_at": "2026-03-02T09:15:01.000000Z",
        "completed_at": "2026-03-02T09:15:03.000000Z",
        "output_url": f"{API}/assets/images/2026-03/L2-01.r1.png",
    }
    assert {name: one[name] for name in shown} == shown
    assert (one["requester"], one["engine"], one["attempts"]) == ("L2.01", "comfyui", 1)


async def test_each_filter_finds_what_it_names(rig):
    lives = [message for n in range(30) for message in chain(f"r{n}", n, f"L2-0{n % 3}").life()]
    await rig.told([*lives, *completed("other", 90, "stability", "stable-image-core")])
    _, whole = await rig.get("history", limit=100)
    everything = whole["generations"]
    assert len(everything) == 31
    for name, field in (
        ("status", "status"),
        ("priority", "priority"),
        ("requester", "requester"),
        ("quality", "quality"),
        ("style", "style"),
        ("engine", "engine"),
        ("type", "type"),
    ):
        values = {one[field] for one in everything} - {None}
        for value in values - {"queued"}:
            wanted = [one["request_id"] for one in everything if one[field] == value]
            assert await rig.found(**{name: value, "limit": 100}) == wanted, (name, value)
    sdxl = [one["request_id"] for one in everything if one["model_used"] == "sdxl-1.0"]
    assert sdxl
    assert await rig.found(model="sdxl", limit=100) == sdxl
    assert await rig.found(model="sdxl-1.0", limit=100) == sdxl
    assert await rig.found(since="2026-03-02T09:16:30Z") == ["other"]
    assert await rig.found(until="2026-03-02T09:15:02Z") == ["r1", "r0"]
    assert await rig.found(since="2026-03-03") == []
    assert await rig.found(until="2026-03-01") == []
    assert await rig.found(type="voice") == []


async def test_what_was_pruned_has_no_address(rig):
    one = chain("r1", 1)
    await rig.told([one.message(one.started()), one.message(one.completed()), one.fact("pruned")])
    _, page = await rig.get("history")
    assert page["generations"][0]["output_url"] is None
    assert page["generations"][0]["thumbnail_url"] is None
    assert page["generations"][0]["pruned_at"] is not None


async def test_paging_by_cursor_shows_each_row_once_while_rows_arrive_and_change(rig):
    waiting = [chain(f"old{n:02d}", n) for n in range(40)]
    await rig.told([one.message(one.started()) for one in waiting])
    seen: list[str] = []
    query: dict[str, object] = {"limit": 7}
    while True:
        status, page = await rig.get("history", **query)
        assert status == 200
        seen += [one["request_id"] for one in page["generations"]]
        if page["next_cursor"] is None:
            break
        query["cursor"] = page["next_cursor"]
        # Newer ones come in front, and one that was shown already comes to its end.
        await rig.told(completed(f"new{len(seen)}", 100 + len(seen)))
        ended = waiting[40 - len(seen)]
        await rig.told([ended.message(ended.completed())])
    assert seen == [f"old{n:02d}" for n in reversed(range(40))]
    assert page["total"] == 45
    assert page["page"] is None


async def test_a_request_that_waited_long_stands_where_it_was_asked_for(rig):
    late = chain("low", 5)
    await rig.told([*completed("r4", 4), *completed("r6", 6), late.message(late.started())])
    assert await rig.found() == ["r6", "low", "r4"]


async def test_pages_by_number_and_by_offset_cut_the_same_list(rig):
    await rig.told([message for n in range(10) for message in completed(f"r{n}", n)])
    whole = await rig.found()
    assert await rig.found(limit=4, page=2) == whole[4:8]
    assert await rig.found(limit=4, offset=4) == whole[4:8]
    assert await rig.found(limit=4, page=3) == whole[8:]
    assert await rig.found(limit=4, page=4) == []


async def test_requests_of_one_instant_are_told_apart_by_whose_they_are(rig):
    ones = [Chain(Identity(f"L2-{n:02d}", "same"), random.Random(n), seq=5) for n in range(5)]
    await rig.told([one.message(one.started()) for one in ones])
    seen: list[str] = []
    query: dict[str, object] = {"limit": 1}
    for _ in ones:
        _, page = await rig.get("history", **query)
        seen += [one["requester"] for one in page["generations"]]
        query["cursor"] = page["next_cursor"]
    assert seen == ["L2.04", "L2.03", "L2.02", "L2.01", "L2.00"]
    assert query["cursor"] is None


async def queue(rig: Rig, name: str, priority: Priority) -> Chain:
    """Store a request in its lane and take up the pen for its chain."""
    one = chain(name, 1)
    request = msgspec.structs.replace(one.request, priority=priority)
    await rig.bus.store(subjects.request(priority, one.who), codec.encode(request))
    return one


async def test_queued_are_those_in_the_lanes_that_nobody_works_on(rig):
    working = await queue(rig, "working", Priority.HIGH)
    back = await queue(rig, "handed-back", Priority.LOW)
    ended = await queue(rig, "ended", Priority.LOW)  # Its worker has not acknowledged it yet.
    await queue(rig, "waiting", Priority.LOW)
    gone = chain("not-in-a-lane", 9)
    await rig.told(
        [
            working.message(working.started()),
            back.message(back.started()),
            back.message(back.handed_back()),
            ended.message(ended.started()),
            ended.message(ended.completed()),
            gone.message(gone.started()),
            gone.message(gone.handed_back()),
        ]
    )
    await rig.bus.store(subjects.request(Priority.LOW, Identity("L2-01", "bad")), b"no JSON")
    assert sorted(await rig.found(status="queued")) == ["bad", "handed-back", "waiting"]
    assert await rig.found(status="queued", priority="HIGH") == []
    assert await rig.found(status="queued", since="2026-03-04", limit=1) == ["bad"]
    _, page = await rig.get("history", status="queued", requester="L2.01")
    attempts = {one["request_id"]: one["attempts"] for one in page["generations"]}
    assert attempts == {"bad": 0, "handed-back": 1, "waiting": 0}
    _, stats = await rig.get("stats")
    assert stats["queue_length"] == 3


async def test_stats_count_what_the_history_lists(rig):
    failed, cancelled, running = (chain(name, n) for n, name in enumerate(("f", "c", "p"), start=7))
    ended = [failed.message(failed.started())]
    ended += [_until(failed, "failed"), _until(cancelled, "cancelled")]
    await rig.told(
        [
            *completed("r1", 1),
            *completed("r2", 2),
            *completed("r3", 3, "sketch", "sketch"),
            *completed("r4", 4, "stability", "stable-image-core"),
            *ended,
            running.message(running.started()),
            chain("r1", 1).fact("rated"),
        ]
    )
    status, stats = await rig.get("stats")
    assert status == 200
    assert (stats["total_generations"], stats["completed"], stats["failed"]) == (7, 4, 1)
    assert (stats["cancelled"], stats["processing"], stats["queued"]) == (1, 1, 0)
    assert (stats["success_rate"], stats["local_share"]) == (80.0, 75.0)
    assert (stats["avg_generation_time"], stats["cost_usd"]) == (2.5, 0.03)
    assert (stats["ratings"], stats["avg_rating"]) == (1, 4.0)
    _, page = await rig.get("history", engine="comfyui", status="completed")
    avoided = sum(PRICES[one["quality"]] for one in page["generations"])
    assert stats["cost_avoided_usd"] == pytest.approx(avoided)
    engines = {one["engine"]: one["completed"] for one in stats["by_engine"]}
    assert {name: engines[name] for name in ("sketch", "stability")} == {
        "sketch": 1,
        "stability": 1,
    }
    assert [(one["day"], one["total"], one["local"]) for one in stats["by_day"]] == [
        ("2026-03-02", 7, 3)
    ]
    _, none = await rig.get("stats", since="2026-03-03")
    assert (none["total_generations"], none["success_rate"], none["by_day"]) == (0, None, [])


def _until(one: Chain, status: str) -> Message:
    """Return an end of a chain with this status."""
    while True:
        link = one.ended_badly()
        if link.status == status:
            return one.message(msgspec.structs.replace(link, n=2))


async def test_stats_say_what_the_pictures_take_on_the_disk(rig):
    month = rig.assets / "images" / "2026-03"
    month.mkdir(parents=True)
    (month / "L2-01.r1.png").write_bytes(bytes(3 * 1024**2))
    (month / "L2-01.r1.json").write_bytes(bytes(1024**2))
    _, stats = await rig.get("stats")
    assert stats["disk_usage_gb"] == pytest.approx(4 / 1024, abs=1e-6)


@pytest.mark.parametrize(
    ("route", "query", "path"),
    [
        ("history", "?limit=0", "$.limit"),
        ("history", "?colour=red", "$.colour"),
        ("history", "?status=done", "$.status"),
        ("history", "?cursor=%00", "$.cursor"),
        ("history", "?limit=5&limit=6", None),
        ("stats", "?limit=5", None),
        ("stats", "?since=soon", "$.since"),
    ],
)
async def test_what_cannot_be_meant_is_a_problem_with_its_place(rig, route, query, path):
    async with rig.http.get(f"{rig.url}{API}/{route}{query}") as response:
        assert response.status == 400
        assert response.content_type == "application/problem+json"
        body = msgspec.json.decode(await response.read())
    assert (body["code"], body.get("path")) == ("invalid_request", path)


async def test_a_file_that_cannot_be_read_is_a_503_and_the_gateway_lives(server, tmp_path):
    store = AssetStore(tmp_path, "http://mmg.test")
    missing = Ledger(tmp_path / "missing.sqlite3")
    async with await connect([server.url], "gateway") as bus, aiohttp.ClientSession() as http:
        for ledger, status, code in ((missing, 503, "internal"), (None, 501, "not_enabled")):
            gateway = Gateway(bus, store, GatewaySettings(port=0), ledger)
            await gateway.start()
            try:
                for route in ("history", "stats"):
                    url = f"http://127.0.0.1:{gateway.port}{API}/{route}"
                    async with http.get(url) as response:
                        body = msgspec.json.decode(await response.read())
                    assert (response.status, body["code"]) == (status, code)
            finally:
                await gateway.stop()


async def test_history_and_stats_answer_while_the_bus_is_away(server, rig):
    await rig.told(completed("r1", 1))
    await server.stop()
    await until(lambda: not rig.bus.connected, "the loss")
    assert await rig.found() == ["r1"]
    status, stats = await rig.get("stats")
    assert (status, stats["total_generations"], stats["queue_length"]) == (200, 1, None)
    status, problem = await rig.get("history", status="queued")
    assert (status, problem["code"]) == (503, "internal")


async def test_ten_thousand_rows_are_one_page_and_many(rig, record_property):
    await rig.told([_completed_at_once(n) for n in range(10_000)])
    began = time.monotonic()
    status, page = await rig.get("history", limit=10_000)
    record_property("page_of_10000_ms", round((time.monotonic() - began) * 1000))
    assert (status, page["total"], len(page["generations"])) == (200, 10_000, 10_000)
    assert page["next_cursor"] is None
    began = time.monotonic()
    _, last = await rig.get("history", limit=50, page=200)
    record_property("last_page_of_200_ms", round((time.monotonic() - began) * 1000))
    assert last["generations"] == page["generations"][-50:]
    began = time.monotonic()
    _, stats = await rig.get("stats")
    record_property("stats_ms", round((time.monotonic() - began) * 1000))
    assert stats["completed"] == 10_000


def _completed_at_once(n: int) -> Message:
    """Return one link that is a whole life: what of it matters is that it makes a row."""
    one = chain(f"r{n}", n)
    link = msgspec.structs.replace(one.completed(), request=one.request)
    return one.message(link)
