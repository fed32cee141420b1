"""Simulated days around the real core: `python -m tests.simulation.days [--seeds N] [--first N]`.

A seed is one day; which of the machines below it runs on follows from its number. Prints a line for
each kind of day, and for a broken promise the seed, the second and what happened; exits 1 then.
"""

# ruff: noqa: T201 - printing is the work of a command

import argparse
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from typing import Final

import msgspec

from agent.core.scheduler import Night, Rules
from contracts.requests import Priority
from tests.simulation.day import Day
from tests.simulation.day_loop import Config
from tests.simulation.tally import Tally
from tests.simulation.traffic import Traffic
from tests.simulation.violation import Violation

FEW: Final = Traffic(per_day=80)
MANY: Final = Traffic(per_day=2000)
SOME: Final = Traffic(per_day=300)
NIGHT: Final = Rules(night=Night(from_hour=22, to_hour=6))

_EASY: Final = Config(name="80 a day, 8b", traffic=FEW)
_EXPIRES: Final = Config(
    name="80 a day, 13b that expires", traffic=FEW, llm="13b", cloud_slots=0, keep_alive_s=300
)
_LARGE: Final = Config(name="80 a day, 20g, no cloud", traffic=FEW, llm="20g", cloud_slots=0)
_LARGE_CLOUD: Final = Config(name="80 a day, 20g", traffic=FEW, llm="20g")
_TROUBLE: Final = Config(
    name="a fifth of all calls fail", traffic=SOME, llm="13b", trouble=0.2, lost_every_s=20_000
)
_TROUBLE_ALONE: Final = Config(
    name="the same without a cloud",
    traffic=SOME,
    llm="20g",
    cloud_slots=0,
    trouble=0.2,
    lost_every_s=20_000,
)
_NIGHT: Final = Config(name="low at night", traffic=SOME, llm="13b", rules=NIGHT)
_POOR: Final = Config(name="one dollar a day", traffic=SOME, llm="20g", day_usd=1.0)
_CHATTY: Final = Config(name="a chat every 20 s", traffic=SOME, llm="20g", chat_every_s=20)
_MANY: Final = Config(name="2,000 a day, 8b", traffic=MANY)
_MANY_LARGE: Final = Config(name="2,000 a day, 20g", traffic=MANY, llm="20g")
_MANY_ALONE: Final = Config(
    name="2,000 a day, 20g, no cloud", traffic=MANY, llm="20g", cloud_slots=0
)


def _loaded(load: float, cloud_slots: int) -> Config:
    clouds = "two cloud slots" if cloud_slots else "no cloud"
    traffic = Traffic.of_load(load)
    return Config(name=f"load {load}, {clouds}", traffic=traffic, cloud_slots=cloud_slots)


QUICK: Final = (
    *(_EASY,) * 7,
    *(_EXPIRES,) * 5,
    *(_LARGE,) * 5,
    *(_LARGE_CLOUD,) * 4,
    *(_TROUBLE,) * 2,
    _TROUBLE_ALONE,
    *(_NIGHT,) * 2,
    _POOR,
    _CHATTY,
    *(_MANY,) * 2,
)
"""The thirty days of `make check`."""
LOADS: Final = tuple(_loaded(load, slots) for slots in (2, 0) for load in (0.6, 0.8, 0.95, 1.1))
SCHEDULE: Final = (*QUICK, *(_MANY,) * 6, *(_MANY_LARGE,) * 3, *(_MANY_ALONE,) * 3, *LOADS)
"""Day after day; then it begins again with other seeds."""


class Played(msgspec.Struct, frozen=True, kw_only=True):
    """What came of one seed. `broken` is the promise that did not hold, with what happened."""

    seed: int
    config: Config
    tally: Tally
    broken: str = ""


def config_of(seed: int) -> Config:
    """Return what a seed is played on; seeds begin with 1."""
    return SCHEDULE[(seed - 1) % len(SCHEDULE)]


def play(seed: int, config: Config | None = None) -> Played:
    """Play one day."""
    config = config or config_of(seed)
    day = Day(config, seed)
    broken = ""
    try:
        day.run()
    except Violation as violation:
        broken = f"seed {seed}, {config.name}, second {day.now_s:.0f}: {violation}"
    return Played(seed=seed, config=config, tally=day.tally, broken=broken)


def line(name: str, days: int, tally: Tally) -> str:
    """Return what is told of one kind of day."""
    late = " ".join(f"{tally.late_share(priority):5.1f}" for priority in Priority)
    share = 100 * tally.cloud / max(1, tally.requests)
    absent = 100 * tally.absent_s / max(1.0, tally.total_s)
    return (
        f"{name:<28} {days:>5} {tally.requests:>8}  {late}  {share:5.1f} {tally.unloads:>7}"
        f" {absent:6.1f} {tally.preempted:>6}"
    )


HEAD: Final = (
    f"{'':<28} {'days':>5} {'requests':>8}  {'late %: C':>9} {'H':>3} {'M':>5} {'L':>5}"
    f"  cloud% unloads  LLM away% preempted"
)


def main() -> int:
    """Play the seeds that were asked for; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=len(QUICK), help="how many days")
    parser.add_argument("--first", type=int, default=1, help="the first seed")
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    began, sums = time.perf_counter(), dict[str, tuple[int, Tally]]()
    broken: list[str] = []
    seeds = range(options.first, options.first + options.seeds)
    with ProcessPoolExecutor(options.processes) as pool:
        for played in pool.map(play, seeds):
            days, tally = sums.get(played.config.name, (0, Tally()))
            tally.add(played.tally)
            sums[played.config.name] = (days + 1, tally)
            if played.broken:
                broken.append(played.broken)
                print(f"BROKEN {played.broken}", flush=True)
    print(HEAD)
    total = Tally()
    for name, (days, tally) in sums.items():
        print(line(name, days, tally))
        total.add(tally)
    print(line("all", len(seeds), total))
    seconds = time.perf_counter() - began
    print(f"{len(seeds)} days, {len(broken)} broken promises, {seconds:.0f} s")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
