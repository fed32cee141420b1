"""Goal: whoever collects spans sees who asked, what it waited for and how it ended; nobody waits.

Method: a real collector that reads OTLP, a real nats-server, real workers and gateways; then a
collector that is dead, slow or angry beside the same jobs.
"""

import asyncio
import os
import re
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from typing import TypeVar

import aiohttp
import pytest
from structlog.contextvars import merge_contextvars
from structlog.testing import capture_logs

from agent.clock import SystemClock
from agent.core.faults import HangFault
from agent.tracing import UNTRACED
from agent.tracing.opening import open_tracer
from agent.tracing.spans import CLOSE_S, Spans
from contracts import trace
from tests.doubles.collector import Collector, collector
from tests.doubles.engine import ScriptedEngine
from tests.integration.gateway_rig import BODY, OPEN, rig
from tests.integration.test_trace import IMAGE, PARENT, STATE, TRACED, ask, carried
from tests.rig import ROOT, agent_on, running, until, worker
from tests.worker_rig import worker_with

T = TypeVar("T")
TRACE_ID, SPAN_ID = PARENT.split("-")[1:3]
SUBJECT = "mmg.request.{priority}.{agent}.{request_id}"
VARIABLES = (
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    "OTEL_EXPORTER_OTLP_PROTOCOL",
    "OTEL_SDK_DISABLED",
    "OTEL_TRACES_EXPORTER",
)


