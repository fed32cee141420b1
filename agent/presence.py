"""Tells every ten seconds that this worker is there, and knows which others are.

For a coordinator, and for the bell of a worker that has nothing to do. Nobody relies on it.
"""

import asyncio
import random
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import msgspec
import structlog
from nats.aio.msg import Msg

from agent.bus.connection import Bus, BusError
from contracts import codec, subjects
from contracts.events import Idle, WorkerStatus

EVERY_S: Final = 10.0
IDLE_EVERY_S: Final = 1.0
GONE_S: Final = 30.0
"""Who was not heard for so long is not there any more."""
OTHERS_MAX: Final = 10_000
GREETED_MAX: Final = 10
"""Who knows more than these does not answer a newcomer: one of so many tells soon by itself."""
SPREAD_EACH_S: Final = 0.0005
SPREAD_MAX_S: Final = 0.5
BUSY_S: Final = 0.02
"""What a worker without a free slot waits longer than any that has one, after a bell."""

log = structlog.get_logger()


def spread_s(others: int) -> float:
    """Return over how long so many workers and one more spread their looks after a bell."""
    return min(others * SPREAD_EACH_S, SPREAD_MAX_S)


class Presence:
    """The presence of one worker."""

    def __init__(self, bus: Bus, worker: str, status: Callable[[], WorkerStatus]) -> None:
        """Say what `status` says."""
        self._bus = bus
        self._worker = worker
        self._status = status
        self._heard: dict[str, float] = {}
        self._rang_s: dict[str, float] = {}
        self._met = asyncio.Event()
        """Somebody was heard for the first time, and does not know of this worker yet."""

    @property
    def others(self) -> tuple[str, ...]:
        """The workers that were heard of late, without this one."""
        now_s = asyncio.get_running_loop().time()
        return tuple(name for name, at_s in self._heard.items() if now_s - at_s < GONE_S)

    async def run(self) -> None:
        """Tell and listen, until cancelled."""
        heard = await self._bus.subscribe(subjects.WORKER_ALL, self._on_worker)
        try:
            while True:
                try:
                    await self._bus.publish(
                        subjects.worker(self._worker), codec.encode(self._status())
                    )
                except BusError as error:
                    log.info("presence.not_told", reason=str(error))
                self._met.clear()
                with suppress(TimeoutError):
                    async with asyncio.timeout(EVERY_S):
                        await self._met.wait()
        finally:
            await self._bus.unsubscribe(heard)

    def patience_s(self, free: int) -> float:
        """Return how long to leave a bell to others; `free` counts the slots that are free here.

        Who can begin at once goes first, so that no request waits in the room of a worker that
        draws while another one has nothing to do; each of them after another moment, so that
        not all of them ask for what the first one gets.
        """
        spread = spread_s(len(self.others))
        first = 0.0 if free or not spread else spread + BUSY_S
        return first + random.uniform(0.0, spread)  # noqa: S311 - jitter, no secret

    async def tell_idle(self, kinds: tuple[str, ...]) -> None:
        """Tell other workers, if there are any, that slots of these kinds are free here.

        They hold what waits for their own slots. One bell a second is enough for all who are idle:
        each that is heard counts as rung here.
        """
        now_s = asyncio.get_running_loop().time()
        if all(now_s - self._rang_s.get(kind, 0.0) < IDLE_EVERY_S for kind in kinds):
            return
        if not self.others:
            return
        self._note_rung(kinds)
        try:
            idle = Idle(worker=self._worker, kinds=kinds)
            await self._bus.publish(subjects.IDLE, codec.encode(idle))
        except BusError as error:
            log.info("presence.idle_not_told", reason=str(error))

    def heard_idle(self, data: bytes) -> tuple[str, ...]:
        """Note the bell of another worker; return the kinds of which slots are free there."""
        try:
            idle = msgspec.json.decode(data, type=Idle)
        except msgspec.DecodeError:
            return ()
        if idle.worker == self._worker:
            return ()
        self._note_rung(idle.kinds)
        return idle.kinds

    def _note_rung(self, kinds: tuple[str, ...]) -> None:
        now_s = asyncio.get_running_loop().time()
        self._rang_s.update(dict.fromkeys(kinds, now_s))

    async def _on_worker(self, msg: Msg) -> None:
        name = msg.subject.rsplit(".", 1)[1]
        if name != self._worker and (name in self._heard or len(self._heard) < OTHERS_MAX):
            if name not in self._heard and len(self._heard) < GREETED_MAX:
                self._met.set()
            self._heard[name] = asyncio.get_running_loop().time()
