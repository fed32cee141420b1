"""Carries one delivery to its ack: performs, step by step, what `agent.core.story` asks for.

The story decides; here is where time passes: the bus is asked, the engine draws, files are
written, heartbeats go out beside it. Which delivery is carried when is for `agent.dispatch`.
"""

import asyncio
from collections.abc import Coroutine
from datetime import datetime
from typing import Literal

import msgspec
import structlog

from agent.bus.connection import BusError, NoAnswer
from agent.bus.lanes import Delivery
from agent.core import catalog
from agent.core.choosing import Chosen, choices, wish
from agent.core.faults import Fault
from agent.core.job import StoredRequest
from agent.core.links import Author, Pen
from agent.core.routing import Policy
from agent.core.steps import (
    Append,
    AskLane,
    Command,
    Discard,
    Done,
    Draw,
    Elsewhere,
    Event,
    Faulted,
    FindRequest,
    FreeSlot,
    HandBack,
    Interrupted,
    Keep,
    Look,
    Placed,
    Polish,
    ReadHead,
    ReadHistory,
    Seen,
    Settle,
    Stored,
    TakeSlot,
    Told,
    WaitUntil,
)
from agent.core.story import Steps, Story
from agent.crash_point import crash_point
from agent.drawing import Drawing
from agent.engines.protocol import job_for, order_for
from agent.job_line import JobLine
from agent.metrics import REQUESTS_REFUSED, note_event
from agent.pictures import Pictures
from agent.prompting import Prompting
from agent.scribe import Scribe
from agent.slots import HeldSlot
from agent.telling import Telling
from agent.tools import Tools
from contracts.errors import ErrorBody
from contracts.events import LinkHead, Retrying, Started, kind_of

log = structlog.get_logger()


def _name(command: Command) -> str:
    """Name a step for crash points: `append started`, `draw`, `settle` ..."""
    name = type(command).__name__.lower()
    return f"{name} {kind_of(command.link)}" if isinstance(command, Append) else name


