"""Goal: one request can be sent once however often it is sent, judged, kept, and sent again.

Method: a real gateway on a real nats-server; chains by hand, a worker that only tells for models.
"""

import msgspec
import pytest

from agent.bus import facts, history
from agent.bus.lanes import find_waiting
from contracts import subjects
from contracts.errors import ErrorCode, error_body
from contracts.events import AssetFact, Failed
from contracts.requests import Request
from tests.integration.gateway_rig import BODY, Story, rig
from tests.integration.told_rig import Teller, told_rig

API = "/api/multimodal"
ONE = f"{API}/requests/r1"


@pytest.fixture
async def gate(tmp_path):
    async with rig(tmp_path) as made:
        yield made


async def send(gate, key, **body):
    headers = {"Idempotency-Key": key}
    status, answer, _ = await gate.ask(
        "POST", f"{API}/generate", json={**BODY, **body}, headers=headers
    )
    return status, answer


async def test_one_idempotency_key_is_one_request_of_its_requester(gate):
    first, again = await send(gate, "order-1"), await send(gate, "order-1")
    assert (first[0], first[1]["joined"], again[1]["joined"]) == (202, False, True)
    assert first[1]["request_id"] == again[1]["request_id"]
    assert (await send(gate, "order-2"))[1]["request_id"] != first[1]["request_id"]
    other = await send(gate, "order-1", requester="L2.05")
    assert other[1]["request_id"] != first[1]["request_id"]
    status, answer = await send(gate, "order-1", prompt="something else")
    assert (status, answer["code"]) == (409, "id_reused")
    named = await send(gate, "order-1", request_id="mine")
    assert named[1]["request_id"] == "mine"


@pytest.mark.parametrize("key", ["", "a b", "x" * 256, "schl\u00fcssel"])
async def test_a_key_that_is_none_is_refused(gate, key):
    status, answer = await send(gate, key)
    assert (status, answer["code"]) == (400, "invalid_request")


async def told_facts(gate, kind):
    wanted = f"mmg.asset.user.r1.{kind}"
    found = await history.read(gate.own, subjects.STREAM_EVENTS, wanted, 10)
    return [msgspec.json.decode(one.data, type=AssetFact) for one in found]


async def test_a_rating_is_kept_of_what_has_pictures_and_the_last_word_counts(gate):
    story = await gate.story(request_id="r1")
    for body, status in (
        ({"rating": 5}, 409),
        ({"rating": 0}, 400),
        ({"rating": 6}, 400),
        ({}, 400),
    ):
        assert (await gate.ask("POST", f"{ONE}/rating", json=body))[0] == status
    await story.started()
    assert (await gate.ask("POST", f"{ONE}/rating", json={"rating": 5}))[0] == 409
    await story.completed()
    for rating in (2, 5):
        judged = {"rating": rating, "reason": "the logo"}
        status, fact, _ = await gate.ask("POST", f"{ONE}/rating", json=judged)
        assert (status, fact["kind"], fact["rating"]) == (200, "rated", rating)
    assert [fact.rating for fact in await told_facts(gate, "rated")] == [2, 5]


async def test_pictures_are_pinned_and_let_go(gate):
    story = await gate.story(request_id="r1")
    assert (await gate.ask("POST", f"{ONE}/pin"))[0] == 409
    await story.started()
    await story.completed()
    status, fact, _ = await gate.ask("POST", f"{ONE}/pin", json={"reason": "the cover"})
    assert (status, fact["kind"], fact["reason"]) == (200, "pinned", "the cover")
    assert await facts.is_pinned(gate.own, story.who) is True
    assert (await gate.ask("POST", f"{ONE}/unpin"))[1]["kind"] == "unpinned"
    assert await facts.is_pinned(gate.own, story.who) is False


async def fail(story: Story, *, dead: bool) -> None:
    await story._append(
        Failed(
            error=error_body(ErrorCode.ENGINE_DOWN, "no engine answers"),
            dead=dead,
            **{**story._fields("given up"), "request": story._request},
        )
    )


