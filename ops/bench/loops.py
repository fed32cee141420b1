"""The floors: a plain nats-py loop, and a bare loop that asks of the bus what a worker of mmg asks.

Run: python -m ops.bench.loops plain|lanes|bare NATS_URL [--slots 1] [--seconds 0], until killed.
The bare loop keeps no promise: it reads no request, decides nothing, looks at no answer. What it
costs more than the plain one is what the guarantees cost on the bus; what mmg costs more than it is
our code.
"""

import argparse
import asyncio
from contextlib import suppress

import nats
from msgspec.structs import replace
from nats.aio.client import Client
from nats.aio.msg import Msg

from contracts import codec, subjects
from contracts.events import Link, kind_of
from contracts.examples import COMPLETED, PROGRESS, STARTED
from contracts.requests import Priority, Request
from contracts.subjects import Identity

PLAIN = "bench.plain"
DONE = "bench.done"
PULL = b'{"batch":1,"no_wait":true}'
ROOM = 13
"""Deliveries of one lane in a waiting room of 16: a place is kept for the head of each other."""
LOOK_S = 1.0
LAST = "Nats-Expected-Last-Subject-Sequence"


async def plain(url: str, slots: int, seconds: float) -> None:
    """Fetch one, do it, say so, ack it: what the tutorials show."""
    nc = await nats.connect(url)
    lane = await nc.jetstream().pull_subscribe(PLAIN + ".*", "bench", stream="PLAIN")

    async def one() -> None:
        while True:
            try:
                (msg,) = await lane.fetch(1, timeout=5)
            except TimeoutError:
                continue
            if seconds:
                await asyncio.sleep(seconds)
            await nc.publish(f"{DONE}.{msg.subject.rsplit('.', 1)[1]}", b"{}")
            await msg.ack()

    async with asyncio.TaskGroup() as group:
        for _ in range(slots):
            group.create_task(one())
        print("ready", flush=True)


async def lanes(url: str, slots: int, seconds: float) -> None:
    """Take the most urgent request whenever a slot is free, do it, ack it; no chain, no fence."""
    nc = await nats.connect(url)
    inbox, rung, pulled = nc.new_inbox(), asyncio.Event(), asyncio.Queue[Msg]()
    asking = asyncio.Semaphore(1)

    async def on_bell(_msg: Msg) -> None:
        rung.set()

    await nc.subscribe(f"{inbox}.*", cb=pulled.put)
    await nc.subscribe(subjects.QUEUED_ALL, cb=on_bell)
    await nc.flush()

    async def first() -> Msg | None:
        for lane in subjects.LANES:
            await nc.publish(pull_subject(lane), PULL, reply=f"{inbox}.1")
            msg = await pulled.get()
            if not (msg.headers or {}).get("Status"):
                return msg
        return None

    async def one() -> None:
        while True:
            async with asking:
                msg = await first()
            if msg is None:
                with suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_S):
                        await rung.wait()
                rung.clear()
                continue
            _, who = subjects.parse_request(msg.subject)
            await nc.publish(subjects.event(who, "started"), b"{}")
            await asyncio.sleep(seconds)
            await nc.publish(subjects.event(who, "completed"), b"{}")
            await msg.ack()

    async with asyncio.TaskGroup() as group:
        for _ in range(slots):
            group.create_task(one())
        print("ready", flush=True)


def pull_subject(lane: Priority) -> str:
    """Return where a lane is asked for a message."""
    durable = subjects.durable(lane)
    return f"$JS.API.CONSUMER.MSG.NEXT.{subjects.STREAM_REQUESTS}.{durable}"


