"""What a contender asks of the bus for one job, heard on the bus itself.

Run: python -m ops.bench.calls [--json PATH]. A subscriber to everything hears each publish of the
worker: pulls, appends, progress, acks. So it is seen that the bare loop asks what mmg asks.
"""

import asyncio
import time
from collections import Counter
from typing import Final

import nats
from nats.aio.client import Client
from nats.aio.msg import Msg

from contracts import subjects
from contracts.requests import Priority
from ops.bench.contenders import Contender, server, working
from ops.bench.rows import Row, report

JOBS: Final = 15
QUIET_S: Final = 0.15
LIMIT_S: Final = 20.0
WAITING: Final = 300
ANSWERS: Final = ("_INBOX", "$JS.EVENT", "$SYS")
BY_THE_SERVER: Final = tuple(
    wanted.partition("*")[0].removesuffix(">")
    for wanted in (subjects.REQUESTS_ALL, subjects.EVENTS_ALL, subjects.QUEUED_ALL)
)
"""What the server publishes for us, or the bench itself."""

Calls = Counter[str]


def named(msg: Msg) -> str:
    """Name a call by what is asked and in which form; empty: it is none of the contender's."""
    if msg.subject.startswith((*ANSWERS, *BY_THE_SERVER)):
        return ""
    parts = msg.subject.split(".")
    form = " ".join(sorted(msg.headers or {}))
    if parts[0] == "$JS":
        lane = parts[-1] if parts[1] == "API" else msg.data.decode(errors="replace")
        return f"{' '.join(parts[1:5]) if parts[1] == 'API' else 'ACK'} {lane} {form}".strip()
    kind = parts[-1] if parts[1] == "chain" else ""
    answered = "answered" if msg.reply else ""
    return " ".join(filter(None, (parts[1], kind, answered, form)))


class Listener:
    """Hears the calls of whoever is on a server."""

    def __init__(self, nc: Client) -> None:
        """Use after `listen`."""
        self._nc = nc
        self.heard: list[str] = []
        self.ends = 0
        self._last_s = 0.0

    async def listen(self) -> None:
        """Hear everything from now on."""
        await self._nc.subscribe(">", cb=self._hear)
        await self._nc.flush()

    async def _hear(self, msg: Msg) -> None:
        self.ends += msg.subject.startswith(BY_THE_SERVER) and msg.subject.endswith(".completed")
        name = named(msg)
        if name:
            self._last_s = time.monotonic()
            self.heard.append(name)

    async def settled(self, ends: int) -> list[str]:
        """Wait for so many ends and then for quiet; return the calls since the last time."""
        async with asyncio.timeout(LIMIT_S):
            while self.ends < ends or time.monotonic() - self._last_s < QUIET_S:  # noqa: ASYNC110
                await asyncio.sleep(QUIET_S / 10)
        heard, self.heard, self.ends = self.heard, [], 0
        return heard


async def alone(who: Contender, url: str, jobs: int = JOBS) -> list[list[str]]:
    """Return the calls for each of some jobs that come to an idle worker."""
    nc = await nats.connect(url)
    try:
        async with working(who, url):
            listener = Listener(nc)
            await listener.listen()
            found = []
            for number in range(jobs):
                await nc.request(*who.job(f"{who.name}-alone-{number}"), timeout=5)
                found.append(await listener.settled(1))
            return found
    finally:
        await nc.close()


async def in_a_row(who: Contender, url: str, slots: int) -> Calls:
    """Return the calls for a backlog, start and all."""
    nc = await nats.connect(url)
    try:
        for number in range(WAITING):
            job = who.job(f"{who.name}-row{slots}-{number}", Priority.CRITICAL)
            await nc.request(*job, timeout=5)
        listener = Listener(nc)
        await listener.listen()
        async with working(who, url, slots):
            return Counter(await listener.settled(WAITING))
    finally:
        await nc.close()


def usual(jobs: list[list[str]]) -> Calls:
    """Return the fewest calls of a job: what happens each second beside it falls out."""
    fewest: list[str] = min(jobs, key=len)
    return Counter(fewest)


BESIDE: Final = ("API CONSUMER MSG NEXT", "API STREAM INFO", "worker")
"""Pulls, and what a worker says and asks every few seconds, with jobs and without."""


def own(calls: list[str]) -> list[str]:
    """Return the calls of the job itself in their order, without what goes on beside it."""
    return [call for call in calls if not call.startswith(BESIDE)]


async def measure() -> list[Row]:
    """Count the calls of both for a job alone and for one of many."""
    rows = []
    async with server() as running:
        counts: dict[str, tuple[float, ...]] = {}
        for name in ("bare", "mmg"):
            who = Contender(name=name)
            single = usual(await alone(who, running.url)).total()
            rest = [(await in_a_row(who, running.url, n)).total() / WAITING for n in (1, 10)]
            counts[name] = (single, *rest)
    for place, when in enumerate(("one after the other", "1 at a time", "10 at a time")):
        rows.append(
            Row(
                what=f"calls on the bus for a job, {when}",
                figure=counts["mmg"][place],
                floor=counts["bare"][place],
                floor_of="bare loop",
            )
        )
    return rows


if __name__ == "__main__":
    report(__doc__, measure)
