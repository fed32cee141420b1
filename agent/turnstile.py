"""What is asked before an engine draws and told after it: its breaker, and the budgets of a cloud.

Both lie on the server, for all workers; here is a copy, read again when the server rings, so that
a job on the card asks nobody. What an answer means is for `agent.core.breaker` and `money`.
"""

import asyncio
from collections.abc import Sequence
from typing import Final

import msgspec
import structlog
from nats.aio.msg import Msg

from agent.bus import books
from agent.bus.connection import Bus, BusError
from agent.clock import OffsetClock
from agent.core import breaker, money
from agent.core.breaker import CLOSED, Breaker
from agent.core.faults import EngineDownFault, Fault
from agent.core.money import Books, Hold, Limits, Refusal
from agent.core.routing import EngineFacts
from agent.engines.protocol import Engine, EngineJob, Generation
from contracts import subjects

LOOK_EVERY_S: Final = 10.0
SETTLE_PATIENCE_S: Final = 10.0
"""How long the end of a purchase is told again; then its hold stays, and counts as spent."""
AGAIN_S: Final = 0.5
LEAVING_MAX: Final = 256

log = structlog.get_logger()


class Ticket(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt that was let in. `hold` is the money set aside for it, at a cloud."""

    engine: str
    job: str
    hold: Hold | None = None


class _Leaving(msgspec.Struct):
    ticket: Ticket
    outcome: Generation | BaseException
    told: asyncio.Event


class Turnstile:
    """Order: `open`, then `run` in a task, then jobs; `close` after the last job.

    `limits`, `breakers` and `books` may be read by everybody, as they were last read here.
    """

    def __init__(self, bus: Bus, clock: OffsetClock, worker: str, limits: Limits) -> None:
        """Nothing is known before `open`."""
        self._bus = bus
        self._clock = clock
        self._worker = worker
        self.limits = limits
        self._engines: tuple[str, ...] = ()
        self.breakers: dict[str, Breaker] = {}
        self.books = Books()
        self._rung = asyncio.Event()
        self._leaving: asyncio.Queue[_Leaving] = asyncio.Queue(LEAVING_MAX)

    async def open(self, engines: Sequence[Engine]) -> None:
        """Settle what an earlier process of this worker left, and read all. Raises: BusError."""
        self._engines = tuple(engine.name for engine in engines)
        if any(engine.slot == "cloud" for engine in engines):
            await books.forfeit_lost(self._bus, self._worker, self._clock.now().date())
        await self._read()

    async def run(self) -> None:
        """Keep the copy true and tell how attempts ended, until cancelled."""
        keys = [f"breaker.{name}" for name in self._engines]
        heard = [
            await self._bus.subscribe(subjects.state(key), self._on_change)
            for key in (*keys, books.MONEY_KEY)
        ]
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._tell_all(), name="turnstile tells")
                await self._look()
        finally:
            for subscription in heard:
                await self._bus.unsubscribe(subscription)

    async def close(self) -> None:
        """Tell what is left to tell, for as long as one end may take."""
        try:
            async with asyncio.timeout(SETTLE_PATIENCE_S):
                while not self._leaving.empty():
                    await self._tell(self._leaving.get_nowait())
        except TimeoutError:
            log.warning("turnstile.not_told", left=self._leaving.qsize())

    # --- for routing ---------------------------------------------------------------------------

    def seen(self, facts: EngineFacts, who: str, price_usd: float) -> EngineFacts:
        """Return what routing may know of an engine, with what keeps this request away from it."""
        now = self._clock.now()
        found = breaker.look(self.breakers.get(facts.name, CLOSED), now)
        if found is not None:
            return msgspec.structs.replace(facts, closed=found.reason, closed_until=found.until)
        if not facts.is_cloud:
            return facts
        hold = money.hold_for(who, 0, facts.name, worker=self._worker, usd=price_usd)
        refusal = money.reserve(self.books, hold, self.limits, now.date())
        if isinstance(refusal, Refusal):
            return msgspec.structs.replace(facts, closed=refusal.reason)
        return facts

    def spent_usd(self, who: str) -> float:
        """Return what a request has cost so far, all its attempts together."""
        return self.books.request_usd(who)

    # --- for one attempt -----------------------------------------------------------------------

    async def enter(self, engine: Engine, job: EngineJob) -> Ticket:
        """Let an attempt in, with its money set aside. Order: `leave` follows in any case.

        Raises: EngineDownFault, BudgetExceededFault; nothing may be bought then.
        """
        who = f"{job.agent}.{job.request_id}"
        ticket = Ticket(engine=engine.name, job=f"{who}.{job.attempt}")
        known = self.breakers.get(engine.name, CLOSED)
        if engine.slot != "cloud" and known == CLOSED:
            return ticket
        now = self._clock.now()
        try:
            refused = await books.admit(self._bus, engine.name, ticket.job, now)
            if refused is not None:
                raise EngineDownFault(f"{engine.name} gets no jobs: {refused.reason}")
            if engine.slot != "cloud":
                return ticket
            usd = engine.price_usd(job)
            hold = money.hold_for(who, job.attempt, engine.name, worker=self._worker, usd=usd)
            refusal = await books.reserve(self._bus, hold, self.limits, now.date())
        except BusError as error:
            raise EngineDownFault(f"nobody can say what {engine.name} may cost: {error}") from error
        if refusal is not None:
            raise refusal.fault()
        return msgspec.structs.replace(ticket, hold=hold)

    def leave(self, ticket: Ticket, outcome: Generation | BaseException) -> asyncio.Event:
        """Tell how an attempt ended; the event is set when the server has heard it.

        It is told whether or not anybody waits for that: the caller may be about to be cancelled.
        """
        told = asyncio.Event()
        if self._says_nothing(ticket, outcome):
            told.set()
        else:
            self._leaving.put_nowait(_Leaving(ticket, outcome, told))
        return told

    async def forfeit(self, who: str, attempt: int, engine: str) -> None:
        """Count what a lost worker held for an attempt as spent, if it is still held.

        Without an answer the hold stays, and counts as spent too.
        """
        hold = money.hold_for(who, attempt, engine, worker=self._worker, usd=0.0)
        try:
            await books.forfeit(self._bus, hold.id, self._clock.now().date())
            await self._read()
        except BusError as error:
            log.warning("turnstile.not_forfeited", hold=hold.id, reason=str(error))

    def _says_nothing(self, ticket: Ticket, outcome: Generation | BaseException) -> bool:
        """Tell whether the server knows already all that this end would tell it."""
        if ticket.hold is not None or self.breakers.get(ticket.engine, CLOSED) != CLOSED:
            return False
        return not (isinstance(outcome, Fault) and outcome.code in breaker.COUNTED)

    # --- beside --------------------------------------------------------------------------------

    async def _tell_all(self) -> None:
        while True:
            leaving = await self._leaving.get()
            try:
                await self._tell(leaving)
            except asyncio.CancelledError:
                self._leaving.put_nowait(leaving)  # `close` tells it.
                raise

    async def _tell(self, leaving: _Leaving) -> None:
        """Tell money and breaker of one end, again until it is heard or patience is over."""
        loop = asyncio.get_running_loop()
        until_s = loop.time() + SETTLE_PATIENCE_S
        while True:
            try:
                await self._settle(leaving.ticket, leaving.outcome)
                await self._judge(leaving.ticket, leaving.outcome)
                await self._read()
                break
            except BusError as error:
                if loop.time() > until_s:
                    log.warning("turnstile.not_told", job=leaving.ticket.job, reason=str(error))
                    break
                await asyncio.sleep(AGAIN_S)
        leaving.told.set()

    async def _settle(self, ticket: Ticket, outcome: Generation | BaseException) -> None:
        hold = ticket.hold
        if hold is None:
            return
        if isinstance(outcome, BaseException):
            usd, doubt_usd = money.spent_by(outcome, hold.amount / money.MICRO)
        else:
            usd, doubt_usd = outcome.cost_usd, 0.0
        today = self._clock.now().date()
        await books.settle(self._bus, hold.id, usd, today, doubt_usd=doubt_usd)

    async def _judge(self, ticket: Ticket, outcome: Generation | BaseException) -> None:
        engine = ticket.engine
        if isinstance(outcome, Generation):
            if await books.read_breaker(self._bus, engine) != CLOSED:
                await books.succeeded(self._bus, engine)
                log.info("breaker.closed", engine=engine)
        elif isinstance(outcome, Fault):
            now = self._clock.now()
            await books.failed(self._bus, engine, ticket.job, outcome.code, now)
        else:
            await books.ended(self._bus, engine, ticket.job)

    async def _look(self) -> None:
        while True:
            try:
                async with asyncio.timeout(LOOK_EVERY_S):
                    await self._rung.wait()
            except TimeoutError:
                log.debug("turnstile.unrung")  # It is time to look all the same.
            self._rung.clear()
            try:
                await self._read()
            except BusError as error:
                log.warning("turnstile.not_read", reason=str(error))

    async def _read(self) -> None:
        for name in self._engines:
            now = await books.read_breaker(self._bus, name)
            before = self.breakers.get(name, CLOSED)  # After the answer: others read beside it.
            self.breakers[name] = now
            if now.until is not None and now.until != before.until:
                log.warning("breaker.open", engine=name, faults=now.faults, until=str(now.until))
        self.books = await books.read_money(self._bus)

    async def _on_change(self, _msg: Msg) -> None:
        # Only a bell: a write that the server refused is heard as well.
        self._rung.set()
