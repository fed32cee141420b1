"""Goal: who asks to be told the end is told it, signed, at least once, whoever is killed.

Method: a real nats-server, real chains, a real receiver; the clock is the test's own, so that the
pauses of a day take no time.
"""

from collections.abc import AsyncIterator
from datetime import timedelta
from functools import partial

import msgspec
import pytest
from aiohttp import web
from structlog.testing import capture_logs

from agent.bus import facts, hooks
from agent.bus.connection import Bus, connect
from agent.bus.provision import Plan, provision
from agent.core.webhook import Hook
from agent.embedded import EmbeddedServer
from agent.gateway import webhooks
from contracts import codec
from contracts.subjects import Identity
from tests.doubles.receiver import SECRET, Receiver, receiver
from tests.integration.gateway_rig import Story
from tests.rig import running, until
from tests.webhook_rig import WHO, MovedClock, asked, becomes, hook_of, settings, telling


@pytest.fixture
async def bus(server: EmbeddedServer) -> AsyncIterator[Bus]:
    async with await connect([server.url], "gateway", role="gateway") as connected:
        yield connected


@pytest.fixture
async def there() -> AsyncIterator[Receiver]:
    async with receiver() as one:
        yield one


async def unsettled(bus: Bus) -> int:
    """Return how many ends are handed out, or still to be."""
    data = await bus.api("CONSUMER.INFO.MMG_EVENTS.webhooks")
    found = msgspec.json.decode(data)
    return int(found["num_pending"]) + int(found["num_ack_pending"])


# --- the good path ------------------------------------------------------------------------------


async def test_the_end_is_told_once_signed_and_byte_for_byte(bus, there):
    story = await asked(bus, there.url("/hook?x=1"))
    async with telling(bus, there):
        await story.started()
        await story.completed()
        hook = await becomes(bus, "delivered")
        assert await until(lambda: there.told, "the receiver") == there.told[:1]
        await until(lambda: unsettled_none(bus), "nothing left")
    (told,) = there.told
    assert told.is_signed()
    end = codec.decode_link(story.written[-1])
    assert told.headers["webhook-id"] == end.id
    assert abs(int(told.headers["webhook-timestamp"]) - hook.at.timestamp()) < 30
    assert told.body.endswith(b'"data":' + story.written[-1] + b"}")
    assert told.json["type"] == "mmg.completed"
    assert told.headers["content-type"] == "application/json"
    assert hook.tries == 1


async def unsettled_none(bus: Bus) -> bool:
    return await unsettled(bus) == 0


async def test_ends_without_a_webhook_are_taken_off_the_list_and_nobody_is_told(bus, there):
    async with telling(bus, there):
        story = Story(bus, WHO)
        await story.started()
        await story.completed()
        await until(lambda: unsettled_none(bus), "nothing left")
    assert there.told == []


async def test_ends_from_before_are_told_by_the_gateway_that_comes(bus, there):
    stories = [await asked(bus, there.url(f"/{n}"), Identity("L2-01", f"r{n}")) for n in range(20)]
    for story in stories:
        await story.started()
        await story.completed()
    async with telling(bus, there):
        for story in stories:
            await becomes(bus, "delivered", story.who)
    assert sorted(told.path for told in there.told) == sorted(f"/{n}" for n in range(20))


# --- receivers that fail ------------------------------------------------------------------------


async def test_a_failed_try_is_repeated_when_it_is_due_with_the_same_id_and_a_new_timestamp(
    bus, there
):
    there.answers = [500, 302, 204]
    clock = MovedClock()
    story = await asked(bus, there.url())
    await story.started()
    await story.completed()
    async with telling(bus, there, clock):
        await until(lambda: len(there.told) == 1, "the first try")
        hook = await until(lambda: hook_tried(bus, 1), "the note of it")
        assert 5 <= (hook.due_at - hook.at).total_seconds() <= 5.6
        looked = await handed_out(bus)
        await until(partial(handed_out_after, bus, looked + 3), "three more looks at it")
        assert len(there.told) == 1
        clock.moved += timedelta(seconds=6)
        hook = await until(lambda: hook_tried(bus, 2), "the second try")
        assert 300 <= (hook.due_at - hook.at).total_seconds() <= 331
        clock.moved += timedelta(seconds=331)
        await becomes(bus, "delivered")
    ids = {told.headers["webhook-id"] for told in there.told}
    times = [int(told.headers["webhook-timestamp"]) for told in there.told]
    assert (len(there.told), len(ids)) == (3, 1)
    assert times[1] - times[0] >= 5
    assert times[2] - times[1] >= 300
    assert all(told.is_signed() for told in there.told)


