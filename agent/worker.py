"""Carries one delivery to its ack: performs, step by step, what `agent.core.story` asks for.

The story decides; here is where time passes: the bus is asked, the engine draws, files are
written, heartbeats go out beside it. Which delivery is carried when is for `agent.dispatch`.
"""

import asyncio
from collections.abc import Coroutine
from datetime import datetime
from typing import Final, Literal

import msgspec
import structlog

from agent.bus import chain, lanes
from agent.bus.connection import BusError, NoAnswer
from agent.bus.lanes import Delivery
from agent.core.faults import (
    CancelledFault,
    Fault,
    HangFault,
    InternalFault,
    PictureMissingFault,
)
from agent.core.job import StoredRequest
from agent.core.links import Author, Made, Pen
from agent.core.steps import (
    Append,
    AskLane,
    Command,
    Discard,
    Done,
    Draw,
    Drawn,
    Event,
    Faulted,
    FindRequest,
    FreeSlot,
    HandBack,
    Interrupted,
    Keep,
    Kept,
    Links,
    NoChain,
    Polish,
    ReadHead,
    ReadHistory,
    Settle,
    Stored,
    Superseded,
    TakeSlot,
    Told,
    Unknown,
    Waits,
    WaitUntil,
)
from agent.core.story import Steps, Story
from agent.crash_point import crash_point
from agent.engines.protocol import Engine, EngineJob, Generation, job_for
from agent.metrics import JOBS_ENDED, REQUESTS_REFUSED
from agent.telling import PERCENT_DRAWN, Telling
from agent.tools import Slot, Tools
from contracts import codec
from contracts.errors import ErrorBody
from contracts.events import LinkHead, Retrying, Started, kind_of

IMAGE_PATH: Final = "$.options.image"

log = structlog.get_logger()


def _name(command: Command) -> str:
    """Name a step for crash points: `append started`, `draw`, `settle` ..."""
    name = type(command).__name__.lower()
    return f"{name} {kind_of(command.link)}" if isinstance(command, Append) else name


