"""The share of one agent in the queue: what it stores beyond that is ended, and makes room at once.

The server cannot count by agent, and an agent with a key of its own publishes straight to it. So
the count is taken from the stream, after each bell that could make it too high. Which requests are
beyond the share follows from their stored order alone, and the end of each is an append to an
empty chain: it either begins or is refused, never both, however many workers look. It must not
touch what has begun.
"""

import asyncio
from collections import Counter
from typing import Final
from uuid import uuid4

import structlog
from nats.aio.msg import Msg

from agent.backstop import stored_request
from agent.bus import chain, history, hooks, lanes, overview
from agent.bus.connection import Bus, BusError
from agent.clock import Clock
from agent.core.job import EMPTY, History
from agent.core.links import Author, Pen
from agent.core.steps import Stored
from contracts import subjects
from contracts.errors import ErrorBody, ErrorCode, error_body

GATHER_S: Final = 0.1
"""A flood is looked at ten times a second, not once a message."""
LOOK_S: Final = 30.0
"""A bell may be missed; so all agents are counted now and then."""

log = structlog.get_logger()


def over_quota(most: int) -> ErrorBody:
    """Return the error of a request beyond the share."""
    return error_body(
        ErrorCode.QUOTA, f"this agent has {most} requests in the queue, as many as one may have"
    )


class Quota:
    """Keeps every agent within `most` stored requests, those in work included."""

    def __init__(self, bus: Bus, worker: str, clock: Clock, most: int) -> None:
        """Nothing is counted before `run`."""
        self._bus = bus
        self._worker = worker
        self._clock = clock
        self._most = most
        self._counts: Counter[str] = Counter()
        self._all = True
        self._bell = asyncio.Event()

    async def run(self) -> None:
        """Count and refuse, until cancelled."""
        heard = await self._bus.subscribe(subjects.QUEUED_ALL, self._on_bell)
        self._bus.on_reconnect.append(self._look_at_all)
        try:
            while True:
                try:
                    await self.run_once()
                except BusError as error:
                    self._all = True
                    log.info("quota.not_counted", reason=str(error))
                await self._wait()
        finally:
            self._bus.on_reconnect.remove(self._look_at_all)
            await self._bus.unsubscribe(heard)

    async def run_once(self) -> None:
        """Look at the agents that may have too many. Raises: BusError."""
        if self._all:
            self._counts = await overview.count_by_agent(self._bus)
            self._all = False
        for agent in [one for one, count in self._counts.items() if count > self._most]:
            self._counts[agent] = await self._trim(agent)

    async def _wait(self) -> None:
        """Wait for a bell that matters, and a little longer, or until it is time to look."""
        try:
            async with asyncio.timeout(LOOK_S):
                await self._bell.wait()
        except TimeoutError:
            self._all = True
        else:
            await asyncio.sleep(GATHER_S)
        self._bell.clear()

    async def _trim(self, agent: str) -> int:
        """Refuse what an agent has stored beyond its share; return how much is left."""
        wanted = subjects.requests_any_lane(agent)
        kept = await history.read(self._bus, subjects.STREAM_REQUESTS, wanted, overview.STORED_MAX)
        ended = 0
        for message in kept[self._most :]:
            ended += await self._refuse(message.seq)
        if ended:
            log.warning("quota.refused", agent=agent, requests=ended, most=self._most)
        return len(kept) - ended

    async def _refuse(self, seq: int) -> bool:
        """End one request that nobody has begun, then take it out; whether it is gone.

        Order: it leaves the stream only once the end of its chain is stored. Raises: BusError.
        """
        waiting = await lanes.read_waiting(self._bus, seq)
        stored = None if waiting is None else stored_request(waiting)
        if stored is None:
            return waiting is None
        now = self._clock.now()
        await hooks.keep_of(self._bus, stored, now)
        author = Author(worker=self._worker, nonce=uuid4())
        pen = Pen(stored=stored, author=author, place=EMPTY, now=now)
        link = pen.failed(over_quota(self._most), History(), dead=False)
        outcome = await chain.append(self._bus, stored.who, link, EMPTY.seq, of=stored.trace)
        if not isinstance(outcome, Stored):
            return False  # Somebody has begun it, or nobody can say: it is left alone.
        await lanes.remove(self._bus, seq)
        return True

    async def _on_bell(self, msg: Msg) -> None:
        who = subjects.parse_queued(msg.subject)
        if who is None:
            return
        self._counts[who.agent] += 1
        if self._counts[who.agent] > self._most:
            self._bell.set()

    def _look_at_all(self) -> None:
        self._all = True
        self._bell.set()
