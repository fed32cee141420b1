"""Who gets the card, compared: ours, FIFO, strict classes, earliest deadline, and spec/001.

Run: python -m ops.bench.schedule [--days 0.5] [--seeds 2] [--llm 8b|20g] [--processes 2]
     python -m ops.bench.schedule --optimum 100
     python -m ops.bench.schedule --json PATH

The same requests, chats and failures for all; tests/simulation/day.py plays them. Prints tables in
Markdown: late shares of each class, waits, model swaps, the LLM's absence, the cloud's share and
price, GPU seconds thrown away.
"""

import argparse
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from agent.core.arbiter import Arbiter
from agent.core.scheduler import MAX_WAIT_S
from contracts.requests import Priority
from ops.bench import policies
from ops.bench.optimum import lateness, optimum
from ops.bench.rows import Row, show, write
from tests.simulation.day import Day
from tests.simulation.day_loop import Config
from tests.simulation.tally import Tally
from tests.simulation.traffic import Arrival, Traffic

POLICIES: dict[str, type[Arbiter]] = {
    "ours": Arbiter,
    "FIFO": policies.Fifo,
    "strict classes": policies.Strict,
    "earliest deadline": policies.EarliestDeadline,
    "spec/001": policies.Spec,
}
LOADS = (0.6, 0.8, 0.95, 1.1)
PER_DAY = (80, 2000)
HEAD = (
    "| traffic | order | late % C | H | M | L | wait p95 s C | H | M | L | swaps | LLM away %"
    " | cloud % | USD a day | GPU s lost |"
)
SAMPLED = "load 0.95, two cloud slots"
INSTANCE_S = 30.0
INSTANCE_CLASSES = {"CRITICAL": 10, "HIGH": 50, "MEDIUM": 25, "LOW": 15}
"""More urgent than usual: else nobody is ever late."""
INSTANCE_SIZE = 7


def configs(days: float, llm: str) -> Iterator[Config]:
    """Yield what is played with one LLM: the loads, then requests a day; with and without cloud."""
    for slots in (2, 0):
        clouds = "two cloud slots" if slots else "no cloud"
        traffics = {
            **{f"load {load}": Traffic.of_load(load, days) for load in LOADS},
            **{f"{count:,} a day": Traffic(per_day=count, days=2 * days) for count in PER_DAY},
        }
        for name, traffic in traffics.items():
            yield Config(name=f"{name}, {clouds}", traffic=traffic, llm=llm, cloud_slots=slots)


def played(config: Config, policy: str, seeds: int) -> Tally:
    """Play some seeds of one machine under one policy."""
    total = Tally()
    for seed in range(1, seeds + 1):
        total.add(Day(config, seed, POLICIES[policy], watched=False).run())
    return total


def sample() -> list[Row]:
    """Play half a day at load 0.95 under each policy: how many of HIGH start too late."""
    config = next(one for one in configs(0.5, "8b") if one.name == SAMPLED)
    with ProcessPoolExecutor() as pool:
        played_ = pool.map(played, [config] * len(POLICIES), POLICIES, [1] * len(POLICIES))
        late = {
            name: tally.late_share(Priority.HIGH)
            for name, tally in zip(POLICIES, played_, strict=True)
        }
    return [
        Row(
            what="half a simulated day at load 0.95: HIGH that start late",
            who=name,
            figure=share,
            unit="%",
            floor=late["ours"] if name != "ours" else None,
            floor_of="ours" if name != "ours" else "",
        )
        for name, share in late.items()
    ]


def row(name: str, policy: str, tally: Tally) -> str:
    """Return a row of the table."""
    late = " | ".join(f"{tally.late_share(priority):.1f}" for priority in Priority)
    waits = " | ".join(f"{tally.wait_s(priority, 0.95):,.0f}" for priority in Priority)
    days = tally.total_s / 86_400
    return (
        f"| {name} | {policy} | {late} | {waits} | {tally.swaps:,}"
        f" | {100 * tally.absent_s / tally.total_s:.1f}"
        f" | {100 * tally.cloud / max(1, tally.requests):.1f} | {tally.cost_usd / days:.2f}"
        f" | {tally.lost_s:,.0f} |"
    )


def compare(days: float, seeds: int, llm: str, processes: int) -> None:
    """Print the table for one LLM."""
    print(f"\nLLM {llm}\n\n{HEAD}\n|---|---|{'---|' * 13}")
    jobs = [(config, policy) for config in configs(days, llm) for policy in POLICIES]
    with ProcessPoolExecutor(processes) as pool:
        tallies = pool.map(
            played, [job[0] for job in jobs], [job[1] for job in jobs], [seeds] * len(jobs)
        )
        for (config, policy), tally in zip(jobs, tallies, strict=True):
            print(row(config.name, policy, tally), flush=True)


def instances(count: int) -> Iterator[list[Arrival]]:
    """Yield bursts of a few requests, each from its own seed."""
    per_day = INSTANCE_SIZE * 86_400 / INSTANCE_S
    traffic = Traffic(per_day=per_day, local_only=1.0, classes=INSTANCE_CLASSES)
    for seed in range(1, count + 1):
        found = [
            arrival
            for arrival, _ in zip(traffic.arrivals(seed), range(INSTANCE_SIZE), strict=False)
        ]
        yield found


def against_optimum(count: int) -> None:
    """Print how many start too late on small instances, beside the best that was possible."""
    bounds = dict(MAX_WAIT_S)
    sums = {name: [0] * len(Priority) for name in ("clairvoyant optimum", *POLICIES)}
    requests = [0] * len(Priority)
    for arrivals in instances(count):
        for place, priority in enumerate(Priority):
            requests[place] += sum(1 for one in arrivals if one.priority is priority)
        best = optimum(arrivals, bounds)
        found = {
            name: lateness(_starts(arrivals, policy), bounds) for name, policy in POLICIES.items()
        }
        for name, late in {"clairvoyant optimum": best, **found}.items():
            sums[name] = [a + b for a, b in zip(sums[name], late, strict=True)]
    print(f"\n{count} bursts of {INSTANCE_SIZE} requests, one card, no cloud: started too late\n")
    print(
        f"| order | C of {requests[0]} | H of {requests[1]} | M of {requests[2]}"
        f" | L of {requests[3]} |"
    )
    print("|---|---|---|---|---|")
    for name, late_of in sums.items():
        print(f"| {name} | {' | '.join(str(late) for late in late_of)} |")


def _starts(arrivals: list[Arrival], policy: type[Arbiter]) -> list[tuple[Arrival, float]]:
    """Play one instance and return when each request began."""
    traffic = Traffic(per_day=1, days=0.01)
    config = Config(name="burst", traffic=traffic, cloud_slots=0, trouble=0.0, chat_every_s=1e9)
    day = Day(config, 1, policy, watched=False, arrivals=iter(arrivals))
    day.run()
    return [(job.arrival, job.started_s or 0.0) for job in day.all]


def main() -> None:
    """Print what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--days", type=float, default=0.5)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--llm", choices=("8b", "13b", "20g"), action="append")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--optimum", type=int, help="only this many small instances")
    parser.add_argument(
        "--json", type=Path, help="only half a day for `make bench`; its rows go there"
    )
    options = parser.parse_args()
    if options.json is not None:
        rows = sample()
        write(rows, options.json)
        show(rows)
        return
    if options.optimum:
        against_optimum(options.optimum)
        return
    for llm in options.llm or ("8b", "20g"):
        compare(options.days, options.seeds, llm, options.processes)


if __name__ == "__main__":
    main()
