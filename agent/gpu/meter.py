"""One reading of a card: what NVML shows, what ComfyUI holds, what the tenants list.

Taken together and at once, because a reading is old as soon as it is taken. It must not decide
anything, and it never raises: who does not answer is missing from the reading, with the reason.
"""

import asyncio
from typing import Final, Protocol

from agent.clock import Clock
from agent.core.card import Card, Occupancy, Reading
from agent.gpu.lock import CardLock
from agent.gpu.missing import Missing
from agent.gpu.nvml import Nvml
from agent.tenants import TenantClient

NO_MEMORY: Final = Card(total_mib=0, free_mib=0)


class Drawer(Protocol):
    """The ComfyUI that draws on a card."""

    async def occupancy(self) -> Occupancy | None:
        """Say what it holds; None: it does not answer. Never raises, answers within 5 s."""
        ...

    async def free(self) -> str:
        """Ask it to free all models; return why not, or nothing. Never raises."""
        ...


class Meter:
    """Takes the readings of one card, for the one worker that holds its lock.

    `nvml` None: the card is on another host, and what ComfyUI says of its device is the measure.
    """

    def __init__(
        self,
        nvml: Nvml | None,
        drawer: Drawer,
        tenants: tuple[TenantClient, ...],
        worker: str,
        clock: Clock,
    ) -> None:
        """Nothing is measured or locked before `read`."""
        self.nvml = nvml
        self.drawer = drawer
        self.tenants = tenants
        self._worker = worker
        self._clock = clock
        self._lock: CardLock | None = None
        self._was_on_cpu = False

    @property
    def card_id(self) -> str:
        """The card's UUID, once it is known and ours; nothing before."""
        if self.nvml is None:
            return "remote"
        facts = self.nvml.facts
        return facts.uuid if facts is not None and self._lock is not None else ""

    async def read(self) -> Reading:
        """Measure now. One that draws on the CPU needs no card, and nothing else is asked."""
        taken_at = self._clock.now()
        found = await self.drawer.occupancy()
        comfyui = found.comfyui if found is not None else None
        if comfyui is not None:
            self._was_on_cpu = comfyui.on_cpu
        if self._was_on_cpu:
            # Away, it is still no card that is lost: it will draw on the CPU again.
            card = None if comfyui is not None else NO_MEMORY
            return Reading(taken_at=taken_at, card=card, comfyui=comfyui)
        card, missing = await self._card(found)
        async with asyncio.TaskGroup() as group:
            asked = [
                group.create_task(tenant.loaded(), name=f"reads {tenant.name}")
                for tenant in self.tenants
            ]
        tenants = tuple(task.result() for task in asked)
        return Reading(
            taken_at=taken_at, card=card, comfyui=comfyui, tenants=tenants, missing=missing
        )

    def close(self) -> None:
        """Give the card back and end the thread of NVML."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None
        if self.nvml is not None:
            self.nvml.close()

    async def _card(self, found: Occupancy | None) -> tuple[Card | None, str]:
        """Return the card's memory, or why there is none for this worker."""
        if self.nvml is None:
            card = found.card if found is not None else None
            return card, "" if card is not None else "ComfyUI does not say what its device holds"
        card_now = await self.nvml.read()
        if isinstance(card_now, Missing):
            return None, card_now.reason
        facts = self.nvml.facts
        assert facts is not None, "a card that was read is known"
        lock = self._lock or CardLock(facts.uuid, self._worker)
        if not await asyncio.to_thread(lock.try_acquire):
            return None, f"{lock.holder()} has this card; this worker stands by"
        self._lock = lock
        return card_now, ""
