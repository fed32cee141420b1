"""Goal: the dashboard's files are served strictly, and the situation is told truly.

Method: a real gateway on a real server over plain HTTP; the page itself is for tests/browser.
"""

import asyncio
from typing import Any

import msgspec
import pytest
from nats.aio.msg import Msg

from agent.gateway.dashboard import FOLDER, POLICY
from contracts import subjects
from contracts.status_examples import REPORT
from tests.integration.gateway_rig import rig
from tests.rig import until

API = "/api/multimodal"


@pytest.mark.parametrize("top", ["/multimodal", f"{API}/dashboard"])
async def test_the_page_and_its_files_come_with_a_strict_policy_and_an_etag(tmp_path, top):
    async with rig(tmp_path) as gate:
        async with gate.http.get(f"{gate.url}{top}?a=1") as answer:
            assert str(answer.url) == f"{gate.url}{top}/?a=1"
            assert answer.status == 200
        for path in FOLDER.iterdir():
            name = "" if path.name == "index.html" else path.name
            async with gate.http.get(f"{gate.url}{top}/{name}") as answer:
                assert await answer.read() == path.read_bytes()
                assert answer.headers["Content-Security-Policy"] == POLICY
                known = {"If-None-Match": f'W/{answer.headers["ETag"]}, "other"'}
            async with gate.http.get(f"{gate.url}{top}/{name}", headers=known) as answer:
                assert answer.status == 304
                assert await answer.read() == b""


@pytest.mark.parametrize("name", ["dashboard.py", "..%2fserver.py", "nothing.js", "index.html%00"])
async def test_only_files_of_the_page_are_there(tmp_path, name):
    async with rig(tmp_path) as gate:
        status, told, _ = await gate.ask("GET", f"/multimodal/{name}")
        assert (status, told["code"]) == (404, "not_found")


async def test_the_runbook_is_a_page_whose_headings_can_be_linked_to(tmp_path):
    async with rig(tmp_path) as gate:
        async with gate.http.get(f"{gate.url}/multimodal/runbook") as answer:
            text = await answer.text()
            assert answer.content_type == "text/html"
        assert '<h3 id="card_lost">' in text
        assert "<script" not in text


async def test_many_pages_at_once_ask_the_bus_only_once(tmp_path):
    async with rig(tmp_path) as gate:
        asked = await gate.own.subscribe("mmg.rpc.status", _ignore)
        async with asyncio.TaskGroup() as group:
            looks = [group.create_task(gate.ask("GET", f"{API}/situation")) for _ in range(20)]
        assert {one.result()[0] for one in looks} == {200}
        assert asked.delivered == 1
        await gate.own.unsubscribe(asked)


async def test_a_worker_that_is_slow_once_is_still_there_and_its_card_is_sampled(tmp_path):
    async with rig(tmp_path) as gate:

        async def answer(msg: Msg) -> None:
            await gate.own.respond(msg, msgspec.json.encode(REPORT))

        told = await gate.own.subscribe(subjects.rpc("status"), answer)
        _, seen, _ = await gate.ask("GET", f"{API}/situation")
        assert [one["worker"] for one in seen["workers"]] == [REPORT.worker]
        await gate.own.unsubscribe(told)

        async def newer() -> Any:
            _, found, _ = await gate.ask("GET", f"{API}/situation")
            return found if found["at"] != seen["at"] else None

        seen = await until(newer, "another look")
        assert "no_worker" not in [one["name"] for one in seen["incidents"]]
        _, past, _ = await gate.ask("GET", f"{API}/strip")
        [track] = past["tracks"]
        [sample] = track["samples"]
        held = {one["name"]: one["mib"] for one in sample["held"]}
        [card] = REPORT.cards
        assert held["ComfyUI"] == card.comfyui.held_mib
        assert held["other programs"] == card.other_mib
        assert sample["free_mib"] == card.free_mib
        assert card.debt is not None
        assert sample["debt_mib"] == sum(one.vram_mib for one in card.debt.models)


async def test_a_switch_is_noted_with_its_reason_and_shown_at_once(tmp_path):
    async with rig(tmp_path) as gate:
        await gate.story()
        for path, paused in (("pause", True), ("resume", False)):
            status, told, _ = await gate.ask("POST", f"{API}/{path}", json={"reason": "driver"})
            assert (status, told["paused"], told["reason"]) == (200, paused, "driver")
            _, seen, _ = await gate.ask("GET", f"{API}/situation")
            assert seen["paused"] is paused
            assert ("lanes_paused" in [one["name"] for one in seen["incidents"]]) is paused


@pytest.mark.parametrize(
    ("path", "options", "status"),
    [
        ("intake", {"json": {}}, 400),
        ("intake", {"json": {"open": "yes"}}, 400),
        ("pause", {"json": {"worker": "w1"}}, 400),
        ("pause", {"data": b"{}", "headers": {"Content-Type": "text/plain"}}, 415),
        ("resume", {"json": {}, "headers": {"Origin": "https://evil.example"}}, 403),
    ],
)
async def test_a_switch_refuses_what_it_does_not_understand(tmp_path, path, options, status):
    async with rig(tmp_path) as gate:
        found, told, _ = await gate.ask("POST", f"{API}/{path}", **options)
        assert (found, told["status"]) == (status, status)
        _, seen, _ = await gate.ask("GET", f"{API}/situation")
        assert seen["intake_open"]
        assert not seen["paused"]


async def test_a_bus_that_is_away_is_the_one_thing_that_is_told(tmp_path):
    async with rig(tmp_path) as gate:
        await gate.server.stop()
        _, seen, _ = await gate.ask("GET", f"{API}/situation")
        assert [one["name"] for one in seen["incidents"]] == ["bus_away"]


async def _ignore(_msg: object) -> None:
    """Count only."""
