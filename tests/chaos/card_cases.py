"""Directed cases on a whole fake machine: the card, its LLM, the clouds and their money.

The workers are those of `tests.hurried_worker`, on the doubles of `tests.doubles.machine`; what
holds at the end is read from these and, for every request, judged by the auditor.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Any

from agent.bus import books, state
from agent.bus.connection import connect
from agent.core.card import Debt
from tests.chaos.bill import balance
from tests.chaos.lab import LOOK_EVERY_S, Asked, Lab, Verdict, lab, start
from tests.chaos.plan import Order
from tests.chaos.site import CLOCK, Program
from tests.chaos.trial import Result
from tests.doubles.machine import Machine

Verdicts = AsyncGenerator[Verdict, None]
HURRIED = ("tests.hurried_worker", "worker")
LLM = "llama2:13b"
KEEP_ALIVE_S = 9000.0
KEEP_ALIVE_OFF_S = 5.0
BACK_S = 120.0
ACTS = ("writedebt", "unloadmodels", "freecomfyui", "reload", "cleardebt")
JOB = ("append started", "draw", "append completed", "settle")
POINTS = tuple(
    f"{when} {what}"
    for what in (*(f"act {act}" for act in ACTS), *JOB)
    for when in ("before", "after")
)
LANES = ("critical", "high", "medium", "low")
SQUARE: dict[str, Any] = {"aspect_ratio": "1:1", "quality": "standard"}


@asynccontextmanager
async def on_machine(
    asked: Asked, name: str, **settings: Any
) -> AsyncIterator[tuple[Lab, Machine]]:
    """Run a lab and a machine for a case."""
    async with lab(asked, name) as here, Machine(**settings) as machine:
        yield here, machine


async def worker(here: Lab, machine: Machine, name: str = "w1", **settings: str) -> Program:
    """Prepare a worker on the machine."""
    wanted = machine.environment() | {"MMG_SKETCH": "off", "MMG_SLOTS": "cpu:2,cloud:4"}
    return await here.here.add(name, HURRIED, settings=wanted | settings)


def asks(here: Lab, lane: str, *, top: dict[str, Any] | None = None, **options: Any) -> Order:
    """Make a request with these options."""
    small = {"width": 256, "height": 256, "steps": 4}
    chosen = options if "aspect_ratio" in options else small | options
    order = here.order(lane)
    assert order.body is not None, "a good request has a body"
    order.body.update(top or {})
    order.body["options"] = chosen
    return order


def note(result: Result, rule: str, what: str) -> None:
    """Add a violation of the case itself."""
    result.violations.append({"rule": rule, "who": "", "what": what})


class Watch:
    """Looks again and again how much of the LLM's keep-alive is left: before it went, and after."""

    def __init__(self, machine: Machine) -> None:
        self.off_s: list[float] = []
        """By how much what was left differed, at each return of the LLM."""
        self.machine = machine
        self._last_s = 0.0
        self._was_away = False

    @property
    def left_s(self) -> float:
        """What is left now; 0: it is not loaded, or is being unloaded."""
        runner = self.machine.ollama.runners.loaded.get(LLM)
        if runner is None or runner.session_s <= 0:
            return 0.0
        return (runner.until() - CLOCK.now()).total_seconds()

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            left_s = self.left_s
            if left_s > 0 and self._was_away:
                self.off_s.append(round(abs(left_s - self._last_s), 3))
            self._was_away = left_s <= 0
            self._last_s = left_s or self._last_s
            await asyncio.sleep(LOOK_EVERY_S)


# --- the LLM is back -----------------------------------------------------------------------------


