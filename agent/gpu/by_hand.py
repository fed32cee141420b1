"""What an operator does to a card by hand: load and unload, by the arbiter's leave.

Who loads has the lease, so that nobody draws into the memory meanwhile. Unloading what a tenant
holds needs none: it takes nothing from who draws. What is unloaded by hand is not owed, and stays
away. It must not decide about jobs; a CRITICAL interrupts it like any other.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection
from datetime import timedelta
from typing import Final, TypeVar

import structlog
from msgspec.structs import replace

from agent.clock import Clock
from agent.core.card import SLACK_MIB, Reading, gb, room_after_free_mib, room_mib
from agent.core.leases import Ask, Grant, Need, Wait
from agent.core.tending import RELOAD_S
from agent.gpu.keeper import Keeper, Moment
from agent.tenants import TenantClient, TenantError, UnknownModelError
from contracts.errors import ContractError, ErrorCode
from contracts.requests import Priority, Quality

CARD_S: Final = 30.0
"""How long an operator waits for the card before hearing who has it."""
GONE_S: Final = 15.0
"""How long what was unloaded may take to leave the card."""
ANSWER_S: Final = 5.0
NEVER_S: Final = 1e9
"""A bound that never passes: an operator waits, and unloads nothing of others by that."""
AGAIN_S: Final = 0.1
GROWS: Final = 1.25
"""What a model takes on the card, by the size of its files: its context and buffers come on top."""

T = TypeVar("T")
log = structlog.get_logger()


class _Interrupts:
    """Who has the lease, as the keeper may interrupt it."""

    def __init__(self) -> None:
        self.reason = ""
        self.patience: asyncio.Timeout | None = None

    def revoked(self, reason: str) -> None:
        """End the work: the lease is over."""
        self._end(reason)

    def preempted(self, by: str, reason: str) -> None:
        """End the work: a CRITICAL needs the card."""
        self._end(f"{by} needs the card: {reason}")

    def _end(self, reason: str) -> None:
        self.reason = reason
        if self.patience is not None and not self.patience.expired():
            self.patience.reschedule(asyncio.get_running_loop().time())


class ByHand:
    """One card in the hands of an operator. All methods raise ContractError with the reason."""

    def __init__(self, keeper: Keeper, clock: Clock) -> None:
        """Work through the keeper of the card."""
        self._keeper = keeper
        self._clock = clock

    @property
    def tenants(self) -> tuple[TenantClient, ...]:
        """The programs that share the card."""
        return self._keeper.meter.tenants

    async def reading(self) -> Reading:
        """Measure now; where ComfyUI draws on the CPU, tenants are asked all the same."""
        try:
            async with asyncio.timeout(ANSWER_S):
                reading = await self._keeper.fresh()
                if not reading.on_cpu:
                    return reading
                tenants = [await tenant.loaded() for tenant in self.tenants]
        except TimeoutError as error:
            raise ContractError(ErrorCode.HANG, "the card cannot be measured now") from error
        return replace(reading, tenants=tuple(tenants))

    async def unload(self, wanted: Collection[tuple[str, str]]) -> None:
        """Unload models of tenants, given by tenant and name, for good; wait until they are gone.

        What is done to the card by the arbiter ends first.
        """
        await self._quiet()
        self._keeper.forgive(wanted)
        await self._unload(wanted)

    async def free(self) -> None:
        """Let ComfyUI drop its models once nobody draws; wait until the card shows it."""
        await self.with_card("unload", None, GONE_S, self._free)

    async def load(
        self, tenant: TenantClient, model: str, keep_alive_s: int | None, *, alone: bool
    ) -> Reading:
        """Load a model of a tenant beside what is there; return what the card shows then.

        `alone`: unload all others first. Without it, ComfyUI makes room where that suffices.
        """

        async def work() -> Reading:
            if alone:
                others = _listed(await self.reading(), without=(tenant.name, model))
                self._keeper.forgive(others)
                await self._unload(others)
            await self._make_room(tenant, model, alone=alone)
            await self._load(tenant, model, keep_alive_s)
            return await self.reading()

        return await self.with_card("load", None, RELOAD_S + 2 * GONE_S, work)

    async def with_card(
        self, verb: str, need: Need | None, limit_s: float, work: Callable[[], Awaitable[T]]
    ) -> T:
        """Do something while having the lease; `need` None: whatever memory is there.

        Units: `limit_s` seconds that the work may take.
        """
        holder, ask = _Interrupts(), self._ask(verb, need)
        await self._granted(ask, holder)
        try:
            async with asyncio.timeout(limit_s) as holder.patience:
                if holder.reason:  # It was told between the grant and here.
                    holder.patience.reschedule(asyncio.get_running_loop().time())
                return await work()
        except TimeoutError as error:
            reason = holder.reason or f"not done within {limit_s:.0f} s"
            raise ContractError(ErrorCode.HANG, reason) from error
        finally:
            holder.patience = None
            self._keeper.release(ask.job)

    # --- steps ---------------------------------------------------------------------------------

    def _ask(self, verb: str, need: Need | None) -> Ask:
        """Write the wish: MEDIUM, before others of its class, and never past its bound.

        One that needs no memory asks for less than nothing: not even the reserve has to be free.
        """
        reserve_mib = self._keeper.arbiter.settings.reserve_mib
        return Ask(
            job=f"operator.{verb}",
            priority=Priority.MEDIUM,
            quality=Quality.HIGH,
            need=need or Need(model="", vram_mib=-reserve_mib),
            stored_at=self._clock.now(),
            max_wait_s=NEVER_S,
            requester="operator",
        )

    async def _granted(self, ask: Ask, holder: _Interrupts) -> None:
        """Wait for the lease. Raises: ContractError with what it would have waited for."""
        if any(one.ask.job == ask.job for one in self._keeper.arbiter.waiting) or self._has(ask):
            raise ContractError(ErrorCode.NO_ENGINE, "another operator does the same just now")
        said = ""

        def hear(moment: Moment) -> None:
            nonlocal said
            for decision in moment.decisions:
                if isinstance(decision, Wait) and decision.job == ask.job:
                    said = f"{decision.reason}; until {decision.until}"

        self._keeper.on_decided.append(hear)
        try:
            async with asyncio.timeout(CARD_S):
                answer = await self._keeper.lease(ask, holder)
        except TimeoutError as error:
            reason = f"the card was not given within {CARD_S:.0f} s: {said or 'it is busy'}"
            code = ErrorCode.OUT_OF_MEMORY if "memory" in said else ErrorCode.NO_ENGINE
            raise ContractError(code, reason) from error
        finally:
            self._keeper.on_decided.remove(hear)
        if not isinstance(answer, Grant):
            raise ContractError(ErrorCode.NO_ENGINE, answer.reason)

    def _has(self, ask: Ask) -> bool:
        lease = self._keeper.arbiter.lease
        return lease is not None and lease.ask.job == ask.job

    async def _quiet(self) -> None:
        """Wait until the arbiter has nothing done to the card."""
        try:
            async with asyncio.timeout(CARD_S):
                while self._keeper.arbiter.act is not None:  # noqa: ASYNC110 - the tick ends it
                    await asyncio.sleep(AGAIN_S)
        except TimeoutError as error:
            act = self._keeper.arbiter.act
            kind = act.kind if act is not None else "something"
            reason = f"{kind} is under way on the card; try again when it is done"
            raise ContractError(ErrorCode.NO_ENGINE, reason) from error

    async def _unload(self, wanted: Collection[tuple[str, str]]) -> None:
        """Unload, and wait until no tenant lists it and the card shows the memory.

        While somebody draws, what is free says nothing about that.
        """
        before = await self.reading()
        for tenant in self.tenants:
            for name, model in wanted:
                if name == tenant.name:
                    await _obeyed(tenant.unload(model))
        await self._until(
            lambda reading: not set(_listed(reading)) & set(wanted),
            "still listed: a request uses it, and it goes when that ends",
        )
        if before.card is None:
            return  # ComfyUI draws on the CPU: nobody measures a card.
        goal_mib = _free_mib(before) + _size_mib(before, wanted) - SLACK_MIB
        await self._until(
            lambda reading: self._is_drawn_on or _free_mib(reading) >= goal_mib,
            "it is off the list, and the card does not show its memory as free",
        )

    @property
    def _is_drawn_on(self) -> bool:
        lease = self._keeper.arbiter.lease
        return lease is not None and not is_by_hand(lease.ask.job)

    async def _free(self) -> None:
        if failed := await self._keeper.meter.drawer.free():
            raise ContractError(ErrorCode.ENGINE_DOWN, f"ComfyUI did not free: {failed}")
        await self._until(_is_free, "ComfyUI accepted it, and the card shows no free memory yet")

    async def _make_room(self, tenant: TenantClient, model: str, *, alone: bool) -> None:
        """Let ComfyUI free where the model fits only so. Raises: ContractError where it does not.

        It is known to Ollama how large a model is; a tenant that does not tell is believed.
        """
        reading = await self.reading()
        if (tenant.name, model) in _listed(reading):
            return
        found = await _obeyed(tenant.installed())
        sizes = {one.name: one.size_mib for one in found}
        if model not in sizes:
            raise _unknown(model, tuple(sizes))
        needs_mib = round(sizes[model] * GROWS)
        reserve_mib = self._keeper.arbiter.settings.reserve_mib
        if reading.card is None or (needs_mib <= room_mib(reading, "", reserve_mib) and not alone):
            return
        if needs_mib > room_after_free_mib(reading, reserve_mib):
            free_mib = max(0, room_after_free_mib(reading, reserve_mib))
            way_out = "" if alone else "; unload_others makes room"
            raise ContractError(
                ErrorCode.OUT_OF_MEMORY,
                f"{model} takes about {gb(needs_mib)}, and {gb(free_mib)} could be used{way_out}",
            )
        await self._free()

    async def _load(self, tenant: TenantClient, model: str, keep_alive_s: int | None) -> None:
        await _obeyed(tenant.load(model, keep_alive_s))

    async def _until(self, is_done: Callable[[Reading], bool], otherwise: str) -> None:
        """Measure until it is done."""
        deadline = self._clock.now() + timedelta(seconds=GONE_S)
        while not is_done(await self.reading()):
            if self._clock.now() >= deadline:
                raise ContractError(ErrorCode.HANG, f"not done within {GONE_S:.0f} s: {otherwise}")
            await asyncio.sleep(AGAIN_S)


def is_by_hand(job: str) -> bool:
    """Tell whether a lease is an operator's."""
    return job.startswith("operator.")


