"""Goal: no engine draws past its breaker, no picture is bought past a budget, nothing is forgotten.

Method: a real nats-server, an engine that costs what it says, and turnstiles of several workers.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from msgspec import structs
from structlog.testing import capture_logs

from agent.bus import books
from agent.bus.connection import Bus, connect
from agent.clock import OffsetClock, SystemClock
from agent.core.breaker import CLOSED
from agent.core.faults import CancelledFault, EngineDownFault, NoEngineFault
from agent.core.money import BudgetExceededFault, Limits, PaidFault, UnknownOutcomeFault
from agent.engines.protocol import Generation
from agent.turnstile import Turnstile
from tests.cloud_rig import order
from tests.doubles.engine import ScriptedEngine
from tests.rig import until

PRICE_USD = 0.04
WHO = "L2-05-03.r1"


class Shop(ScriptedEngine):
    """An engine in the cloud, at one price."""

    def __init__(self):
        super().__init__("stability")
        self.slot = "cloud"

    def price_usd(self, _job):
        return PRICE_USD


SHOP, LOCAL = Shop(), ScriptedEngine("comfyui")
BOUGHT = Generation(pictures=(), model_used="m", seed=1, cost_usd=0.03)


@pytest.fixture
async def bus(server) -> AsyncIterator[Bus]:
    async with await connect([server.url], "turnstile") as connected:
        yield connected


@asynccontextmanager
async def turnstile(bus, worker="w1", **limits) -> AsyncIterator[Turnstile]:
    stile = Turnstile(bus, OffsetClock(SystemClock()), worker, Limits(**limits))
    await stile.open((LOCAL, SHOP))
    async with asyncio.TaskGroup() as group:
        task = group.create_task(stile.run())
        yield stile
        task.cancel()


def attempt(number=1, request_id="r1"):
    return structs.replace(order(request_id), attempt=number)


async def tries(stile, engine, outcome, number=1):
    ticket = await stile.enter(engine, attempt(number))
    async with asyncio.timeout(5):
        await stile.leave(ticket, outcome).wait()


async def test_money_is_held_while_a_call_is_under_way_and_corrected_after_it(bus):
    async with turnstile(bus, day_usd=1.0) as stile:
        ticket = await stile.enter(SHOP, attempt())
        assert (await books.read_money(bus)).held_usd == pytest.approx(PRICE_USD)
        await stile.leave(ticket, BOUGHT).wait()
        now = await books.read_money(bus)
        assert now.held_usd == 0.0
        assert now.spent_usd == pytest.approx(0.03)
        assert stile.spent_usd(WHO) == pytest.approx(0.03)


async def test_a_refused_call_gives_its_money_back_and_an_unknown_one_keeps_it(bus):
    async with turnstile(bus, day_usd=1.0) as stile:
        await tries(stile, SHOP, PaidFault("refused"))
        assert (await books.read_money(bus)).spent_usd == 0.0
        await tries(stile, SHOP, UnknownOutcomeFault("lost", spent_usd=PRICE_USD), 2)
        await tries(stile, SHOP, asyncio.CancelledError(), 3)
        now = await books.read_money(bus)
        assert now.held_usd == 0.0
        assert now.spent_usd == pytest.approx(2 * PRICE_USD)


async def test_what_no_budget_allows_is_refused_and_seen_by_routing(bus):
    async with turnstile(bus, request_usd=0.05) as stile:
        facts = structs.replace(SHOP.facts, slot="cloud")
        assert stile.seen(facts, WHO, PRICE_USD).is_ready
        await tries(stile, SHOP, BOUGHT)
        with pytest.raises(BudgetExceededFault, match="budget of one request"):
            await stile.enter(SHOP, attempt(2))
        seen = stile.seen(facts, WHO, PRICE_USD)
        assert not seen.is_ready
        assert "budget" in seen.trouble
        assert stile.seen(facts, "L2-05-03.r2", PRICE_USD).is_ready


async def test_three_faults_in_a_row_close_the_way_for_all_workers(bus):
    async with turnstile(bus) as one, turnstile(bus, "w2") as other:
        for number in range(3):
            await tries(one, LOCAL, EngineDownFault("away"), number)
        seen = one.seen(LOCAL.facts, WHO, 0.0)
        assert not seen.is_ready
        assert seen.closed_until is not None
        await until(lambda: not other.seen(LOCAL.facts, WHO, 0.0).is_ready, "the other hears it")
        with pytest.raises(EngineDownFault, match="gets no jobs"):
            await other.enter(LOCAL, attempt(9))


async def test_a_breaker_that_opens_is_told_once_however_many_read_it(bus):
    stile = Turnstile(bus, OffsetClock(SystemClock()), "w1", Limits())
    await stile.open((LOCAL,))
    now = SystemClock().now()
    for number in range(3):
        await books.failed(bus, LOCAL.name, f"job{number}", EngineDownFault.code, now)
    with capture_logs() as said:
        async with asyncio.TaskGroup() as group:
            for _ in range(5):
                group.create_task(stile._read())
    assert [line["event"] for line in said] == ["breaker.open"]


async def test_faults_of_requests_and_cancels_do_not_count(bus):
    async with turnstile(bus) as stile:
        for number in range(4):
            await tries(stile, LOCAL, NoEngineFault("cannot"), number)
            await tries(stile, LOCAL, CancelledFault("stopped"), number)
        assert stile.seen(LOCAL.facts, WHO, 0.0).is_ready


async def test_a_success_closes_the_breaker_again(bus):
    async with turnstile(bus) as stile:
        for number in range(2):
            await tries(stile, LOCAL, EngineDownFault("away"), number)
        await tries(stile, LOCAL, BOUGHT, 3)
        assert await books.read_breaker(bus, "comfyui") == CLOSED


async def test_what_an_earlier_process_of_the_worker_held_counts_as_spent(bus):
    async with turnstile(bus, day_usd=1.0) as stile:
        await stile.enter(SHOP, attempt())
    async with turnstile(bus, day_usd=1.0):
        now = await books.read_money(bus)
        assert now.held_usd == 0.0
        assert now.spent_usd == pytest.approx(PRICE_USD)


async def test_who_takes_over_counts_as_spent_what_the_lost_worker_held(bus):
    async with turnstile(bus, day_usd=1.0) as lost, turnstile(bus, "w2", day_usd=1.0) as heir:
        await lost.enter(SHOP, attempt())
        await heir.forfeit(WHO, 1, "stability")
        assert (await books.read_money(bus)).spent_usd == pytest.approx(PRICE_USD)


async def test_a_job_on_the_card_asks_the_server_nothing_while_all_is_well(bus):
    async with turnstile(bus) as stile:
        before = bus.nc.stats["out_msgs"]
        ticket = await stile.enter(LOCAL, attempt())
        stile.leave(ticket, BOUGHT)
        assert bus.nc.stats["out_msgs"] == before
