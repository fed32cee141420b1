"""Which models this worker can draw with, which a tenant holds, and why what cannot run cannot.

It asks and lists; it must not load anything.
"""

import asyncio
from typing import Final

from agent.core.card import Loaded, Tenant
from agent.tenants import TenantClient, TenantError
from agent.tools import Tools
from contracts.status import (
    MODELS_MAX,
    TEXT_MAX,
    EngineModels,
    HeldModel,
    TenantModels,
    WorkerModels,
    WorkflowState,
)

LISTED_MAX: Final = 200


async def models(tools: Tools) -> WorkerModels:
    """List the models of all engines and tenants of one worker."""
    loaded = tuple(
        model
        for keeper in tools.slots.keepers.values()
        if keeper.reading is not None and keeper.reading.comfyui is not None
        for model in keeper.reading.comfyui.held
    )
    engines = []
    for facts in tools.facts:
        seen = tools.turnstile.seen(facts, "", 0.0)
        workflows = tuple(
            WorkflowState(
                name=name,
                model=workflow.manifest.model,
                vram_mib=workflow.manifest.vram_mib,
                problems=tuple(text[:TEXT_MAX] for text in facts.problems.get(name, ())[:10]),
            )
            for name, workflow in sorted((facts.workflows or {}).items())
        )
        engines.append(
            EngineModels(
                name=facts.name,
                slot=facts.slot,
                ready=seen.is_ready,
                reason=seen.trouble[:TEXT_MAX],
                models=facts.models[:MODELS_MAX],
                loaded=loaded if facts.workflows is not None else (),
                workflows=workflows[:LISTED_MAX],
            )
        )
    return WorkerModels(worker=tools.worker, engines=tuple(engines), tenants=await _tenants(tools))


async def _tenants(tools: Tools) -> tuple[TenantModels, ...]:
    """Ask each tenant once, also where several cards share it."""
    known = {
        tenant.name: tenant
        for keeper in tools.slots.keepers.values()
        for tenant in keeper.meter.tenants
    }
    async with asyncio.TaskGroup() as group:
        asked = [
            group.create_task(_tenant(tenant), name=f"models of {name}")
            for name, tenant in known.items()
        ]
    return tuple(task.result() for task in asked)


async def _tenant(client: TenantClient) -> TenantModels:
    found: Tenant = await client.loaded()
    installed: tuple[str, ...] = ()
    if found.answers:
        try:
            installed = tuple(one.name for one in await client.installed())
        except TenantError:
            found = Tenant(name=found.name, loaded=found.loaded, answers=False)
    return TenantModels(
        name=found.name,
        answers=found.answers,
        loaded=tuple(held_model(one) for one in found.loaded[:MODELS_MAX]),
        installed=installed[:LISTED_MAX],
    )


def held_model(one: Loaded) -> HeldModel:
    """Return a model of a tenant as answers show it."""
    return HeldModel(
        name=one.name, size_mib=one.size_mib, vram_mib=one.vram_mib, expires_at=one.expires_at
    )