@pytest.fixture(autouse=True)
def _nothing_in_the_environment(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def there(monkeypatch) -> Iterator[Collector]:
    with collector() as one:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", one.url)
        yield one


@asynccontextmanager
async def tracing() -> AsyncIterator[Spans]:
    """Make spans as the environment says, and send the last of them at the end."""
    tracer = open_tracer("worker", "w1")
    assert isinstance(tracer, Spans)
    try:
        yield tracer
    finally:
        await tracer.close()


def only(found: list[T]) -> T:
    (one,) = found
    return one


async def test_a_request_over_http_is_one_trace_to_the_lane_and_linked_from_there(tmp_path, there):
    settings = {"MMG_NATS_PORT": "0", "MMG_HTTP_PORT": "0", "MMG_SKETCH": "only"}
    named = {"OTEL_RESOURCE_ATTRIBUTES": "deployment.environment=trial"}
    async with running(tmp_path, "up", MMG_WORKER_NAME="w1", **settings, **named) as up:
        words = await up.says("gateway   http")
        nats, http = (re.search(rf"{name} +(\S+)", words) for name in ("bus", "gateway"))
        assert nats is not None
        assert http is not None
        async with aiohttp.ClientSession() as client, agent_on(nats[1]) as agent:
            url = f"{http[1]}/api/multimodal/generate"
            body = {**IMAGE, "requester": "L2.01", "request_id": "r1", "priority": "HIGH"}
            async with client.post(url, json=body, headers=TRACED) as answer:
                assert answer.status == 202
            await agent.ended("r1")
            links = await carried(agent)
        up.interrupt()
        assert await up.exit_code() == 0, up.words
    sent, done = only(there.named("send")), only(there.named("process"))
    assert (sent.name, sent.kind) == (f"send {SUBJECT}", "PRODUCER")
    assert (sent.trace_id, sent.parent_id) == (TRACE_ID, SPAN_ID)
    assert sent.service["service.name"] == "mmg-gateway"
    assert links == {(f"00-{TRACE_ID}-{sent.span_id}-01", STATE)}
    assert (done.name, done.kind, done.parent_id) == (f"process {SUBJECT}", "CONSUMER", "")
    assert done.links == [(TRACE_ID, sent.span_id)]
    assert done.trace_id != TRACE_ID
    assert done.service["service.name"] == "mmg-worker"
    assert done.service["service.instance.id"] == "w1"
    assert done.service["deployment.environment"] == "trial"
    message = {
        "messaging.system": "nats",
        "messaging.destination.template": SUBJECT,
        "messaging.destination.name": "mmg.request.high.L2-01.r1",
        "messaging.message.id": "L2-01.r1",
        "mmg.priority": "high",
    }
    assert sent.attributes == message | {
        "messaging.operation.name": "send",
        "messaging.operation.type": "send",
        "mmg.joined": False,
    }
    assert done.attributes == message | {
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.consumer.group.name": "lane-high",
        "mmg.seq": 1,
        "mmg.deliveries": 1,
        "mmg.ended": "completed",
    }
    assert "lighthouse" not in str(there.spans), "no prompt is sent"


async def test_a_job_has_parts_for_slot_drawing_and_storing_and_events_for_its_links(
    server, agent, tmp_path, there
):
    began_s = SystemClock().now().timestamp()
    engine = ScriptedEngine(seconds=0.2)
    async with tracing() as tracer, worker_with(server, tmp_path, engine, tracer=tracer):
        await ask(agent, TRACED)
        links = await agent.ended("r1")
        await agent.lanes_empty()
    done = only(there.named("process"))
    parts = [span for span in there.spans if span.parent_id == done.span_id]
    assert {span.trace_id for span in parts} == {done.trace_id}
    parts.sort(key=lambda span: span.began_s)
    assert [span.name for span in parts] == ["wait for a slot", "draw", "store"]
    slot, draw, store = parts
    assert slot.attributes == {"mmg.engine": "sketch", "mmg.slot": "cpu"}
    assert draw.attributes == {"mmg.engine": "sketch", "mmg.model": "square", "mmg.attempt": 1}
    assert store.attributes == {"mmg.attempt": 1}
    assert draw.ended_s - draw.began_s >= 0.2
    assert began_s <= done.began_s <= slot.began_s
    assert store.ended_s <= done.ended_s
    assert [name for name, _ in done.events] == ["mmg.started", "mmg.completed"]
    assert [told["cloudevents.event_id"] for _, told in done.events] == [one["id"] for one in links]
    assert done.links == [(TRACE_ID, SPAN_ID)]
    assert await carried(agent) == {(PARENT, STATE)}, "the trace of the request stays as it came"


async def test_faults_are_errors_of_the_spans_that_had_them(server, agent, tmp_path, there):
    engine = ScriptedEngine(fault_of=lambda _job, n: HangFault("private words"))
    async with (
        tracing() as tracer,
        worker_with(server, tmp_path, engine, drain_s=0.0, tracer=tracer),
    ):
        await ask(agent, TRACED)
        await until(lambda: engine.tries["r1"] == 1, "a try that fails")
        await ask(agent, TRACED, {"type": "image", "prompt": "x", "colour": 3}, "broken")
        await agent.ended("broken")
    drawn = only(there.named("draw"))
    assert (drawn.is_error, drawn.attributes["error.type"]) == (True, "hang")
    first, second = there.named("process")
    assert [name for name, _ in first.events] == ["mmg.started", "mmg.retrying", "mmg.released"]
    assert (first.is_error, first.attributes["mmg.ended"]) == (False, "released")
    assert only(there.named("pause")).attributes == {"mmg.why": "stop"}
    assert [name for name, _ in second.events] == ["mmg.failed"]
    assert (second.is_error, second.attributes["error.type"]) == (True, "invalid_request")
    assert "private" not in str(there.spans)
    assert "colour" not in str(there.spans)


async def test_after_a_hand_back_two_jobs_are_linked_to_the_one_who_asked(
    server, agent, tmp_path, there
):
    async with tracing() as tracer:
        slow = ScriptedEngine(seconds=10)
        async with worker_with(server, tmp_path, slow, drain_s=0.0, tracer=tracer):
            await ask(agent, TRACED)
            await until(lambda: any("progress" in s for s, _ in agent.heard), "first progress")
        async with worker_with(server, tmp_path, ScriptedEngine(), name="w2", tracer=tracer):
            await agent.ended("r1")
            await agent.lanes_empty()
    first, second = there.named("process")
    assert first.links == second.links == [(TRACE_ID, SPAN_ID)]
    assert first.trace_id != second.trace_id
    assert [first.attributes["mmg.ended"], second.attributes["mmg.ended"]] == [
        "released",
        "completed",
    ]
    assert second.attributes["mmg.deliveries"] == 2


async def test_without_a_trace_of_its_own_a_request_has_that_of_the_job_in_the_log_alone(
    server, agent, tmp_path, there
):
    with capture_logs(processors=[merge_contextvars]) as lines:
        engine = ScriptedEngine()
        async with tracing() as tracer, worker_with(server, tmp_path, engine, tracer=tracer):
            await ask(agent, {})
            await agent.ended("r1")
            await agent.lanes_empty()
    done = only(there.named("process"))
    assert done.links == []
    assert await carried(agent) == {(None, None)}
    ended = next(line for line in lines if line["event"] == "job.ended")
    assert ended["trace_id"] == done.trace_id


# --- a collector in trouble ---------------------------------------------------------------------


@pytest.mark.parametrize("trouble", ["hangs", "refuses", "gone", "busy"])
async def test_a_collector_in_trouble_delays_no_job_is_told_once_and_hardly_delays_a_stop(
    server, agent, tmp_path, there, monkeypatch, trouble
):
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
    match trouble:
        case "hangs":
            there.hangs.set()
        case "refuses":
            there.status = 401
        case "busy":
            there.status = 503
        case "gone":
            monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    loop = asyncio.get_running_loop()
    with capture_logs() as lines:
        tracer = open_tracer("worker", "w1")
        async with worker_with(server, tmp_path, ScriptedEngine(), tracer=tracer):
            began_s = loop.time()
            for number in range(20):
                await ask(agent, TRACED, request_id=f"r{number}")
            for number in range(20):
                await agent.ended(f"r{number}")
            took_s = loop.time() - began_s
        began_s = loop.time()
        await tracer.close()
        closed_s = loop.time() - began_s
    assert took_s < 5
    assert closed_s < CLOSE_S + 0.5
    told = [line for line in lines if line["event"].startswith("tracing.not")]
    assert told
    assert len(told) <= 2, "one for the outage, one for the last spans"
    assert {line["log_level"] for line in told} == {"warning"}
    ended = [line for line in lines if line["event"] == "job.ended"]
    assert [line["ended"] for line in ended] == ["completed"] * 20


@pytest.mark.parametrize("mute", [False, True])
async def test_a_process_ends_in_time_beside_a_collector_that_never_answers(
    server, agent, tmp_path, there, mute
):
    if mute:
        there.hangs.set()
    async with worker(tmp_path, server.url) as process:
        await process.says("worker.ready")
        assert ("tracing.on" in process.words) is True
        await ask(agent, TRACED)
        await agent.ended("r1")
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        process.terminate()
        assert await process.exit_code() == 0, process.words
        took_s = loop.time() - began_s
    assert took_s < CLOSE_S + 3
    assert ("tracing.not_flushed" in process.words) is mute
    assert bool(there.named("process")) is not mute
    assert "Traceback" not in process.words


def _more(there: Collector, asked: int) -> bool:
    return there.asked > asked


async def test_spans_go_on_when_the_collector_is_back(there, monkeypatch):
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "10")
    there.status = 400
    with capture_logs() as lines:
        async with tracing() as tracer:
            for status in (400, 400, 200):
                there.status = status
                asked = there.asked
                with tracer.send(None):
                    pass
                await until(partial(_more, there, asked), "the batch")
            await until(lambda: there.spans, "the span")
    told = [(line["event"], line.get("lost")) for line in lines if line["event"] != "tracing.on"]
    assert told == [("tracing.not_sent", None), ("tracing.sent_again", 2)]
    assert "400" in lines[1]["reason"]


