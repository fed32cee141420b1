"""Goal: the trace of a request is on all that is said about it, whoever says it; nothing breaks.

Method: a real nats-server and real workers; headers are read from the stream and as an agent hears
them, with a plain client that knows the wire only.
"""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from structlog.contextvars import merge_contextvars
from structlog.testing import capture_logs

from agent.bus import facts
from agent.bus.cancel import cancel
from agent.bus.connection import Bus, connect
from agent.client import connect as connect_client
from agent.clock import SystemClock
from agent.quota import Quota
from contracts.subjects import Identity
from tests.doubles.engine import ScriptedEngine
from tests.doubles.receiver import receiver
from tests.integration.gateway_rig import BODY, rig
from tests.integration.test_worker import LONG
from tests.rig import SMALL, Agent, until, worker
from tests.webhook_rig import becomes, telling
from tests.worker_rig import worker_with

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
STATE = "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"
TRACED = {"traceparent": PARENT, "tracestate": STATE}
IMAGE = {"type": "image", "prompt": "a lighthouse", "options": SMALL}
WHO = Identity("L2-01", "r1")


@pytest.fixture
async def bus(server) -> AsyncIterator[Bus]:
    async with await connect([server.url], "gateway", role="gateway") as connected:
        yield connected


class Ear:
    """Keeps subject and headers of everything that is said about requests."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self.heard: list[tuple[str, dict[str, str]]] = []

    async def listen(self) -> "Ear":
        async def keep(msg: Any) -> None:
            self.heard.append((msg.subject, dict(msg.headers or {})))

        for subject in ("mmg.event.>", "mmg.progress.>", "mmg.queued.>"):
            await self._agent.nc.subscribe(subject, cb=keep)
        await self._agent.nc.flush()
        return self

    def kinds(self) -> list[str]:
        return [subject.split(".")[4] for subject, _ in self.heard if "event" in subject]


async def ask(
    agent: Agent, headers: dict[str, str], body: object = None, request_id: str = "r1"
) -> None:
    """Publish a request of L2.01 with these headers."""
    data = json.dumps(IMAGE if body is None else body).encode()
    subject = f"mmg.request.medium.L2-01.{request_id}"
    answer = await agent.nc.request(subject, data, headers=dict(headers), timeout=5)
    assert "error" not in json.loads(answer.data), answer.data


async def stored(agent: Agent, stream: str, subject: str) -> list[dict[str, str]]:
    """Return the headers of what a stream keeps on a subject."""
    found: list[dict[str, str]] = []
    seq = 1
    while True:
        query = json.dumps({"seq": seq, "next_by_subj": subject}).encode()
        answer = await agent.nc.request(f"$JS.API.DIRECT.GET.{stream}", query, timeout=5)
        headers = dict(answer.headers or {})
        if "Nats-Sequence" not in headers:
            return found
        seq = int(headers["Nats-Sequence"]) + 1
        found.append(headers)


async def carried(agent: Agent, request_id: str = "r1") -> set[tuple[str | None, str | None]]:
    """Return the traces on the links of a chain, as they are kept."""
    links = await stored(agent, "MMG_EVENTS", f"mmg.chain.*.{request_id}.*")
    assert links, "the chain has links"
    return {(link.get("traceparent"), link.get("tracestate")) for link in links}


async def test_a_trace_is_on_every_link_on_progress_on_the_doorbell_and_in_the_log(
    server, agent, tmp_path
):
    ear = await Ear(agent).listen()
    with capture_logs(processors=[merge_contextvars]) as lines:
        async with worker_with(server, tmp_path, ScriptedEngine(seconds=0.3)):
            await ask(agent, {"TraceParent": PARENT, "tracestate": STATE})
            links = await agent.ended("r1")
            await until(lambda: ear.kinds() == ["started", "completed"], "both links")
    assert await carried(agent) == {(PARENT, STATE)}
    assert any("progress" in subject for subject, _ in ear.heard)
    assert {headers.get("traceparent") for s, headers in ear.heard if "queued" not in s} == {PARENT}
    (bell,) = (headers for subject, headers in ear.heard if "queued" in subject)
    assert bell["TraceParent"] == PARENT, "the server repeats it as the agent spelled it"
    assert "4bf92f3577b34da6" not in json.dumps(links), "the bytes of a link do not change"
    ended = next(line for line in lines if line["event"] == "job.ended")
    assert ended["trace_id"] == "4bf92f3577b34da6a3ce929d0e0e4736"


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"tracestate": STATE},
        {"traceparent": PARENT.upper(), "tracestate": STATE},
        {"traceparent": "00-" + "0" * 32 + PARENT[35:]},
        {"traceparent": "x" * 4000, "tracestate": "y" * 4000},
        {"traceparent": PARENT, "Traceparent": PARENT},
    ],
)
async def test_without_a_trace_that_can_be_read_the_picture_is_made_and_nothing_is_said_of_one(
    server, agent, tmp_path, headers
):
    ear = await Ear(agent).listen()
    with capture_logs(processors=[merge_contextvars]) as lines:
        async with worker_with(server, tmp_path, ScriptedEngine()):
            await ask(agent, headers)
            links = await agent.ended("r1")
            await until(lambda: ear.kinds() == ["started", "completed"], "both links")
    assert links[-1]["kind"] == "completed"
    assert await carried(agent) == {(None, None)}
    assert not [line for line in lines if "trace_id" in line]


async def test_a_trace_outlives_the_worker_that_was_killed_with_it(server, agent, tmp_path):
    async with worker(tmp_path, server.url, MMG_WORKER_NAME="victim") as victim:
        await victim.says("worker.ready")
        await ask(agent, TRACED, {**IMAGE, "options": LONG})
        await until(lambda: any("progress" in s for s, _ in agent.heard), "first progress")
        await victim.kill()
    async with worker(tmp_path, server.url, MMG_WORKER_NAME="heir") as heir:
        links = await agent.ended("r1", timeout_s=40)
        words = await heir.says("job.ended")
    assert [link["kind"] for link in links] == ["started", "started", "completed"]
    assert await carried(agent) == {(PARENT, STATE)}
    line = next(json.loads(one) for one in words.splitlines() if '"job.ended"' in one)
    assert line["trace_id"] == PARENT.split("-")[1]


async def test_a_trace_outlives_a_hand_back(server, agent, tmp_path):
    async with worker_with(server, tmp_path, ScriptedEngine(seconds=10), drain_s=0.0):
        await ask(agent, TRACED)
        await until(lambda: any("progress" in s for s, _ in agent.heard), "first progress")
    async with worker_with(server, tmp_path, ScriptedEngine(), name="w2"):
        links = await agent.ended("r1")
    kinds = [link["kind"] for link in links]
    assert kinds == ["started", "released", "started", "completed"]
    assert await carried(agent) == {(PARENT, STATE)}


async def test_who_refuses_or_cancels_passes_the_trace_on(server, agent, bus, tmp_path):
    await ask(agent, TRACED, request_id="queued")
    await cancel(bus, Identity("L2-01", "queued"), "somebody", SystemClock())
    async with worker_with(server, tmp_path, ScriptedEngine(seconds=10)):
        await ask(agent, TRACED, request_id="running")
        await until(lambda: any("progress" in s for s, _ in agent.heard), "first progress")
        await cancel(bus, Identity("L2-01", "running"), "somebody", SystemClock())
        await ask(agent, TRACED, {"type": "image", "prompt": "x", "colour": 3}, request_id="broken")
        await agent.ended("broken")
        await agent.lanes_empty()
    await ask(agent, TRACED, request_id="one-too-many")
    await Quota(bus, "w1", SystemClock(), 0).run_once()
    ends = []
    for request_id in ("queued", "running", "broken", "one-too-many"):
        ends.append((await agent.ended(request_id))[-1]["kind"])
        assert await carried(agent, request_id) == {(PARENT, STATE)}
    assert ends == ["cancelled", "cancelled", "failed", "failed"]


async def test_a_webhook_is_told_the_trace_and_again_when_a_person_wants_it_told_again(
    server, agent, bus, tmp_path
):
    async with receiver() as there, telling(bus, there):
        there.answers = [410, 204]
        async with worker_with(server, tmp_path, ScriptedEngine()):
            await ask(agent, TRACED, {**IMAGE, "webhook_url": there.url()})
            await becomes(bus, "undeliverable")
        await facts.tell(bus, WHO, facts.WEBHOOK_RETRIED, by="ann", clock=SystemClock())
        await becomes(bus, "delivered")
        await ask(agent, {}, {**IMAGE, "webhook_url": there.url()}, "plain")
        async with worker_with(server, tmp_path, ScriptedEngine()):
            await becomes(bus, "delivered", Identity("L2-01", "plain"))
    traced = [(one.headers.get("traceparent"), one.headers.get("tracestate")) for one in there.told]
    assert traced == [(PARENT, STATE), (PARENT, STATE), (None, None)]
    assert all(one.is_signed() for one in there.told)


async def test_over_http_the_trace_is_stored_with_the_request(tmp_path):
    async with rig(tmp_path) as gate:
        for headers in (TRACED, {"traceparent": PARENT.upper()}):
            path = "/api/multimodal/generate"
            status, _, _ = await gate.ask("POST", path, json=BODY, headers=headers)
            assert status == 202
        kept = await stored(Agent(gate.own.nc), "MMG_REQUESTS", "mmg.request.>")
    found = [(one.get("traceparent"), one.get("tracestate")) for one in kept]
    assert found == [(PARENT, STATE), (None, None)]
    assert all(one["Mmg-Contract"] == "1" and one["Nats-Msg-Id"] for one in kept)


async def test_an_agent_that_uses_the_client_passes_on_what_opentelemetry_injects(
    server, agent, tmp_path
):
    async with (
        worker_with(server, tmp_path, ScriptedEngine()),
        connect_client(server.url, agent="L2.01") as client,
    ):
        await client.generate("a lighthouse", request_id="r1", traced=TRACED, quality="draft")
        ticket = await client.submit("a lighthouse", request_id="r2", traced=TRACED)
        await agent.ended(ticket.request_id)
    assert await carried(agent, "r1") == await carried(agent, "r2") == {(PARENT, STATE)}
