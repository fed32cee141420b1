"""Goal: on a site with keys nobody can do what is not theirs, whatever they publish.

Method: a real nats-server with the configuration that `mmg key` makes; attackers with real keys,
who send exactly the message in question; afterwards the streams are read by somebody who may.
"""

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack

import pytest
from nats.aio.msg import Msg

from agent.bus.cancel import serve_cancels
from agent.bus.connection import ApiError, Bus
from agent.bus.lanes import Lanes
from agent.bus.snapshot import serve_snapshots
from agent.client import connect as connect_client
from agent.clock import SystemClock
from agent.site.rights import ROLES
from tests.site_rig import (
    ALICE,
    BOB,
    People,
    Site,
    deaf,
    refused,
    requests_in,
    settled,
    site_in,
    stored,
)

BODY = json.dumps({"type": "image", "prompt": "A lighthouse"}).encode()
LINK = json.dumps({"kind": "completed", "n": 1, "request_id": "cover-1"}).encode()
STREAMS = ("MMG_REQUESTS", "MMG_EVENTS", "MMG_PROGRESS", "KV_mmg_state")


@pytest.fixture
async def site(tmp_path) -> AsyncIterator[Site]:
    async with site_in(tmp_path) as running:
        yield running


@pytest.fixture
async def people(site) -> AsyncIterator[People]:
    async with AsyncExitStack() as stack:
        yield People(site, stack)


async def ask_for(bus: Bus, agent: str, request_id: str, lane: str = "low") -> int:
    """Store a good request; return its sequence."""
    subject = f"mmg.request.{lane}.{agent.replace('.', '-')}.{request_id}"
    return (await bus.store(subject, BODY)).seq


def inbox_of(role: str) -> str:
    return f"_INBOX_{'client' if role == 'operator' else role}.stolen"


async def test_forbidden_to_publish_as_another_agent(people):
    alice, operator = await people.get(ALICE), await people.get("operator")
    for subject in (
        "mmg.request.low.L2-02.cover-1",
        "mmg.request.low.user.cover-1",
        "mmg.cancel.L2-02.cover-1",
        "mmg.snapshot.L2-02.cover-1",
        "mmg.request.low.L2-01.cover.1",
        "mmg.request.low.L2-01",
    ):
        assert await refused(alice, subject, BODY), subject
    assert await stored(operator, "MMG_REQUESTS") == 0
    await ask_for(alice, ALICE, "cover-1")
    assert await stored(operator, "MMG_REQUESTS") == 1


async def test_forbidden_to_publish_above_ones_priority(people):
    alice, bob = await people.get(ALICE), await people.get(BOB)
    assert await refused(alice, "mmg.request.critical.L2-01.cover-1", BODY)
    for lane in ("high", "medium", "low"):
        await ask_for(alice, ALICE, f"cover-{lane}", lane)
    await ask_for(bob, BOB, "cover-1", "critical")
    assert await stored(await people.get("operator"), "MMG_REQUESTS") == 4


async def test_forbidden_to_forge_a_link(people):
    worker = await people.get("worker")
    for who in (ALICE, "operator", "gateway", "monitor", "provision"):
        forger = await people.get(who)
        for subject in (
            "mmg.chain.L2-01.cover-1.completed",
            "mmg.chain.L2-01.cover-1.started",
            "mmg.chain.L2-02.cover-1.failed",
            "mmg.event.L2-02.cover-1.completed",
            "mmg.progress.L2-02.cover-1",
            "mmg.preview.L2-02.cover-1",
            "mmg.queued.low.L2-02.cover-1",
        ):
            assert await refused(forger, subject, LINK), (who, subject)
    assert await stored(worker, "MMG_EVENTS") == 0
    assert await stored(worker, "MMG_PROGRESS") == 0


async def test_forbidden_to_cancel_by_writing_or_to_speak_as_a_person(people):
    for who in (ALICE, "monitor", "provision"):
        forger = await people.get(who)
        for subject in (
            "mmg.chain.L2-01.cover-1.cancelled",
            "mmg.asset.L2-01.cover-1.dismissed",
            "mmg.alert.disk",
            "mmg.rpc.pause",
            "mmg.rpc.intake.w1",
            "mmg.worker.w1",
            "$KV.mmg_state.intake",
            "$JS.API.CONSUMER.PAUSE.MMG_REQUESTS.lane-low",
        ):
            assert await refused(forger, subject, b"{}"), (who, subject)


