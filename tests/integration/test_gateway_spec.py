"""Goal: every endpoint of spec/001 section 6 and spec/000 days 3 to 10 answers as its examples do.

Method: one table, named after the sections: what is asked, the status, and the fields of the
example with the kind of their values. A real gateway with ledger on a real nats-server, and a
worker that only tells.
"""

from datetime import datetime
from types import NoneType
from typing import Any, NamedTuple

import msgspec
import pytest

from contracts import subjects
from tests.integration.gateway_rig import BODY, Story, frames
from tests.integration.told_rig import told_rig

API = "/api/multimodal"
FULL = {
    "type": "image",
    "prompt": "Architecture diagram showing Ziggie's L1-L2-L3 agent hierarchy",
    "options": {
        "quality": "high",
        "style": "technical-diagram",
        "aspect_ratio": "16:9",
        "seed": 42,
        "negative_prompt": "blurry, text, watermark",
    },
    "priority": "MEDIUM",
    "requester": "L2.05.03",
    "webhook_url": None,
}
NUMBER = (int, float)
GPU = {
    "available_vram_gb": NUMBER,
    "total_vram_gb": NUMBER,
    "ollama_loaded": bool,
    "comfyui_loaded": bool,
}
ACCEPTED = {
    "request_id": str,
    "status": "queued",
    "estimated_wait_seconds": NUMBER,
    "queue_position": int,
    "websocket_url": str,
    "events_url": str,
}


class Case(NamedTuple):
    """One example: `shape` has for each field its value, or the kind of it."""

    section: str
    method: str
    path: str
    body: Any
    status: int
    shape: Any


CASES = [
    Case("001 6.1 unified generation", "POST", "/generate", FULL, 202, ACCEPTED),
    Case("001 6.1 the least that is asked", "POST", "/generate", BODY, 202, ACCEPTED),
    Case(
        "001 6.1 voice is for later",
        "POST",
        "/generate",
        {**BODY, "type": "voice"},
        501,
        {"code": "not_enabled", "detail": str},
    ),
    Case(
        "001 9.3 video is not supported",
        "POST",
        "/generate",
        {**BODY, "type": "video"},
        400,
        {"code": "unsupported_type", "detail": str},
    ),
    Case(
        "001 6.2 queue status",
        "GET",
        "/queue",
        None,
        200,
        {
            "active_generations": 1,
            "queued_requests": 2,
            "gpu_status": GPU,
            "queue": [
                {
                    "request_id": "working",
                    "type": "image",
                    "priority": "HIGH",
                    "status": "processing",
                    "estimated_completion": datetime,
                },
                {
                    "request_id": "first",
                    "type": "image",
                    "priority": "HIGH",
                    "status": "queued",
                    "queue_position": 1,
                    "estimated_wait_seconds": NUMBER,
                },
                {"request_id": "second", "priority": "LOW", "queue_position": 2},
            ],
        },
    ),
    Case(
        "001 6.4 generation history",
        "GET",
        "/history?status=completed",
        None,
        200,
        {
            "total": 1,
            "page": 1,
            "limit": 50,
            "generations": [
                {
                    "request_id": "done",
                    "type": "image",
                    "status": "completed",
                    "prompt": str,
                    "model_used": str,
                    "generation_time_seconds": NUMBER,
                    "cost_usd": NUMBER,
                    "created_at": datetime,
                    "completed_at": datetime,
                    "output_url": (str, NoneType),
                }
            ],
        },
    ),
    Case(
        "001 6.4 its filters and pages",
        "GET",
        "/history?type=image&requester=user&status=completed&page=2&limit=5",
        None,
        200,
        {"total": 1, "page": 2, "limit": 5, "generations": []},
    ),
    Case(
        "001 6.5 models",
        "GET",
        "/models",
        None,
        200,
        {
            "available_models": {
                "image": [
                    {"name": "flux-dev", "available": False},
                    {"name": "sd-1.5", "vram_gb": 6.0, "speed": "fast", "quality": "medium"},
                    {"name": "sdxl-1.0", "vram_gb": 12.0, "speed": "slow", "quality": "high"},
                ],
                "voice": [],
            },
            "loaded_models": list,
            "gpu_status": {"available_vram_gb": NUMBER, "total_vram_gb": 24.0},
        },
    ),
    Case(
        "001 6.5 load",
        "POST",
        "/models/load",
        {"model": "sdxl-1.0", "unload_others": False},
        200,
        {"worker": "gpu-1", "verb": "load", "models": [["gpu-1", "sdxl-1.0"]]},
    ),
    Case(
        "001 6.5 unload, in the other spelling",
        "POST",
        "/models/unload",
        {"model": "sdxl"},
        200,
        {"verb": "unload", "models": [["gpu-1", "sdxl-1.0"]]},
    ),
    Case(
        "000 day 3 the curl of the checklist",
        "POST",
        "/generate",
        {
            "type": "image",
            "prompt": "Technical diagram of a multi-agent system",
            "options": {"quality": "high"},
            "priority": "MEDIUM",
            "requester": "user",
        },
        202,
        ACCEPTED,
    ),
    Case(
        "000 day 4 models with the card",
        "GET",
        "/models",
        None,
        200,
        {"available_models": dict, "gpu_status": GPU},
    ),
    Case(
        "000 day 6 a queued request has its place",
        "POST",
        "/generate",
        {**BODY, "priority": "LOW"},
        202,
        {**ACCEPTED, "queue_position": 3},
    ),
    Case(
        "000 day 10 stats",
        "GET",
        "/stats",
        None,
        200,
        {
            "total_generations": NUMBER,
            "success_rate": 100.0,
            "avg_generation_time": NUMBER,
            "disk_usage_gb": NUMBER,
            "queue_length": 2,
            "gpu_status": GPU,
        },
    ),
    Case(
        "000 troubleshooting: clear the queue, counted first",
        "POST",
        "/queue/clear",
        {"all": True},
        200,
        {"impact": {"count": 2, "by_priority": {"HIGH": 1, "LOW": 1}}, "cancelled": 0},
    ),
    Case(
        "000 day 5 an asset that is not there",
        "GET",
        "/assets/images/2025-11/a.b.png",
        None,
        404,
        {},
    ),
]


