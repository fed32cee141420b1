"""Goal: one line of the log tells all about a job, and nothing that is private.

Method: links as a job stores them, and the line that comes of them.
"""

from datetime import timedelta
from typing import Any

import structlog

from agent.core.job import StoredRequest
from agent.job_line import JobLine
from contracts.errors import ErrorCode
from contracts.requests import Priority, Request
from contracts.subjects import Identity
from tests.metrics_rig import NOW
from tests.unit.test_metrics import completed, failed, started


def line(*links: Any, ended: str = "completed") -> Any:
    request = Request(type="image", prompt="a private prompt")
    stored = StoredRequest(
        who=Identity("L2-01", "r1"), priority=Priority.HIGH, seq=7, stored_at=NOW, request=request
    )
    job = JobLine(stored)
    for link in links:
        job.note(link)
    with structlog.testing.capture_logs() as said:
        job.write(ended, "done", (2, 3), NOW + timedelta(seconds=50))
    (only,) = said
    assert "private" not in str(only)
    return only


def test_a_completed_job_says_engine_model_times_cost_and_why():
    assert line(started(), completed()) == {
        "event": "job.ended",
        "log_level": "info",
        "ended": "completed",
        "why": "done",
        "priority": Priority.HIGH,
        "attempt": 2,
        "deliveries": 3,
        "since_request_s": 50.0,
        "engine": "comfyui",
        "model": "sdxl-1.0",
        "wait_s": 42.0,
        "reason": "",
        "run_s": 7.0,
        "vram_gb": None,
        "cost_usd": 0.0,
        "downgraded": False,
    }


def test_a_failed_job_says_its_code():
    said = line(started(), failed(ErrorCode.HANG, dead=True), ended="failed")
    assert (said["code"], said["error"], said["engine"]) == ("hang", "x", "comfyui")


def test_a_job_that_stored_nothing_says_that_it_had_the_request():
    said = line(ended="lapsed")
    assert said["ended"] == "lapsed"
    assert "engine" not in said