async def handed_out(bus: Bus) -> int:
    """Return how often an end was handed out, to anybody."""
    found = msgspec.json.decode(await bus.api("CONSUMER.INFO.MMG_EVENTS.webhooks"))
    return int(found["delivered"]["consumer_seq"])


async def handed_out_after(bus: Bus, count: int) -> bool:
    return await handed_out(bus) > count


async def hook_tried(bus: Bus, tries: int) -> Hook | None:
    hook = await hook_of(bus)
    return hook if hook.tries == tries else None


async def test_after_ten_tries_it_is_undeliverable_until_a_person_wants_it_again(bus, there):
    there.answers = [503]
    clock = MovedClock()
    story = await asked(bus, there.url())
    await story.started()
    await story.completed()
    async with telling(bus, there, clock):
        for tries in range(1, 10):
            await until(partial(hook_tried, bus, tries), f"try {tries}")
            clock.moved += timedelta(days=1, hours=3)
        hook = await becomes(bus, "undeliverable")
        assert (hook.tries, hook.reason, len(there.told)) == (10, "it answers 503", 10)
        assert [who for who, _ in await hooks.listed(bus)] == [WHO]
        await until(lambda: unsettled_none(bus), "nothing left")
        there.answers = [204]
        await facts.tell(bus, WHO, facts.WEBHOOK_RETRIED, by="ann", clock=clock)
        assert (await becomes(bus, "delivered")).tries == 1
    assert there.told[-1].headers["webhook-id"] == there.told[0].headers["webhook-id"]
    assert there.told[-1].body == there.told[0].body


async def test_410_ends_it_and_retry_after_is_obeyed(bus, there):
    async def busy(_: web.Request) -> web.Response:
        return web.Response(status=429, headers={"Retry-After": "7200"})

    there.answers = [busy, 410]
    clock = MovedClock()
    story = await asked(bus, there.url())
    await story.started()
    await story.completed()
    async with telling(bus, there, clock):
        hook = await until(lambda: hook_tried(bus, 1), "the first try")
        assert (hook.due_at - hook.at).total_seconds() == 7200
        clock.moved += timedelta(seconds=7201)
        hook = await becomes(bus, "undeliverable")
    assert hook.tries == 2
    assert "410" in hook.reason


async def test_a_receiver_that_does_not_answer_delays_nobody_else(bus, there):
    there.hangs.set()
    hanging = [Identity("L2-01", f"h{n}") for n in range(8)]
    async with receiver() as other:
        for who in hanging:
            story = await asked(bus, there.url(), who)
            await story.started()
            await story.completed()
        async with telling(bus, there, settings=settings(there, other)):
            await until(lambda: len(there.told) == 4, "the tries that one host may have")
            story = await asked(bus, other.url())
            await story.started()
            await story.completed()
            await becomes(bus, "delivered")
            assert len(there.told) == 4
            there.freed.set()
            for who in hanging:
                await becomes(bus, "delivered", who)


async def test_without_a_secret_nothing_is_sent_and_the_list_says_why(bus, there):
    story = await asked(bus, there.url())
    await story.started()
    await story.completed()
    async with telling(bus, there, settings=settings(there, secrets=())):
        hook = await becomes(bus, "undeliverable")
    assert hook.reason.startswith("no secret signs for L2.01")
    assert there.told == []


# --- gateways that die --------------------------------------------------------------------------


