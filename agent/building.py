"""Makes the parts of a worker from its settings: engines, clouds, cards, slots.

It decides nothing about a request, and starts nothing: `agent.app` does.
"""

import ipaddress
from collections.abc import Mapping
from datetime import datetime
from typing import Final
from urllib.parse import urlsplit

import structlog

from agent.bus.connection import Bus
from agent.bus.debts import Debts
from agent.clock import Clock, OffsetClock
from agent.config import Config
from agent.core.money import Limits
from agent.core.scheduler import MAX_WAIT_S, Night, Rules
from agent.core.standing import Settings
from agent.engines.cloud import (
    CloudEngine,
    OpenAISettings,
    StabilitySettings,
    openai_engine,
    stability_engine,
)
from agent.engines.comfyui import ComfyEngine, ComfySettings
from agent.engines.protocol import Engine
from agent.engines.sketch import SketchEngine
from agent.gpu.keeper import Keeper
from agent.gpu.meter import Meter
from agent.gpu.nvml import Nvml
from agent.ollama import Ollama
from agent.slots import CLOUD, GPU, Places, Slots
from agent.workflows import load_workflows
from contracts.requests import Priority

BY_COMFYUI: Final = "comfyui"

log = structlog.get_logger()


async def build_engines(config: Config, clock: Clock, worker: str) -> dict[str, Engine]:
    """Make the engines that are configured or found, in their order.

    ComfyUI counts as found if its address was set, or if one answers at the default address now; a
    cloud if its key is set. Without any other engine the sketch engine draws, unless it was
    switched off.
    """
    wanted = config.worker.engines
    engines: list[Engine] = []
    if config.worker.sketch != "only" and ("comfyui" in wanted if wanted else True):
        comfy = await _comfyui(config, clock, worker, certain=wanted is not None)
        if comfy is not None:
            engines.append(comfy)
    if config.worker.sketch != "only":
        clouds = _clouds(config, clock)
        for cloud in clouds:
            await cloud.open()
        engines += clouds
    mode = config.worker.sketch or ("fallback" if wanted else "off" if engines else "only")
    if mode != "off" and (wanted is None or "sketch" in wanted):
        threads = max(1, config.worker.slots.get("cpu", 1))
        engines.append(SketchEngine(threads=threads, fallback=bool(engines)))
    return {engine.name: engine for engine in engines}


def build_slots(
    config: Config, bus: Bus, clock: OffsetClock, engines: Mapping[str, Engine], ollama: Ollama
) -> Slots:
    """Make the places of each kind and the keepers of the cards.

    A ComfyUI on this machine draws on a card that NVML measures, beside the Ollama of this
    machine; one on another host is measured by what it tells itself, and shares with nobody.
    """
    rules = Rules(night=night(config, clock.now()))
    places = {
        kind: Places([None] * count, clock, rules)
        for kind, count in config.worker.slots.items()
        if kind != GPU
    }
    settings = Settings(
        reserve_mib=config.card.reserve_mib,
        downgrade_first=config.card.downgrade_first,
        preempt_after_s=config.card.preempt_after_s,
        rules=rules,
    )
    keepers: dict[str, Keeper] = {}
    comfy = engines.get("comfyui")
    servers = comfy.drawers() if isinstance(comfy, ComfyEngine) else {}
    debts = Debts(bus)
    for number, (url, drawer) in enumerate(servers.items()):
        card = _card_of(config.card.cards, number)
        local = is_local(url) and card != BY_COMFYUI
        tenants = (ollama,) if local and is_local(config.ollama.url) else ()
        nvml = Nvml(clock, card) if local else None
        meter = Meter(nvml, drawer, tenants, config.worker.name or "worker", clock)
        keepers[url] = Keeper(url, meter, debts, clock, settings=settings)
        drawer.on_state = keepers[url].look
    bounds = MAX_WAIT_S | {
        Priority(name.upper()): seconds for name, seconds in config.card.max_wait_s.items()
    }
    return Slots(places, keepers, clock, bounds=bounds)


def limits(config: Config) -> Limits:
    """Return the budgets."""
    cloud = config.cloud
    return Limits(
        day_usd=cloud.day_usd,
        request_usd=cloud.request_usd,
        requester_usd=cloud.requester_usd,
    )


def night(config: Config, now: datetime) -> Night | None:
    """Return the hours of LOW with what local time is ahead of UTC at this moment."""
    if config.card.low_hours is None:
        return None
    first, last = config.card.low_hours
    offset = now.astimezone().utcoffset()
    assert offset is not None, "local time has an offset"
    return Night(from_hour=first, to_hour=last, offset_s=offset.total_seconds())


def is_local(url: str) -> bool:
    """Tell whether an address is of this machine."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


async def _comfyui(
    config: Config, clock: Clock, worker: str, *, certain: bool
) -> ComfyEngine | None:
    """Open ComfyUI; None where nobody asked for it and none answers."""
    folders = (config.storage.workflows_dir,)
    engine = ComfyEngine(
        config.comfyui.urls,
        load_workflows(folders),
        clock,
        worker=worker,
        settings=ComfySettings(
            output_dir=config.comfyui.output_dir,
            step_timeout_s=config.comfyui.step_timeout_s,
            restart=config.comfyui.restart or (),
        ),
    )
    await engine.open()
    if certain or config.comfyui.url is not None or engine.facts.up:
        return engine
    await engine.close()
    return None


def _clouds(config: Config, clock: Clock) -> list[CloudEngine]:
    """Make the clouds that have a key, in their order; without a slot nobody could use them."""
    cloud, wanted = config.cloud, config.worker.engines
    if cloud.mode == "off":
        return []
    made = {
        "stability": stability_engine(
            cloud.stability_key,
            clock,
            StabilitySettings(
                url=cloud.stability_url,
                api=cloud.stability_api,
                high_model=cloud.stability_high_model,
                timeout_s=cloud.timeout_s,
            ),
        ),
        "openai": openai_engine(
            cloud.openai_key,
            clock,
            OpenAISettings(
                url=cloud.openai_url, model=cloud.openai_model, timeout_s=cloud.timeout_s
            ),
        ),
    }
    keys = {"stability": cloud.stability_key, "openai": cloud.openai_key}
    names = [name for name in cloud.order if (name in wanted if wanted is not None else keys[name])]
    if names and not config.worker.slots.get(CLOUD, 0):
        log.warning("clouds.not_used", reason="MMG_SLOTS has no place of kind cloud")
        return []
    return [made[name] for name in names]


def _card_of(cards: tuple[str, ...], number: int) -> str:
    """Return the card of one ComfyUI of several: as named, else the card of the same number."""
    if number < len(cards):
        return cards[number]
    return str(number) if cards == ("auto",) else cards[-1]
