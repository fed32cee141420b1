"""Directed cases: one situation, many times, measured. Each yields results with what was said."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace
from datetime import datetime

from tests.chaos import card_cases, crash_points, ledger_case
from tests.chaos.auditor import Link
from tests.chaos.lab import Asked, Lab, Verdict, lab, start
from tests.chaos.plan import Order
from tests.chaos.report import percentile
from tests.chaos.site import CLOCK
from tests.chaos.slow_worker import POISON

Verdicts = AsyncGenerator[Verdict, None]
TAKEOVER_SLACK_S = 2.0
HANDOVER_P99_S = 1.0


async def frozen(asked: Asked) -> Verdicts:
    """A worker is frozen for longer than ack_wait while it carries requests, then goes on.

    In every second round who took over is killed once the frozen one goes on: what it says then
    must not have taken the request out of its lane.
    """
    times = asked.times or 50
    async with lab(asked, "frozen") as here:
        # Whoever takes over finds a free slot at once, while the frozen one still means to go on.
        programs = {n: await here.worker(n, slow_s=2.5, MMG_SLOTS="cpu:4") for n in ("w1", "w2")}
        await start(*programs.values())
        for number in range(times):
            orders = [here.order(count=2) for _ in range(4)]
            await here.ask(orders[:3])
            await here.all_started(orders[:3])
            await asyncio.sleep(here.rng.uniform(0, 0.9))
            name = here.who_started(here.rng.choice(orders[:3])) or "w1"
            heir = next(program for other, program in programs.items() if other != name)
            programs[name].freeze()
            await here.ask(orders[3:])
            await asyncio.sleep(asked.ack_wait_s + here.rng.uniform(0.2, 1.2))
            programs[name].thaw()
            if number % 2:
                await asyncio.sleep(here.rng.uniform(0.1, 0.4))
                heir.kill(0.0)
            await here.until_settled()
            if here.found:
                break  # Something is lost: waiting longer would not bring it back.
            await heir.ready()
        result, said = await here.verdict("frozen")
        result.faults = {"freeze worker": times, "kill worker": times // 2}
        yield result, said


async def takeover(asked: Asked) -> Verdicts:
    """A worker is killed while it draws: who takes over, and after how long."""
    times = asked.times or 50
    async with lab(asked, "takeover") as here:
        programs = {n: await here.worker(n, slow_s=1.5) for n in ("w1", "w2")}
        await start(*programs.values())
        for _ in range(times):
            orders = [here.order() for _ in range(3)]
            await here.ask(orders)
            await here.all_started(orders)
            await asyncio.sleep(here.rng.uniform(0, 1.0))
            name = here.who_started(here.rng.choice(orders)) or "w1"
            programs[name].kill(0.0)
            await here.until_settled()
            await programs[name].ready()
        result, said = await here.verdict("takeover")
        result.times_s = result.takeovers_s
        bound_s = asked.ack_wait_s + TAKEOVER_SLACK_S
        result.violations += [
            {"rule": "late_takeover", "who": "", "what": f"{took} s, at most {bound_s}"}
            for took in result.takeovers_s
            if took > bound_s
        ]
        result.faults = {"kill worker": times}
        yield result, said


async def handover(asked: Asked) -> Verdicts:
    """A worker is asked to stop without a drain: the other one starts what it gave back."""
    times = asked.times or 30
    asked_at: list[tuple[str, str]] = []
    async with lab(asked, "handover") as here:
        settings = {"MMG_DRAIN_S": "0"}
        programs = {n: await here.worker(n, slow_s=1.5, **settings) for n in ("w1", "w2")}
        await start(*programs.values())
        for _ in range(times):
            order = here.order()
            await here.ask([order])
            await here.all_started([order])
            await asyncio.sleep(here.rng.uniform(0, 0.8))
            name = here.who_started(order) or "w1"
            asked_at.append((order.who, CLOCK.now().isoformat()))
            programs[name].term(0.0)
            await here.until_settled()
            await programs[name].ready()
        result, said = await here.verdict("handover")
        chains = await here.chains()
        result.times_s = [next_start_s(chains[who], at) for who, at in asked_at]
        p99_s = percentile(result.times_s, 0.99)
        if p99_s is None or p99_s > HANDOVER_P99_S:
            found = {"rule": "late_handover", "who": "", "what": f"p99 {p99_s} s"}
            result.violations.append(found)
        result.faults = {"stop worker": times}
        yield result, said


async def cancel(asked: Asked) -> Verdicts:
    """Cancels race the start and the end of requests; what was answered must be what happened."""
    times = asked.times or 300
    async with lab(asked, "cancel") as here:
        gateway = await here.here.add("gateway", ("agent", "gateway"))
        programs = [await here.worker(n) for n in ("w1", "w2")]
        await start(*programs, gateway)
        turn = asyncio.Semaphore(4)

        async def one(order: Order) -> None:
            async with turn:
                await here.outside.ask(replace(order, cancel=""))
                if order.cancel == "start":
                    await asyncio.sleep(here.rng.uniform(0, 0.02))
                else:
                    await here.outside.nearly_drawn(order)
                    await asyncio.sleep(here.rng.uniform(0, 0.2))
                await here.outside.cancel(order)

        async with asyncio.TaskGroup() as group:
            for number in range(times):
                order = here.order(side=512, count=3)
                where = "start" if number % 2 else "end"
                group.create_task(one(replace(order, cancel=where)))
        result, said = await here.verdict("cancel", killed=False)
        answers = [answer.kind for answer in here.outside.cancels]
        result.faults = {f"answered {kind}": answers.count(kind) for kind in sorted(set(answers))}
        yield result, said


async def poison(asked: Asked) -> Verdicts:
    """A request that kills whoever draws it ends dead after three tries; what is behind completes.

    One at a time: a neighbour that the same worker holds when it dies is charged a try as well.
    """
    times = asked.times or 5
    async with lab(asked, "poison") as here:
        programs = [await here.worker(n, MMG_SLOTS="cpu:1") for n in ("w1", "w2")]
        await start(*programs)
        for program in programs:
            program.may_die = True
        pills, others = [], []
        for _ in range(times):
            pill = here.order()
            pill = replace(pill, body={**(pill.body or {}), "prompt": f"{POISON} {pill.who}"})
            pills.append(pill)
            behind = [here.order() for _ in range(5)]
            others += behind
            await here.ask([pill])
            await here.all_started([pill])
            await here.ask(behind)
            await here.until_settled()
        result, said = await here.verdict("poison")
        chains = await here.chains()
        for pill in pills:
            end = chains[pill.who][-1]
            starts = sum(link.kind == "started" for link in chains[pill.who])
            if not (end.kind == "failed" and end.body.get("dead") and starts == 3):
                _add(result.violations, pill.who, f"{starts} starts, then {end.kind}")
        for other in others:
            if chains[other.who][-1].kind != "completed":
                _add(result.violations, other.who, f"behind poison: {chains[other.who][-1].kind}")
        result.faults = {"poisoned request": times, "kill worker": _kills(here)}
        yield result, said


async def long(asked: Asked) -> Verdicts:
    """A job of four times ack_wait on a healthy worker starts once, also across a server kill."""
    times = asked.times or 6
    async with lab(asked, "long") as here:
        programs = [await here.worker(n, slow_s=asked.ack_wait_s * 4) for n in ("w1", "w2")]
        await start(*programs)
        for number in range(times):
            orders = [here.order() for _ in range(3)]
            await here.ask(orders)
            await here.all_started(orders)
            if number % 2:
                await asyncio.sleep(here.rng.uniform(0, asked.ack_wait_s * 3))
                index = await here.here.kill_server(here.nc)
                await asyncio.sleep(here.rng.uniform(0.1, 1.0))
                if index is not None:
                    await here.here.server_again(index)
            await here.until_settled()
        result, said = await here.verdict("long")
        for who, links in (await here.chains()).items():
            kinds = [link.kind for link in links]
            if kinds != ["started", "completed"]:
                _add(result.violations, who, f"a long job on a healthy worker: {kinds}")
        result.faults = {"kill server": here.here.server_kills}
        yield result, said


def next_start_s(links: list[Link], at: str) -> float:
    """Return the seconds from a time of day to the next `started` after it."""
    then = datetime.fromisoformat(at)
    stored = [datetime.fromisoformat(li.stored_at) for li in links if li.kind == "started"]
    return round(min((s - then).total_seconds() for s in stored if s > then), 3)


def _add(violations: list[dict[str, str]], who: str, what: str) -> None:
    violations.append({"rule": "case", "who": who, "what": what})


def _kills(here: Lab) -> int:
    return sum(len(program.kills) for program in here.here.programs.values())


CASES: dict[str, Callable[[Asked], Verdicts]] = {
    "cancel": cancel,
    "crash-points": crash_points.crash_points,
    "frozen": frozen,
    "handover": handover,
    "ledger": ledger_case.ledger,
    "long": long,
    "poison": poison,
    "takeover": takeover,
    **card_cases.CARD_CASES,
}
