"""Which delivery is carried when: lanes on one side, slots on the other.

Takes the most urgent request whenever a slot is free, runs its `Job`, and on a stop lets jobs
finish, then hands the rest back in their order. What happens to one request is for `agent.worker`.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Final, Literal

import msgspec
import structlog
from nats.aio.msg import Msg

from agent.bus import chain, lanes
from agent.bus.connection import BusError
from agent.bus.lanes import Delivery, Lanes
from agent.core.waiting_room import SIZE, GiveBack, Held, give_back, overfull, pull_next
from agent.deliveries import read_delivery
from agent.metrics import REDELIVERIES, REQUESTS_UNSPEAKABLE
from agent.presence import Presence
from agent.readiness import Readiness, StreamsGoneError
from agent.slots import GPU, job_name
from agent.standing_by import StandingBy
from agent.tools import Tools
from agent.worker import Job
from contracts import codec, subjects
from contracts.errors import ErrorBody
from contracts.events import Started, WorkerStatus
from contracts.requests import Priority
from contracts.subjects import Identity

INTERRUPT_S: Final = 10.0
"""How long interrupted jobs get to write what became of them."""
START_S: Final = 0.01
"""What a job on the card gets to start before the lanes are swept: beside it that costs time."""
TEND_EVERY_S: Final = 1.0
"""How often those who wait are looked after: the hour, and whether a cloud may draw them."""
IDLE_LOOKS: Final = 2
"""How often the lanes must be found empty before `--once` calls them worked off."""

log = structlog.get_logger()


class Dispatch:
    """The loop of one worker."""

    def __init__(
        self, tools: Tools, readiness: Readiness, drain_s: float, lookahead: int = SIZE
    ) -> None:
        """Nothing is pulled before `run`.

        `lookahead`: deliveries that may be held while they wait for a slot. Units: `drain_s`
        seconds that jobs may still take.
        """
        self._tools = tools
        self._readiness = readiness
        self._slots = tools.slots
        self._slots.on_change = self._wake
        self._lookahead = lookahead
        self._drain_s = drain_s
        self._presence = Presence(tools.bus, tools.worker, self.status)
        self._standing_by = StandingBy(self._slots)
        self._starts = False
        self._limited = True
        self._tended_s = 0.0
        self._idle_elsewhere: tuple[str, ...] | None = None
        self._lanes = Lanes(tools.bus, self._patience_s)
        self._jobs: dict[tuple[Identity, int], Job] = {}
        self._tasks: dict[tuple[Identity, int], asyncio.Task[None]] = {}
        self._leaving: set[tuple[Identity, int]] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._stopping = False
        self._collects = False
        self._gone: StreamsGoneError | None = None

    @property
    def running(self) -> int:
        """How many jobs are in hand."""
        return len(self._jobs)

    @property
    def jobs(self) -> tuple[Job, ...]:
        """All jobs in hand, those that wait too."""
        return tuple(self._jobs.values())

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
            running=tuple(sorted(str(job.stored.who) for job in self._working())),
            waiting=tuple(sorted(str(job.stored.who) for job in self._waiting())),
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
        bus = self._tools.bus
        overtaking = subjects.EVENT_OVERTAKING
        heard = [await bus.subscribe(subject, self._on_overtaking) for subject in overtaking]
        heard.append(await bus.subscribe(subjects.IDLE, self._on_idle))
        try:
            async with asyncio.TaskGroup() as group:
                beside = (
                    group.create_task(self._look(), name="readiness"),
                    group.create_task(self._presence.run(), name="presence"),
                )
                await self._take(group, once=once)
                await self._drain()
                for task in beside:
                    task.cancel()
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
        self._lanes.taken(who)
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
        """Pull whenever there is room; sleep until a bell, a freed slot or the safety sweep."""
        empty_looks = 0
        while not self._stopping:
            if self._starts:
                self._starts = False
                await asyncio.sleep(START_S)
            self._tend(group)
            lanes_ = self._lanes_to_pull()
            self._limited = len(lanes_) < len(subjects.LANES)
            delivery = await self._lanes.next(lanes_) if lanes_ else None
            if delivery is not None:
                empty_looks = 0
                await self._accept(group, delivery)
                continue
            if once and not self._jobs and self._tools.bus.connected:
                empty_looks += 1
                if empty_looks >= IDLE_LOOKS:
                    return
            if lanes_:
                await self._ring_idle()
            await self._lanes.wait()

    def _lanes_to_pull(self) -> tuple[Priority, ...]:
        """Return the lanes to pull, in order; none without an engine, or while some go back."""
        if self._readiness.closed is not None or self._leaving or not self._tools.is_any_ready:
            return ()
        pulls = pull_next(self._held(), self._slots.free(), self._lookahead)
        return self._standing_by.open([pull.lane for pull in pulls])

    def _tend(self, group: asyncio.TaskGroup) -> None:
        """Look after those who wait: the hour, the clouds, the card."""
        now_s = self._tools.clock.monotonic_s()
        if now_s - self._tended_s >= TEND_EVERY_S:
            self._tended_s = now_s
            self._slots.tick()
            for job in self._waiting():
                job.refresh()
        if self._slots.keepers and not self._slots.has_card():
            self._give_back(group, give_back(self._held(), "card_lost"))
        if self._presence.others:
            staying = (job for key, job in self._jobs.items() if key not in self._leaving)
            self._give_back(group, self._standing_by.goes_back(staying))
        self._give_back(group, overfull(self._held(), self._lookahead))
        if self._idle_elsewhere is not None:
            kinds, self._idle_elsewhere = self._idle_elsewhere, None
            order, busy = self._slots.order(), self._slots.busy()
            gone = give_back(self._held(), "idle", order=order, kinds=kinds, busy=busy)
            self._give_back(group, gone)

    def _waiting(self) -> list[Job]:
        """Return the jobs that hold a delivery and wait for a slot."""
        return [
            job
            for key, job in self._jobs.items()
            if job.slot.waits and not job.handed_back and key not in self._leaving
        ]

    def _working(self) -> list[Job]:
        return [job for job in self._jobs.values() if not job.slot.waits]

    def _patience_s(self) -> float:
        """Say how long a bell is left to other workers: longer while no card is free here."""
        return self._presence.patience_s(self._slots.free().get(self._tools.first_slot, 0))

    def _held(self) -> tuple[Held, ...]:
        """Return the waiting room as the rules see it."""
        return tuple(
            Held(
                job=job_name(job.stored),
                priority=job.stored.priority,
                seq=job.stored.seq,
                slot=job.slot.kind or self._tools.first_slot,
            )
            for job in self._waiting()
        )

    def _give_back(self, group: asyncio.TaskGroup, backs: Sequence[GiveBack]) -> None:
        """Hand waiting requests back to their lanes, one after the other, in this order."""
        named = {job_name(job.stored): key for key, job in self._jobs.items()}
        keys = [named[back.job] for back in backs]
        if keys:
            log.info("dispatch.gives_back", jobs=len(keys), reason=backs[0].reason)
            self._leaving.update(keys)
            group.create_task(self._return(keys, backs[0].reason), name="gives back")

    async def _return(self, keys: Sequence[tuple[Identity, int]], reason: str) -> None:
        for key in keys:
            job, task = self._jobs.get(key), self._tasks.get(key)
            if job is None or task is None:
                continue
            await job.interrupt("stop", reason)
            await asyncio.wait((task,), timeout=INTERRUPT_S)
        self._leaving.difference_update(keys)

    async def _ring_idle(self) -> None:
        """Tell other workers that a slot is free here and the lanes are empty."""
        kinds = tuple(kind for kind, count in self._slots.free().items() if count)
        if kinds and not self._jobs:
            await self._presence.tell_idle(kinds)

    async def _on_idle(self, msg: Msg) -> None:
        """Give back what another worker with a free slot could begin with at once."""
        kinds = self._presence.heard_idle(msg.data)
        if kinds and self._waiting() and not self._stopping:
            self._idle_elsewhere = kinds
            self._lanes.wake()

    async def _accept(self, group: asyncio.TaskGroup, delivery: Delivery) -> None:
        """Give a delivery to the job that has its request already, or to a new one."""
        REDELIVERIES.inc(delivery.num_delivered > 1)
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
        self._starts = bool(self._slots.free().get(GPU))
        job = Job(self._tools, delivery, stored)
        self._jobs[key] = job
        self._idle.clear()
        self._tasks[key] = group.create_task(self._carry(key, job, error), name=f"job {stored.who}")

    async def _carry(self, key: tuple[Identity, int], job: Job, error: ErrorBody | None) -> None:
        try:
            await job.carry(error)
        except Exception:  # A broken job must not end the others; its delivery lapses.
            log.exception("job.broke", request=str(job.stored.who))
        if job.handed_back and self._collects:
            return
        if job.handed_back:
            await self._hand_back(job)
        self._forget(key, wakes=not job.handed_back)  # Else it would pull back what it just gave.

    def _wake(self) -> None:
        """A slot was taken or freed; where the room was never full, a bell tells what comes."""
        if self._limited:
            self._starts = bool(self._slots.keepers)
            self._lanes.wake()

    def _forget(self, key: tuple[Identity, int], *, wakes: bool = True) -> None:
        self._jobs.pop(key, None)
        self._tasks.pop(key, None)
        if not self._jobs:
            self._idle.set()
        if wakes:
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
        """Hand back who waits, let jobs finish for `drain_s`, interrupt the rest."""
        if self._jobs:
            log.info("dispatch.draining", jobs=self.running, at_most_s=self._drain_s)
        why = f"worker {self._tools.worker} stops"
        waiting = sorted((job.stored.seq, job.stored.who) for job in self._waiting())
        with suppress(TimeoutError):
            async with asyncio.timeout(INTERRUPT_S):
                await self._return([(who, seq) for seq, who in waiting], why)
        with suppress(TimeoutError):
            async with asyncio.timeout(self._drain_s):
                await self._idle.wait()
        if self._jobs:
            self._collects = True
            for job in tuple(self._jobs.values()):
                await job.interrupt("stop", why)
            await self._wait_done()
        for key in sorted(self._jobs, key=lambda key: key[1]):
            held = self._jobs.get(key)
            # It may be overtaken while others are given back, or left undecided.
            if held is not None and held.handed_back:
                await self._hand_back(held)
                self._forget(key)

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
            for task in tuple(self._tasks.values()):
                task.cancel()

    async def _hand_back(self, job: Job) -> None:
        try:
            await job.delivery.nak()
            await lanes.ring(self._tools.bus, job.stored.priority, job.stored.who)
        except BusError as error:
            log.warning("dispatch.not_handed_back", reason=str(error))