async def test_two_gateways_tell_each_end_once(server, bus, there):
    async with (
        await connect([server.url], "other", role="gateway") as second,
        telling(bus, there),
        telling(second, there),
    ):
        for n in range(30):
            story = await asked(bus, there.url(f"/{n}"), Identity("L2-01", f"r{n}"))
            await story.started()
            await story.completed()
        for n in range(30):
            await becomes(bus, "delivered", Identity("L2-01", f"r{n}"))
    assert sorted(told.path for told in there.told) == sorted(f"/{n}" for n in range(30))


async def test_what_a_gateway_held_when_it_died_is_told_by_another(server, bus, there):
    """The first gateway is cut off in mid-try: the server hands the end out again."""
    await short_ack_wait(bus)
    there.hangs.set()
    story = await asked(bus, there.url())
    await story.started()
    await story.completed()
    async with await connect([server.url], "dying", role="gateway") as dying, telling(dying, there):
        await until(lambda: there.told, "a try that hangs")
    assert (await hook_of(bus)).tries == 0
    there.hangs.clear()
    async with telling(bus, there):
        await becomes(bus, "delivered")
    first, second = there.told
    assert first.headers["webhook-id"] == second.headers["webhook-id"]


async def short_ack_wait(bus: Bus) -> None:
    """Let the server wait a second only for a gateway that says nothing more."""
    found = msgspec.json.decode(await bus.api("CONSUMER.INFO.MMG_EVENTS.webhooks"))
    config = {**found["config"], "ack_wait": 1_000_000_000}
    body = {"stream_name": "MMG_EVENTS", "config": config, "action": "update"}
    await bus.api("CONSUMER.DURABLE.CREATE.MMG_EVENTS.webhooks", body)


async def test_a_gateway_killed_in_the_middle_of_a_try_is_replaced_by_the_next_process(
    server, bus, there, tmp_path
):
    await short_ack_wait(bus)
    there.hangs.set()
    configured = {
        "MMG_NATS_URL": server.url,
        "MMG_HTTP_PORT": "0",
        "MMG_WEBHOOK_SECRET": SECRET,
        "MMG_WEBHOOK_ALLOW": there.host,
    }
    story = await asked(bus, there.url())
    await story.started()
    await story.completed()
    async with running(tmp_path / "first", "gateway", **configured) as first:
        await until(lambda: there.told, "a try that hangs")
        await first.kill()
    there.hangs.clear()
    async with running(tmp_path / "second", "gateway", **configured):
        await becomes(bus, "delivered")
    assert {told.headers["webhook-id"] for told in there.told} == {
        codec.decode_link(story.written[-1]).id
    }
    assert all(told.is_signed() for told in there.told)


async def test_a_gateway_from_before_the_consumer_waits_for_it(bus, there, monkeypatch):
    monkeypatch.setattr(webhooks, "PAUSE_S", 0.05)
    await bus.api("CONSUMER.DELETE.MMG_EVENTS.webhooks")
    story = await asked(bus, there.url())
    await story.started()
    await story.completed()
    with capture_logs() as lines:
        async with telling(bus, there):
            await until(lambda: lines, "a word about it")
            await provision(bus, Plan())
            await becomes(bus, "delivered")
    told = [line["reason"] for line in lines if line["event"] == "webhook.waits"]
    assert len(told) == 1
    assert "mmg provision" in told[0]


async def test_a_server_that_is_killed_forgets_neither_the_webhook_nor_when_it_is_due(
    server, bus, there, monkeypatch
):
    """It then hands the end out again too early, after its ack_wait: what is due, we know."""
    monkeypatch.setattr(webhooks, "PAUSE_S", 0.05)
    await short_ack_wait(bus)
    there.answers = [500, 204]
    clock = MovedClock()
    story = await asked(bus, there.url())
    await story.started()
    await story.completed()
    async with telling(bus, there, clock):
        await until(partial(hook_tried, bus, 1), "the first try")
        assert server._process is not None
        server._process.kill()
        await server.wait()
        await server.start()
        await until(lambda: bus.connected, "the connection")
        await until(partial(handed_out_after, bus, await handed_out(bus) + 1), "looks at it")
        assert len(there.told) == 1
        clock.moved += timedelta(seconds=6)
        assert (await becomes(bus, "delivered")).tries == 2
