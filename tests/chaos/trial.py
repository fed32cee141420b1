"""One trial: requests come, things break, everything is mended, and the auditor judges.

A request that was acknowledged must have ended within the deadline after the last fault is over.
"""

import asyncio
import random
import shutil
from collections import Counter
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from nats.aio.client import Client

from tests.chaos import auditor
from tests.chaos.auditor import Audit, Evidence, Link, Violation
from tests.chaos.outside import GONE, Outside
from tests.chaos.plan import WORKERS, Fault, Plan
from tests.chaos.proxy import Proxy
from tests.chaos.servers import free_port
from tests.chaos.site import Site, direct, log_lines, site
from tests.chaos.small_disk import FULL

SETTLE_S = 40.0
SETTLE_REPLICATED_S = 120.0
LOOK_EVERY_S = 0.2
CARE_EVERY_S = 0.02
WORKER = ("tests.chaos.small_disk", "worker")
GATEWAY = ("agent", "gateway")


@dataclass
class Result:
    """What a trial or a case has shown; one line of the results file."""

    what: str
    seed: int
    trial: int
    cluster: int = 1
    ack_wait_s: float = 3.0
    faults: dict[str, int] = field(default_factory=dict)
    requests: int = 0
    accepted: int = 0
    ends: dict[str, int] = field(default_factory=dict)
    superseded: int = 0
    left: int = 0
    takeovers_s: list[float] = field(default_factory=list)
    times_s: list[float] = field(default_factory=list)
    """What a directed case measures."""
    settled_s: float = 0.0
    wall_s: float = 0.0
    violations: list[dict[str, str]] = field(default_factory=list)
    mutant: str = ""
    notes: dict[str, Any] = field(default_factory=dict)

    def count(self, *rules: str) -> int:
        """Return how many violations of these rules there are."""
        return sum(violation["rule"] in rules for violation in self.violations)