async def test_a_stop_does_not_wait_for_a_collector_that_took_nothing_before(there, monkeypatch):
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "300")
    there.status = 401
    loop = asyncio.get_running_loop()
    with capture_logs() as lines:
        async with tracing() as tracer:
            with tracer.send(None):
                pass
            await until(lambda: lines[-1]["event"] == "tracing.not_sent", "a word of the outage")
            there.hangs.set()
            with tracer.send(None):
                pass
            began_s = loop.time()
        took_s = loop.time() - began_s
    assert took_s < CLOSE_S / 2
    assert there.asked == 1
    assert lines[-1]["event"] == "tracing.not_sent", "it is told once"


# --- what the gateway sends ---------------------------------------------------------------------


async def test_a_refused_request_is_an_error_and_one_without_a_trace_begins_one(tmp_path, there):
    async with tracing() as tracer, rig(tmp_path, settings=OPEN, tracer=tracer) as gate:
        for prompt, expected in (("a", 202), ("b", 409)):
            body = {**BODY, "prompt": prompt, "request_id": "r1"}
            path = "/api/multimodal/generate"
            status, _, _ = await gate.ask("POST", path, json=body)
            assert status == expected
    stored, refused = there.named("send")
    assert (stored.parent_id, stored.is_error) == ("", False)
    assert (refused.is_error, refused.attributes["error.type"]) == (True, "id_reused")


