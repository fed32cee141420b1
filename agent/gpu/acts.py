"""What the arbiter has done to the card: ComfyUI frees, tenants unload and load. One at a time.

Each act ends in an event for the arbiter. It must not decide anything, and it gives an act up at
the deadline the arbiter has for it.
"""

import asyncio
from collections.abc import Mapping
from typing import Final, Protocol, assert_never

import structlog

from agent.core.card import Debt, DebtError, Owed
from agent.core.leases import ClearDebt, FreeComfyUI, Reload, UnloadModels, WriteDebt
from agent.core.tending import EVICTION_S, RELOAD_S
from agent.gpu.meter import Drawer
from agent.tenants import TenantClient, TenantError, UnknownModelError

LISTED_S: Final = 0.2
"""Pause between two looks whether a model is still listed."""

log = structlog.get_logger()

Act = FreeComfyUI | WriteDebt | UnloadModels | Reload | ClearDebt


class Debts(Protocol):
    """Where the debt of a card is kept, so that it outlives a worker. All may raise DebtError."""

    async def read(self, card: str) -> Debt | None:
        """Return what is owed to the tenants of a card."""
        ...

    async def write(self, card: str, debt: Debt) -> None:
        """Keep a debt."""
        ...

    async def clear(self, card: str) -> None:
        """Forget it: it is paid."""
        ...


class Answers(Protocol):
    """Who hears how an act ended: the keeper, for its arbiter."""

    def freed(self, number: int, failed: str) -> None:
        """`failed` says why not; nothing: ComfyUI accepted it."""
        ...

    def unloaded(self, number: int, failed: str) -> None:
        """`failed` says why not; nothing: all tenants accepted it."""
        ...

    def reloaded(self, number: int, failed: str, unknown: tuple[Owed, ...]) -> None:
        """`unknown` are models that a tenant no longer has."""
        ...


class Performer:
    """Performs acts in the order in which they are given."""

    def __init__(self, drawer: Drawer, tenants: tuple[TenantClient, ...], debts: Debts) -> None:
        """Perform on one card; `card`, once known, is the name its debt is kept under."""
        self.card = ""
        self._drawer = drawer
        self._tenants: Mapping[str, TenantClient] = {tenant.name: tenant for tenant in tenants}
        self._debts = debts
        self._unwritten = ""

    async def perform(self, act: Act, tell: Answers) -> None:
        """Perform one act and tell how it ended."""
        match act:
            case FreeComfyUI(number=number):
                tell.freed(number, await self._drawer.free())
            case WriteDebt(debt=debt):
                self._unwritten = await self._keep(debt)
            case UnloadModels(number=number, models=models):
                tell.unloaded(number, self._unwritten or await self._unload(models))
            case Reload(number=number):
                failed, unknown = await self._reload(act)
                tell.reloaded(number, failed, unknown)
            case ClearDebt():
                await self._keep(None)
            case _:
                assert_never(act)

    async def _keep(self, debt: Debt | None) -> str:
        """Write the debt, or clear it; return why it could not be."""
        try:
            if debt is None:
                await self._debts.clear(self.card)
            else:
                await self._debts.write(self.card, debt)
        except DebtError as error:
            log.warning("card.debt_not_kept", card=self.card, reason=str(error))
            return f"the debt could not be written down: {error}"
        return ""

    async def _unload(self, models: tuple[Owed, ...]) -> str:
        """Ask the tenants to unload; return who refused."""
        try:
            async with asyncio.timeout(EVICTION_S):
                for one in models:
                    await self._tenant(one).unload(one.model)
        except UnknownModelError:
            return ""  # It has gone by itself; a reading shows it.
        except TenantError as error:
            return str(error)
        except TimeoutError:
            return f"no answer within {EVICTION_S:.0f} s"
        return ""

    async def _reload(self, act: Reload) -> tuple[str, tuple[Owed, ...]]:
        """Load all that is owed; return what failed, and what nobody can load any more."""
        failed: list[str] = []
        unknown: list[Owed] = []
        try:
            async with asyncio.timeout(RELOAD_S):
                for one in act.again:
                    await self._unload_first(one)
                for one in act.models:
                    try:
                        await self._tenant(one).load(one.model, one.keep_alive_s)
                    except UnknownModelError as error:
                        failed.append(str(error))
                        unknown.append(one)
                    except TenantError as error:
                        failed.append(str(error))
        except TimeoutError:
            failed.append(f"not back within {RELOAD_S:.0f} s")
        return "; ".join(failed), tuple(unknown)

    async def _unload_first(self, one: Owed) -> None:
        """Unload a model that came back partly on the CPU and wait until it is gone."""
        tenant = self._tenant(one)
        try:
            await tenant.unload(one.model)
        except TenantError as error:
            log.info("card.not_unloaded_first", model=one.model, reason=str(error))
            return
        async with asyncio.timeout(EVICTION_S):
            while await _lists(tenant, one.model):  # noqa: ASYNC110 - nobody tells when it is gone
                await asyncio.sleep(LISTED_S)

    def _tenant(self, one: Owed) -> TenantClient:
        tenant = self._tenants.get(one.tenant)
        if tenant is None:
            raise UnknownModelError(one.model, f"no tenant is called {one.tenant!r} any more")
        return tenant


async def _lists(tenant: TenantClient, model: str) -> bool:
    """Tell whether a tenant still lists a model."""
    return any(one.name == model for one in (await tenant.loaded()).loaded)
