"""The ledger under fire: gateway and workers are killed again and again while requests run.

What the gateway's file holds at the end is compared, row by row, with a fresh fold of the stream.
"""

import asyncio
from collections.abc import AsyncGenerator

from agent.bus.connection import connect
from agent.clock import SystemClock
from agent.ledger import upkeep
from tests.chaos.lab import Asked, Verdict, lab, start
from tests.ledger_rig import TABLES, content, fresh, last_seq, position
from tests.rig import until

LANES = ("critical", "high", "medium", "low")
ROUND = 4
"""Requests for each kill of the gateway."""


async def ledger(asked: Asked) -> AsyncGenerator[Verdict, None]:
    """A gateway that is killed 50 times has the rows of a fresh fold, and so has a rebuild.

    It is killed while it starts, too.
    """
    times = asked.times or 50
    async with lab(asked, "ledger") as here:
        gateway = await here.here.add("gateway", ("agent", "gateway"))
        programs = [await here.worker(name) for name in ("w1", "w2")]
        await start(*programs, gateway)
        path = here.here.folder / "data" / "ledger.sqlite3"
        while len(gateway.kills) < times:
            await here.ask([here.order(here.rng.choice(LANES)) for _ in range(ROUND)])
            await asyncio.sleep(here.rng.uniform(0, 1.5))
            gateway.kill()
            if here.rng.random() < 0.3:
                here.rng.choice(programs).kill(0.2)
            here.here.look_after()
        await here.until_settled()
        kills = len(gateway.kills)
        result, said = await here.verdict("ledger")
        gateway.start()  # What was said while everybody stopped is folded as well.
        async with await connect(here.here.urls, "auditor") as bus:
            last = await last_seq(bus)
            await until(lambda: position(path) == last, f"message {last} in the ledger", 30.0)
            gateway.term(None)
            await gateway.gone()
            kept, folded = content(path), await fresh(bus, path.with_name("fresh.sqlite3"))
            await upkeep.rebuild(bus, path, SystemClock())
            again = content(path)
        for table in TABLES:
            for what, rows in (("kept", kept), ("rebuilt", again)):
                if sorted(map(repr, rows[table])) != sorted(map(repr, folded[table])):
                    words = f"{what}: {len(rows[table])} rows differ from {len(folded[table])}"
                    result.violations.append({"rule": "ledger", "who": table, "what": words})
        result.notes["rows"] = {table: len(rows) for table, rows in folded.items()}
        died = sum(len(program.kills) for program in programs)
        result.faults = {"kill gateway": kills, "kill worker": died}
        yield result, said
