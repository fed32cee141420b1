"""One card as a report shows it: memory, who holds it, the lease, the debt, the act under way.

It reads what the keeper knows and asks the card for its gauges; it must not change anything.
"""

import asyncio
from datetime import timedelta
from typing import Final

from agent.clock import Clock
from agent.core import preemption
from agent.core.card import Reading, tenants_mib
from agent.core.tending import DEBT_S
from agent.gpu.keeper import Keeper
from agent.gpu.missing import Missing
from agent.gpu.session import Gauges
from agent.models import held_model
from contracts.status import (
    MODELS_MAX,
    TEXT_MAX,
    ActState,
    CardState,
    ComfyState,
    DebtState,
    LeaseState,
    OwedModel,
    TenantState,
)

FRESH_S: Final = 1.0
NO_GAUGES: Final = Gauges(temperature_c=None, utilisation_percent=None, power_w=None, processes=())
UNMEASURED: Final = "it has not been measured yet"


class CardReporter:
    """The reports of one card; gauges that come late are shown with the next one."""

    def __init__(self, keeper: Keeper, clock: Clock) -> None:
        """Nothing is asked before `look`."""
        self._keeper = keeper
        self._clock = clock
        self._gauges = NO_GAUGES

    async def look(self, limit_s: float) -> None:
        """Measure, unless it was measured just now; no longer than `limit_s`. Never raises."""
        try:
            async with asyncio.timeout(limit_s):
                await self._look()
        except TimeoutError:
            return  # What was last known is shown, with its time.

    async def _look(self) -> None:
        reading = self._keeper.reading
        recent = self._clock.now() - timedelta(seconds=FRESH_S)
        if reading is None or reading.taken_at < recent:
            reading = await self._keeper.fresh()
        nvml = self._keeper.meter.nvml
        if nvml is None or reading.on_cpu or nvml.facts is None:
            return
        found = await nvml.gauges()
        self._gauges = NO_GAUGES if isinstance(found, Missing) else found

    def state(self) -> CardState:
        """Return what is known of the card now."""
        keeper, gauges = self._keeper, self._gauges
        arbiter, reading, nvml = keeper.arbiter, keeper.reading, keeper.meter.nvml
        facts = nvml.facts if nvml is not None else None
        on_cpu = reading is not None and reading.on_cpu
        missing = UNMEASURED if reading is None else "" if on_cpu else keeper.lost
        card = reading.card if reading is not None and not on_cpu else None
        xid = nvml.last_xid if nvml is not None else None
        used_mib = None if card is None else card.total_mib - card.free_mib
        return CardState(
            server=keeper.name,
            state="missing" if missing else "cpu" if on_cpu else "ready",
            missing=missing[:TEXT_MAX],
            name=facts.name if facts is not None else None,
            uuid=facts.uuid if facts is not None else None,
            driver=facts.driver if facts is not None else None,
            total_mib=card.total_mib if card is not None else None,
            free_mib=card.free_mib if card is not None else None,
            used_mib=used_mib,
            other_mib=_other_mib(reading, used_mib),
            reserve_mib=arbiter.settings.reserve_mib,
            temperature_c=gauges.temperature_c,
            utilisation_percent=gauges.utilisation_percent,
            power_w=gauges.power_w,
            xid=None if xid is None else f"{xid.number}: {xid.meaning}, {xid.at:%Y-%m-%d %H:%M}Z",
            measured_at=reading.taken_at if reading is not None else None,
            comfyui=_comfyui(reading),
            tenants=_tenants(reading),
            lease=self._lease(),
            debt=self._debt(),
            act=self._act(),
        )

    def _lease(self) -> LeaseState | None:
        lease = self._keeper.arbiter.lease
        if lease is None:
            return None
        return LeaseState(
            job=lease.ask.job,
            requester=lease.ask.requester,
            priority=lease.ask.priority,
            model=lease.need.model,
            vram_mib=max(0, lease.need.vram_mib),
            granted_at=lease.granted_at,
            rest_s=round(preemption.rest_s(lease, self._clock.now()), 1),
            downgraded=lease.downgraded,
            preempted_by=lease.preempted_by,
        )

    def _debt(self) -> DebtState | None:
        debt = self._keeper.arbiter.debt
        if debt is None:
            return None
        return DebtState(
            unloaded_at=debt.unloaded_at,
            due_at=debt.unloaded_at + timedelta(seconds=DEBT_S),
            models=tuple(
                OwedModel(
                    tenant=one.tenant,
                    name=one.model,
                    vram_mib=one.vram_mib,
                    keep_alive_s=one.keep_alive_s,
                )
                for one in debt.owed[:MODELS_MAX]
            ),
        )

    def _act(self) -> ActState | None:
        act = self._keeper.arbiter.act
        if act is None:
            return None
        return ActState(
            kind=act.kind,
            begun_at=act.begun_at,
            until=act.until,
            models=tuple(one.model for one in act.models[:MODELS_MAX]),
        )


def _comfyui(reading: Reading | None) -> ComfyState:
    comfyui = reading.comfyui if reading is not None else None
    if comfyui is None:
        return ComfyState(answers=False, device="unknown", models=(), held_mib=0, foreign=0)
    return ComfyState(
        answers=True,
        device="cpu" if comfyui.on_cpu else "card",
        models=comfyui.held[:MODELS_MAX],
        held_mib=comfyui.held_mib,
        foreign=comfyui.foreign,
    )


def _tenants(reading: Reading | None) -> tuple[TenantState, ...]:
    return tuple(
        TenantState(
            name=one.name,
            answers=one.answers,
            models=tuple(held_model(model) for model in one.loaded[:MODELS_MAX]),
        )
        for one in (reading.tenants if reading is not None else ())
    )


def _other_mib(reading: Reading | None, used_mib: int | None) -> int | None:
    """Return what programs use that are neither ComfyUI nor tenants, contexts included."""
    if reading is None or used_mib is None:
        return None
    held_mib = reading.comfyui.held_mib if reading.comfyui is not None else 0
    return max(0, used_mib - held_mib - tenants_mib(reading))
