"""Goal: many workers share one purse and one breaker, and none of them loses a cent.

Method: a real nats-server and racing writers, each with its own connection; the books are compared
with what each writer knows it spent.
"""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, timedelta

import msgspec
import pytest

from agent.bus import books, state
from agent.bus.connection import Bus, BusError, connect
from agent.core.breaker import CLOSED, Open
from agent.core.money import Books, Limits, Refusal, hold_for
from agent.embedded import EmbeddedServer
from contracts.errors import ErrorCode

TODAY = date(2026, 11, 20)
NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
WORKERS = 8
ROUNDS = 6
PRICE = 0.05


@pytest.fixture
async def bus(server: EmbeddedServer) -> AsyncIterator[Bus]:
    async with await connect([server.url], "books") as connected:
        yield connected


def hold(request: str = "a.r1", worker: str = "w1", usd: float = PRICE, attempt: int = 1):
    return hold_for(request, attempt, "stability", worker=worker, usd=usd)


async def test_nothing_written_is_nothing_spent_and_a_closed_breaker(bus: Bus):
    assert await books.read_money(bus) == Books()
    assert await books.read_breaker(bus, "stability") == CLOSED


async def test_a_price_is_held_settled_and_read_by_another_worker(bus: Bus, server):
    assert await books.reserve(bus, hold(), Limits(), TODAY) is None
    async with await connect([server.url], "other") as other:
        assert (await books.read_money(other)).held_usd == PRICE
        await books.settle(other, hold().id, 0.03, TODAY)
    found = await books.read_money(bus)
    assert (found.spent_usd, found.held_usd, found.requesters) == (0.03, 0.0, {"a": 30_000})


async def test_a_refusal_writes_nothing(bus: Bus):
    assert await books.reserve(bus, hold(), Limits(), TODAY) is None
    before = await state.read(bus, books.MONEY_KEY)
    found = await books.reserve(bus, hold(attempt=2), Limits(request_usd=0.06), TODAY)
    assert isinstance(found, Refusal)
    assert found.scope == "request"
    assert await state.read(bus, books.MONEY_KEY) == before


async def test_racing_writers_lose_nothing_and_pass_no_budget(server: EmbeddedServer):
    """Each buys, and settles, gives back or leaves a hold; the budget is for half of them."""
    limit = WORKERS * ROUNDS * PRICE / 2
    spent: list[float] = []
    left: list[str] = []
    refused: list[Refusal] = []

    async def buys(worker: int) -> None:
        async with await connect([server.url], f"w{worker}") as own:
            for number in range(ROUNDS):
                one = hold(f"a{worker}.r{number}", f"w{worker}")
                found = await books.reserve(own, one, Limits(day_usd=limit), TODAY)
                if found is not None:
                    refused.append(found)
                elif number % 3 == 0:
                    await books.settle(own, one.id, PRICE / 2, TODAY)
                    spent.append(PRICE / 2)
                elif number % 3 == 1:
                    await books.refund(own, one.id, TODAY)
                else:
                    left.append(one.id)

    async with asyncio.TaskGroup() as group:
        for worker in range(WORKERS):
            group.create_task(buys(worker), name=f"buys {worker}")
    async with await connect([server.url], "auditor") as bus:
        found = await books.read_money(bus)
    assert found.spent_usd == pytest.approx(sum(spent))
    assert sorted(one.id for one in found.holds) == sorted(left)
    assert found.spent_usd + found.held_usd <= limit
    assert len(spent) + len(left) + len(refused) <= WORKERS * ROUNDS


async def test_of_many_that_race_for_the_last_dollar_one_gets_it(server: EmbeddedServer):
    got: list[int] = []

    async def tries(worker: int) -> None:
        async with await connect([server.url], f"w{worker}") as own:
            one = hold(f"a{worker}.r1", f"w{worker}", usd=0.6)
            if await books.reserve(own, one, Limits(day_usd=1.0), TODAY) is None:
                got.append(worker)

    async with asyncio.TaskGroup() as group:
        for worker in range(WORKERS):
            group.create_task(tries(worker), name=f"tries {worker}")
    assert len(got) == 1


async def test_a_worker_that_comes_back_counts_what_it_held_as_spent(bus: Bus):
    for number, worker in ((1, "w1"), (2, "w2")):
        await books.reserve(bus, hold(f"a.r{number}", worker), Limits(), TODAY)
    await books.forfeit_lost(bus, "w1", TODAY)
    await books.forfeit_lost(bus, "w1", TODAY)
    found = await books.read_money(bus)
    assert (found.spent_usd, found.held_usd) == (PRICE, PRICE)
    await books.forfeit(bus, "a.r2.1.stability", TODAY)
    assert (await books.read_money(bus)).spent_usd == 2 * PRICE


async def test_books_of_another_version_are_not_written_over(bus: Bus):
    class Strange(msgspec.Struct):
        spent: str

    await state.write(bus, books.MONEY_KEY, Strange("much"))
    with pytest.raises(books.BooksError, match="not of this version"):
        await books.reserve(bus, hold(), Limits(), TODAY)
    entry = await state.read(bus, books.MONEY_KEY)
    assert entry is not None
    assert entry.data == b'{"spent":"much"}'


async def test_who_is_never_first_gives_up_after_a_bounded_number_of_rounds(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
):
    tried: list[int | None] = []

    async def never(_bus, key, _value, revision=None) -> int:
        tried.append(revision)
        raise state.StaleRevisionError(key)

    monkeypatch.setattr(state, "write", never)
    monkeypatch.setattr(books, "PAUSE_MAX_S", 0.0001)
    with pytest.raises(BusError, match="60 times in a row"):
        await books.reserve(bus, hold(), Limits(), TODAY)
    assert tried == [0] * books.ROUNDS_MAX


async def test_faults_told_by_racing_workers_all_count_and_one_of_them_gets_the_trial(
    server: EmbeddedServer,
):
    later = NOW + timedelta(seconds=31)
    trials: list[str] = []

    async def fails(worker: int, how_many: int) -> None:
        async with await connect([server.url], f"w{worker}") as own:
            for _ in range(how_many):
                await books.failed(own, "openai", f"j{worker}", ErrorCode.ENGINE_DOWN, NOW)

    async def asks(worker: int) -> None:
        async with await connect([server.url], f"w{worker}") as own:
            if await books.admit(own, "openai", f"j{worker}", later) is None:
                trials.append(f"j{worker}")

    async with asyncio.TaskGroup() as group:
        for worker in range(3):
            group.create_task(fails(worker, 1), name=f"fails {worker}")
    async with await connect([server.url], "auditor") as bus:
        found = await books.read_breaker(bus, "openai")
        assert (found.faults, found.until) == (3, NOW + timedelta(seconds=30))
        assert isinstance(await books.admit(bus, "openai", "j9", NOW), Open)
        async with asyncio.TaskGroup() as group:
            for worker in range(WORKERS):
                group.create_task(asks(worker), name=f"asks {worker}")
        assert len(trials) == 1
        assert (await books.read_breaker(bus, "openai")).trial == trials[0]
        await books.ended(bus, "openai", trials[0])
        assert (await books.read_breaker(bus, "openai")).trial is None
        await books.succeeded(bus, "openai")
        assert await books.read_breaker(bus, "openai") == CLOSED
        assert await books.read_breaker(bus, "stability") == CLOSED