async def debts(asked: Asked) -> Verdicts:
    """A worker dies at each step between unload and reload; the next one brings the LLM back."""
    times = asked.times or 50
    points = [point for point in POINTS if asked.only in point]
    site = {"llm": LLM, "keep_alive_s": KEEP_ALIVE_S, "comfyui": {"step_ms": 5}}
    async with on_machine(asked, "debts", **site) as (here, machine):
        watch = Watch(machine)
        program = await worker(here, machine)
        async with asyncio.TaskGroup() as group:
            looking = group.create_task(watch.run(), name="watch")
            took_s = [
                await _killed_at(points[number % len(points)], here, program, watch)
                for number in range(times)
            ]
            looking.cancel()
        result, said = await here.verdict("debts")
        result.times_s = took_s
        result.faults = {"kill worker": len(program.kills), "LLM away": len(watch.off_s)}
        result.notes["keep_alive_off_s"] = max(watch.off_s, default=0.0)
        for off_s in watch.off_s:
            if off_s > KEEP_ALIVE_OFF_S:
                note(result, "keep_alive", f"{off_s} s off, at most {KEEP_ALIVE_OFF_S}")
        if sorted(machine.ollama.runners.loaded) != [LLM]:
            note(result, "tenant", f"loaded: {sorted(machine.ollama.runners.loaded)}")
        yield result, said


async def _killed_at(point: str, here: Lab, program: Program, watch: Watch) -> float:
    """Let a worker die there; return after how long of the next one's life the LLM is back."""

    async def is_back() -> bool:
        return watch.left_s > 0 and not await owes(here, watch.machine)

    clock = asyncio.get_running_loop()
    program.start(point)
    await program.ready()
    await here.ask([asks(here, "high", quality="high")])
    await here.until(lambda: not program.running, f"a death {point}", 20)
    program.note_death()
    program.start()
    await program.ready()
    began_s = clock.time()
    await here.until_settled(care=False)
    await here.until(is_back, f"the LLM after a death {point}", BACK_S)
    took_s = round(clock.time() - began_s, 3)
    program.term(None)
    await program.gone()
    return took_s


async def owes(here: Lab, machine: Machine) -> bool:
    """Tell whether a debt for the card is written down."""
    async with await connect(here.here.urls, "auditor") as bus:
        debt = await state.read_as(bus, f"debt.{machine.card.uuid}", Debt)
    return debt is not None and bool(debt.owed)


# --- the clouds ----------------------------------------------------------------------------------


