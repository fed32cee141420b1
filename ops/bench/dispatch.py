"""What a job costs from publishing it to hearing its end, beside floors and peers of the same run.

Run: python -m ops.bench.dispatch [--json PATH]. Jobs that do nothing, on one nats-server that calls
fsync for each message. `one after the other`: each is published when the last has ended. `1 at a
time` and `10 at a time`: many wait when the contender starts. In each round all take their turns.
"""

import asyncio
import time
from collections import defaultdict
from typing import Any, Final

import msgspec
import nats
from nats.aio.client import Client
from nats.aio.msg import Msg

from ops.bench.contenders import Contender, PeerMissing, cpu_s, server, working
from ops.bench.idle import pss_mb
from ops.bench.rows import Row, at_most, p50, p99, report

ROUNDS: Final = 5
WARM: Final = 30
ONE_BY_ONE: Final = 300
BACKLOG: Final = 1000
FIRST: Final = BACKLOG // 10
SEVERAL: Final = 10
LIMIT_S: Final = 60.0
BURST: Final = 200
NAMES: Final = ("plain", "bare", "mmg", "taskiq", "faststream")
SHOWN: Final = {
    "plain": "plain nats-py loop",
    "bare": "bare loop, our bus calls",
    "mmg": "mmg",
    "taskiq": "taskiq + taskiq-nats",
    "faststream": "FastStream, nats",
}

Figures = dict[str, float]


class Driver:
    """Publishes jobs and hears their ends; reads the CPU of the contender at two of them."""

    def __init__(self, nc: Client, who: Contender) -> None:
        """Use after `listen`."""
        self.nc = nc
        self.who = who
        self._pid = 0
        self.ends: list[float] = []
        self.cpu: dict[int, float] = {}
        self._marks: frozenset[int] = frozenset()
        self._wanted = 0
        self._all = asyncio.Event()

    def watch(self, pid: int) -> None:
        """Read the CPU of this process."""
        self._pid = pid

    async def listen(self, *marks: int) -> Any:
        """Hear every end. At those with the numbers `marks`, CPU is read into `cpu`."""
        self._marks = frozenset(marks)
        subscription = await self.nc.subscribe(self.who.ends, cb=self._hear)
        await self.nc.flush()
        return subscription

    async def _hear(self, _msg: Msg) -> None:
        self.ends.append(time.perf_counter())
        if len(self.ends) in self._marks:
            self.cpu[len(self.ends)] = cpu_s(self._pid)
        if len(self.ends) >= self._wanted:
            self._all.set()

    async def heard(self, count: int) -> None:
        """Wait until so many ends were heard. Raises: TimeoutError."""
        self._wanted = count
        if len(self.ends) >= count:
            return
        self._all.clear()
        async with asyncio.timeout(LIMIT_S):
            await self._all.wait()

    async def store(self, number: str) -> None:
        """Publish one job and wait until it is stored. Raises: RuntimeError if it is refused."""
        answer = await self.nc.request(*self.who.job(number), timeout=10)
        if b'"error"' in answer.data:
            raise RuntimeError(f"{self.who.name}: {answer.data.decode()}")


async def one_after_the_other(driver: Driver, pid: int) -> Figures:
    """Measure single jobs: ms to the end, and CPU of the contender."""
    took: list[float] = []
    began_cpu = 0.0
    for count in range(WARM + ONE_BY_ONE):
        if count == WARM:
            began_cpu = cpu_s(pid)
        began = time.perf_counter()
        await driver.store(f"{driver.who.name}-one-{count}")
        await driver.heard(count + 1)
        took.append(1000 * (driver.ends[-1] - began))
    took = took[WARM:]
    spent = 1000 * (cpu_s(pid) - began_cpu) / ONE_BY_ONE
    return {"p50_ms": p50(took), "p99_ms": p99(took), "cpu_s": spent}


async def fill(driver: Driver, kind: str, count: int = BACKLOG) -> None:
    """Store a backlog, some at a time."""
    for first in range(0, count, BURST):
        async with asyncio.TaskGroup() as group:
            for number in range(first, min(first + BURST, count)):
                group.create_task(driver.store(f"{kind}-{number}"))


