"""Goal: what happens is told as it happens, to followers and operators, resumed where it broke.

Method: a real gateway with ledger on a real nats-server; server-sent events read as raw lines,
WebSockets by a client library; chains written by hand.
"""

import asyncio
import contextlib
import json
from typing import NamedTuple

import aiohttp
import pytest

from agent.bus.control import raise_alert
from agent.clock import SystemClock
from agent.gateway import tap
from contracts import codec, subjects
from contracts.events import Alert
from tests.integration.gateway_rig import BODY, frame, rig, until
from tests.integration.told_rig import told_rig

API = "/api/multimodal"
EVENTS = f"{API}/requests/r1/events"


@pytest.fixture
async def gate(tmp_path):
    async with rig(tmp_path) as made:
        yield made


class Said(NamedTuple):
    """One event as a browser would hand it on."""

    id: str | None
    event: str
    data: bytes


class Source:
    """Reads server-sent events; comments are counted, places in the queue are left out."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self.comments = 0

    async def next(self) -> Said | None:
        """Return the next event; None at the end."""
        fields: dict[bytes, bytes] = {}
        async with asyncio.timeout(10):
            async for line in self._response.content:
                name, _, value = line.rstrip(b"\n").partition(b": ")
                if line == b"\n" and b"data" in fields:
                    said = fields.pop(b"event").decode()
                    found = fields.get(b"id")
                    if said != "queued":
                        return Said(
                            None if found is None else found.decode(), said, fields[b"data"]
                        )
                    fields.clear()
                elif name == b"":
                    self.comments += line.startswith(b":")
                else:
                    fields[name] = value
        return None

    async def rest(self) -> list[Said]:
        found = []
        while (said := await self.next()) is not None:
            found.append(said)
        return found


@contextlib.asynccontextmanager
async def source(gate, query="", **headers):
    async with gate.http.get(f"{gate.url}{EVENTS}{query}", headers=headers) as response:
        assert response.status == 200, await response.text()
        assert response.content_type == "text/event-stream"
        yield Source(response)


async def test_events_are_the_links_own_bytes_with_their_place_as_id(gate):
    story = await gate.story(request_id="r1")
    async with source(gate) as early:
        await story.started()
        assert await early.next() == Said("1", "started", story.written[0])
        progress = await story.progress(40)
        assert await early.next() == Said(None, "progress", progress)
        await story.completed()
        assert await early.rest() == [Said("2", "completed", story.written[1])]
    async with source(gate) as late:
        assert [said.data for said in await late.rest()] == story.written


async def test_a_client_resumes_behind_what_it_has_and_is_told_when_nothing_follows(gate):
    story = await gate.story(request_id="r1")
    await story.started()
    await story.released()
    await story.started()
    async with source(gate, "?after=1", **{"Last-Event-ID": "2"}) as resumed:
        assert (await resumed.next()).data == story.written[2]
        await story.completed()
        assert [said.data for said in await resumed.rest()] == story.written[3:]
    for headers, status in (({"Last-Event-ID": "4"}, 204), ({"Last-Event-ID": "x"}, 400)):
        async with gate.http.get(f"{gate.url}{EVENTS}", headers=headers) as answer:
            assert answer.status == status


async def test_a_line_that_is_quiet_is_pinged(gate, monkeypatch):
    monkeypatch.setattr("agent.gateway.events.PING_EVERY_S", 0.02)
    story = await gate.story(request_id="r1")
    async with source(gate) as quiet:
        async with asyncio.TaskGroup() as group:
            reading = group.create_task(quiet.next())
            await until(lambda: quiet.comments >= 2)
            await story.started()
        assert reading.result().event == "started"


async def test_events_of_what_nobody_knows_are_a_404(gate):
    status, answer, _ = await gate.ask("GET", EVENTS)
    assert (status, answer["code"]) == (404, "not_found")


async def test_a_gateway_that_stops_ends_its_event_streams(gate):
    await gate.story(request_id="r1")
    async with source(gate) as open_one:
        async with asyncio.timeout(3):
            await gate.gateway.stop()
        with contextlib.suppress(aiohttp.ClientError):
            assert await open_one.rest() == []


async def test_previews_come_as_binary_frames_only_to_who_wants_them_and_while_it_is_drawn(gate):
    story = await gate.story(request_id="r1")
    picture = codec.encode_preview("r1", 1, 5, b"\xff\xd8jpeg")
    async with gate.socket("r1", "?previews=1") as wanting, gate.socket("r1") as plain:
        await gate.own.publish(subjects.preview(story.who), picture)
        await gate.own.flush()
        async with gate.http.get(f"{gate.url}/healthz"):  # By now the gateway has heard it.
            await story.started()
        assert await frame(wanting) == await frame(plain) == story.written[0]
        await gate.own.publish(subjects.preview(story.who), picture)
        message = await wanting.receive(timeout=10)
        assert (message.type, message.data) == (aiohttp.WSMsgType.BINARY, picture)
        await story.completed()
        assert await frame(wanting) == await frame(plain) == story.written[1]


def everything_of(gate, query=""):
    return gate.http.ws_connect(f"{gate.url}/ws/multimodal{query}", max_msg_size=0)


async def test_operators_see_every_link_progress_and_alert_and_what_is_wrong_already(tmp_path):
    async with told_rig(tmp_path) as told:
        gate, clock = told.gate, SystemClock()

        async def alert(state):
            one = Alert(name="disk", state=state, message="full", by="w1", at=clock.now())
            await raise_alert(gate.own, one)

        await alert("raised")
        await told.folded()
        async with everything_of(gate, "?previews=1") as socket:
            hello = json.loads(await socket.receive_str(timeout=10))
            assert hello["kind"] == "hello"
            assert [one["name"] for one in hello["alerts"]] == ["disk"]
            stories = [await gate.story(request_id=name) for name in ("a", "b")]
            for story in stories:
                await story.started()
                assert (await socket.receive_str(timeout=10)).encode() == story.written[0]
            progress = await stories[0].progress(30)
            assert (await socket.receive_str(timeout=10)).encode() == progress
            await alert("cleared")
            cleared = json.loads(await socket.receive_str(timeout=10))
            assert (cleared["kind"], cleared["name"], cleared["state"]) == (
                "alert",
                "disk",
                "cleared",
            )
            picture = codec.encode_preview("a", 1, 5, b"jpeg")
            await gate.own.publish(subjects.preview(stories[0].who), picture)
            assert await socket.receive_bytes(timeout=10) == picture
            for wake in gate.bus.on_reconnect:
                wake()
            assert json.loads(await socket.receive_str(timeout=10)) == {"kind": "resync"}


async def test_an_operator_that_does_not_read_is_dropped_and_nobody_else_waits(gate, monkeypatch):
    monkeypatch.setattr(tap, "BYTES_MAX", 200_000)
    monkeypatch.setattr("agent.gateway.talking.CLOSE_PATIENCE_S", 0.1)
    story = await gate.story(request_id="r1")
    async with everything_of(gate) as deaf, everything_of(gate) as reading:
        await until(lambda: len(gate.gateway._everything._taps) == 2)
        deaf._conn.transport.pause_reading()
        for _ in range(400):
            await story.started("x" * 30_000)
            while True:
                heard = await reading.receive(timeout=10)
                if b'"started"' in heard.data.encode():
                    break
            if len(gate.gateway._everything._taps) == 1:
                break
        await until(lambda: len(gate.gateway._everything._taps) == 1)
        assert gate.gateway._sockets.dropped == 1
        deaf._conn.transport.resume_reading()


async def test_clients_that_leave_are_forgotten(gate, monkeypatch):
    monkeypatch.setattr("agent.gateway.events.LOOK_EVERY_S", 0.02)
    await gate.post({**BODY, "request_id": "r1"})
    async with source(gate), everything_of(gate):
        assert gate.gateway._sockets.count == 2
    await until(lambda: gate.gateway._sockets.count == 0)
    assert not gate.gateway._everything._taps