async def test_forbidden_to_read_what_is_not_ones_own(people):
    alice, bob, worker = [await people.get(who) for who in (ALICE, BOB, "worker")]
    for subject in (
        "mmg.event.L2-01.>",
        "mmg.event.>",
        "mmg.progress.L2-01.cover-1",
        "mmg.preview.*.*",
        "mmg.chain.>",
        "mmg.request.>",
        "mmg.queued.>",
        "mmg.>",
        ">",
        "_INBOX_worker.>",
        "_R_.>",
        "$JS.>",
        "$KV.mmg_state.>",
    ):
        assert await deaf(bob, subject), subject
    for stream in STREAMS:
        for call in ("STREAM.INFO", "STREAM.MSG.GET", "DIRECT.GET", "CONSUMER.LIST"):
            assert await refused(bob, f"$JS.API.{call}.{stream}", b"{}", reply="_INBOX.bob")
    heard: list[str] = []

    async def hear(msg: Msg) -> None:
        heard.append(msg.subject)

    await alice.subscribe("mmg.event.L2-01.*.*", hear)
    await alice.subscribe("mmg.progress.L2-01.*", hear)
    await settled(alice)
    await worker.publish("mmg.progress.L2-01.cover-1", b"{}")
    await worker.store("mmg.chain.L2-01.cover-1.started", LINK)
    await worker.store("mmg.chain.L2-02.cover-1.started", LINK)
    await settled(worker)
    await settled(alice)
    assert heard == ["mmg.progress.L2-01.cover-1", "mmg.event.L2-01.cover-1.started"]


async def test_forbidden_to_hear_prompts_where_only_figures_are_needed(people):
    for who in ("monitor", "provision"):
        looker = await people.get(who)
        for subject in ("mmg.event.>", "mmg.chain.>", "mmg.request.>", "mmg.preview.>"):
            assert await deaf(looker, subject), (who, subject)
        for call in ("STREAM.MSG.GET", "DIRECT.GET"):
            subject = f"$JS.API.{call}.MMG_EVENTS"
            assert await refused(looker, subject, b"{}", reply=inbox_of(who)), (who, call)


async def test_forbidden_to_take_requests_or_to_steal_their_acks(people):
    worker = await people.get("worker")
    seq = await ask_for(await people.get("operator"), "user", "cover-1")
    lanes = Lanes(worker)
    await lanes.open()
    delivery = await lanes.next()
    assert delivery is not None
    assert delivery.seq == seq
    pull = "$JS.API.CONSUMER.MSG.NEXT.MMG_REQUESTS.lane-low"
    for who in (ALICE, "operator", "gateway", "monitor", "provision"):
        thief = await people.get(who)
        assert await refused(thief, delivery._reply, b"+ACK"), who
        assert await refused(thief, delivery._reply, b"+TERM gone"), who
        no_wait = b'{"batch":1,"no_wait":true}'
        assert await refused(thief, pull, no_wait, reply=inbox_of(who)), who
    assert await stored(worker, "MMG_REQUESTS") == 1
    await delivery.ack()
    await settled(worker)
    assert await stored(worker, "MMG_REQUESTS") == 0
    await lanes.close()


async def test_forbidden_to_purge_or_to_delete(people):
    worker = await people.get("worker")
    seq = await ask_for(await people.get("operator"), "user", "cover-1")
    calls = [f"STREAM.{verb}.{stream}" for verb in ("PURGE", "DELETE") for stream in STREAMS]
    calls += [f"STREAM.MSG.DELETE.{stream}" for stream in STREAMS[1:]]
    copies = [f"STREAM.{verb}.{stream}" for verb in ("SNAPSHOT", "RESTORE") for stream in STREAMS]
    calls += ["ACCOUNT.PURGE.MMG", "META.LEADER.STEPDOWN"]
    calls += ["CONSUMER.DELETE.MMG_REQUESTS.lane-low", "CONSUMER.DELETE.MMG_EVENTS.webhooks"]
    calls += ["CONSUMER.CREATE.MMG_REQUESTS", "CONSUMER.CREATE.MMG_EVENTS.x.mmg.chain.>"]
    made = [f"STREAM.{verb}.{stream}" for verb in ("CREATE", "UPDATE") for stream in STREAMS]
    body = json.dumps({"seq": seq}).encode()
    for who in (ALICE, *ROLES):
        destroyer = await people.get(who)
        mine = [*calls, *(made if who != "provision" else [])]
        # Backup may; onto a stream that is there the server restores nothing.
        mine += [one for one in copies if who != "backup" or one.endswith("PROGRESS")]
        mine += [] if who == "worker" else ["STREAM.MSG.DELETE.MMG_REQUESTS"]
        for call in mine:
            subject = f"$JS.API.{call}"
            assert await refused(destroyer, subject, body, reply=inbox_of(who)), (who, call)
    assert await stored(worker, "MMG_REQUESTS") == 1


async def test_forbidden_to_purge_by_a_header(people):
    alice, worker = await people.get(ALICE), await people.get("worker")
    await ask_for(await people.get(BOB), BOB, "cover-1")
    await worker.store("$KV.mmg_state.intake", b"{}")
    for rollup in ("all", "sub"):
        header = {"Nats-Rollup": rollup}
        with pytest.raises(ApiError):
            await alice.store("mmg.request.low.L2-01.cover-1", BODY, header)
        with pytest.raises(ApiError):
            await worker.store("$KV.mmg_state.intake", b"{}", header)
        with pytest.raises(ApiError):
            await worker.store("mmg.chain.L2-01.cover-1.started", LINK, header)
    assert await stored(worker, "MMG_REQUESTS") == 1
    assert await stored(worker, "KV_mmg_state") == 1


