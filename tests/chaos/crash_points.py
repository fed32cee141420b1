"""The case of crash points: a worker dies between each two steps, and a healthy one takes over.

Four victims die a round, each with a request in hand; then the heir, paused meanwhile, is let in.
Every named point needs a situation in which its step happens: the stages.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import replace

from tests.chaos.auditor import Violation
from tests.chaos.lab import Asked, Lab, Verdict, lab, start
from tests.chaos.plan import CRASH_POINTS, STEPS_ALWAYS, Order
from tests.chaos.site import Program
from tests.chaos.small_disk import FULL, SLOW
from tests.rig import until

VICTIMS = 4
TIMES = 20
ROUNDS_MAX = 15
DEATH_S = 20.0
SLOW_S = 1.2
LATE_S = 1.2


class Round:
    """What a stage works with: the victims of this round, not started yet, and their point."""

    def __init__(self, here: Lab, victims: list[Program], point: str) -> None:
        self.here = here
        self.victims = victims
        self.point = point

    async def start(self, point: str | None = None) -> None:
        """Start the victims, ready to die."""
        await start(*self.victims, point=f"{point or self.point}:1")

    async def ask(self, *orders: Order) -> None:
        """Publish requests and wait until they are acknowledged."""
        await self.here.ask(list(orders))

    def orders(self) -> list[Order]:
        """Make a request for each victim."""
        return [self.here.order() for _ in self.victims]

    async def started(self, orders: list[Order]) -> None:
        """Wait until all of them draw."""
        await self.here.all_started(orders)

    async def deaths(self, at_least: int = 1) -> None:
        """Wait until the victims are dead; those that another one robbed live on."""

        def dead() -> int:
            return sum(not victim.running for victim in self.victims)

        with contextlib.suppress(AssertionError):  # Too few hits in all are judged at the end.
            await until(lambda: dead() >= at_least, f"deaths {self.point}", DEATH_S)
        with contextlib.suppress(AssertionError):
            await until(lambda: dead() == len(self.victims), "all deaths", DEATH_S / 10)


Stage = Callable[[Round], Awaitable[None]]


async def _plain(here: Round) -> None:
    await here.start()
    await here.ask(*here.orders())
    await here.deaths()


async def _refused(here: Round) -> None:
    await here.start()
    orders = [replace(o, body={"type": "video", "prompt": "a film"}) for o in here.orders()]
    await here.ask(*orders)
    await here.deaths()


async def _late(here: Round) -> None:
    orders = [replace(o, body={**(o.body or {}), "deadline_s": 1}) for o in here.orders()]
    await here.ask(*orders)
    await asyncio.sleep(LATE_S)
    await here.start()
    await here.deaths()


async def _disk_full(here: Round) -> None:
    here.here.here.disk(FULL, on=True)
    await here.start()
    await here.ask(*here.orders())
    await here.deaths()
    here.here.here.disk(FULL, on=False)


async def _stopped(here: Round) -> None:
    await here.start()
    orders = here.orders()
    await here.ask(*orders)
    await here.started(orders)
    for victim in here.victims:
        victim.term(None, dies=True)
    await here.deaths()


async def _cancelled(here: Round) -> None:
    await here.start()
    orders = here.orders()
    await here.ask(*orders)
    await here.started(orders)
    for order in orders:
        await here.here.outside.cancel(order)
    await here.deaths()


async def _cancelled_while_storing(here: Round) -> None:
    here.here.here.disk(SLOW, on=True)
    await here.start()
    orders = here.orders()
    await here.ask(*orders)
    await here.started(orders)
    await asyncio.sleep(SLOW_S / 4)  # By now they store, which takes two files: a second.
    for order in orders:
        await here.here.outside.cancel(order)
    await here.deaths()
    here.here.here.disk(SLOW, on=False)


async def _taken_over(here: Round) -> None:
    await here.start("after append started")
    await here.ask(*here.orders())
    await here.deaths(len(here.victims))
    here.here.note_deaths(here.victims)
    await here.start()
    await here.deaths()


async def _published_twice(here: Round) -> None:
    await here.start()
    orders = here.orders()
    await here.ask(*orders)
    await here.started(orders)
    await here.ask(*(replace(order, lane="high") for order in orders))
    await here.deaths()


STAGES: dict[str, tuple[Stage, float]] = {
    **dict.fromkeys(STEPS_ALWAYS, (_plain, 0.0)),
    "append failed": (_refused, 0.0),
    "append expired": (_late, 0.0),
    "append retrying": (_disk_full, 0.0),
    "waituntil": (_disk_full, 0.0),
    "append released": (_stopped, SLOW_S),
    "handback": (_stopped, SLOW_S),
    "readhead": (_cancelled, SLOW_S),
    "discard": (_cancelled_while_storing, 0.0),
    "readhistory": (_taken_over, 0.0),
    "asklane": (_published_twice, SLOW_S),
}
"""For each step: the stage that makes it happen, and how long victims draw there."""


async def crash_points(asked: Asked) -> AsyncGenerator[Verdict, None]:
    """Die at each point at least so often."""
    for point in CRASH_POINTS:
        if asked.only and asked.only not in point:
            continue
        async with lab(asked, f"crash {point}") as here:
            yield await _one_point(here, point, asked.times or TIMES)


async def _one_point(here: Lab, point: str, times: int) -> Verdict:
    stage, slow_s = STAGES[point.partition(" ")[2]]
    settings = {"MMG_DRAIN_S": "0", "MMG_SLOTS": "cpu:2" if stage is _published_twice else "cpu:1"}
    victims = [await here.worker(f"v{n}", slow_s=slow_s, **settings) for n in range(1, VICTIMS + 1)]
    heir = await here.worker("heir", MMG_SLOTS="cpu:2")
    await start(heir)
    rounds = 0
    hits = 0
    while hits < times and rounds < ROUNDS_MAX and not here.found:
        rounds += 1
        await here.operator("pause", "heir")
        await stage(Round(here, victims, point))
        here.note_deaths(victims)
        await here.operator("resume", "heir")
        await here.until_settled(care=False)
        for victim in victims:
            victim.kill(None)
            await victim.gone()
        hits = sum(victim.points_hit.count(f"{point}:1") for victim in victims)
    if hits < times:
        here.found.append(Violation("case", "", f"{point} was reached {hits} times, not {times}"))
    result, said = await here.verdict("crash-points")
    result.faults = {point: hits}
    return result, said