async def drained(driver: Driver) -> Figures:
    """Measure how a backlog is worked off, from its first tenth on: start-up is not counted."""
    await driver.heard(BACKLOG)
    jobs = BACKLOG - FIRST
    passed = driver.ends[-1] - driver.ends[FIRST - 1]
    spent = driver.cpu[BACKLOG] - driver.cpu[FIRST]
    return {"jobs_per_s": jobs / passed, "cpu_s": 1000 * spent / jobs}


async def play(url: str, who: Contender, figures: dict[str, list[float]]) -> None:
    """Measure one contender in one round."""
    nc = await nats.connect(url)
    try:
        driver = Driver(nc, who)
        heard = await driver.listen()
        async with working(who, url) as pid:
            for name, figure in (await one_after_the_other(driver, pid)).items():
                figures[name].append(figure)
        await heard.unsubscribe()
        for slots in (1, SEVERAL):
            driver = Driver(nc, who)
            await fill(driver, f"{who.name}-at{slots}")
            heard = await driver.listen(FIRST, BACKLOG)
            async with working(who, url, slots, driver.watch) as pid:
                for name, figure in (await drained(driver)).items():
                    figures[f"at{slots}_{name}"].append(figure)
                figures["memory_mb"].append(pss_mb(pid))
            await heard.unsubscribe()
    finally:
        await nc.close()


async def measure() -> list[Row]:
    """Let all take their turns and make rows."""
    found: dict[str, dict[str, list[float]]] = {name: defaultdict(list) for name in NAMES}
    missing: dict[str, str] = {}
    for number in range(ROUNDS):
        async with server() as running:
            turn = number % len(NAMES)
            for name in (*NAMES[turn:], *NAMES[:turn]):
                if name in missing:
                    continue
                try:
                    await play(running.url, Contender(name=name), found[name])
                except (PeerMissing, RuntimeError, TimeoutError) as error:
                    missing[name] = str(error) or type(error).__name__
    return rows(found, missing)


class Wanted(msgspec.Struct, frozen=True):
    """A figure of the table, and how much of that of the bare loop is allowed."""

    key: str
    what: str
    unit: str
    at_most: float | None = None


WANTED: Final = (
    Wanted("p50_ms", "dispatch, one after the other, p50", "ms", 1.3),
    Wanted("p99_ms", "dispatch, one after the other, p99", "ms"),
    Wanted("cpu_s", "CPU per 1,000 jobs, one after the other", "s", 1.6),
    Wanted("at1_jobs_per_s", "throughput, 1 at a time", "jobs/s"),
    Wanted("at1_cpu_s", "CPU per 1,000 jobs, 1 at a time", "s", 1.6),
    Wanted(f"at{SEVERAL}_jobs_per_s", f"throughput, {SEVERAL} at a time", "jobs/s"),
    Wanted(f"at{SEVERAL}_cpu_s", f"CPU per 1,000 jobs, {SEVERAL} at a time", "s", 1.6),
    Wanted("memory_mb", "memory of one process (PSS)", "MB"),
)


def rows(found: dict[str, dict[str, list[float]]], missing: dict[str, str]) -> list[Row]:
    """Return for each figure mmg beside the bare loop, then everybody beside the plain one."""
    made: list[Row] = []
    for wanted in WANTED:
        middle = {name: p50(found[name][wanted.key]) for name in NAMES if found[name][wanted.key]}
        for name, beside in (("mmg", "bare"), *((name, "plain") for name in NAMES[1:])):
            bounded = wanted.at_most is not None and beside == "bare"
            made.append(
                Row(
                    what=wanted.what,
                    who=SHOWN[name],
                    figure=None if name in missing else middle.get(name),
                    unit=wanted.unit,
                    floor=middle.get(beside),
                    floor_of=SHOWN[beside],
                    target=at_most(wanted.at_most) if bounded and wanted.at_most else None,
                    note=missing.get(name, ""),
                    samples=tuple(found[name][wanted.key]),
                )
            )
    return made


if __name__ == "__main__":
    report(__doc__, measure)
