"""Goal: an agent that uses the client misses nothing, sees nothing twice, and gets its answer.

Method: a real nats-server; instead of a worker a pen that appends prepared links to the chain. A
link that nobody hears is made by taking the stream's republish away while it is appended.
"""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import msgspec
import pytest
from msgspec.structs import replace
from nats.aio.msg import Msg

from agent.bus.chain import append
from agent.bus.connection import Bus, connect
from agent.bus.provision import Plan, provision, streams
from agent.bus.snapshot import serve_snapshots
from agent.client import Client, ContractError, GenerationFailed, following
from agent.client import connect as connect_client
from agent.core.steps import Stored
from agent.embedded import EmbeddedServer
from contracts import codec, examples, subjects
from contracts.errors import ErrorCode
from contracts.events import Link, Progress, kind_of
from contracts.subjects import Identity

AGENT = "L2.05.03"
WHO = Identity("L2-05-03", "harbour-1")
PROMPT = "a lighthouse at dusk"


class Pen:
    """Appends links to one chain, as its only writer."""

    def __init__(self, bus: Bus, who: Identity = WHO, prompt: str = PROMPT) -> None:
        self.bus = bus
        self.who = who
        self.n = 0
        self._seq = 0
        self._request = replace(examples.REQUEST_MINIMAL, prompt=prompt)

    async def write(self, *links: Link) -> None:
        for link in links:
            self.n += 1
            mine = replace(
                link,
                id=str(uuid4()),
                n=self.n,
                request_id=self.who.request_id,
                requester=self.who.requester,
                request=self._request if self.n == 1 else msgspec.UNSET,
                requested_at=link.at if self.n == 1 else msgspec.UNSET,
            )
            stored = await append(self.bus, self.who, mine, self._seq)
            assert isinstance(stored, Stored)
            self._seq = stored.seq

    async def step(self, percent: int, n: int | None = None) -> None:
        told = replace(
            examples.PROGRESS,
            id=str(uuid4()),
            n=self.n if n is None else n,
            request_id=self.who.request_id,
            requester=self.who.requester,
            progress_percent=percent,
        )
        await self.bus.store(subjects.progress(self.who), codec.encode(told))

    async def republish(self, *, on: bool) -> None:
        """Let appended links be heard, or not."""
        config = next(c for c in streams(Plan()) if c["name"] == subjects.STREAM_EVENTS)
        wanted = config if on else {k: v for k, v in config.items() if k != "republish"}
        await self.bus.api(f"STREAM.UPDATE.{subjects.STREAM_EVENTS}", wanted)


STARTED, COMPLETED, FAILED = examples.STARTED, examples.COMPLETED, examples.FAILED
RELEASED, CANCELLED = examples.RELEASED, examples.CANCELLED


@pytest.fixture
async def bus(server: EmbeddedServer) -> AsyncIterator[Bus]:
    async with await connect([server.url], "writer", role="worker") as bus:
        yield bus


@pytest.fixture
async def client(server: EmbeddedServer) -> AsyncIterator[Client]:
    async with connect_client(server.url, agent=AGENT) as client:
        yield client


@pytest.fixture
def patient(monkeypatch):
    """Make the client ask only when it has a reason to, so that a test shows the reason."""
    monkeypatch.setattr(following, "QUIET_FIRST_S", 60.0)


async def watched(client: Client, **options) -> list[tuple[str, int]]:
    async with asyncio.timeout(15):
        events = [event async for event in client.watch(WHO.request_id, **options)]
    return [(kind_of(event), event.n) for event in events if not isinstance(event, Progress)]


async def works(bus: Bus, *links: Link) -> None:
    """Write these links the very moment a request is stored."""

    async def on_bell(msg: Msg) -> None:
        who = Identity(*msg.subject.split(".")[3:5])
        await Pen(bus, who).write(*links)

    await bus.subscribe(subjects.QUEUED_ALL, on_bell)
    await bus.flush()


async def test_a_worker_that_answers_at_once_is_heard_from_the_first_link(client, bus, patient):
    await works(bus, STARTED, COMPLETED)
    seen: list[str] = []
    done = await client.generate(
        PROMPT, on_event=lambda event: seen.append(kind_of(event)), timeout_s=10
    )
    assert seen == ["started", "completed"]
    assert done.output == COMPLETED.output
    assert done.requester == AGENT
    assert done.request_id.startswith("mmg-")


