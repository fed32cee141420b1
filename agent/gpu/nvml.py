"""The meter of one card: readings that are always answered, whatever the driver does.

It must not decide anything: `agent.core.arbiter` gets what it measured. NVML's calls block, so a
thread of its own makes them; a driver that hangs costs that thread, never the event loop.
"""

import asyncio
from collections.abc import Callable
from math import inf
from queue import Full
from types import ModuleType
from typing import Final, TypeVar

import msgspec
import pynvml
import structlog

from agent.clock import Clock
from agent.core.card import Card
from agent.gpu.missing import NEVER_SEEN, Missing, hang
from agent.gpu.session import AUTO, Facts, Gauges, Session
from agent.gpu.thread import CallThread
from agent.gpu.xid import Xid

log = structlog.get_logger()

T = TypeVar("T")


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """How long the meter is patient. Units: seconds, and counts."""

    call_s: float = 5.0
    hangs_max: int = 3
    """So many calls in a row without an answer, and their thread is left behind."""
    retry_s: float = 60.0
    """Between the end of one thread's patience and a fresh thread."""
    abandoned_max: int = 3
    """While so many threads are stuck in the driver, no fresh one joins them."""


PATIENT: Final = Limits()


class Nvml:
    """Measures one card, chosen by index, UUID or `auto`: the first one.

    After the first reading it keeps to that very card. `facts` and `last_xid` are None until
    known; an Xid is also logged when it comes.
    """

    def __init__(
        self,
        clock: Clock,
        card: str = AUTO,
        *,
        library: ModuleType = pynvml,
        limits: Limits = PATIENT,
    ) -> None:
        self.facts: Facts | None = None
        self.last_xid: Xid | None = None
        self._clock = clock
        self._choice = card
        self._library = library
        self._limits = limits
        self._thread: CallThread | None = None
        self._session: Session
        self._abandoned: list[CallThread] = []
        self._hangs = 0
        self._retry_at_s = -inf
        self._told = ""
        """What the log said last: `card`, or a kind of Missing."""

    async def read(self) -> Card | Missing:
        """Measure the card's memory now, or say why it cannot be. Never raises for the card."""
        return await self._ask(Session.measure)

    async def gauges(self) -> Gauges | Missing:
        """Read temperature, load, power and processes, as far as the card tells them."""
        return await self._ask(Session.gauges)

    def close(self) -> None:
        """End the thread. It does not wait: one that hangs must not keep the program."""
        if self._thread is not None:
            self._thread.end()
            self._thread = None

    async def _ask(self, question: Callable[[Session], T | Missing]) -> T | Missing:
        limits = self._limits
        thread = self._usable()
        if thread is None:
            return hang(limits.call_s, self._hangs, limits.hangs_max, limits.retry_s)
        session = self._session
        try:
            async with asyncio.timeout(limits.call_s):
                answer = await asyncio.wrap_future(thread.submit(lambda: question(session)))
        except (TimeoutError, Full):
            self._count_hang(thread)
            answer = hang(limits.call_s, self._hangs, limits.hangs_max, limits.retry_s)
        else:
            self._hangs = 0
            self.facts = session.facts or self.facts
        self._tell(answer if isinstance(answer, Missing) else None)
        return answer

    def _usable(self) -> CallThread | None:
        """Return the thread to ask, a fresh one if it is time for it, or None."""
        self._abandoned = [thread for thread in self._abandoned if thread.is_alive]
        if self._thread is None:
            if self._clock.monotonic_s() < self._retry_at_s:
                return None
            if len(self._abandoned) >= self._limits.abandoned_max:
                return None
            choice = self.facts.uuid if self.facts is not None else self._choice
            self._session = Session(self._library, choice, self._on_xid)
            self._session.facts = self.facts
            self._thread = CallThread("nvml", self._session.close)
        return self._thread

    def _count_hang(self, thread: CallThread) -> None:
        """Count a call without an answer; leave its thread behind if it was one too many.

        A fresh thread after that has one try only: `_hangs` falls with an answer, not before.
        """
        if thread is not self._thread:
            return
        self._hangs += 1
        if self._hangs >= self._limits.hangs_max:
            thread.end()
            self._abandoned.append(thread)
            self._thread = None
            self._retry_at_s = self._clock.monotonic_s() + self._limits.retry_s
            log.warning("gpu.hang", stuck=len(self._abandoned), retry_s=self._limits.retry_s)

    def _tell(self, answer: Missing | None) -> None:
        """Log a change between card and no card, or of the reason; not every reading."""
        told, self._told = self._told, answer.kind if answer is not None else "card"
        if told == self._told:
            return
        if answer is not None:
            is_usual = self.facts is None and answer.kind in NEVER_SEEN
            tell = log.info if is_usual else log.warning
            tell("gpu.missing", kind=answer.kind, reason=answer.reason)
        elif self.facts is not None:
            log.info("gpu.card", **msgspec.structs.asdict(self.facts))

    def _on_xid(self, number: int) -> None:
        """Keep and log a critical error; called from the thread that listens for them."""
        self.last_xid = Xid(number=number, at=self._clock.now())
        log.error("gpu.xid", xid=number, meaning=self.last_xid.meaning)
