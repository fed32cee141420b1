"""The lab of directed cases: servers, workers without proxies, requests made to measure.

Each case makes one situation many times on one site; at the end the auditor judges everything.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nats.aio.client import Client

from tests.chaos import auditor
from tests.chaos.auditor import Evidence, Link, Violation
from tests.chaos.outside import Outside
from tests.chaos.plan import AGENTS, Order, picture
from tests.chaos.site import Program, Site, site
from tests.chaos.trial import Result, fill, settled
from tests.rig import until

SLOW_WORKER = ("tests.chaos.slow_worker", "worker")
LOOK_EVERY_S = 0.02
PATIENCE_S = 60.0


@dataclass(frozen=True)
class Asked:
    """What the command line says about a case. `module`: the build of the workers."""

    folder: Path
    seed: int
    times: int | None
    ack_wait_s: float
    module: tuple[str, ...] = SLOW_WORKER
    only: str = ""
    """Crash points whose name has this in it."""
    patience_s: float = PATIENCE_S


Verdict = tuple[Result, str]


class Lab:
    """One site, its client, and a count of the requests made so far."""

    def __init__(self, asked: Asked, here: Site, nc: Client, outside: Outside) -> None:
        self.asked = asked
        self.here = here
        self.nc = nc
        self.outside = outside
        self.orders: list[Order] = []
        self.found: list[Violation] = []
        self.rng = here.rng
        self.began_s = asyncio.get_running_loop().time()

    async def worker(self, name: str, *, slow_s: float = 0.0, **settings: str) -> Program:
        """Prepare a worker; `slow_s` is how long it draws."""
        wanted = {"MMG_SLOTS": "cpu:2", "CHAOS_SLOW_S": str(slow_s), **settings}
        return await self.here.add(name, self.asked.module, settings=wanted)

    def order(self, lane: str = "medium", **body: Any) -> Order:
        """Make the next request."""
        number = len(self.orders)
        order = Order(0, AGENTS[0], lane, f"r{number}", picture(number, **body), message_id=False)
        self.orders.append(order)
        return order

    async def ask(self, orders: list[Order]) -> None:
        """Publish requests and wait until all are acknowledged."""
        async with asyncio.TaskGroup() as group:
            for order in orders:
                group.create_task(self.outside.ask(order))

    async def until(
        self,
        look: Callable[[], bool | Awaitable[bool]],
        what: str,
        at_most_s: float | None = None,
    ) -> None:
        """Wait for a fact; its absence is a violation, and the case goes on."""
        at_most_s = at_most_s or self.asked.patience_s
        try:
            await until(look, what, at_most_s)
        except AssertionError:
            self.found.append(Violation("deadline", "", f"waited {at_most_s} s in vain for {what}"))

    async def until_settled(self, at_most_s: float | None = None, *, care: bool = True) -> None:
        """Wait until everything acknowledged has ended; the auditor names what has not.

        `care`: who dies meanwhile is started again.
        """
        at_most_s = at_most_s or self.asked.patience_s
        clock = asyncio.get_running_loop()
        until_s = clock.time() + at_most_s
        # No asyncio.timeout around it: nats-py may turn its cancellation into a TimeoutError, which
        # reads as "not yet", and it comes only once.
        while not await settled(self.nc, self.outside.accepted):
            if clock.time() > until_s:
                self.found.append(Violation("deadline", "", f"not settled within {at_most_s} s"))
                return
            if care:
                self.here.look_after()
            await asyncio.sleep(LOOK_EVERY_S)

    def note_deaths(self, programs: list[Program]) -> None:
        """Note who has died, and start nobody."""
        for program in programs:
            program.note_death()

    async def chains(self) -> dict[str, list[Link]]:
        """Read all chains."""
        return await auditor.read_chains(self.nc)

    async def all_started(self, orders: list[Order]) -> None:
        """Wait until all of them draw."""
        await self.until(lambda: all(self.who_started(order) for order in orders), "starts")

    def who_started(self, order: Order) -> str | None:
        """Return the worker of the last start that was heard."""
        starts = self.outside.started.get(order.who)
        return str(starts[-1]["worker"]) if starts else None

    async def operator(self, verb: str, worker: str) -> None:
        """Say a verb to one worker."""
        await self.nc.request(f"mmg.rpc.{verb}.{worker}", b'{"by": "chaos"}', timeout=5)

    async def verdict(self, what: str, *, killed: bool = True) -> Verdict:
        """Stop everything in order and let the auditor judge."""
        await self.until_settled()
        problems = await self.here.wind_down()
        evidence = Evidence(
            accepted=self.outside.accepted,
            cancels=self.outside.cancels,
            heard=None if self.here.server_kills else self.outside.heard,
            killed=self.here.cut_off() if killed else [],
        )
        evidence.write(self.here.folder / "evidence.json")
        audit = await auditor.audit(self.nc, self.here.assets, evidence)
        audit.violations += self.found
        audit.violations += [Violation("process", "", problem) for problem in problems]
        result = Result(what, self.asked.seed, 0, ack_wait_s=self.asked.ack_wait_s)
        result.requests = len(self.orders)
        result.accepted = len(self.outside.accepted)
        result.superseded = self.here.superseded()
        fill(result, self.here, audit)
        result.wall_s = round(asyncio.get_running_loop().time() - self.began_s, 2)
        return result, auditor.shown(audit)


@asynccontextmanager
async def lab(asked: Asked, name: str) -> AsyncIterator[Lab]:
    """Run a site of one server for a case."""
    rng = random.Random(f"{name} {asked.seed}")
    folder = asked.folder / name.replace(" ", "-")
    async with site(folder, rng, cluster=1, ack_wait_s=asked.ack_wait_s) as (here, nc):
        outside = Outside(nc, nc)
        await outside.listen()
        yield Lab(asked, here, nc, outside)


async def start(*programs: Program, point: str | None = None) -> None:
    """Start some and wait until all are ready."""
    for program in programs:
        program.start(point)
    for program in programs:
        await program.ready()
