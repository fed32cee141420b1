"""Goal: who follows a request gets every link once, in order, byte for byte, whatever happens.

Method: a real gateway on a real nats-server; chains are written link by link from outside, and
what arrives is compared with the bytes that were written.
"""

import asyncio
import os
import signal

import aiohttp
import pytest

from agent.bus.snapshot import ask_snapshot
from agent.gateway import following, relay
from contracts import subjects
from tests.integration.gateway_rig import frame, frames, rig, until


@pytest.fixture
async def gate(tmp_path):
    async with rig(tmp_path) as made:
        yield made


async def test_who_joins_early_and_who_joins_late_get_the_same_bytes_in_order(gate):
    story = await gate.story(request_id="r1")
    async with gate.socket("r1") as early:
        await story.started()
        await story.released()
        async with gate.socket("r1") as middle:
            await story.started()
            await story.completed()
            seen = [await frames(early), await frames(middle)]
            assert (early.close_code, middle.close_code) == (1000, 1000)
    async with gate.socket("r1") as late:
        seen.append(await frames(late))
        assert late.close_code == 1000
    assert seen == [story.written] * 3
    assert len(story.written) == 4


async def test_after_skips_what_the_client_has(gate):
    story = await gate.story(request_id="r1")
    await story.started()
    await story.released()
    async with gate.socket("r1", "?after=1") as resumed, gate.socket("r1", "?after=3") as far:
        await story.started()
        await story.completed()
        assert await frames(resumed) == story.written[1:]
        assert await frames(far) == story.written[3:]
    async with gate.socket("r1", "?after=4") as done:
        assert await frames(done) == []
        assert done.close_code == 1000


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("nothing", 404, "not_found"),
        ("nothing?requester=L2.05.03", 404, "not_found"),
        ("not.a.token", 400, "invalid_request"),
        ("*", 400, "invalid_request"),
        ("r1?requester=L2-05-03", 400, "invalid_request"),
        ("r1?after=-1", 400, "invalid_request"),
        ("r1?after=x", 400, "invalid_request"),
        ("r1?wait=61", 400, "invalid_request"),
        ("r1?wait=9999999999999999999999", 400, "invalid_request"),
    ],
)
async def test_what_cannot_be_followed_is_refused_before_the_upgrade(gate, path, status, code):
    upgrade = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
    }
    found, answer, headers = await gate.ask("GET", f"/ws/multimodal/{path}", headers=upgrade)
    assert (found, answer["code"]) == (status, code)
    assert headers["Content-Type"] == "application/problem+json"


async def test_without_an_upgrade_the_address_says_what_it_is(gate):
    status, answer, headers = await gate.ask("GET", "/ws/multimodal/r1")
    assert (status, answer["code"], headers["Upgrade"]) == (426, "invalid_request", "websocket")


async def test_wait_holds_until_the_request_appears(gate):
    async with asyncio.TaskGroup() as group:
        opening = group.create_task(gate.socket("later", "?wait=30").__aenter__())
        await until(lambda: "later" in gate.gateway._relay._bells)
        assert not opening.done()
        story = await gate.story(request_id="later", requester="L2.05.03")
        socket = await opening
    await story.started()
    await story.completed()
    assert await frames(socket) == story.written
    await socket.close()


async def test_wait_ends_with_404_when_nothing_appears(gate):
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        await gate.socket("never", "?wait=1")
    assert refused.value.status == 404


async def test_progress_is_shown_only_within_its_attempt(gate):
    story = await gate.story(request_id="r1")
    async with gate.socket("r1") as socket:
        await story.started()
        assert await frame(socket) == story.written[0]
        shown = await story.progress(10)
        assert await frame(socket) == shown
        async with gate.socket("r1") as late:
            assert [await frame(late), await frame(late)] == [story.written[0], shown]
        await story.released()
        await story.progress(90, n=1)
        await story.progress(91, n=2)
        assert await frame(socket) == story.written[1]
        await story.started()
        await story.progress(95, n=1)
        shown = await story.progress(20)
        assert [await frame(socket), await frame(socket)] == [story.written[2], shown]
        await story.completed()
        await story.progress(99, n=3)
        assert await frames(socket) == story.written[3:]


async def test_a_client_that_does_not_read_is_closed_with_1013(gate, monkeypatch):
    monkeypatch.setattr(relay, "FEED_BYTES_MAX", 1_000_000)
    monkeypatch.setattr(relay, "FEED_LINKS_MAX", 4)
    story = await gate.story(request_id="r1")
    async with gate.socket("r1") as slow, gate.socket("r1") as quick:
        (feeds,) = gate.gateway._relay._feeds.values()
        first, second = tuple(feeds)
        for _ in range(40):
            await story.started("x" * 900_000)
            assert await frame(quick) == story.written[-1]
            if first.end_code or second.end_code:
                break
        got = await frames(slow)
        assert slow.close_code == 1013
        assert got == story.written[: len(got)]
        assert len(got) < len(story.written)
        assert {first.end_code, second.end_code} == {1013, None}


async def test_a_killed_server_costs_no_link_and_repeats_none(gate, tmp_path):
    story = await gate.story(request_id="r1")
    async with gate.socket("r1") as socket:
        await story.started()
        first = await frame(socket)
        os.kill(gate.server.pid, signal.SIGKILL)
        await until(lambda: not gate.bus.connected)
        story._bus = await gate.restart_server(tmp_path)
        await story.released()
        await story.started()
        await story.completed()
        assert [first, *await frames(socket)] == story.written
        assert socket.close_code == 1000
    await story._bus.close()