class Job:
    """One request in the hands of this worker. `delivery` is the newest one, used for acks."""

    def __init__(self, tools: Tools, delivery: Delivery, stored: StoredRequest, slot: Slot) -> None:
        """Hold a fresh delivery; nothing has been said about it yet."""
        self.delivery = delivery
        self.stored = stored
        self.handed_back = False
        self._tools = tools
        self._slot = slot
        self._author = Author(worker=tools.worker, nonce=tools.new_nonce())
        self._story = Story(stored, self._author, tools.facts, tools.clock.now())
        self._stop: Interrupted | None = None
        self._stopping = asyncio.Event()
        self._drawing: tuple[Engine, EngineJob] | None = None
        self._drawn: tuple[Engine, EngineJob] | None = None
        self._generation: Generation | None = None
        self._beating = False
        self._telling = Telling(tools.bus, tools.clock, self._progress_pen)
        self._why: str | None = None

    @property
    def ended(self) -> str:
        """How the story stands, see `Story`."""
        return self._story.ended

    async def carry(self, error: ErrorBody | None = None) -> None:
        """Carry the request to its end, or to where somebody else takes over.

        `error` is what is wrong with a request that breaks the contract. Never raises for what a
        request, an engine or the bus can do.
        """
        story = self._story
        steps = story.run() if error is None else story.refuse(error, self.delivery.data)
        with structlog.contextvars.bound_contextvars(request=str(self.stored.who)):
            if error is not None:
                REQUESTS_REFUSED.labels(error.code).inc()
                log.warning(
                    "request.refused", code=error.code, reason=error.message, at=error.detail
                )
            try:
                async with asyncio.TaskGroup() as group:
                    beside = (
                        group.create_task(self._heartbeat(), name="heartbeat"),
                        group.create_task(self._telling.run(), name="progress"),
                    )
                    await self._play(steps)
                    for task in beside:
                        task.cancel()
            finally:
                self._slot.free()
            self._log_end()
            await self._forget()

    async def interrupt(self, why: Literal["stop", "overtaken"], reason: str) -> None:
        """Stop drawing or waiting; a job that is past drawing finishes."""
        self._stop = Interrupted(why, reason)
        self._stopping.set()
        if self._drawing is not None:
            engine, engine_job = self._drawing
            await engine.cancel(engine_job)

    def is_overtaken(self, head: LinkHead) -> bool:
        """Tell whether a link that was heard is somebody else's, after what this job has seen."""
        own = self._author.link_id(head.n, head.kind, head.attempt)
        return head.n > self._story.place.n and head.id != own

    # --- the steps -----------------------------------------------------------------------------

    async def _play(self, steps: Steps) -> None:
        command = next(steps)
        while True:
            name = _name(command)
            crash_point(f"before {name}")
            event = await self._perform(command)
            crash_point(f"after {name}")
            try:
                command = steps.send(Told(event, self._tools.clock.now()))
            except StopIteration:
                return

    async def _perform(self, command: Command) -> Event:
        """Do what the story asks for and say what came of it."""
        match command:
            case Append() | ReadHead() | ReadHistory() | AskLane():
                return await self._ask_bus(command)
            case Draw(started=started, earlier=earlier):
                return await self._draw(started, earlier)
            case Keep(attempt=attempt):
                return await self._keep(attempt)
            case TakeSlot(slot=kind):
                return await self._take_slot(kind)
            case WaitUntil(due=due, own=own):
                return await self._wait(due, beating=own)
            case Settle(how=how, reason=reason):
                await self._settle(how, reason)
            case FreeSlot():
                self._slot.free()
            case Discard() | Polish():
                await self._tidy_up(command)
            case HandBack():
                self.handed_back = True  # `agent.dispatch` gives them back in their order.
            case FindRequest():
                raise AssertionError("only a cancel looks for a request")
        return Done()

    async def _take_slot(self, kind: str) -> Event:
        """Wait for a slot; while the chain is empty, who holds the delivery keeps it alive."""
        if self._slot.held(kind):
            return Done(await self._slot.take(kind))
        before, self._beating = self._beating, self._beating or self._story.place.n == 0
        try:
            return await self._unless_stopped(self._slot.take(kind))
        finally:
            self._beating = before

    async def _settle(self, how: Literal["ack", "term"], reason: str) -> None:
        """Settle the newest delivery; what cannot be said now is said after its redelivery."""
        self._why = reason
        try:
            if how == "ack":
                await self.delivery.ack()
            else:
                await self.delivery.term(reason)
        except BusError as error:
            log.warning("job.not_settled", reason=str(error))

    async def _ask_bus(self, command: Append | ReadHead | ReadHistory | AskLane) -> Event:
        bus, who = self._tools.bus, self.stored.who
        try:
            match command:
                case Append(link=link, expected=expected):
                    outcome = await chain.append(bus, who, link, expected)
                    started = isinstance(link, Started | Retrying)
                    self._beating = started and isinstance(outcome, Stored)
                    return outcome
                case ReadHead():
                    head = await chain.read_head(bus, who)
                    return NoChain() if head is None else Superseded(head)
                case ReadHistory(upto=upto):
                    return await self._read_history(upto)
                case AskLane(seq=seq):
                    return Waits(await lanes.in_lane(bus, seq))
        except (BusError, msgspec.DecodeError) as error:
            log.warning("job.no_answer", step=type(command).__name__, reason=str(error))
            return Unknown(str(error))

    async def _read_history(self, upto: int) -> Event:
        stored = await chain.read_chain(self._tools.bus, self.stored.who)
        if not stored or stored[-1].seq < upto:
            return Unknown("the history is behind its leader")
        return Links(tuple(codec.decode_link(item.data) for item in stored if item.seq <= upto))

    async def _draw(self, started: Started, earlier: tuple[Started, ...]) -> Event:
        """Let the engine make the pictures; every way it can end is an event."""
        engine = self._tools.engines[started.engine]
        try:
            image = await self._image()
        except Fault as fault:
            return Faulted(fault)
        engine_job = job_for(self.stored, started, earlier, self._tools.book, image)
        self._drawn = (engine, engine_job)
        began_s = self._tools.clock.monotonic_s()
        limit_s = self._tools.time_limit_s(engine_job)
        self._telling.begin()
        self._drawing = (engine, engine_job)
        try:
            if self._stop is None:
                async with asyncio.timeout(limit_s):
                    self._generation = await engine.generate(engine_job, self._telling.report)
        except CancelledFault as fault:
            if self._stop is None:
                return Faulted(fault, self._telling.percent)
        except TimeoutError:
            hang = HangFault(f"{engine.name} was not done after {limit_s:.0f} s")
            return Faulted(hang, self._telling.percent)
        except Fault as fault:
            return Faulted(fault, self._telling.percent)
        except Exception as error:  # The one place where a broken engine becomes a fault.
            log.exception("engine.broke", engine=engine.name)
            broken = InternalFault(f"{engine.name} broke: {type(error).__name__}")
            return Faulted(broken, self._telling.percent)
        finally:
            self._drawing = None
            self._telling.pause()  # Progress ends with the drawing: the next link comes now.
        if self._generation is None:
            assert self._stop is not None, "only a stop leaves a drawing without an outcome"
            return msgspec.structs.replace(self._stop, percent=self._telling.percent)
        made = Made(
            model_used=self._generation.model_used,
            seed=self._generation.seed,
            cost_usd=self._generation.cost_usd,
            vram_mib=self._generation.vram_mib,
            drawn_s=self._tools.clock.monotonic_s() - began_s,
        )
        return Drawn(made, max(self._telling.percent, PERCENT_DRAWN))

    async def _image(self) -> bytes | None:
        """Read the picture to start from; only one of the requester's own. Raises: Fault."""
        request = self.stored.request
        ref = request.options.image if request is not None else None
        if ref is None:
            return None
        agent, request_id = self.stored.who.agent, None
        if ref.asset is not None:
            owner, _, request_id = ref.asset.partition(".")
            if owner != agent:
                raise PictureMissingFault("only an own picture can be started from", IMAGE_PATH)
        data = await self._tools.assets.read_own(agent, request_id=request_id, sha256=ref.sha256)
        if data is None:
            raise PictureMissingFault("no such picture is kept here", IMAGE_PATH)
        return data

    async def _keep(self, attempt: int) -> Event:
        """Store the pictures just drawn."""
        generation, request = self._generation, self.stored.request
        assert generation is not None, "pictures are stored after they are drawn"
        assert request is not None, "an unreadable request is never drawn"
        self._generation = None
        record: dict[str, object] = {
            "request_id": self.stored.who.request_id,
            "requester": self.stored.who.requester,
            "prompt": request.prompt,
            "options": msgspec.to_builtins(request.options),
            "seed": generation.seed,
            "model": generation.model_used,
            "cost_usd": generation.cost_usd,
            "attempt": attempt,
            "workflow": self._drawn[1].workflow if self._drawn is not None else None,
            "requested_at": self.stored.stored_at.isoformat(),
            "stored_at": self._tools.clock.now().isoformat(),
        }
        try:
            return Kept(
                await self._tools.assets.store(
                    self.stored.who, attempt, self.stored.stored_at, generation.pictures, record
                )
            )
        except Fault as fault:
            return Faulted(fault, self._telling.percent)

    async def _tidy_up(self, command: Discard | Polish) -> None:
        """Remove files that lost, or earlier ones of the winner; what stays is for the prune."""
        assets, stored = self._tools.assets, self.stored
        try:
            match command:
                case Discard(outputs=outputs):
                    await assets.discard(outputs)
                case Polish(outputs=outputs, attempt=attempt):
                    if attempt > 1:
                        await assets.remove_other_attempts(stored.who, stored.stored_at, outputs)
                    await assets.thumbnails(outputs)
        except Fault as fault:
            log.warning("job.not_tidied", reason=fault.message, at=fault.detail)

    async def _wait(self, due: datetime, *, beating: bool) -> Event:
        """Wait for a time of day. Rule 2: only the writer of the head sends heartbeats."""
        before, self._beating = self._beating, beating
        pause_s = (due - self._tools.clock.now()).total_seconds()
        try:
            return await self._unless_stopped(asyncio.sleep(max(0.0, pause_s)))
        finally:
            self._beating = before

    async def _unless_stopped(self, waiting: Coroutine[None, None, str | None]) -> Event:
        """Wait for something, but not longer than this job is wanted; a result is its place."""
        async with asyncio.TaskGroup() as group:
            wait = group.create_task(waiting, name="wait")
            stop = group.create_task(self._stopping.wait(), name="stop")
            await asyncio.wait((wait, stop), return_when=asyncio.FIRST_COMPLETED)
            done = wait.done()
            wait.cancel()
            stop.cancel()
        if done or self._stop is None:
            return Done(wait.result() if done else None)
        return self._stop

    def _progress_pen(self) -> Pen:
        """Return the pen for progress of the attempt that draws now."""
        return Pen(
            stored=self.stored,
            author=self._author,
            place=self._story.place,
            now=self._tools.clock.now(),
            percent=self._telling.percent,
        )

    # --- beside --------------------------------------------------------------------------------

    async def _heartbeat(self) -> None:
        """Tell the server every third of ack_wait that the newest delivery is being worked on."""
        while True:
            if self._beating:
                try:
                    await self.delivery.in_progress()
                except NoAnswer as error:
                    log.warning("job.heartbeat_lost", reason=str(error))
            await asyncio.sleep(self._tools.ack_wait_s / 3)

    async def _forget(self) -> None:
        """Let the engine drop what nobody will ask for; what may be adopted stays."""
        if self._drawn is not None and (self._story.closed or self.handed_back):
            engine, engine_job = self._drawn
            await engine.forget(engine_job)

    def _log_end(self) -> None:
        """Write the one canonical line of this job."""
        JOBS_ENDED.labels(self.ended).inc()
        log.info(
            "job.ended",
            ended=self.ended,
            why=self._why,
            priority=self.stored.priority,
            attempt=self._story.place.attempt,
            deliveries=self.delivery.num_delivered,
            since_request_s=round(self.stored.waited_s(self._tools.clock.now()), 3),
        )