async def local_only(asked: Asked) -> Verdicts:
    """Requests that may not leave the house do not, whatever becomes of ComfyUI and the card."""
    times = asked.times or 1000
    site = {"clouds": ("stability", "openai"), "llm": LLM}
    async with on_machine(asked, "local-only", **site) as (here, machine):
        bounds = "critical:0,high:0,medium:0,low:0"
        settings = {"HURRY": "20", "MMG_CLOUD": "on", "MMG_MAX_WAIT_S": bounds}
        programs = [await worker(here, machine, f"w{n}", **settings) for n in (1, 2)]
        await start(*programs)
        kinds = ("premium", "high", "standard", "draft")
        orders = [
            asks(here, LANES[n % 4], top={"local_only": True}, quality=kinds[n // 4 % 4])
            for n in range(times)
        ]
        for first in range(0, times, 50):
            await here.ask(orders[first : first + 50])
            await trouble(here, machine)
            if first // 50 % 4 == 3:
                here.rng.choice(programs).kill(0.5)
        await here.until_settled(600)
        result, said = await here.verdict("local-only")
        result.faults = {"kill ComfyUI": machine.comfyui.log.restarts - 1}
        if machine.asked_clouds:
            note(result, "leak", f"the clouds were asked for {machine.asked_clouds} pictures")
        chains = await here.chains()
        for order in orders:
            end = chains[order.who][-1]
            if end.kind != "completed":
                note(result, "not_drawn", f"{order.who}: {end.kind} {end.body.get('error')}")
        yield result, said


async def trouble(here: Lab, machine: Machine) -> None:
    """Let something go wrong on the machine, and mend it."""
    match here.rng.randrange(4):
        case 0:
            await machine.comfyui.die()
            await asyncio.sleep(here.rng.uniform(0, 0.3))
            await machine.comfyui.restart()
        case 1:
            machine.card.fault = "driver_gone"
            await asyncio.sleep(here.rng.uniform(0, 0.5))
            machine.card.fault = None
        case 2:
            machine.comfyui.trap("oom", times=2)
        case _:
            await asyncio.sleep(here.rng.uniform(0, 0.3))


async def to_the_cloud(asked: Asked) -> Verdicts:
    """While ComfyUI is down every request that may go to the cloud gets its image there."""
    times = asked.times or 100
    async with on_machine(asked, "to-the-cloud", clouds=("stability", "openai")) as (here, machine):
        program = await worker(here, machine)
        await start(program)
        await machine.comfyui.die()
        orders = [asks(here, LANES[n % 4], **SQUARE) for n in range(times)]
        await here.ask(orders[: times // 2])
        await here.until_settled(300)
        await machine.stability.stop()
        await here.ask(orders[times // 2 :])
        await here.until_settled(300)
        await machine.comfyui.restart()
        result, said = await here.verdict("to-the-cloud")
        chains = await here.chains()
        drawn = [str(chains[order.who][-1].body.get("engine")) for order in orders]
        result.faults = {f"drawn by {name}": drawn.count(name) for name in sorted(set(drawn))}
        wanted = ["stability"] * (times // 2) + ["openai"] * (times - times // 2)
        if drawn != wanted:
            note(
                result,
                "not_drawn",
                str([o.who for o, d, w in zip(orders, drawn, wanted, strict=True) if d != w]),
            )
        yield result, said


async def money(asked: Asked) -> Verdicts:
    """After kills in paid calls books and bill agree, but for what is listed as unknown.

    Request by request: see `tests.chaos.bill`.
    """
    times = asked.times or 100
    slow = {"draw_s": 0.2, "calls_max": 10_000, "credit_usd": 1000.0}
    site = {"clouds": ("stability", "openai"), "stability": slow, "openai": slow}
    budgets = dict.fromkeys(("DAY", "REQUEST", "REQUESTER"), "1000")
    async with on_machine(asked, "money", **site) as (here, machine):
        settings = {f"MMG_CLOUD_{name}_USD": usd for name, usd in budgets.items()}
        settings["HURRY"] = "60"
        programs = [await worker(here, machine, f"w{n}", **settings) for n in (1, 2)]
        await start(*programs)
        await machine.comfyui.die()
        prompts: dict[str, str] = {}
        traps = ("error", "proxy", "cut", "garbage", "rate_limit", "filtered")
        for begun in range(0, times, 5):
            orders = []
            for number in range(begun, begun + 5):
                prompt = f"a red cube, number {number:04}"
                lane = here.rng.choice(LANES)
                orders.append(asks(here, lane, top={"prompt": prompt}, **SQUARE))
                prompts[prompt] = orders[-1].who
            await here.ask(orders)
            await asyncio.sleep(here.rng.uniform(0, 0.3))
            if here.rng.random() < 0.5:
                here.rng.choice(machine.clouds).trap(here.rng.choice(traps))
            if here.rng.random() < 0.5:
                here.rng.choice(programs).kill(0.2)
            here.here.look_after()
        await here.until_settled(300)
        async with await connect(here.here.urls, "auditor") as bus:
            found = await books.read_money(bus)
        result, said = await here.verdict("money")
        charges = [charge for cloud in machine.clouds for charge in cloud.ledger]
        balanced = balance(found, charges, prompts)
        result.faults = {"kill worker": sum(len(p.kills) for p in programs)}
        result.notes["usd"] = asdict(balanced)
        for sentence in balanced.wrong:
            note(result, "money", sentence)
        yield result, said


CARD_CASES: dict[str, Callable[[Asked], Verdicts]] = {
    "debts": debts,
    "local-only": local_only,
    "money": money,
    "to-the-cloud": to_the_cloud,
}