async def deafen(gate):
    """Make the gateway miss what is said from now on, as a lost connection would."""
    await until(lambda: feeds_of(gate) and not any(feed.missed for feed in feeds_of(gate)))
    await gate.gateway._relay._subscriptions.pop(0).unsubscribe()
    await gate.bus.flush()


async def test_links_that_were_never_heard_are_read_at_the_next_one(gate, monkeypatch):
    monkeypatch.setattr(following, "DIRECT_GET_LAG_S", 60.0)
    story = await gate.story(request_id="r1")
    async with gate.socket("r1") as socket:
        await deafen(gate)
        await story.started()
        await story.released()
        again = await gate.bus.subscribe(subjects.EVENTS_ALL, gate.gateway._relay._on_link)
        gate.gateway._relay._subscriptions.append(again)
        await gate.bus.flush()
        await story.started()
        await story.completed()
        assert await frames(socket) == story.written


async def test_after_a_reconnect_the_chain_is_read_though_nothing_follows(gate, monkeypatch):
    monkeypatch.setattr(following, "DIRECT_GET_LAG_S", 60.0)
    story = await gate.story(request_id="r1")
    async with gate.socket("r1") as socket:
        await deafen(gate)
        await story.started()
        await story.completed()
        for wake in gate.bus.on_reconnect:
            wake()
        assert await frames(socket) == story.written


@pytest.mark.parametrize("pause", ["DIRECT_GET_LAG_S", "SAFETY_LOOK_S"])
async def test_a_last_link_that_was_lost_is_found_by_looking_again(gate, monkeypatch, pause):
    for each in ("DIRECT_GET_LAG_S", "SAFETY_LOOK_S"):
        monkeypatch.setattr(following, each, 60.0 if each != pause else 0.1)
    if pause == "SAFETY_LOOK_S":
        monkeypatch.setattr(following, "DIRECT_GET_LAG_S", 0.0)
    story = await gate.story(request_id="r1")
    async with gate.socket("r1") as socket:
        await deafen(gate)
        await story.started()
        await story.completed()
        assert await frames(socket) == story.written


def feeds_of(gate):
    return [feed for feeds in gate.gateway._relay._feeds.values() for feed in feeds]


async def test_what_is_no_link_is_passed_over(gate):
    story = await gate.story(request_id="r1")
    async with gate.socket("r1") as socket:
        await gate.own.publish("mmg.event.user.r1.started", b"no json")
        await gate.own.publish("mmg.progress.user.r1", b"{}")
        await story.started()
        await story.completed()
        assert await frames(socket) == story.written


async def test_a_page_of_another_site_may_not_open_a_socket(gate):
    await gate.story(request_id="r1")
    for origin in ("http://evil.example", "null", "http://127.0.0.1:1"):
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await gate.socket("r1", origin=origin)
        assert refused.value.status == 403
    async with gate.socket("r1", origin=gate.url) as own:
        assert not own.closed


async def test_sockets_are_counted_and_bounded(gate, monkeypatch):
    monkeypatch.setattr("agent.gateway.sockets.SOCKETS_MAX", 1)
    story = await gate.story(request_id="r1")
    async with gate.socket("r1") as socket:
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await gate.socket("r1")
        assert refused.value.status == 429
        await story.started()
        await story.completed()
        await frames(socket)
    await until(lambda: gate.gateway._sockets._open == 0)


async def test_stop_closes_sockets_with_1001_within_two_seconds(gate):
    await gate.story(request_id="r1")
    async with gate.socket("r1") as reading, gate.socket("r1") as deaf:
        async with asyncio.timeout(2), asyncio.TaskGroup() as group:
            waiting = group.create_task(answer_of(gate, "/ws/multimodal/never?wait=60"))
            closing = group.create_task(goodbye(reading))
            await until(lambda: "never" in gate.gateway._relay._bells)
            await gate.gateway.stop()
        assert (closing.result().type, reading.close_code) == (aiohttp.WSMsgType.CLOSE, 1001)
        assert waiting.result() == 503
        message = await goodbye(deaf)
        assert (message.type, message.data) == (aiohttp.WSMsgType.CLOSE, 1001)


async def goodbye(socket):
    """Return what comes after all that was said of the place in the queue."""
    while True:
        message = await socket.receive()
        if message.type is not aiohttp.WSMsgType.TEXT:
            return message


async def answer_of(gate, path):
    try:
        await gate.http.ws_connect(f"{gate.url}{path}")
    except aiohttp.WSServerHandshakeError as refused:
        return refused.status


async def test_a_client_that_leaves_is_forgotten(gate):
    await gate.story(request_id="r1")
    async with gate.socket("r1"):
        assert len(feeds_of(gate)) == 1
    await until(lambda: not feeds_of(gate))
    assert gate.gateway._sockets._open == 0


async def test_two_agents_with_the_same_id_have_two_sockets(gate):
    one = await gate.story(request_id="r1", requester="L2.05.03")
    two = await gate.story(request_id="r1", requester="L3.01")
    await one.started()
    await two.started()
    await two.completed()
    await one.completed()
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        await gate.socket("r1")
    assert refused.value.status == 409
    for story in (one, two):
        async with gate.socket("r1", f"?requester={story.who.requester}") as socket:
            assert await frames(socket) == story.written


async def test_the_gateway_answers_for_snapshots_on_the_bus(gate):
    story = await gate.story(request_id="r1")
    await story.started()
    snapshot = await ask_snapshot(gate.own, story.who)
    assert snapshot is not None
    assert [bytes(link) for link in snapshot.chain] == story.written
    assert await ask_snapshot(gate.own, subjects.identity("user", "unknown")) is None
