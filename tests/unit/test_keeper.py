"""Goal: the keeper of a card loses no word between the arbiter and a job, whenever it comes.

Method: the real keeper and arbiter with a meter that shows what the test says; moments that lie
within one pass of the loop are made by calling in that pass.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from agent.clock import SystemClock
from agent.core.card import Card, ComfyUI, Debt, Occupancy, Reading
from agent.core.leases import Ask, Grant, Need, Refuse
from agent.core.replaying import Happening
from agent.gpu.keeper import Keeper
from contracts.requests import Priority, Quality
from tests.rig import until

CLOCK = SystemClock()
ROOM = Card(total_mib=24576, free_mib=20000)


class Drawer:
    """A ComfyUI that holds nothing."""

    async def occupancy(self) -> Occupancy | None:
        return None

    async def free(self) -> str:
        return ""


class NoDebts:
    """Nothing is owed to anybody."""

    async def read(self, card: str) -> Debt | None:
        return None

    async def write(self, card: str, debt: Debt) -> None:
        raise AssertionError(f"{card} owes {debt}")

    async def clear(self, card: str) -> None:
        raise AssertionError(f"{card} owed something")


class HandMeter:
    """Shows what it is told."""

    def __init__(self) -> None:
        self.drawer = Drawer()
        self.tenants: tuple[Any, ...] = ()
        self.card_id = "GPU-1"
        self.card: Card | None = ROOM
        self.readings = 0

    async def read(self) -> Reading:
        self.readings += 1
        missing = "" if self.card is not None else "it is gone"
        return Reading(taken_at=CLOCK.now(), card=self.card, comfyui=ComfyUI(), missing=missing)

    def close(self) -> None:
        self.card = None


class Holder:
    """A job that notes what it hears."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def revoked(self, reason: str) -> None:
        self.heard.append(f"revoked: {reason}")

    def preempted(self, by: str, reason: str) -> None:
        self.heard.append(f"preempted by {by}: {reason}")


def ask(job: str, priority: Priority = Priority.LOW, run_s: float = 60.0) -> Ask:
    return Ask(
        job=job,
        priority=priority,
        quality=Quality.STANDARD,
        need=Need(model="sdxl-1.0", vram_mib=12288),
        stored_at=CLOCK.now(),
        max_wait_s=600,
        run_s=run_s,
    )


@asynccontextmanager
async def kept() -> AsyncIterator[tuple[Keeper, HandMeter]]:
    """Run a keeper."""
    meter: Any = HandMeter()
    keeper = Keeper("card", meter, NoDebts(), CLOCK)
    await keeper.open()
    async with asyncio.TaskGroup() as group:
        running = group.create_task(keeper.run(), name="keeper")
        yield keeper, meter
        running.cancel()


async def granted_then(event: Callable[[], Happening]) -> tuple[Holder, Keeper]:
    """Let something happen when a job was granted the card, before the job hears of that."""
    meter: Any = HandMeter()
    keeper = Keeper("card", meter, NoDebts(), CLOCK)
    holder = Holder()
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(keeper.lease(ask("low"), holder))
        await asyncio.sleep(0)  # It has asked now, and waits for a reading.
        keeper._happen(Happening(name="reading", reading=await meter.read()))
        assert keeper.has("low")
        assert not waiting.done()
        keeper._happen(event())
    assert isinstance(waiting.result(), Grant)
    return holder, keeper


async def test_a_card_that_goes_in_the_moment_of_the_grant_is_told_to_the_job() -> None:
    def gone() -> Happening:
        found = Reading(taken_at=CLOCK.now(), card=None, comfyui=ComfyUI(), missing="it is gone")
        return Happening(name="reading", reading=found)

    holder, keeper = await granted_then(gone)
    assert holder.heard == ["revoked: it is gone"]
    assert not keeper.has("low")


async def test_a_critical_that_comes_in_the_moment_of_the_grant_interrupts_the_job() -> None:
    now = ask("now", Priority.CRITICAL)
    holder, _ = await granted_then(lambda: Happening(name="request", ask=now))
    (heard,) = holder.heard
    assert heard.startswith("preempted by now")


async def test_out_of_memory_on_a_card_that_is_gone_is_answered() -> None:
    async with kept() as (keeper, meter):
        holder = Holder()
        assert isinstance(await keeper.lease(ask("low"), holder), Grant)
        meter.card = None
        keeper.look()
        await until(lambda: holder.heard, "the word that it is gone")
        async with asyncio.timeout(1):
            answer = await keeper.oom("low", holder)
        assert isinstance(answer, Refuse)
        assert answer.why == "no_card"


async def test_the_first_lease_is_watched_although_no_reading_was_wanted_for_it() -> None:
    async with kept() as (keeper, meter):
        holder = Holder()
        assert isinstance(await keeper.lease(ask("low"), holder), Grant)
        assert keeper.peak_mib("low") is None
        meter.card = Card(total_mib=24576, free_mib=9000)
        await until(lambda: keeper.peak_mib("low"), "a reading during the run", 5)
        assert keeper.peak_mib("low") == ROOM.free_mib - 9000