async def _obeyed(asked: Awaitable[T]) -> T:
    """Return what a tenant answers. Raises: ContractError where it is away or refuses."""
    try:
        return await asked
    except UnknownModelError as error:
        raise ContractError(ErrorCode.MODEL_MISSING, str(error)) from error
    except TenantError as error:
        raise ContractError(ErrorCode.ENGINE_DOWN, str(error)) from error


def _unknown(model: str, known: tuple[str, ...]) -> ContractError:
    names = ", ".join(sorted(known)[:20]) or "none"
    return ContractError(ErrorCode.MODEL_MISSING, f"no model {model!r} is here; there is: {names}")


def _listed(reading: Reading, without: tuple[str, str] = ("", "")) -> list[tuple[str, str]]:
    """Return all models of tenants, by tenant and name."""
    return [
        (tenant.name, model.name)
        for tenant in reading.tenants
        for model in tenant.loaded
        if (tenant.name, model.name) != without
    ]


def _free_mib(reading: Reading) -> int:
    return reading.card.free_mib if reading.card is not None else 0


def _size_mib(reading: Reading, wanted: Collection[tuple[str, str]]) -> int:
    """Return what these models hold on the card."""
    return sum(
        model.vram_mib
        for tenant in reading.tenants
        for model in tenant.loaded
        if (tenant.name, model.name) in wanted
    )


def _is_free(reading: Reading) -> bool:
    comfyui = reading.comfyui
    return comfyui is None or reading.on_cpu or comfyui.held_mib <= SLACK_MIB