class Bare:
    """The calls of a worker without the worker."""

    def __init__(self, nc: Client, slots: int, seconds: float) -> None:
        """Work on so many at once, each for so long."""
        self._nc = nc
        self._seconds = seconds
        self._free = asyncio.Semaphore(slots)
        self._waiting = dict.fromkeys(subjects.LANES, 0)
        self._rung = asyncio.Event()
        self._inbox = nc.new_inbox()
        self._pulled: asyncio.Future[Msg] | None = None
        self._progress = codec.encode(PROGRESS)
        self._links = {
            kind_of(link): (codec.encode(link), codec.link_headers(link, source="/mmg/worker"))
            for link in templates()
        }

    async def run(self) -> None:
        """Pull whenever there is room, as `agent.dispatch` does."""
        await self._nc.subscribe(f"{self._inbox}.*", cb=self._on_pulled)
        await self._nc.subscribe(subjects.QUEUED_ALL, cb=self._on_bell)
        for subject in subjects.EVENT_OVERTAKING:  # A worker hears these too.
            await self._nc.subscribe(subject, cb=self._on_event)
        await self._nc.flush()
        print("ready", flush=True)
        async with asyncio.TaskGroup() as group:
            while True:
                if await self._sweep(group):
                    continue
                try:
                    async with asyncio.timeout(LOOK_S):
                        await self._rung.wait()
                except TimeoutError:
                    continue
                finally:
                    self._rung.clear()

    async def _sweep(self, group: asyncio.TaskGroup) -> bool:
        total = sum(self._waiting.values())
        for lane in subjects.LANES:
            if self._waiting[lane] and total >= ROOM:
                continue
            self._pulled = asyncio.get_running_loop().create_future()
            await self._nc.publish(pull_subject(lane), PULL, reply=f"{self._inbox}.1")
            msg = await self._pulled
            if not (msg.headers or {}).get("Status"):
                self._waiting[lane] += 1
                group.create_task(self._job(msg, lane))
                return True
        return False

    async def _job(self, msg: Msg, lane: Priority) -> None:
        _, who = subjects.parse_request(msg.subject)
        async with self._free:
            self._waiting[lane] -= 1
            seq = await self._append(who, "started", 0)
            await self._nc.publish(subjects.progress(who), self._progress)
            if self._seconds:
                await asyncio.sleep(self._seconds)
        await self._append(who, "completed", seq)
        await self._nc.publish(msg.reply, b"+ACK")
        self._rung.set()

    async def _append(self, who: Identity, kind: str, expected: int) -> int:
        data, headers = self._links[kind]
        fence = {LAST: str(expected), f"{LAST}-Subject": subjects.chain_filter(who)}
        answer = await self._nc.request(
            subjects.chain(who, kind), data, timeout=5, headers=headers | fence
        )
        return int(answer.data.partition(b'"seq":')[2].partition(b"}")[0].partition(b",")[0])

    async def _on_pulled(self, msg: Msg) -> None:
        if self._pulled is not None and not self._pulled.done():
            self._pulled.set_result(msg)

    async def _on_bell(self, _msg: Msg) -> None:
        self._rung.set()

    async def _on_event(self, _msg: Msg) -> None:
        """Hear it."""


def templates() -> tuple[Link, Link]:
    """Return the links of a short job: the examples of the contract, with one picture."""
    short = Request(type="image", prompt="bench")
    (output, *_) = COMPLETED.outputs
    return replace(STARTED, request=short), replace(COMPLETED, outputs=(output,), output=output)


async def bare(url: str, slots: int, seconds: float) -> None:
    """Run the bare loop."""
    await Bare(await nats.connect(url), slots, seconds).run()


LOOPS = {"plain": plain, "lanes": lanes, "bare": bare}


def main() -> None:
    """Run the loop that was named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("loop", choices=tuple(LOOPS))
    parser.add_argument("url", metavar="NATS_URL")
    parser.add_argument("--slots", type=int, default=1, help="jobs at once (%(default)s)")
    parser.add_argument("--seconds", type=float, default=0.0, help="what a job takes (0)")
    asked = parser.parse_args()
    asyncio.run(LOOPS[asked.loop](asked.url, asked.slots, asked.seconds))


if __name__ == "__main__":
    main()
