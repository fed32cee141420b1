"""Goal: an append is stored once or refused, whatever races it; history reads back byte for byte.

Method: real appenders on a real server, each a connection of its own.
"""

import asyncio
from collections import Counter
from datetime import UTC, datetime
from uuid import UUID, uuid4

from agent.bus import chain
from agent.bus.connection import Bus, connect
from agent.core.job import EMPTY, Place, StoredRequest
from agent.core.links import Author, Pen
from agent.core.routing import Candidate
from agent.core.steps import Stored, Superseded, Unknown
from agent.embedded import EmbeddedServer
from contracts import codec
from contracts.events import Started
from contracts.requests import Priority, Request
from contracts.subjects import Identity

RACES = 1000
NOW = datetime(2026, 1, 1, tzinfo=UTC)
CANDIDATE = Candidate(engine="sketch", model="sketch", slot="cpu", reason="test")


def pen(who: Identity, nonce: UUID, place: Place = EMPTY) -> Pen:
    """Return a pen for one writer."""
    stored = StoredRequest(
        who=who,
        priority=Priority.HIGH,
        seq=1,
        stored_at=NOW,
        request=Request(type="image", prompt="x"),
    )
    return Pen(stored=stored, author=Author(worker="w", nonce=nonce), place=place, now=NOW)


def start(who: Identity, nonce: UUID) -> Started:
    """Return the first link of one writer."""
    return pen(who, nonce).started(CANDIDATE)


async def test_thousand_races_of_two_appenders_have_one_winner_each(
    server: EmbeddedServer,
) -> None:
    wins: Counter[str] = Counter()

    async def race(bus: Bus, who: Identity) -> str:
        outcome = await chain.append(bus, who, start(who, uuid4()), 0)
        return type(outcome).__name__

    async with await connect([server.url], "a") as left, await connect([server.url], "b") as right:
        for number in range(RACES):
            who = Identity("L2-01", f"race{number}")
            async with asyncio.TaskGroup() as group:
                both = (group.create_task(race(left, who)), group.create_task(race(right, who)))
            results = sorted(task.result() for task in both)
            assert results == ["Stored", "Superseded"]
            wins["left" if both[0].result() == "Stored" else "right"] += 1
    assert sum(wins.values()) == RACES


async def test_link_offered_again_after_a_lost_answer_counts_as_stored(
    server: EmbeddedServer,
) -> None:
    who, nonce = Identity("L2-01", "again"), uuid4()
    async with await connect([server.url], "a") as bus:
        first = await chain.append(bus, who, start(who, nonce), 0)
        second = await chain.append(bus, who, start(who, nonce), 0)
        assert isinstance(first, Stored)
        assert second == first
        assert len(await chain.read_chain(bus, who)) == 1


async def test_refused_writer_learns_the_head_it_lost_to(server: EmbeddedServer) -> None:
    who = Identity("L2-01", "lost")
    winner = start(who, uuid4())
    async with await connect([server.url], "a") as bus:
        await chain.append(bus, who, winner, 0)
        outcome = await chain.append(bus, who, start(who, uuid4()), 0)
    assert isinstance(outcome, Superseded)
    assert outcome.head.link.id == winner.id


async def test_append_to_a_server_that_is_gone_ends_unknown_and_not_in_an_error(
    server: EmbeddedServer,
) -> None:
    who = Identity("L2-01", "gone")
    async with await connect([server.url], "a") as bus:
        await server.stop()
        outcome = await chain.append(bus, who, start(who, uuid4()), 0, patience_s=0.2)
    assert isinstance(outcome, Unknown)


async def test_history_is_read_back_in_order_and_byte_for_byte(server: EmbeddedServer) -> None:
    who, nonce = Identity("L2-01", "history"), uuid4()
    async with await connect([server.url], "a") as bus:
        first = start(who, nonce)
        stored = await chain.append(bus, who, first, 0)
        assert isinstance(stored, Stored)
        place = Place(seq=stored.seq, n=1, attempt=1)
        second = pen(who, nonce, place).released("test")
        await chain.append(bus, who, second, stored.seq)
        links = await chain.read_chain(bus, who)
        other = await chain.read_chain(bus, Identity("L2-01", "histor"))
    assert [link.data for link in links] == [codec.encode(first), codec.encode(second)]
    assert other == []