async def test_it_catches_up_from_whoever_answers_snapshots(client, bus, patient):
    await serve_snapshots(bus)
    await Pen(bus).write(STARTED, RELEASED, STARTED, COMPLETED)
    kinds = ["started", "released", "started", "completed"]
    assert await watched(client) == list(zip(kinds, (1, 2, 3, 4), strict=True))
    assert await watched(client, after=2) == [("started", 3), ("completed", 4)]
    assert await watched(client, after=4) == []
    assert await watched(client, after=9) == []


async def test_it_reads_the_stream_where_nobody_answers_snapshots(client, bus, patient):
    await Pen(bus).write(STARTED, COMPLETED)
    assert await watched(client) == [("started", 1), ("completed", 2)]


async def test_a_gap_in_n_is_filled_before_the_later_link_is_shown(client, bus, patient):
    pen = Pen(bus)
    await pen.write(STARTED)
    async with client.follow(WHO.request_id) as events:
        assert (await anext(events)).n == 1
        await pen.republish(on=False)
        await pen.write(RELEASED)
        await pen.republish(on=True)
        await pen.write(STARTED, COMPLETED)
        async with asyncio.timeout(10):
            assert [event.n async for event in events] == [2, 3, 4]


async def test_silence_makes_it_ask(client, bus, monkeypatch):
    monkeypatch.setattr(following, "QUIET_FIRST_S", 0.05)
    pen = Pen(bus)
    await pen.write(STARTED)
    async with client.follow(WHO.request_id) as events:
        await anext(events)
        await pen.republish(on=False)
        await pen.write(COMPLETED)
        async with asyncio.timeout(10):
            assert [event.n async for event in events] == [2]


async def test_what_happened_while_the_server_was_killed_is_filled_in(tmp_path: Path, patient):
    server = EmbeddedServer(tmp_path, 0)
    await server.start()
    port = urlsplit(server.url).port or 0
    elsewhere = EmbeddedServer(tmp_path, 0)
    back = EmbeddedServer(tmp_path, port)
    try:
        async with await connect([server.url], "writer") as bus:
            await provision(bus, Plan())
            pen = Pen(bus)
            await pen.write(STARTED)
        async with (
            connect_client(server.url, agent=AGENT) as client,
            client.follow(WHO.request_id) as events,
        ):
            await anext(events)
            os.kill(server.pid, signal.SIGKILL)
            await server.wait()
            await elsewhere.start()  # on another port: the client cannot hear this
            async with await connect([elsewhere.url], "writer") as bus:
                pen.bus = bus
                await pen.write(RELEASED, STARTED, COMPLETED)
            await elsewhere.stop()
            await back.start()
            async with asyncio.timeout(20):
                assert [event.n async for event in events] == [2, 3, 4]
    finally:
        for one in (elsewhere, back, server):
            await one.stop()


async def test_the_same_request_again_joins_the_one_in_the_lane(client):
    first = await client.submit(PROMPT, request_id="harbour-1")
    again = await client.submit(PROMPT, request_id="harbour-1")
    assert (first.joined, again.joined) == (False, True)
    assert (again.request_id, again.requester) == ("harbour-1", AGENT)


async def test_another_request_with_a_used_id_is_refused_while_it_waits(client):
    await client.submit(PROMPT, request_id="harbour-1")
    with pytest.raises(ContractError) as refused:
        await client.submit("something else", request_id="harbour-1")
    assert refused.value.body.code == ErrorCode.ID_REUSED


async def test_another_request_with_a_used_id_is_refused_after_the_end(client, bus):
    await Pen(bus).write(STARTED, COMPLETED)
    with pytest.raises(ContractError) as refused:
        await client.generate("something else", request_id="harbour-1", timeout_s=10)
    assert refused.value.body.code == ErrorCode.ID_REUSED


async def test_generating_again_after_the_end_gives_the_first_result(client, bus):
    await Pen(bus).write(STARTED, COMPLETED)
    done = await client.generate(PROMPT, request_id="harbour-1", timeout_s=10)
    assert done.seed == COMPLETED.seed