class Job:
    """One request in the hands of this worker. `delivery` is the newest one, used for acks."""

    def __init__(self, tools: Tools, delivery: Delivery, stored: StoredRequest) -> None:
        """Hold a fresh delivery; nothing has been said about it yet."""
        self.delivery = delivery
        self.stored = stored
        self.slot: HeldSlot = tools.slots.for_job(stored)
        self.handed_back = False
        self._tools = tools
        self._author = Author(worker=tools.worker, nonce=tools.new_nonce())
        self._story = Story(stored, self._author, tools.clock.now())
        self._stop: Interrupted | None = None
        self._patience: asyncio.Timeout | None = None
        self._prompting = Prompting(tools.extender, stored)
        self._pictures = Pictures(tools, stored)
        self._drawing: Drawing | None = None
        self._group = asyncio.TaskGroup()
        self._beating = False
        self._telling = Telling(tools.bus, tools.clock, self.progress_pen)
        self._why: str | None = None
        self._line = JobLine(stored)
        self._span = tools.tracer.process(stored, delivery.num_delivered)
        self._scribe = Scribe(tools, stored, self._line, self._span)
        self._noted: Chosen | None = None
        if stored.request is not None:
            self._order = order_for(stored, tools.book)

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
        again = self.delivery.num_delivered > 1
        steps = story.run(again=again) if error is None else story.refuse(error, self.delivery.data)
        with structlog.contextvars.bound_contextvars(**self._named()):
            if error is not None:
                REQUESTS_REFUSED.labels(error.code).inc()
                log.warning(
                    "request.refused", code=error.code, reason=error.message, at=error.detail
                )
            try:
                async with self._group as group:
                    beside = (
                        group.create_task(self._heartbeat(), name="heartbeat"),
                        group.create_task(self._telling.run(), name="progress"),
                    )
                    await self._play(steps)
                    for task in beside:
                        task.cancel()
            finally:
                self.slot.free()
                self._span.end(self.ended)
            self._log_end()
            await self._forget()

    def _named(self) -> dict[str, str]:
        """Return what each line of the log about this job says."""
        trace = self.stored.trace
        trace_id = self._span.trace_id if trace is None else trace.trace_id
        names = {"request": str(self.stored.who)}
        return names if trace_id is None else names | {"trace_id": trace_id}

    async def interrupt(self, why: Literal["stop", "overtaken"], reason: str) -> None:
        """Stop drawing or waiting; a job that is past drawing finishes."""
        await self._interrupt(Interrupted(why, reason))

    def preempted(self, by: str, reason: str) -> None:
        """Stop drawing for a more urgent job: told by the keeper of the card."""
        stop = Interrupted("preempted", reason, by=by)
        self._group.create_task(self._interrupt(stop), name="preempted")

    def revoked(self, reason: str) -> None:
        """Stop drawing because the card is gone: told by its keeper."""
        if self._drawing is not None:
            self._group.create_task(self._drawing.revoke(reason), name="revoked")

    def refresh(self) -> None:
        """Look whether a cloud may draw it now, or no longer, while it waits for the card."""
        if self.stored.request is None or not self.slot.waits:
            return
        story = self._story
        found = choices(self.stored, self._seen(), story.history, story.passed)
        if not isinstance(found, Fault):
            asked = wish(self.stored, story.history, found, story.passed, is_first=False)
            self.slot.change(cloud=asked.cloud)

    async def _interrupt(self, stop: Interrupted) -> None:
        self._stop = stop
        if self._patience is not None and not self._patience.expired():
            self._patience.reschedule(asyncio.get_running_loop().time())
        if self._drawing is not None:
            await self._drawing.interrupt(stop)

    def is_overtaken(self, head: LinkHead) -> bool:
        """Tell whether a link that was heard is somebody else's, after what this job has seen."""
        if head.n <= self._story.place.n:
            return False
        return head.id != self._author.link_id(head.n, head.kind, head.attempt)

    # --- the steps -----------------------------------------------------------------------------

    async def _play(self, steps: Steps) -> None:
        command = next(steps)
        while True:
            self._noted = self._tools.note(self._story.chosen, self._noted)
            name = _name(command)
            crash_point(f"before {name}")
            with self._span.step(command) as step:
                event = await self._perform(command)
                step.came(event)
            note_event(event, "" if self._drawing is None else self._drawing.engine.name)
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
            case Keep():
                assert self._drawing is not None, "pictures are stored after they are drawn"
                percent = self._telling.percent
                awaited = self.slot.is_awaited
                drawing, words = self._drawing, self._prompting
                return await self._pictures.keep(drawing, words, percent, awaited=awaited)
            case Look():
                return self._seen()
            case TakeSlot():
                return await self._take_slot(command)
            case WaitUntil(due=due, own=own, stuck=stuck):
                self.slot.waits_for_an_engine(stuck=stuck)
                return await self._wait(due, beating=own)
            case Settle(how=how, reason=reason):
                await self._settle(how, reason)
            case FreeSlot():
                self.slot.free()
            case Discard() | Polish():
                await self._pictures.tidy(command)
            case HandBack():
                self.handed_back = True  # `agent.dispatch` gives them back in their order.
            case FindRequest():
                raise AssertionError("only a cancel looks for a request")
        return Done()

    def _seen(self) -> Seen:
        """Look at the engines as this request meets them: with breakers, budgets and its style."""
        tools, request = self._tools, self.stored.request
        who = f"{self.stored.who.agent}.{self.stored.who.request_id}"
        engines = tuple(
            tools.turnstile.seen(
                facts,
                who,
                tools.engines[facts.name].price_usd(self._order) if facts.is_cloud else 0,
            )
            for facts in tools.facts
        )
        style = request.options.style if request is not None else None
        route = catalog.sheet(tools.book, style).route
        return Seen(engines, Policy(cloud=tools.cloud, style=route))

    async def _take_slot(self, command: TakeSlot) -> Event:
        """Wait for a slot; while the chain is empty, who holds the delivery keeps it alive."""
        before, self._beating = self._beating, self._beating or self._story.place.n == 0
        try:
            return await self._unless_stopped(self._placed(command))
        finally:
            self._beating = before

    async def _placed(self, command: TakeSlot) -> Event:
        """Wait for a slot, but not longer than to the deadline; the words are found before."""
        left_s = None
        if command.due is not None:
            left_s = max(0.0, (command.due - self._tools.clock.now()).total_seconds())
        try:
            async with asyncio.timeout(left_s):
                await self._prompting.extend(command.candidate)
                answer = await self.slot.take(command, self)
        except TimeoutError:
            return Elsewhere("late", "its deadline has passed")
        if isinstance(answer, Placed):
            told = self._prompting.told(answer.candidate)
            return msgspec.structs.replace(answer, candidate=told)
        return answer

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
        """Ask; rule 2: who has just written the head of an open try sends heartbeats."""
        event = await self._scribe.ask(command)
        if isinstance(command, Append):
            started = isinstance(command.link, Started | Retrying)
            self._beating = started and isinstance(event, Stored)
        return event

    async def _draw(self, started: Started, earlier: tuple[Started, ...]) -> Event:
        """Let the engine make the pictures; every way it can end is an event."""
        tools = self._tools
        try:
            image = await self._pictures.first()
        except Fault as fault:
            return Faulted(fault)
        order = msgspec.structs.replace(self._order, image=image, prompt=self._prompting.prompt)
        job = job_for(order, started, earlier)
        engine = tools.engines[started.engine]
        self._drawing = Drawing(tools, engine, job, self.slot, self._telling)
        if self._stop is not None:
            await self._drawing.interrupt(self._stop)
        return await self._drawing.run(self._card_again)

    async def _card_again(self) -> Event:
        """Wait for the card after a run out of memory."""
        return await self._unless_stopped(self.slot.oom(self))

    async def _wait(self, due: datetime, *, beating: bool) -> Event:
        """Wait for a time of day. Rule 2: only the writer of the head sends heartbeats."""
        before, self._beating = self._beating, beating
        pause_s = (due - self._tools.clock.now()).total_seconds()
        try:
            return await self._unless_stopped(asyncio.sleep(max(0.0, pause_s), Done()))
        finally:
            self._beating = before

    async def _unless_stopped(self, waiting: Coroutine[None, None, Event]) -> Event:
        """Wait for something, but not longer than this job is wanted.

        In this very task: between a free card and the next `started` each further task costs time.
        """
        if (stop := self._stopped()) is not None:
            waiting.close()
            return stop
        try:
            async with asyncio.timeout(None) as self._patience:
                return await waiting
        except TimeoutError:
            if (stop := self._stopped()) is None:
                raise
            return stop
        finally:
            self._patience = None

    def _stopped(self) -> Interrupted | None:
        return self._stop

    def progress_pen(self) -> Pen:
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
        drawing = self._drawing
        if drawing is not None and (self._story.closed or self.handed_back):
            await drawing.engine.forget(drawing.job)

    def _log_end(self) -> None:
        """Write the one canonical line of this job."""
        tries = (self._story.place.attempt, self.delivery.num_delivered)
        self._line.write(self.ended, self._why, tries, self._tools.clock.now())
