"""Whether a long queue makes anything slower: 10 requests waiting, then 20,000.

Run: python -m ops.bench.depth [--json PATH]. The LOW that wait are kept waiting by their night
window; one CRITICAL after the other passes them, on the hollow worker and, in the same run, on a
plain loop over the same lanes.
"""

import time
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from typing import Final

import nats

from ops.bench.contenders import Contender, cpu_s, server, working
from ops.bench.dispatch import Driver
from ops.bench.jump import fill
from ops.bench.rows import Row, at_most, p50, p99, report

FEW: Final = 10
MANY: Final = 19_900
"""The lanes hold 20,000; some places stay for those that pass."""
ASKED: Final = 250
WARM: Final = 30
ROUNDS: Final = 2


def closed_hours() -> str:
    """Return a night window of LOW that is far away now."""
    now = datetime.fromtimestamp(time.clock_gettime(time.CLOCK_REALTIME), UTC).astimezone()
    opens = (now + timedelta(hours=10)).hour
    return f"{opens}-{(opens + 2) % 24}"


async def passing(driver: Driver, pid: int, name: str) -> dict[str, float]:
    """Send one CRITICAL after the other; return ms to the end, and CPU for a thousand."""
    took: list[float] = []
    spent = 0.0
    for count in range(WARM + ASKED):
        if count == WARM:
            spent = cpu_s(pid)
        began = time.perf_counter()
        before = len(driver.ends)
        await driver.store(f"{name}-{count}")
        await driver.heard(before + 1)
        took.append(1000 * (driver.ends[-1] - began))
    took = took[WARM:]
    return {"p50": p50(took), "p99": p99(took), "cpu": 1000 * (cpu_s(pid) - spent) / ASKED}


async def measure() -> list[Row]:
    """Measure at both depths and make rows."""
    found: dict[tuple[int, str], list[float]] = defaultdict(list)
    who = Contender(name="mmg").set({"MMG_LOW_HOURS": closed_hours()})
    for turn in range(ROUNDS):
        async with server() as running:
            nc = await nats.connect(running.url)
            driver = Driver(nc, who)
            await driver.listen()
            async with working(who, running.url) as pid:
                before = 0
                for depth in (FEW, MANY):
                    await fill(nc, who, f"low-{depth}", depth - before)
                    before = depth
                    figures = await passing(driver, pid, f"pass-{turn}-{depth}")
                    for key, figure in figures.items():
                        found[depth, key].append(figure)
            await nc.close()
    units = {"p50": ("dispatch of a CRITICAL, p50", "ms"), "p99": ("the same, p99", "ms")}
    units["cpu"] = ("CPU per 1,000 CRITICAL", "s")
    return [
        Row(
            what=f"{words}, {MANY:,} LOW waiting",
            figure=p50(found[MANY, key]),
            unit=unit,
            floor=p50(found[FEW, key]),
            floor_of=f"{FEW} LOW waiting",
            target=at_most(1.1) if key == "p50" else None,
            samples=tuple(found[MANY, key]),
        )
        for key, (words, unit) in units.items()
    ]


if __name__ == "__main__":
    report(__doc__, measure)
