"""Other ways to decide who gets the card, to compare ours with.

FIFO, strict classes and earliest deadline differ from ours in the order alone: memory, cloud and
debt follow the same rules, and nobody is interrupted. `Spec` is the pseudo-code of the document
this project was asked for (spec/001, 2.2 and 2.3).
"""

from collections.abc import Sequence
from datetime import datetime, timedelta

from agent.core.arbiter import Arbiter
from agent.core.card import Reading, merged, owed, tenants_mib
from agent.core.leases import (
    Ask,
    Decision,
    Decisions,
    Grant,
    Lease,
    Need,
    Reload,
    UnloadModels,
    Wait,
    WriteDebt,
)
from agent.core.scheduler import RANK, Turn
from agent.core.tending import EVICTION_S, RELOAD_S, Waiting
from contracts.requests import Priority

GIB = 1024
SDXL = Need(model="sdxl-1.0", vram_mib=12 * GIB)
SD15 = Need(model="sd-1.5", vram_mib=6 * GIB)


class _Ordered(Arbiter):
    """Ours with another order and without preemption."""

    def turns(self, now: datetime) -> tuple[Turn, ...]:
        """Return the waiting jobs by `_key`."""
        del now
        line = sorted((one.ask for one in self.waiting), key=self._key)
        return tuple(
            Turn(job=ask.job, requester=ask.requester, priority=ask.priority, rule=7)
            for ask in line
        )

    def _key(self, ask: Ask) -> tuple[float, float]:
        raise NotImplementedError

    def _preempt(self, turns: Sequence[Turn], now: datetime, said: list[Decision]) -> None:
        """Interrupt nobody."""


class Fifo(_Ordered):
    """As they were stored."""

    def _key(self, ask: Ask) -> tuple[float, float]:
        return 0, ask.seq


class Strict(_Ordered):
    """A higher class always first."""

    def _key(self, ask: Ask) -> tuple[float, float]:
        return RANK[ask.priority], ask.seq


class EarliestDeadline(_Ordered):
    """Whose bound ends first."""

    def _key(self, ask: Ask) -> tuple[float, float]:
        return (ask.stored_at + timedelta(seconds=ask.max_wait_s)).timestamp(), ask.seq


class Spec(Arbiter):
    """The pseudo-code of spec/001: decided once, on arrival, by what is free just then.

    1. 12 GB free -> SDXL. 2. 6 GB free -> SD 1.5. 3. CRITICAL and HIGH: unload Ollama, SDXL.
    4. Others go into a priority queue. After each image ComfyUI is emptied and Ollama reloaded.

    What it leaves open is read kindly: ComfyUI draws what it was given one after the other; the
    queue, which nothing in the document ever takes from, is looked at when ComfyUI has nothing to
    do; an image that ran out of memory is tried again; classes sort as the words of the document
    do: CRITICAL, HIGH, LOW, MEDIUM. It knows no reserve and no cloud.
    """

    def _settle(self, now: datetime) -> Decisions:
        if not hasattr(self, "_plans"):
            self._plans: dict[str, Need | None] = {}
            self._has_drawn = False
        said: list[Decision] = []
        self._watch_act(now, said)
        reading = self._fresh(now)
        if reading is not None:
            for one in sorted(self.waiting, key=_number):
                self._decide(one.ask, reading, said)
            if self.lease is None and self.act is None:
                self._go_on(reading, now, said)
        self._want_reading(now, said)
        return tuple(said)

    def _decide(self, ask: Ask, reading: Reading, said: list[Decision]) -> None:
        """Decide on arrival; who was queued is asked again when nothing else is to do."""
        if ask.job in self._plans:
            return
        need = self._need(ask, reading)
        if need is None and ask.priority in (Priority.CRITICAL, Priority.HIGH):
            need = SDXL  # 3: Ollama has to go.
        self._plans[ask.job] = need
        said.append(Wait(job=ask.job, wait_for="card", rule=0, until="its turn", reason="queued"))

    def _need(self, ask: Ask, reading: Reading) -> Need | None:
        free_mib = reading.card.free_mib if reading.card is not None else 0
        if ask.need.model == SD15.model:
            return SD15 if free_mib >= SD15.vram_mib else None
        if free_mib >= SDXL.vram_mib:
            return SDXL
        return SD15 if free_mib >= SD15.vram_mib else None

    def _go_on(self, reading: Reading, now: datetime, said: list[Decision]) -> None:
        if self._has_drawn and reading.comfyui is not None and reading.comfyui.held:
            self._free(0, "the image is drawn", now, said)
            return
        if self._has_drawn and self.debt is not None:
            number = self._begin("reloading", RELOAD_S, now, models=self.debt.owed)
            said.append(Reload(number=number, models=self.debt.owed, again=(), reason="drawn"))
            self._has_drawn = False
            return
        given = [one for one in self.waiting if self._plans.get(one.ask.job) is not None]
        if given:
            ask = min(given, key=_number).ask
            need = self._plans[ask.job]
        elif self.waiting:
            ask = min(self.waiting, key=lambda one: (one.ask.priority.value, one.number)).ask
            need = self._need(ask, reading)
        else:
            return
        if need is not None:
            self._start(ask, need, reading, now, said)

    def _start(
        self, ask: Ask, need: Need, reading: Reading, now: datetime, said: list[Decision]
    ) -> None:
        free_mib = reading.card.free_mib if reading.card is not None else 0
        may = ask.priority in (Priority.CRITICAL, Priority.HIGH)
        if may and free_mib < need.vram_mib and tenants_mib(reading):
            models = tuple(owed(t, m, now) for t in reading.tenants for m in t.loaded)
            debt = self.debt = merged(self.debt, models, now)
            number = self._begin("unloading", EVICTION_S, now, models=models)
            said.append(WriteDebt(debt=debt, reason="no room"))
            said.append(
                UnloadModels(number=number, job=ask.job, models=models, debt=debt, reason="no room")
            )
            return
        self._forget(ask.job)
        self._plans.pop(ask.job, None)
        self._has_drawn = True
        downgraded = need.model != ask.need.model
        self.lease = Lease(ask=ask, need=need, granted_at=now, downgraded=downgraded)
        said.append(
            Grant(
                job=ask.job,
                model=need.model,
                vram_mib=need.vram_mib,
                downgraded=downgraded,
                rule=0,
                reason="its turn",
            )
        )


def _number(one: Waiting) -> int:
    return one.number