@pytest.mark.parametrize(
    ("end", "code"),
    [
        (FAILED, FAILED.error.code),
        (examples.EXPIRED, ErrorCode.EXPIRED),
        (CANCELLED, ErrorCode.CANCELLED),
    ],
)
async def test_an_end_without_a_picture_is_raised_with_its_error_and_link(client, bus, end, code):
    await works(bus, STARTED, end)
    with pytest.raises(GenerationFailed) as failed:
        await client.generate(PROMPT, timeout_s=10)
    assert failed.value.error.code == code
    assert failed.value.link is not None
    assert kind_of(failed.value.link) == kind_of(end)


async def test_after_the_timeout_the_request_is_still_there(client, server):
    with pytest.raises(TimeoutError):
        await client.generate(PROMPT, request_id="harbour-1", timeout_s=0.2)
    assert (await client.submit(PROMPT, request_id="harbour-1")).joined


async def test_progress_shows_only_within_its_own_attempt(client, bus, patient):
    pen = Pen(bus)
    async with client.follow(WHO.request_id) as events:
        await client.snapshot(WHO.request_id)  # a round trip: the server knows who listens
        await pen.step(90, n=1)  # early: it waits for its `started`
        await pen.write(STARTED)
        assert [(await anext(events)).n for _ in range(2)] == [1, 1]
        await pen.step(50)  # falls: stale
        await pen.step(95)
        assert (await anext(events)).progress_percent == 95
        await pen.write(RELEASED)
        await pen.step(96)  # of an attempt that is over
        await pen.write(STARTED)
        assert [(await anext(events)).n for _ in range(2)] == [2, 3]
        await pen.step(5)
        await pen.step(97, n=1)
        await pen.step(6)
        shown = [await anext(events) for _ in range(2)]
        assert [(event.n, event.progress_percent) for event in shown] == [(3, 5), (3, 6)]
        await pen.write(COMPLETED)
        await pen.step(99, n=3)
        async with asyncio.timeout(10):
            assert [event.n async for event in events] == [4]


async def test_a_late_watcher_sees_the_last_progress(client, bus, patient):
    await serve_snapshots(bus)
    pen = Pen(bus)
    await pen.write(STARTED)
    await pen.step(40)
    async with client.follow(WHO.request_id, after=1) as events:
        assert (await anext(events)).progress_percent == 40


async def test_kinds_from_the_future_are_stepped_over(client, bus, patient):
    pen = Pen(bus)
    await pen.write(STARTED)
    paused = {"id": "x", "n": 2, "kind": "paused", "status": "processing", "attempt": 1}
    await pen.bus.store(subjects.chain(WHO, "paused"), msgspec.json.encode(paused))
    pen.n, pen._seq = 2, pen._seq + 1
    await pen.write(COMPLETED)
    assert await watched(client) == [("started", 1), ("completed", 3)]


async def test_a_snapshot_says_what_is_known(client, bus):
    assert await client.snapshot(WHO.request_id) is None
    await client.submit(PROMPT, request_id=WHO.request_id)
    snapshot = await client.snapshot(WHO.request_id)
    assert (snapshot.status, snapshot.request.prompt) == ("queued", PROMPT)
    await serve_snapshots(bus)
    assert (await client.snapshot(WHO.request_id)) == snapshot
    assert await client.snapshot("nobody-asked") is None


@contextmanager
def refused(code: ErrorCode, detail: str) -> Iterator[None]:
    with pytest.raises(ContractError) as error:
        yield
    assert (error.value.body.code, error.value.body.detail) == (code, detail)


async def test_a_request_that_breaks_the_contract_is_refused_before_it_is_sent(client):
    with refused(ErrorCode.INVALID_REQUEST, "$.options.seed"):
        await client.submit(PROMPT, seed=-1)
    with refused(ErrorCode.INVALID_REQUEST, "$.options.quality"):
        await client.submit(PROMPT, quality="best")
    with refused(ErrorCode.FORBIDDEN, "$.requester"):
        await client.submit(replace(examples.REQUEST_MINIMAL, requester="L9.99.99"))
    with refused(ErrorCode.INVALID_REQUEST, "$.requester"):
        async with connect_client(agent="L2-05-03"):
            pass
