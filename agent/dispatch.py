"""Which delivery is carried when: lanes on one side, slots on the other.

Takes the most urgent request whenever a slot is free, runs its `Job`, and on a stop lets jobs
finish, then hands the rest back in their order. What happens to one request is for `agent.worker`.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Literal

import msgspec
import structlog
from nats.aio.msg import Msg

from agent.bus import chain, lanes
from agent.bus.connection import BusError
from agent.bus.lanes import Delivery, Lanes
from agent.core.job import StoredRequest
from agent.engines.protocol import Engine
from agent.metrics import REQUESTS_UNSPEAKABLE
from agent.readiness import Readiness, StreamsGoneError
from agent.tools import Tools
from agent.worker import Job
from contracts import codec, subjects
from contracts.errors import ContractError, ErrorBody
from contracts.events import Started, WorkerStatus
from contracts.requests import Priority
from contracts.subjects import Identity

INTERRUPT_S: Final = 10.0
"""How long interrupted jobs get to write what became of them."""
IDLE_LOOKS: Final = 2
"""How often the lanes must be found empty before `--once` calls them worked off."""

log = structlog.get_logger()


class Slots:
    """The places for jobs, by kind; a place that belongs to a server carries its name."""

    def __init__(self, places: Mapping[str, Sequence[str | None]]) -> None:
        """Begin with all places free."""
        self._free = {kind: list(names) for kind, names in places.items()}
        self._changed = asyncio.Event()

    def has_free(self, kind: str) -> bool:
        """Tell whether a job of this kind could start now."""
        return bool(self._free.get(kind))

    async def take(self, kind: str) -> str | None:
        """Wait for a free place of this kind, take it and return its name, if it has one."""
        while not self._free.get(kind):
            self._changed.clear()
            await self._changed.wait()
        return self._free[kind].pop(0)

    def give(self, kind: str, name: str | None) -> None:
        """Give a place back."""
        self._free[kind].append(name)
        self._changed.set()


class HeldSlot:
    """The place of one job; `take` and `free` may be called again without harm."""

    def __init__(self, slots: Slots, lanes_: Lanes) -> None:
        """Hold nothing yet."""
        self._slots = slots
        self._lanes = lanes_
        self._held: tuple[str, str | None] | None = None

    def held(self, kind: str) -> bool:
        """Tell whether a place of this kind is held."""
        return self._held is not None and self._held[0] == kind

    async def take(self, kind: str) -> str | None:
        """Wait for a place of this kind, at once where it is the one held; return its name."""
        if self._held is None or self._held[0] != kind:
            self.free()
            self._held = (kind, await self._slots.take(kind))
        return self._held[1]

    def free(self) -> None:
        """Give the place back, if one is held, and let the lanes be looked at."""
        if self._held is None:
            return
        held, self._held = self._held, None
        self._slots.give(*held)
        self._lanes.wake()


class Dispatch:
    """The loop of one worker."""

    def __init__(
        self, tools: Tools, readiness: Readiness, sizes: Mapping[str, int], drain_s: float
    ) -> None:
        """Nothing is pulled before `run`. Units: `drain_s` seconds that jobs may still take."""
        self._tools = tools
        self._readiness = readiness
        self._slots = Slots(places(tools.engines.values(), sizes))
        self._drain_s = drain_s
        self._lanes = Lanes(tools.bus)
        self._jobs: dict[tuple[Identity, int], Job] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._stopping = False
        self._gone: StreamsGoneError | None = None

    @property
    def running(self) -> int:
        """How many jobs are in hand."""
        return len(self._jobs)

    def status(self) -> WorkerStatus:
        """Say how this worker stands."""
        closed = self._readiness.closed
        state: Literal["ready", "paused", "closed", "stopping"] = "ready"
        if self._stopping:
            state = "stopping"
        elif closed is not None:
            state = "paused" if self._readiness.paused else "closed"
        return WorkerStatus(
            worker=self._tools.worker,
            state=state,
            reason=closed or "",
            running=tuple(sorted(str(who) for who, _ in self._jobs)),
            engines=tuple(self._tools.engines),
            permission_errors=self._tools.bus.permission_errors,
        )

    def stop(self) -> None:
        """Take nothing more; `run` then drains and returns."""
        self._stopping = True
        self._lanes.wake()

    async def run(self, *, once: bool = False) -> None:
        """Carry requests until `stop`, or with `once` until the lanes are worked off.

        Raises: StreamsGoneError, after the jobs in hand were interrupted.
        """
        await self._readiness.run_once()
        await self._clean_up()
        await self._lanes.open()
        heard = [
            await self._tools.bus.subscribe(subject, self._on_overtaking)
            for subject in subjects.EVENT_OVERTAKING
        ]
        try:
            async with asyncio.TaskGroup() as group:
                looking = group.create_task(self._look(), name="readiness")
                await self._take(group, once=once)
                await self._drain()
                looking.cancel()
        finally:
            for subscription in heard:
                await subscription.unsubscribe()
            await self._lanes.close()
        if self._gone is not None:
            raise self._gone

    async def _clean_up(self) -> None:
        """Remove from the engines what an earlier process of this worker left behind.

        A prompt whose chain still ends with that very attempt stays: it will be adopted.
        """
        for engine in self._tools.engines.values():
            for attempt in await engine.leftovers():
                who = Identity(attempt.agent, attempt.request_id)
                try:
                    head = await chain.read_head(self._tools.bus, who)
                except (BusError, msgspec.DecodeError) as error:
                    log.warning("dispatch.leftover_unknown", request=str(who), reason=str(error))
                    continue
                link = None if head is None else head.link
                if isinstance(link, Started) and link.attempt == attempt.attempt:
                    continue
                log.info("dispatch.leftover_removed", request=str(who), attempt=attempt.attempt)
                await engine.drop(attempt)

    async def look_again(self) -> None:
        """Look at once whether work may be taken: something was switched."""
        await self._readiness.run_once()
        self._lanes.wake()

    async def _look(self) -> None:
        """Watch whether work may be taken; streams that stay away end the worker."""
        try:
            await self._readiness.run()
        except StreamsGoneError as error:
            self._gone = error
            self._drain_s = 0.0
            self.stop()

    async def _on_overtaking(self, msg: Msg) -> None:
        """Interrupt a job whose chain somebody else has continued: a cancel, or a new owner."""
        who = subjects.parse_pair(msg.subject)
        jobs = [job for (owner, _), job in self._jobs.items() if owner == who]
        if not jobs:
            return
        try:
            head = codec.decode_head(msg.data)
        except msgspec.DecodeError:
            return
        for job in jobs:
            if not job.is_overtaken(head):
                continue
            log.info("dispatch.overtaken", request=str(who), by=head.kind)
            if job.handed_back:
                self._forget((job.stored.who, job.stored.seq))  # No longer ours to give back.
            else:
                await job.interrupt("overtaken", f"{head.kind} by somebody else")

    async def _take(self, group: asyncio.TaskGroup, *, once: bool) -> None:
        """Pull whenever a slot is free; sleep until a bell, a freed slot or the safety sweep."""
        empty_looks = 0
        while not self._stopping:
            kind = self._kind_to_fill() if self._readiness.closed is None else None
            delivery = await self._lanes.next() if kind is not None else None
            if delivery is not None:
                assert kind is not None, "nothing is pulled without a free slot"
                empty_looks = 0
                await self._accept(group, delivery, kind)
                continue
            if once and not self._jobs and self._tools.bus.connected:
                empty_looks += 1
                if empty_looks >= IDLE_LOOKS:
                    return
            await self._lanes.wait()

    def _kind_to_fill(self) -> str | None:
        """Return the kind of slot the next request would take, if one is free.

        That is the kind of the first engine that is up: a free slot of a fallback is no reason to
        take a request that has to wait for its proper engine.
        """
        for facts in self._tools.facts:
            if facts.up:
                return facts.slot if self._slots.has_free(facts.slot) else None
        return None

    async def _accept(self, group: asyncio.TaskGroup, delivery: Delivery, kind: str) -> None:
        """Give a delivery to the job that has its request already, or to a new one."""
        stored, error = read_delivery(delivery)
        if stored is None:
            await self._drop(delivery, error)
            return
        key = (stored.who, stored.seq)
        running = self._jobs.get(key)
        if running is not None:
            log.info("dispatch.kept", request=str(stored.who), deliveries=delivery.num_delivered)
            running.delivery = delivery
            return
        slot = HeldSlot(self._slots, self._lanes)
        await slot.take(kind)
        job = Job(self._tools, delivery, stored, slot)
        self._jobs[key] = job
        self._idle.clear()
        task = group.create_task(self._carry(key, job, error), name=f"job {stored.who}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _carry(self, key: tuple[Identity, int], job: Job, error: ErrorBody | None) -> None:
        try:
            await job.carry(error)
        except Exception:  # A broken job must not end the others; its delivery lapses.
            log.exception("job.broke", request=str(job.stored.who))
        if not job.handed_back:
            self._forget(key)

    def _forget(self, key: tuple[Identity, int]) -> None:
        self._jobs.pop(key, None)
        if not self._jobs:
            self._idle.set()
        self._lanes.wake()

    async def _drop(self, delivery: Delivery, error: ErrorBody | None) -> None:
        """Take out a message whose subject has no place for an answer."""
        reason = error.message if error is not None else "no identity"
        REQUESTS_UNSPEAKABLE.inc()
        log.error("request.unspeakable", subject=delivery.subject[:200], reason=reason)
        try:
            await delivery.term(f"invalid_request: {reason}")
        except BusError as trouble:
            log.warning("request.not_dropped", reason=str(trouble))

    async def _drain(self) -> None:
        """Let jobs finish for `drain_s`, interrupt the rest, hand them back in their order."""
        if self._jobs:
            log.info("dispatch.draining", jobs=self.running, at_most_s=self._drain_s)
        if not await self._wait_idle(self._drain_s):
            for job in tuple(self._jobs.values()):
                await job.interrupt("stop", f"worker {self._tools.worker} stops")
            await self._wait_done()
        for key in sorted(self._jobs, key=lambda key: key[1]):
            held = self._jobs.get(key)
            # It may be overtaken while others are given back, or left undecided.
            if held is not None and held.handed_back:
                await self._hand_back(held)
                self._forget(key)

    async def _wait_idle(self, timeout_s: float) -> bool:
        try:
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True

    async def _wait_done(self) -> None:
        """Wait until every job has ended or waits to be handed back, but not for ever.

        A job that still asks a server that is away is left as it is: nothing of it is settled,
        and the redelivery decides.
        """
        try:
            async with asyncio.timeout(INTERRUPT_S):
                while any(not job.handed_back for job in self._jobs.values()):
                    await self._lanes.wait(0.05)
        except TimeoutError:
            log.warning("dispatch.left_undecided", jobs=len(self._tasks))
            for task in tuple(self._tasks):
                task.cancel()

    async def _hand_back(self, job: Job) -> None:
        try:
            await job.delivery.nak()
            await lanes.ring(self._tools.bus, job.stored.priority, job.stored.who)
        except BusError as error:
            log.warning("dispatch.not_handed_back", reason=str(error))


def places(engines: Iterable[Engine], sizes: Mapping[str, int]) -> dict[str, list[str | None]]:
    """Return the places of each kind: one for each server an engine brings, else as configured."""
    result: dict[str, list[str | None]] = {kind: [None] * count for kind, count in sizes.items()}
    for engine in engines:
        if engine.places:
            result[engine.slot] = list(engine.places)
    return result


def read_delivery(delivery: Delivery) -> tuple[StoredRequest | None, ErrorBody | None]:
    """Read a delivery: the stored request, and the error where its bytes break the contract.

    Without a stored request not even an answer could be addressed.
    """
    error: ErrorBody | None = None
    request = None
    try:
        received = codec.receive(delivery.subject, delivery.headers, delivery.data)
    except ContractError as broken:
        error = broken.body
        who = subjects.raw_pair(delivery.subject)
        if who is None:
            return None, error
        priority = Priority(delivery.subject.split(".")[2].upper())
    else:
        who, priority, request = received.who, received.priority, received.request
    stored = StoredRequest(
        who=who,
        priority=priority,
        seq=delivery.seq,
        stored_at=delivery.stored_at,
        request=request,
    )
    return stored, error