async def test_a_sampler_that_takes_nothing_still_passes_the_trace_on(tmp_path, there, monkeypatch):
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    async with tracing() as tracer:
        with tracer.send(trace.read(TRACED)) as sending:
            assert sending.trace is not None
            assert sending.trace.trace_id == TRACE_ID
            assert sending.trace.state == STATE
            assert sending.trace.flags == 0
    assert not there.spans


# --- whether there are any ----------------------------------------------------------------------


def refused(monkeypatch, **environ: str) -> list[str]:
    """Open a tracer that must do nothing; return what was said about it."""
    for name, text in environ.items():
        monkeypatch.setenv(name, text)
    with capture_logs() as lines:
        assert open_tracer("worker") is UNTRACED
    return [f"{line['log_level']}: {line['event']}: {line['reason']}" for line in lines]


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": " "},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_SDK_DISABLED": "TRUE"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_TRACES_EXPORTER": "none"},
    ],
)
def test_nothing_is_traced_and_nothing_said_unless_it_is_asked_for(monkeypatch, environ):
    assert refused(monkeypatch, **environ) == []


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "only http/protobuf is spoken"),
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, "only otlp is known"),
        ({"OTEL_BSP_MAX_QUEUE_SIZE": "-1"}, "max_queue_size"),
    ],
)
def test_settings_that_cannot_be_used_are_one_warning(monkeypatch, environ, words):
    one = only(refused(monkeypatch, OTEL_EXPORTER_OTLP_ENDPOINT="http://x", **environ))
    assert one.startswith("warning: tracing.off: ")
    assert words in one.lower()


def test_without_the_extra_one_warning_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "agent.tracing.spans", None)
    one = only(refused(monkeypatch, OTEL_EXPORTER_OTLP_TRACES_ENDPOINT="http://x"))
    assert "pip install 'mmg[otel]'" in one


async def test_a_worker_without_the_extra_works(server, agent, tmp_path, there):
    blocked = tmp_path / "blocked"
    (blocked / "opentelemetry").mkdir(parents=True)
    (blocked / "opentelemetry" / "__init__.py").write_text("raise ImportError('not here')")
    path = f"{blocked}{os.pathsep}{ROOT}"
    async with worker(tmp_path, server.url, "--once", PYTHONPATH=path) as process:
        await ask(agent, TRACED)
        assert await process.exit_code() == 0, process.words
    assert (await agent.ended("r1"))[-1]["kind"] == "completed"
    assert process.words.count("mmg[otel]") == 1
    assert not there.asked
