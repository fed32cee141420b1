"""Goal: each alert is raised once when something begins and cleared once when it is over.

Method: the alarms of one worker on a real nats-server, fed by a keeper's moments and by a clock
that the test sets; what was raised is read from the stream.
"""

from collections.abc import AsyncIterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent.alarms import BREAKER_S, ORPHANS_S, PASSES_S, Alarms
from agent.alerts import Alerts
from agent.bus import books, history
from agent.bus.connection import Bus, connect
from agent.clock import OffsetClock, SystemClock
from agent.core.acts import Act
from agent.core.breaker import Breaker
from agent.core.card import Card, Loaded, Owed, Reading, Tenant
from agent.core.leases import Alert as Told
from agent.core.leases import Ask, ClearDebt, Lease, Need
from agent.core.money import Limits, hold_for
from agent.core.replaying import Happening, remember
from agent.desk import usual_picture
from agent.embedded import EmbeddedServer
from agent.gpu.keeper import Keeper, Moment
from agent.gpu.meter import Meter
from agent.slots import Slots
from agent.tools import Tools
from contracts import subjects
from contracts.events import Alert
from contracts.requests import Priority, Quality
from tests.doubles.engine import ScriptedEngine
from tests.worker_rig import tools_for

CARD = "http://127.0.0.1:8188"


class Site:
    """The alarms of one worker and what they watch."""

    def __init__(self, tools: Tools, keeper: Keeper) -> None:
        self.tools, self.keeper = tools, keeper
        self.alerts = Alerts(tools.bus, tools.worker, tools.clock)
        self.alarms = Alarms(tools, self.alerts, usual_picture(tools))

    def tell(self, *decisions: Any, **before: Any) -> None:
        """Let the keeper's arbiter have decided this."""
        moment = Moment(
            at=self.tools.clock.now(),
            card=CARD,
            event=Happening(name="tick"),
            before={**remember(self.keeper.arbiter), **before},
            decisions=decisions,
        )
        for hear in self.keeper.on_decided:
            hear(moment)

    async def later(self, seconds: float) -> None:
        self.tools.clock.offset_s += seconds
        await self.alarms.run_once()

    async def said(self) -> list[str]:
        """Judge, and return all that was raised (+) and cleared (-) so far."""
        await self.alarms.run_once()
        bus = self.tools.bus
        kept = await history.read(bus, subjects.STREAM_EVENTS, subjects.alert("*"), 100)
        found = [msgspec.json.decode(one.data, type=Alert) for one in kept]
        return [f"{'+' if one.state == 'raised' else '-'}{one.name}" for one in found]


class Quiet:
    """A ComfyUI that does not answer: nothing here measures."""

    async def occupancy(self) -> None:
        return None

    async def free(self) -> str:
        return "away"


class NoDebts:
    """Debts that nobody asks for."""

    async def read(self, card: str) -> None:
        return None

    async def write(self, card: str, debt: Any) -> None:
        raise AssertionError("nobody owes anything here")

    async def clear(self, card: str) -> None:
        raise AssertionError("nobody owes anything here")


@pytest.fixture
async def bus(server: EmbeddedServer) -> AsyncIterator[Bus]:
    async with await connect([server.url], "w1") as one:
        yield one


@pytest.fixture
async def site(bus: Bus, tmp_path: Path) -> Site:
    engine = ScriptedEngine()
    tools = await tools_for(bus, tmp_path, "w1", (engine,))
    clock = OffsetClock(SystemClock())
    meter = Meter(None, Quiet(), (), "w1", clock)
    keeper = Keeper(CARD, meter, NoDebts(), clock)
    slots = Slots(tools.slots.places, {CARD: keeper}, clock)
    return Site(msgspec.structs.replace(tools, slots=slots, clock=clock), keeper)


def lease(job: str) -> Lease:
    ask = Ask(
        job=job,
        priority=Priority.LOW,
        quality=Quality.HIGH,
        need=Need(model="", vram_mib=0),
        stored_at=SystemClock().now(),
        max_wait_s=1,
    )
    return Lease(ask=ask, need=ask.need, granted_at=ask.stored_at, downgraded=False)


def act(kind: Any, number: int) -> Act:
    now = SystemClock().now()
    return Act(kind=kind, number=number, begun_at=now, until=now + timedelta(seconds=10))


async def test_a_card_that_is_lost_is_told_once_and_its_return_once(site: Site) -> None:
    site.keeper.arbiter.lost = "it fell off the bus"
    site.tell(Told(what="card_lost", reason="it fell off the bus"))
    assert await site.said() == ["+card_lost"]
    assert await site.said() == ["+card_lost"]
    (raised,) = site.alerts.raised
    assert "fell off the bus" in raised.message
    site.keeper.arbiter.lost = None
    assert await site.said() == ["+card_lost", "-card_lost"]


async def test_a_card_that_was_never_this_workers_is_no_alert(site: Site) -> None:
    site.keeper.meter.nvml = NeverSeen()  # type: ignore[assignment]
    site.keeper.arbiter.lost = "another worker has it"
    site.tell(Told(what="card_lost", reason="another worker has it"))
    assert await site.said() == []


class NeverSeen:
    """NVML that has not read a card."""

    facts = None


@pytest.mark.parametrize("what", ["free_failed", "unload_failed", "tenant_grew"])
async def test_what_happened_once_is_over_after_ten_minutes(site: Site, what: Any) -> None:
    site.tell(Told(what=what, reason="it did"))
    assert await site.said() == [f"+{what}"]
    await site.later(PASSES_S - 5)
    assert await site.said() == [f"+{what}"]
    await site.later(10)
    assert await site.said() == [f"+{what}", f"-{what}"]


