"""Loads and unloads models because an operator says so, by the leave of each card's arbiter.

ComfyUI has no call that loads a model: it loads with a picture, so one of a single small step is
drawn and thrown away. It must not touch a card behind its keeper's back.
"""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final, Literal
from uuid import uuid4

import msgspec
import structlog

from agent.core.card import Owed, Reading, gb, loaded
from agent.core.faults import Fault
from agent.core.job import StoredRequest
from agent.core.leases import Need
from agent.core.workflow import Manifest
from agent.engines.protocol import EngineJob, order_for
from agent.gpu.by_hand import ByHand
from agent.tenants import TenantClient, TenantError
from agent.tools import Tools
from contracts.errors import ContractError, ErrorCode
from contracts.requests import Options, Priority, Request
from contracts.status import Loaded, ModelWish
from contracts.subjects import Identity

COMFYUI: Final = "comfyui"
TRIAL_SIDE: Final = 256
TRIAL_S: Final = 120.0
"""As long as a large model may take to come from a slow disk."""

log = structlog.get_logger()

Pairs = tuple[tuple[str, str], ...]


class Loading:
    """The models of one worker in the hands of an operator. All methods raise ContractError."""

    def __init__(self, tools: Tools) -> None:
        """Work through the keepers of these tools."""
        self._tools = tools
        self._cards = {
            name: ByHand(keeper, tools.clock) for name, keeper in tools.slots.keepers.items()
        }

    async def load(self, wish: ModelWish) -> Loaded:
        """Load a model where it is drawn with, or where a tenant holds it."""
        if wish.model is None:
            raise ContractError(ErrorCode.INVALID_REQUEST, "load needs a model", "$.model")
        manifest = self._manifest(wish.model) if wish.engine in (None, COMFYUI) else None
        if manifest is not None:
            card = self._card()
            return await self._told("load", card, partial(self._draw_one, card, manifest, wish))
        if wish.engine == COMFYUI:
            known = ", ".join(sorted(self._manifests())) or "none"
            reason = f"ComfyUI cannot draw with {wish.model!r} here; it can with: {known}"
            raise ContractError(ErrorCode.MODEL_MISSING, reason, "$.model")
        card, tenant, model = await self._tenant_with(wish.model, wish.engine)
        return await self._told("load", card, partial(self._load, card, tenant, model, wish))

    async def unload(self, wish: ModelWish) -> Loaded:
        """Unload a model, or all of an engine, or all."""
        card = self._card()
        reading = await card.reading()
        wanted = self._wanted(reading, wish)
        of_comfyui = tuple(pair for pair in wanted if pair[0] == COMFYUI)
        of_tenants = tuple(pair for pair in wanted if pair[0] != COMFYUI)
        # ComfyUI drops all its models or none.
        held = self._held(reading) if of_comfyui else ()

        async def work() -> tuple[Pairs, str]:
            if of_tenants:
                await card.unload(of_tenants)
            if of_comfyui or (wish.model is None and wish.engine in (None, COMFYUI)):
                await card.free()
            gone = (*of_tenants, *held)
            names = ", ".join(f"{model} of {who}" for who, model in gone)
            return gone, f"{names} left the card" if gone else "nothing was loaded"

        return await self._told("unload", card, work)

    # --- what is meant -------------------------------------------------------------------------

    def _card(self) -> ByHand:
        """Return the card that this worker keeps."""
        for name, keeper in self._tools.slots.keepers.items():
            if not keeper.lost:
                return self._cards[name]
        reason = self._tools.slots.why_no_card() or "this worker keeps no card: it has no ComfyUI"
        raise ContractError(ErrorCode.NO_ENGINE, reason)

    def _manifests(self) -> dict[str, Manifest]:
        """Return for each model that ComfyUI can draw with the lightest workflow for it."""
        found: dict[str, Manifest] = {}
        for facts in self._tools.facts:
            for workflow in (facts.workflows or {}).values():
                manifest = workflow.manifest
                if facts.problems.get(workflow.name) or manifest.takes_image:
                    continue
                known = found.get(manifest.model)
                if known is None or manifest.vram_mib < known.vram_mib:
                    found[manifest.model] = manifest
        return found

    def _manifest(self, model: str) -> Manifest | None:
        return self._manifests().get(model)

    async def _tenant_with(
        self, model: str, engine: str | None
    ) -> tuple[ByHand, TenantClient, str]:
        """Return who has a model, and how it spells its name."""
        card = self._card()
        able = [tenant for tenant in card.tenants if engine in (None, tenant.name)]
        if not able:
            who = f"{engine!r}" if engine is not None else "a program with models of its own"
            reason = f"no {who} shares this card; it is: {self._names(card)}"
            raise ContractError(ErrorCode.NO_ENGINE, reason, "$.engine")
        known: list[str] = sorted(self._manifests())
        for tenant in able:
            try:
                names = [one.name for one in await tenant.installed()]
            except TenantError as error:
                raise ContractError(ErrorCode.ENGINE_DOWN, str(error)) from error
            for spelled in (model, f"{model}:latest"):
                if spelled in names:
                    return card, tenant, spelled
            known += names
        reason = f"nobody here has {model!r}; there is: {', '.join(known[:30]) or 'none'}"
        raise ContractError(ErrorCode.MODEL_MISSING, reason, "$.model")

    def _names(self, card: ByHand) -> str:
        return ", ".join([COMFYUI, *(tenant.name for tenant in card.tenants)])

    def _wanted(self, reading: Reading, wish: ModelWish) -> Pairs:
        """Return what a wish to unload means, by who holds it and model."""
        there = (
            *self._held(reading),
            *((tenant.name, one.name) for tenant in reading.tenants for one in tenant.loaded),
        )
        meant = [(who, model) for who, model in there if wish.engine in (None, who)]
        if wish.model is None:
            return tuple(meant)
        spelled = (wish.model, f"{wish.model}:latest")
        debts = (keeper.arbiter.debt for keeper in self._tools.slots.keepers.values())
        owed = ((one.tenant, one.model) for debt in debts if debt is not None for one in debt.owed)
        found = tuple(pair for pair in (*meant, *owed) if pair[1] in spelled)
        if not found:
            names = ", ".join(f"{model} of {who}" for who, model in there) or "none"
            reason = f"{wish.model!r} is not loaded; there is: {names}"
            raise ContractError(ErrorCode.MODEL_MISSING, reason, "$.model")
        return tuple(dict.fromkeys(found))

    def _held(self, reading: Reading) -> Pairs:
        held = reading.comfyui.held if reading.comfyui is not None else ()
        return tuple((COMFYUI, model) for model in held)

    # --- what is done --------------------------------------------------------------------------

    async def _told(
        self,
        verb: Literal["load", "unload"],
        card: ByHand,
        do: Callable[[], Awaitable[tuple[Pairs, str]]],
    ) -> Loaded:
        """Do it, and tell what came of it."""
        began_s = self._tools.clock.monotonic_s()
        before = await card.reading()
        models, message = await do()
        after = await card.reading()
        return Loaded(
            worker=self._tools.worker,
            verb=verb,
            models=models,
            message=message,
            took_s=round(self._tools.clock.monotonic_s() - began_s, 3),
            free_before_mib=_free_mib(before),
            free_after_mib=_free_mib(after),
        )

    async def _load(
        self, card: ByHand, tenant: TenantClient, model: str, wish: ModelWish
    ) -> tuple[Pairs, str]:
        reading = await card.load(tenant, model, wish.keep_alive_s, alone=wish.unload_others)
        asked = Owed(tenant=tenant.name, model=model, vram_mib=0, keep_alive_s=None)
        found = loaded(reading, asked)
        if found is None:
            reason = f"{tenant.name} does not list {model} after it"
            raise ContractError(ErrorCode.ENGINE_DOWN, reason)
        words = f"{model} is loaded"
        if found.is_partial:
            rest = gb(found.size_mib - found.vram_mib)
            words += f", {rest} of {gb(found.size_mib)} on the CPU: it will be slow"
        return ((tenant.name, model),), words

    async def _draw_one(
        self, card: ByHand, manifest: Manifest, wish: ModelWish
    ) -> tuple[Pairs, str]:
        """Let ComfyUI draw one small picture with a model, so that it holds it."""
        if wish.unload_others:
            held = await card.reading()
            others = [(who.name, one.name) for who in held.tenants for one in who.loaded]
            await card.unload(others)
        engine = self._tools.engines[COMFYUI]
        server = next(name for name, known in self._cards.items() if known is card)
        job = self._trial(manifest, server)

        async def work() -> None:
            try:
                await engine.generate(job, lambda _step: None)
            except Fault as fault:
                raise ContractError(fault.code, fault.message, fault.detail) from fault
            finally:
                await engine.forget(job)

        need = Need(model=manifest.model, vram_mib=manifest.vram_mib)
        await card.with_card("load", need, TRIAL_S, work)
        return ((COMFYUI, manifest.model),), f"ComfyUI holds {manifest.model}"

    def _trial(self, manifest: Manifest, server: str) -> EngineJob:
        """Return the order for the smallest picture that a workflow draws."""
        sized = manifest.has("width")
        options = Options(
            workflow=manifest.name,
            width=TRIAL_SIDE if sized else None,
            height=TRIAL_SIDE if sized else None,
            steps=1 if manifest.has("steps") else None,
        )
        stored = StoredRequest(
            who=Identity("mmg", f"load-{uuid4().hex[:12]}"),
            priority=Priority.MEDIUM,
            seq=0,
            stored_at=self._tools.clock.now(),
            request=Request(type="image", prompt="a plain grey card", options=options),
        )
        order = order_for(stored, self._tools.book)
        return msgspec.structs.replace(
            order, model=manifest.model, workflow=manifest.name, server=server
        )


def _free_mib(reading: Reading) -> int | None:
    return None if reading.card is None or reading.on_cpu else reading.card.free_mib