class Trial:
    """Carries out one plan in a folder of its own."""

    def __init__(self, plan: Plan, folder: Path, module: tuple[str, ...] = WORKER) -> None:
        self.plan = plan
        self.folder = folder
        self.module = module
        self.rng = random.Random(f"faults {plan.seed} {plan.trial}")
        self.applied: Counter[str] = Counter()
        self.said = ""

    async def run(self) -> Result:
        """Run it to its verdict."""
        plan = self.plan
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        shutil.rmtree(self.folder, ignore_errors=True)
        result = Result("trial", plan.seed, plan.trial, plan.cluster, plan.ack_wait_s)
        async with site(
            self.folder, self.rng, cluster=plan.cluster, ack_wait_s=plan.ack_wait_s
        ) as (here, nc):
            publisher = [Proxy(port, self.rng) for port in here.servers.ports]
            for proxy in publisher:
                await proxy.start()
            here.proxies["publisher"] = publisher
            await self._start(here)
            asking = await direct([f"nats://127.0.0.1:{proxy.port}" for proxy in publisher])
            outside = Outside(asking, nc)
            await outside.listen()
            try:
                result.settled_s = await self._break_and_mend(here, nc, outside)
            finally:
                await asking.close()
            problems = await here.wind_down()
            audit = await self._judge(here, nc, outside, problems)
        result.requests = len(plan.orders)
        result.accepted = len(outside.accepted)
        result.faults = dict(self.applied)
        result.superseded = here.superseded()
        fill(result, here, audit)
        if plan.engine != "sketch":
            result.notes["engine"] = plan.engine
            result.notes["adopted"] = here.said("comfyui.adopted")
        result.wall_s = round(loop.time() - began_s, 2)
        return result

    async def _start(self, here: Site) -> None:
        """Start workers and gateway, each with its crash point if the plan has one."""
        points = {f.target: f.detail for f in self.plan.faults if f.kind == "crash point"}
        engine = await self._start_engine(here)
        for name in WORKERS:
            settings = {"MMG_SLOTS": "cpu:2", "MMG_DRAIN_S": "1"} | engine
            program = await here.add(name, self.module, proxied=True, settings=settings)
            program.start(points.get(name))
        (await here.add("gateway", GATEWAY)).start()
        for program in here.programs.values():
            await program.ready()

    async def _start_engine(self, here: Site) -> dict[str, str]:
        """Start the ComfyUI double where the plan wants it; returns what workers must be told."""
        if self.plan.engine == "sketch":
            return {}
        port = free_port()
        place = ("--port", str(port), "--output-dir", str(here.folder / "comfyui"))
        module = ("tests.doubles.comfyui", *place, "--steps-ms", "15", "--load-ms", "100")
        double = await here.add("engine", module)
        double.ready_word = b"ComfyUI double"
        double.start()
        await double.ready()
        url = f"http://127.0.0.1:{port}"
        return {"MMG_SKETCH": "off", "MMG_ENGINES": "comfyui", "MMG_COMFYUI_URL": url}

    async def _break_and_mend(self, here: Site, nc: Client, outside: Outside) -> float:
        """Let everything happen; return how long it took to settle after the last fault."""
        plan = self.plan
        loop = asyncio.get_running_loop()
        start_s = loop.time()

        async def order_at(index: int) -> None:
            order = plan.orders[index]
            await asyncio.sleep(start_s + order.at_s - loop.time())
            await outside.ask(order)

        async def fault_at(fault: Fault) -> None:
            await asyncio.sleep(start_s + fault.at_s - loop.time())
            await self._apply(here, nc, fault)

        async def care() -> None:
            while True:
                here.look_after()
                await asyncio.sleep(CARE_EVERY_S)

        async with asyncio.TaskGroup() as group:
            caring = group.create_task(care())
            orders = [group.create_task(order_at(n)) for n in range(len(plan.orders))]
            faults = [group.create_task(fault_at(fault)) for fault in plan.faults]
            await asyncio.wait(faults)
            await here.calm()
            mended_s = loop.time()
            await self._settle(nc, outside, orders)
            took_s = loop.time() - mended_s
            for task in (caring, *orders):
                task.cancel()
        return round(took_s, 2)

    async def _settle(self, nc: Client, outside: Outside, orders: list[asyncio.Task[None]]) -> None:
        """Wait until every request has ended and the lanes are empty, or the deadline is over."""
        limit_s = SETTLE_S if self.plan.cluster == 1 else SETTLE_REPLICATED_S
        clock = asyncio.get_running_loop()
        until_s = clock.time() + limit_s
        while clock.time() < until_s:  # Why no asyncio.timeout: see `Lab.until_settled`.
            if all(task.done() for task in orders) and await settled(nc, outside.accepted):
                return
            await asyncio.sleep(LOOK_EVERY_S)

    async def _apply(self, here: Site, nc: Client, fault: Fault) -> None:
        """Break one thing and mend it again; counted only where it really broke something."""
        done = True
        match fault.kind:
            case "kill worker":
                done = here.programs[fault.target].kill(fault.for_s)
            case "kill gateway":
                done = here.programs["gateway"].kill(fault.for_s)
            case "kill engine":
                done = here.programs["engine"].kill(fault.for_s)
            case "stop worker":
                done = here.programs[fault.target].term(fault.for_s)
            case "crash point":
                return  # Counted at the end: it may never have been reached.
            case "kill server":
                index = await here.kill_server(nc)
                done = index is not None
                await asyncio.sleep(fault.for_s)
                if index is not None:
                    await here.server_again(index)
            case "freeze worker":
                done = here.programs[fault.target].freeze()
                await asyncio.sleep(fault.for_s)
                here.programs[fault.target].thaw()
            case "disk full":
                here.disk(FULL, on=True)
                await asyncio.sleep(fault.for_s)
                here.disk(FULL, on=False)
            case _:
                await self._break_wire(here.proxies[fault.target], fault)
        self.applied[fault.kind] += done

    async def _break_wire(self, proxies: list[Proxy], fault: Fault) -> None:
        for proxy in proxies:
            match fault.kind:
                case "cut connection":
                    proxy.cut()
                case "cut in a message":
                    proxy.cut_in_message()
                case "delay bytes":
                    proxy.delay(float(fault.detail))
                case "deaf connection":
                    proxy.deafen("to_server" if fault.detail == "to_server" else "to_client")
        if fault.kind in {"delay bytes", "deaf connection"}:
            await asyncio.sleep(fault.for_s)
            for proxy in proxies:
                if fault.kind == "deaf connection":
                    proxy.cut()  # What was written into a deaf connection never arrives.
                proxy.heal()

    async def _judge(self, here: Site, nc: Client, outside: Outside, problems: list[str]) -> Audit:
        """Write the evidence down and let the auditor read streams and disk."""
        for program in here.programs.values():
            self.applied["crash point"] += len(program.points_hit)
        wishes = Counter(order.cancel for order in self.plan.orders if order.cancel)
        self.applied.update({f"cancel at the {where}": n for where, n in wishes.items()})
        evidence = Evidence(
            accepted=outside.accepted,
            cancels=outside.cancels,
            heard=None if here.server_kills else outside.heard,
            killed=here.cut_off(),
        )
        evidence.write(self.folder / "evidence.json")
        audit = await auditor.audit(nc, here.assets, evidence)
        audit.violations += [Violation("process", "", problem) for problem in problems]
        self.said = auditor.shown(audit)
        return audit


async def settled(nc: Client, accepted: list[str]) -> bool:
    """Tell whether every accepted request has ended and the lanes are empty."""
    try:
        if await auditor.read_waiting(nc):
            return False
        chains = await auditor.read_chains(nc)
    except (*GONE, RuntimeError, KeyError):
        return False
    return all(who in chains and chains[who][-1].kind in auditor.ENDS for who in accepted)


def fill(result: Result, here: Site, audit: Audit) -> None:
    """Put what the audit found and what can be measured from it into a result."""
    result.violations = [asdict(violation) for violation in audit.violations]
    result.left = audit.left
    result.ends = dict(Counter(links[-1].kind for links in audit.chains.values()))
    kills = [(name, at) for name, p in here.programs.items() for at in p.kills]
    result.takeovers_s = [
        round(took, 3) for name, at in kills for took in takeovers(audit.chains, name, at)
    ]
    result.notes["warnings"] = {
        name: dict(
            Counter(
                str(line["event"])
                for line in log_lines(program.words)
                if line.get("level") in {"error", "critical"}
            )
        )
        for name, program in here.programs.items()
    }


def takeovers(chains: dict[str, list[Link]], worker: str, killed_at: str) -> list[float]:
    """Return the seconds from a kill to the next start of each request that ran there."""
    killed = datetime.fromisoformat(killed_at)
    found = []
    for links in chains.values():
        before = [li for li in links if datetime.fromisoformat(li.stored_at) < killed]
        if not before or len(before) == len(links) or before[-1].kind != "started":
            continue
        following = links[len(before)]
        if before[-1].body["worker"] == worker and following.kind == "started":
            stored = datetime.fromisoformat(following.stored_at)
            found.append((stored - killed).total_seconds())
    return found