@pytest.fixture
async def told(tmp_path):
    async with told_rig(tmp_path) as made:
        done = await made.gate.story(request_id="done")
        await done.started()
        await done.completed()
        working = await made.gate.story(request_id="working", priority="HIGH")
        await working.started()
        await made.gate.story(request_id="second", priority="LOW")
        await made.gate.story(request_id="first", priority="HIGH")
        # A worker takes what has ended out of its lane.
        query = {"last_by_subj": subjects.request_any_lane(done.who)}
        found = msgspec.json.decode(await made.gate.own.api("STREAM.MSG.GET.MMG_REQUESTS", query))
        await made.gate.own.api("STREAM.MSG.DELETE.MMG_REQUESTS", {"seq": found["message"]["seq"]})
        await made.folded()
        await made.gate.ask("GET", f"{API}/queue")  # From now on the worker is known.
        yield made


def test_the_table_names_every_endpoint_of_the_two_documents():
    asked = {(case.method, case.path.partition("?")[0]) for case in CASES}
    wanted = {
        ("POST", "/generate"),
        ("GET", "/queue"),
        ("POST", "/queue/clear"),
        ("GET", "/history"),
        ("GET", "/models"),
        ("POST", "/models/load"),
        ("POST", "/models/unload"),
        ("GET", "/stats"),
    }
    assert wanted <= asked


async def test_each_section_answers_as_its_example_does(told):
    wrong = []
    for case in CASES:
        options = {} if case.body is None else {"json": case.body}
        status, answer, _ = await told.gate.ask(case.method, f"{API}{case.path}", **options)
        if status != case.status:
            wrong.append((case.section, status, answer))
            continue
        wrong += [(case.section, *found) for found in differences(answer, case.shape)]
        if case.path == "/generate" and status == 202:
            await told.gate.ask("DELETE", f"{API}/requests/{answer['request_id']}")
    assert not wrong


def differences(found: Any, shape: Any, path: str = "$") -> list[tuple[str, Any]]:
    """Return where an answer is not as the example."""
    match shape:
        case dict():
            missing = [(f"{path}.{name}", "missing") for name in shape if name not in found]
            known = [name for name in shape if name in found]
            return missing + [
                one for n in known for one in differences(found[n], shape[n], f"{path}.{n}")
            ]
        case list():
            if len(found) != len(shape):
                return [(path, found)]
            return [
                one
                for n, (a, b) in enumerate(zip(found, shape, strict=True))
                for one in differences(a, b, f"{path}[{n}]")
            ]
        case type() if shape is datetime:
            return [] if datetime.fromisoformat(found).tzinfo else [(path, found)]
        case type() | tuple():
            return [] if isinstance(found, shape) else [(path, found)]
        case _:
            return [] if found == shape else [(path, found)]


async def test_001_6_1_what_a_websocket_tells_until_the_picture_is_there(told):
    story = Story(told.gate.own, subjects.identity("user", "first"))
    async with told.gate.socket("first") as socket:
        await story.started("Loading the model...")
        await story.progress(60)
        await story.completed()
        told_of = [msgspec.json.decode(one) for one in await frames(socket)]
    first, last = told_of[0], told_of[-1]
    assert (first["status"], first["message"]) == ("processing", "Loading the model...")
    assert (last["status"], last["model_used"], last["cost_usd"]) == ("completed", "sketch", 0.0)
    assert {"request_id", "status", "message", "progress_percent"} <= set(first)


async def test_001_6_3_an_asset_is_its_bytes(told, tmp_path):
    folder = tmp_path / "assets" / "images" / "2025-11"
    folder.mkdir(parents=True)
    (folder / "user.done.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    url = f"{told.gate.url}{API}/assets/images/2025-11/user.done.png"
    async with told.gate.http.get(url) as answer:
        assert (answer.status, answer.content_type) == (200, "image/png")
        assert await answer.read() == b"\x89PNG\r\n\x1a\n"


async def test_000_day_7_the_queue_page_of_the_dashboard_gets_what_it_reads(told):
    _, answer, _ = await told.gate.ask("GET", f"{API}/queue")
    for one in answer["queue"]:
        assert one["request_id"]
        assert one["status"] in ("queued", "processing")
        assert one["priority"] in ("CRITICAL", "HIGH", "MEDIUM", "LOW")


async def test_000_day_9_a_failed_request_is_found_with_its_error(told):
    await told.gate.ask("DELETE", f"{API}/requests/second")
    await told.folded()
    _, page, _ = await told.gate.ask("GET", f"{API}/history?status=cancelled")
    assert [one["request_id"] for one in page["generations"]] == ["second"]