@pytest.mark.parametrize(
    ("kind", "what"), [("freeing", "free_failed"), ("unloading", "unload_failed")]
)
async def test_an_act_that_succeeds_ends_the_alert_about_the_last_one(
    site: Site, kind: Any, what: Any
) -> None:
    site.tell(Told(what=what, reason="it did"), act=act(kind, 1))
    assert await site.said() == [f"+{what}"]
    site.keeper.arbiter.act = act(kind, 2)
    site.tell(act=None)
    assert await site.said() == [f"+{what}"]
    site.keeper.arbiter.act = None
    site.tell(act=act(kind, 2))
    assert await site.said() == [f"+{what}", f"-{what}"]


@pytest.mark.parametrize(
    ("what", "attribute"),
    [("card_unknown", "_is_unknown"), ("critical_starves", "_has_starved")],
)
async def test_how_things_are_is_told_for_as_long_as_they_are_so(
    site: Site, what: Any, attribute: str
) -> None:
    vars(site.keeper.arbiter)[attribute] = True
    site.tell(Told(what=what, reason="it is so"))
    await site.later(PASSES_S * 2)
    assert await site.said() == [f"+{what}"]
    vars(site.keeper.arbiter)[attribute] = False
    assert await site.said() == [f"+{what}", f"-{what}"]


async def test_an_llm_that_is_not_back_is_told_until_it_is(site: Site) -> None:
    now = site.tools.clock.now()
    owed = (Owed(tenant="ollama", model="llama3:8b", vram_mib=6700, keep_alive_s=None),)
    site.keeper.arbiter.debt = msgspec.structs.replace(_debt(), owed=owed, unloaded_at=now)
    site.tell(Told(what="reload_failed", reason="not listed"))
    await site.later(PASSES_S * 2)
    assert await site.said() == ["+reload_failed"]
    site.keeper.arbiter.debt = None
    site.tell(ClearDebt(reason="they are back"))
    assert await site.said() == ["+reload_failed", "-reload_failed"]


def _debt() -> Any:
    from agent.core.card import Debt  # noqa: PLC0415

    return Debt(owed=(), unloaded_at=SystemClock().now())


async def test_a_slow_llm_is_told_while_a_part_of_it_is_on_the_cpu(site: Site) -> None:
    def seen(vram_mib: int) -> Reading:
        model = Loaded(name="llama3:8b", size_mib=6700, vram_mib=vram_mib)
        tenant = Tenant(name="ollama", loaded=(model,))
        card = Card(total_mib=24576, free_mib=100)
        now = site.tools.clock.now()
        return Reading(taken_at=now, card=card, comfyui=None, tenants=(tenant,))

    site.keeper.reading = seen(3000)
    site.tell(Told(what="partial_offload", reason="it will be slow"))
    assert await site.said() == ["+partial_offload"]
    site.keeper.reading = seen(6700)
    assert await site.said() == ["+partial_offload", "-partial_offload"]


async def test_a_tenant_that_grows_because_an_operator_loads_is_no_news(site: Site) -> None:
    site.keeper.arbiter.lease = lease("operator.load")
    site.tell(Told(what="tenant_grew", reason="it grew"))
    assert await site.said() == []
    site.keeper.arbiter.lease = lease("a.r1#1")
    site.tell(Told(what="tenant_grew", reason="it grew"))
    assert await site.said() == ["+tenant_grew"]


async def test_a_breaker_is_told_when_it_stays_open_for_minutes(site: Site) -> None:
    (name,) = site.tools.engines
    until = site.tools.clock.now() + timedelta(seconds=30)
    site.tools.turnstile.breakers[name] = Breaker(faults=3, open_s=30, until=until)
    assert await site.said() == []
    await site.later(BREAKER_S + 1)
    assert await site.said() == [f"+breaker_{name}"]
    site.tools.turnstile.breakers[name] = Breaker()
    assert await site.said() == [f"+breaker_{name}", f"-breaker_{name}"]


async def test_a_budget_that_buys_no_picture_any_more_is_told_until_it_does(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    (engine,) = site.tools.engines.values()
    monkeypatch.setattr(engine, "slot", "cloud")
    monkeypatch.setattr(engine, "price_usd", lambda _job: 0.04)
    turnstile = site.tools.turnstile
    turnstile.limits = Limits(day_usd=1.0)
    assert await site.said() == []
    today = date.fromisoformat(f"{site.tools.clock.now():%Y-%m-%d}")
    hold = hold_for("a.r1", 1, engine.name, worker="w1", usd=0.97)
    assert await books.reserve(site.tools.bus, hold, turnstile.limits, today) is None
    turnstile.books = await books.read_money(site.tools.bus)
    assert await site.said() == ["+budget_spent"]
    turnstile.limits = Limits(day_usd=2.0)
    assert await site.said() == ["+budget_spent", "-budget_spent"]


async def test_a_worker_that_starts_clears_what_it_raised_before(site: Site) -> None:
    site.tell(Told(what="unload_failed", reason="a chat holds it"))
    assert await site.said() == ["+unload_failed"]
    again = Site(site.tools, site.keeper)
    await again.alerts.open()
    assert [one.name for one in again.alerts.raised] == ["unload_failed"]
    assert await again.said() == ["+unload_failed", "-unload_failed"]
    await site.alerts.set("engine_gone", "down for 6 min")
    third = Site(site.tools, site.keeper)
    await third.alerts.open()
    assert (await third.said())[-1] == "+engine_gone"
    await third.later(ORPHANS_S + 1)
    assert (await third.said())[-1] == "-engine_gone", "no engine of that name is watched any more"
    other = Alerts(site.tools.bus, "w2", site.tools.clock)
    await other.open()
    assert other.raised == ()