MADE_UP = (
    "mmg.chain.L2-02.cover-1.completed",
    "mmg.event.L2-02.cover-1.completed",
    "mmg.progress.L2-02.cover-1",
    "mmg.request.critical.L2-01.raised",
    "mmg.request.critical.L2-02.raised",
    "$JS.API.STREAM.PURGE.MMG_EVENTS",
    "$JS.API.STREAM.DELETE.MMG_REQUESTS",
    "$KV.mmg_state.intake",
    "_INBOX_worker.1",
    "_INBOX_gateway.1",
    "_INBOX_client.1",
)
"""Reply subjects that an asker makes up, to have somebody else publish there."""


async def overhear(people: People) -> list[tuple[str, str]]:
    """Let everybody listen on the made-up subjects where they may; return what they will hear."""
    heard: list[tuple[str, str]] = []
    for who in (BOB, "worker", "gateway", "operator"):
        listener = await people.get(who)

        async def hear(msg: Msg, who: str = who) -> None:
            heard.append((who, msg.subject))

        for subject in MADE_UP:
            await listener.subscribe(subject, hear)
        await settled(listener)
    return heard


async def nothing_happened(
    people: People, heard: Sequence[object], requests: Sequence[str]
) -> None:
    """Fail if a message reached a stream or somebody else; `requests` are those stored."""
    worker = await people.get("worker")
    await settled(worker)
    assert heard == []
    for stream in STREAMS[1:]:
        assert await stored(worker, stream) == 0
    assert await requests_in(worker) == sorted(requests)


async def test_forbidden_to_have_the_servers_answer_reflected(people):
    """The answer to a publish is JSON that the server publishes wherever the asker says."""
    alice = await people.get(ALICE)
    heard = await overhear(people)
    asked = [f"mmg.request.low.L2-01.cover-{n}" for n, _ in enumerate(MADE_UP)]
    for subject, reply in zip(asked, MADE_UP, strict=True):
        await alice.publish(subject, BODY, reply=reply)
        with pytest.raises(ApiError):  # It is stored already: the error is JSON as well.
            await alice.store(subject, BODY)
        await alice.publish(subject, BODY, reply=reply)
        await settled(alice)
    await nothing_happened(people, heard, asked)


async def test_forbidden_to_have_an_answer_of_ours_injected(people):
    """Who answers publishes with more rights than who asks."""
    alice, worker, gateway = [await people.get(who) for who in (ALICE, "worker", "gateway")]
    answers = [
        await serve_cancels(worker, "w1", SystemClock()),
        await serve_snapshots(worker),
        await serve_snapshots(gateway),
    ]
    await settled(worker)
    await settled(gateway)
    heard = await overhear(people)
    for reply in MADE_UP:
        for subject in ("mmg.cancel.L2-01.cover-1", "mmg.snapshot.L2-01.cover-1"):
            await alice.publish(subject, b"{}", reply=reply)
            answer = await alice.request(subject, b"{}")
            assert json.loads(answer.data)["code"] == "not_found", reply
    await settled(worker)
    await settled(gateway)
    await nothing_happened(people, heard, [])
    for answered in answers:
        await answered.unsubscribe()


async def test_forbidden_to_be_led_astray_by_a_reply_subject_inside_our_account(people):
    """Not even a person with the operator's key makes a worker write somebody's link."""
    worker, operator = await people.get("worker"), await people.get("operator")
    answers = await serve_snapshots(worker)
    await settled(worker)
    for reply in MADE_UP[:8]:
        await operator.publish("mmg.snapshot.L2-01.cover-1", reply=reply)
    answer = await operator.request("mmg.snapshot.L2-01.cover-1")
    assert json.loads(answer.data)["code"] == "not_found"
    await nothing_happened(people, [], [])
    for reply in ("$JS.API.STREAM.PURGE.MMG_EVENTS", "_INBOX.1", "_INBOX_provision.1"):
        assert await refused(worker, reply), reply
    await answers.unsubscribe()


async def test_forbidden_to_squat_an_id(site, people):
    """Message ids belong to all agents together; the same id of two agents is two requests."""
    alice, worker = await people.get(ALICE), await people.get("worker")
    await alice.store("mmg.request.low.L2-01.x", BODY, {"Nats-Msg-Id": "L2-02.cover-1"})
    await ask_for(alice, ALICE, "cover-1")
    answers = await serve_snapshots(worker)
    await settled(worker)
    url, login = site.server.url, site.login(BOB)
    async with connect_client(url, agent=BOB, login=login) as bob:
        ticket = await bob.submit("A lighthouse", request_id="cover-1", priority="LOW")
        assert not ticket.joined
        again = await bob.submit("A lighthouse", request_id="cover-1", priority="LOW")
        assert again.joined
    wanted = ["L2-01.cover-1", "L2-01.x", "L2-02.cover-1"]
    assert await requests_in(worker) == [f"mmg.request.low.{one}" for one in wanted]
    await answers.unsubscribe()
