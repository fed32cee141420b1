"""Goal: every bad request on the bus gets its answer, leaves its lane, and the worker lives.

Method: each goes through a real server to one real worker, which then completes a good request.
"""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from nats.errors import NoRespondersError

from agent.embedded import EmbeddedServer
from tests.rig import Agent, Process, until, worker

GOOD: dict[str, Any] = {"type": "image", "prompt": "Cover"}


def with_options(**options: Any) -> dict[str, Any]:
    """Return a request that is good but for these options."""
    return GOOD | {"options": options}


BAD: dict[str, tuple[Any, str, str | None]] = {
    "not JSON": (b"{not json", "invalid_request", "$"),
    "not UTF-8": (b'{"type":"image","prompt":"\xff\xfe"}', "invalid_request", "$"),
    "empty": (b"", "invalid_request", "$"),
    "unknown field": (GOOD | {"colour": "red"}, "invalid_request", "$.colour"),
    "unknown option": (with_options(colour="red"), "invalid_request", "$.options.colour"),
    "wrong type": (GOOD | {"prompt": 7}, "invalid_request", "$.prompt"),
    "no prompt": ({"type": "image"}, "invalid_request", "$.prompt"),
    "prompt empty": (GOOD | {"prompt": "  \n "}, "invalid_request", "$.prompt"),
    "prompt too long": (GOOD | {"prompt": "x" * 4001}, "invalid_request", "$.prompt"),
    "quality unknown": (with_options(quality="best"), "invalid_request", "$.options.quality"),
    "style unknown": (with_options(style="manga"), "invalid_request", "$.options.style"),
    "aspect unknown": (
        with_options(aspect_ratio="2:1"),
        "invalid_request",
        "$.options.aspect_ratio",
    ),
    "seed negative": (with_options(seed=-1), "invalid_request", "$.options.seed"),
    "seed too large": (with_options(seed=2**32), "invalid_request", "$.options.seed"),
    "width alone": (with_options(width=512), "invalid_request", "$.options.height"),
    "width odd": (with_options(width=500, height=512), "invalid_request", "$.options.width"),
    "count": (with_options(count=11), "invalid_request", "$.options.count"),
    "video": ({"type": "video"}, "unsupported_type", "$.type"),
    "voice": ({"type": "voice", "text": "hello"}, "not_enabled", "$.type"),
    "other id": (GOOD | {"request_id": "another"}, "invalid_request", "$.request_id"),
    "other agent": (GOOD | {"requester": "L9.99"}, "invalid_request", "$.requester"),
    "other priority": (GOOD | {"priority": "LOW"}, "invalid_request", "$.priority"),
    "model unknown": (with_options(model="sdxl-9"), "model_missing", "$.options.model"),
    "workflow unknown": (with_options(workflow="mine"), "workflow_invalid", "$.options.workflow"),
    "webhook": (GOOD | {"webhook_url": "http://a.example/h"}, "invalid_request", "$.webhook_url"),
}


@pytest.fixture
async def busy(tmp_path: Path, server: EmbeddedServer) -> AsyncIterator[Process]:
    """Run one worker."""
    async with worker(tmp_path, server.url) as process:
        await process.says("worker.ready")
        yield process


async def test_every_bad_request_gets_a_failed_link_and_the_worker_goes_on(
    agent: Agent, busy: Process
) -> None:
    for number, (body, code, path) in enumerate(BAD.values()):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        answer = await agent.ask("high", "L2-01", f"bad{number}", data)
        assert "error" not in answer
        (link,) = await agent.ended(f"bad{number}")
        assert link["kind"] == "failed"
        assert (link["error"]["code"], link["error"].get("detail")) == (code, path), link["error"]
        assert link["n"] == 1
    await agent.lanes_empty()
    await agent.image("good")
    assert (await agent.ended("good"))[-1]["kind"] == "completed"
    assert "Traceback" not in busy.words


async def test_higher_contract_version_is_refused_by_name(agent: Agent, busy: Process) -> None:
    await agent.nc.request(
        "mmg.request.high.L2-01.v2", json.dumps(GOOD).encode(), headers={"Mmg-Contract": "2"}
    )
    (link,) = await agent.ended("v2")
    assert link["error"]["code"] == "unsupported_contract"
    assert busy.process.returncode is None


@pytest.mark.parametrize(
    "subject",
    ["mmg.request.urgent.L2-01.r1", "mmg.request.high.L2-01.a.b", "mmg.request.high.L2-01"],
    ids=["priority unknown", "id with a dot", "id missing"],
)
async def test_subject_that_no_stream_has_is_refused_at_publish(agent: Agent, subject: str) -> None:
    with pytest.raises(NoRespondersError):
        await agent.nc.request(subject, json.dumps(GOOD).encode(), timeout=2)


async def test_request_over_64_kb_is_refused_at_publish(agent: Agent) -> None:
    answer = await agent.ask("high", "L2-01", "big", b"x" * 65_537)
    assert answer["error"]["err_code"] == 10054, answer
    assert await agent.waiting() == 0


async def test_token_that_is_too_long_is_answered_on_its_own_subject(
    agent: Agent, busy: Process
) -> None:
    long_id = "r" * 65
    assert "error" not in await agent.ask("high", "L2-01", long_id, GOOD)
    (link,) = await agent.ended(long_id)
    assert link["error"]["code"] == "invalid_request"
    await agent.lanes_empty()
    assert busy.process.returncode is None


async def test_token_that_no_answer_can_be_addressed_to_leaves_the_lane_with_a_log_line(
    agent: Agent, busy: Process
) -> None:
    await agent.ask("high", "L2-01", "ид", GOOD)
    await busy.says("request.unspeakable")
    await agent.lanes_empty()
    await agent.image("good")
    assert (await agent.ended("good"))[-1]["kind"] == "completed"


async def test_unreadable_request_keeps_its_bytes_in_the_answer(
    agent: Agent, busy: Process
) -> None:
    await agent.ask("high", "L2-01", "raw", b"{broken")
    (link,) = await agent.ended("raw")
    assert link["request"] is None
    assert link["raw_bytes"] == "e2Jyb2tlbg=="
    await until(lambda: '"request.refused"' in busy.words, "the log line")
