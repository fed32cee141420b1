"""Tells every ten seconds that this worker is there, and knows which others are.

For a coordinator, and for the bell of a worker that has nothing to do. Nobody relies on it.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Final

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

log = structlog.get_logger()


class Presence:
    """The presence of one worker."""

    def __init__(self, bus: Bus, worker: str, status: Callable[[], WorkerStatus]) -> None:
        """Say what `status` says."""
        self._bus = bus
        self._worker = worker
        self._status = status
        self._heard: dict[str, float] = {}
        self._rang_s = 0.0
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

    async def tell_idle(self, kinds: tuple[str, ...]) -> None:
        """Tell other workers, if there are any, that slots of these kinds are free here.

        They hold what waits for their own slots; at most once a second.
        """
        now_s = asyncio.get_running_loop().time()
        if not self.others or now_s - self._rang_s < IDLE_EVERY_S:
            return
        self._rang_s = now_s
        try:
            idle = Idle(worker=self._worker, kinds=kinds)
            await self._bus.publish(subjects.IDLE, codec.encode(idle))
        except BusError as error:
            log.info("presence.idle_not_told", reason=str(error))

    async def _on_worker(self, msg: Msg) -> None:
        name = msg.subject.rsplit(".", 1)[1]
        if name != self._worker and (name in self._heard or len(self._heard) < OTHERS_MAX):
            if name not in self._heard:
                self._met.set()
            self._heard[name] = asyncio.get_running_loop().time()
