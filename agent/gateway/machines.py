"""What the workers say of themselves: asked when somebody wants to know, shared for a second.

Who is known to work is not waited for longer than it takes it to answer. Must not judge what a
worker says.
"""

import asyncio
from typing import Final, TypeVar

import msgspec
import structlog
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from agent.bus.connection import Bus, BusError
from agent.gateway.relay import unsubscribe
from contracts import subjects
from contracts.events import WorkerStatus
from contracts.status import CardState, WaitingJob, WorkerModels, WorkerReport
from contracts.subjects import Identity

ANSWERS_S: Final = 0.5
FRESH_S: Final = 1.0
GONE_S: Final = 30.0
"""A worker tells every ten seconds that it is there; after three that are missing it is not."""
KNOWN_MAX: Final = 1000
MIB_PER_GB: Final = 1024
UNTOLD: Final = "no worker answers; start one with `mmg worker` or `mmg up`"
NO_CARD: Final = "no worker has a card that it can measure"

log = structlog.get_logger()

T = TypeVar("T", WorkerReport, WorkerModels)


class CardGlance(msgspec.Struct, frozen=True, kw_only=True):
    """One card in short; the worker's own report has everything."""

    worker: str
    name: str | None
    state: str
    missing: str
    total_mib: int | None
    free_mib: int | None
    models: tuple[str, ...]


class GpuStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The cards of all workers together, as the spec shows one. Null: nobody tells; see `reason`.

    Units: GB of 1024 MiB; `available_vram_gb` is free now, what is kept in reserve included.
    """

    available_vram_gb: float | None
    total_vram_gb: float | None
    ollama_loaded: bool | None
    comfyui_loaded: bool | None
    cards: tuple[CardGlance, ...]
    reason: str


class Machines:
    """The workers as one gateway knows them. Order: `open`, then `close`."""

    def __init__(self, bus: Bus) -> None:
        """Nobody was heard."""
        self._bus = bus
        self._heard: dict[str, float] = {}
        self._reports: dict[str, WorkerReport] = {}
        self._asked_at_s = float("-inf")
        self._presence: Subscription | None = None

    async def open(self) -> None:
        """Listen for who is there. Raises: BusError."""
        self._presence = await self._bus.subscribe(subjects.WORKER_ALL, self._on_presence)

    async def close(self) -> None:
        """Listen no more."""
        if self._presence is not None:
            await unsubscribe(self._presence)
            self._presence = None

    @property
    def names(self) -> tuple[str, ...]:
        """The workers that were heard of late."""
        now_s = asyncio.get_running_loop().time()
        return tuple(sorted(n for n, at_s in self._heard.items() if now_s - at_s < GONE_S))

    @property
    def known(self) -> tuple[WorkerReport, ...]:
        """What those said last, asked or not; nobody is asked now."""
        return tuple(self._reports[name] for name in self.names if name in self._reports)

    def wait_of(self, who: Identity) -> WaitingJob | None:
        """Return what the worker that holds a request said of its wait."""
        for report in self.known:
            for wait in report.waits:
                if wait.request_id == who.request_id and wait.requester == who.requester:
                    return wait
        return None

    async def look(self) -> tuple[WorkerReport, ...]:
        """Return how each worker stands, at most a second old. A bus that is away: as known."""
        loop = asyncio.get_running_loop()
        if loop.time() - self._asked_at_s >= FRESH_S and self._bus.connected:
            self._asked_at_s = loop.time()
            try:
                for report in await self._ask("status", WorkerReport):
                    self._reports[report.worker] = report
            except BusError as error:
                log.info("machines.not_asked", reason=str(error))
        for name in set(self._reports) - set(self.names):
            del self._reports[name]
        return self.known

    async def models(self) -> tuple[WorkerModels, ...]:
        """Ask every worker for its models. Raises: BusError."""
        return tuple(sorted(await self._ask("models", WorkerModels), key=lambda one: one.worker))

    async def _ask(self, verb: str, kind: type[T]) -> list[T]:
        """Ask everybody; wait for those that are known, or half a second."""
        found: dict[str, T] = {}
        expected, enough = set(self.names), asyncio.Event()

        async def collect(msg: Msg) -> None:
            headers = msg.headers or {}
            if headers.get("Status") is not None:
                enough.set()  # The server itself says that nobody listens.
                return
            try:
                answer = msgspec.json.decode(msg.data, type=kind)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                log.info("machines.unreadable", verb=verb, reason=str(error))
                return
            found[answer.worker] = answer
            self._note(answer.worker)
            if expected and expected <= set(found):
                enough.set()

        inbox = self._bus.new_inbox()
        subscription = await self._bus.subscribe(inbox, collect)
        try:
            await self._bus.publish(subjects.rpc(verb), reply=inbox)
            async with asyncio.timeout(ANSWERS_S):
                await enough.wait()
        except TimeoutError:
            log.debug("machines.slow", verb=verb, missing=sorted(expected - set(found)))
        finally:
            await unsubscribe(subscription)
        return list(found.values())

    async def _on_presence(self, msg: Msg) -> None:
        try:
            status = msgspec.json.decode(msg.data, type=WorkerStatus)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            log.info("machines.unreadable", subject=msg.subject, reason=str(error))
            return
        self._note(status.worker)

    def _note(self, worker: str) -> None:
        if worker in self._heard or len(self._heard) < KNOWN_MAX:
            self._heard[worker] = asyncio.get_running_loop().time()


def gpu_status(reports: tuple[WorkerReport, ...]) -> GpuStatus:
    """Add up what the workers say of their cards."""
    cards = [(report.worker, card) for report in reports for card in report.cards]
    measured = [card for _, card in cards if card.total_mib is not None]
    free_mib = sum(card.free_mib or 0 for card in measured)
    total_mib = sum(card.total_mib or 0 for card in measured)
    reason = "" if measured else _why(reports, [card for _, card in cards])
    return GpuStatus(
        available_vram_gb=round(free_mib / MIB_PER_GB, 1) if measured else None,
        total_vram_gb=round(total_mib / MIB_PER_GB, 1) if measured else None,
        ollama_loaded=any(t.models for _, c in cards for t in c.tenants) if cards else None,
        comfyui_loaded=any(c.comfyui.models for _, c in cards) if cards else None,
        cards=tuple(_glance(worker, card) for worker, card in cards),
        reason=reason,
    )


def _glance(worker: str, card: CardState) -> CardGlance:
    return CardGlance(
        worker=worker,
        name=card.name,
        state=card.state,
        missing=card.missing,
        total_mib=card.total_mib,
        free_mib=card.free_mib,
        models=card.comfyui.models,
    )


def _why(reports: tuple[WorkerReport, ...], cards: list[CardState]) -> str:
    if not reports:
        return UNTOLD
    said = [card.missing for card in cards if card.missing]
    return said[0] if said else NO_CARD