@pytest.mark.parametrize("dead", [True, False])
async def test_what_failed_is_sent_again_under_a_new_id(gate, dead):
    await gate.post({**BODY, "request_id": "r1", "priority": "LOW"})
    request = Request(type="image", prompt=BODY["prompt"], request_id="r1", requester="user")
    story = Story(gate.own, subjects.identity("user", "r1"), request=request)
    await story.started()
    await fail(story, dead=dead)
    status, answer, _ = await gate.ask("POST", f"{ONE}/replay", json={"priority": "HIGH"})
    assert (status, answer["replay_of"], answer["status"]) == (202, "r1", "queued")
    waiting = await find_waiting(gate.own, subjects.identity("user", answer["request_id"]))
    assert waiting is not None
    assert waiting.subject.startswith("mmg.request.high.user.")
    if dead:
        assert (await gate.ask("POST", f"{ONE}/replay"))[0] == 409
        assert (await gate.ask("POST", f"{ONE}/replay?again=1"))[0] == 202


async def test_what_runs_or_has_its_picture_is_not_sent_again(gate):
    story = await gate.story(request_id="r1")
    assert (await gate.ask("POST", f"{ONE}/replay"))[0] == 409
    await story.started()
    assert (await gate.ask("POST", f"{ONE}/replay"))[0] == 409
    await story.completed()
    status, answer, _ = await gate.ask("POST", f"{ONE}/replay")
    assert (status, answer["code"]) == (409, "already_completed")


@pytest.mark.parametrize("path", ["rating", "pin", "unpin", "replay"])
async def test_nothing_is_said_of_what_nobody_knows(gate, path):
    body = {"rating": 3} if path == "rating" else {}
    status, answer, _ = await gate.ask("POST", f"{API}/requests/none/{path}", json=body)
    assert (status, answer["code"]) == (404, "not_found")


@pytest.mark.parametrize("path", ["rating", "pin", "replay", "../queue/clear", "../models/load"])
async def test_a_body_that_is_no_json_is_refused(gate, path):
    await gate.story(request_id="r1")
    for data, kind, status in (
        (b"rating=3", "application/x-www-form-urlencoded", 415),
        (b"{", "application/json", 400),
        (b"[" * 3000, "application/json", 400),
        (b'{"colour": 1}', "application/json", 400),
    ):
        url = f"{ONE}/{path}" if not path.startswith("..") else f"{API}/{path[3:]}"
        found, answer, _ = await gate.ask("POST", url, data=data, headers={"Content-Type": kind})
        assert (found, answer["code"]) == (status, "invalid_request"), (path, data)


async def test_models_are_loaded_by_the_worker_that_has_them_in_the_callers_name(tmp_path):
    async with told_rig(tmp_path) as told:
        gate, teller = told.gate, told.teller
        for body, status, code in (
            ({"model": "llama2:13b", "keep_alive_s": 60, "reason": "chat"}, 200, None),
            ({"model": "flux-dev"}, 404, "model_missing"),
            ({"model": "sdxl", "worker": "gpu-9"}, 404, "not_found"),
            ({"model": ""}, 400, "invalid_request"),
        ):
            found, answer, _ = await gate.ask("POST", f"{API}/models/load", json=body)
            assert (found, answer.get("code")) == (status, code), body
        verb, wish = teller.wishes[0]
        assert (verb, wish.model, wish.keep_alive_s, wish.reason) == (
            "load",
            "llama2:13b",
            60,
            "chat",
        )
        second = Teller(gate.own, "gpu-2")
        await second.open()
        gate.gateway._machines._heard.clear()  # So that everybody is waited for.
        status, answer, _ = await gate.ask("POST", f"{API}/models/unload", json={"model": "sdxl"})
        assert (status, answer["code"], answer["path"]) == (409, "ambiguous_id", "$.worker")
        _, models, _ = await gate.ask("GET", f"{API}/models")
        sdxl = next(one for one in models["available_models"]["image"] if one["name"] == "sdxl-1.0")
        assert (sdxl["workers"], sdxl["available"]) == (["gpu-1", "gpu-2"], True)


async def test_without_a_worker_models_say_so(gate):
    status, models, _ = await gate.ask("GET", f"{API}/models")
    assert (status, models["told"], models["loaded_models"]) == (200, False, [])
    assert {one["reason"] for one in models["available_models"]["image"]} == {models["reason"]}
    status, answer, _ = await gate.ask("POST", f"{API}/models/load", json={"model": "sdxl"})
    assert (status, answer["code"], answer["retryable"]) == (503, "no_engine", True)
