"""Checks of what draws: the card, its driver, Ollama beside it, ComfyUI, clouds and their keys.

They ask and change nothing; what they ask of a cloud costs nothing.
"""

from typing import Final

from agent.building import BY_COMFYUI, build_engines, is_local
from agent.bus import books
from agent.bus.connection import Bus
from agent.clock import SystemClock
from agent.commands.findings import Finding
from agent.config import Config
from agent.core.card import Card, Loaded
from agent.core.faults import Fault
from agent.core.money import MICRO, rolled
from agent.engines.cloud import CloudEngine
from agent.engines.comfyui import ComfyEngine
from agent.engines.protocol import Brand, Engine, EngineJob
from agent.gpu.missing import NEVER_SEEN, Missing
from agent.gpu.nvml import Nvml
from agent.gpu.session import AUTO, Facts
from agent.ollama import Ollama

ENGINE_PAGE: Final = "see docs/comfyui.md"
CARD_PAGE: Final = "nvidia-smi tells more; without a card GPU engines are off"
TRIAL_SIDE: Final = 256
NEARLY: Final = 0.9
"""From this share of the day's budget on it is worth a warning."""
KEYS: Final = {"stability": "STABILITY_API_KEY", "openai": "OPENAI_API_KEY"}


async def examine(config: Config) -> list[Finding]:
    """Look at the card, at who shares it, and at each engine."""
    engines = await build_engines(config, SystemClock(), "doctor")
    try:
        has_card, found = await _cards(config, needs_one=_needs_card(engines))
        found += await _ollama(config)
        for engine in engines.values():
            found += await _engine(engine, has_card=has_card)
        return [*found, *_clouds(config, engines)]
    finally:
        for engine in engines.values():
            await engine.close()


# --- the card ----------------------------------------------------------------------------------


async def _cards(config: Config, *, needs_one: bool) -> tuple[bool, list[Finding]]:
    """Read the cards that are configured by NVML; tell whether there is any.

    To have none is a fault only if an engine computes on one.
    """
    names = [card for card in dict.fromkeys(config.card.cards) if card != BY_COMFYUI] or [AUTO]
    found: list[Finding] = []
    for name in names:
        nvml = Nvml(SystemClock(), name)
        try:
            read = await nvml.read()
            gauges = await nvml.gauges()
        finally:
            nvml.close()
        if isinstance(read, Missing) or nvml.facts is None:
            assert isinstance(read, Missing), "a card that was read is known"
            return False, [*found, _no_card(read, needs_one=needs_one or len(names) > 1)]
        heat = None if isinstance(gauges, Missing) else gauges.temperature_c
        if not found:
            found = [Finding.ok("NVML", "answers"), Finding.ok("driver", nvml.facts.driver)]
        what = "card" if len(names) == 1 else f"card {name}"
        found.append(_memory(what, nvml.facts, read, config.card.reserve_mib, heat))
    return True, found


def _no_card(missing: Missing, *, needs_one: bool) -> Finding:
    if missing.kind in NEVER_SEEN and not needs_one:
        return Finding.ok("NVML", f"no card here: {missing.reason}")
    return Finding.warn("NVML", missing.reason, CARD_PAGE)


def _memory(what: str, facts: Facts, card: Card, reserve_mib: int, heat: int | None) -> Finding:
    seen = f"{facts.name}, {card.free_mib / 1024:.1f} of {card.total_mib / 1024:.1f} GB free"
    seen += f", {heat} °C" if heat is not None else ""
    if card.total_mib <= reserve_mib:
        return Finding.warn(what, seen, "MMG_RESERVE_MIB leaves nothing to draw with")
    return Finding.ok(what, f"{seen}, {facts.uuid}")


def _needs_card(engines: dict[str, Engine]) -> bool:
    """Tell whether a ComfyUI of this machine says that it computes on a card."""
    comfy = engines.get("comfyui")
    if not isinstance(comfy, ComfyEngine):
        return False
    return any(
        server.stats is not None and not server.stats.on_cpu and is_local(url)
        for url, server in comfy.drawers().items()
    )


# --- beside it ---------------------------------------------------------------------------------


async def _ollama(config: Config) -> list[Finding]:
    ollama = Ollama(config.ollama.url, SystemClock())
    await ollama.open()
    try:
        health = await ollama.health()
    finally:
        await ollama.close()
    where = "beside the card" if is_local(config.ollama.url) else "on another host: not a tenant"
    if not health.up:
        if config.origins.get("MMG_OLLAMA_URL", "default") == "default":
            return [Finding.ok("Ollama", f"none at {config.ollama.url}: the card is not shared")]
        return [Finding.warn("Ollama", health.detail, "start it, or unset MMG_OLLAMA_URL")]
    slow = [model for model in health.models if model.is_partial]
    models = ", ".join(_model(model) for model in health.models) or "no model loaded"
    seen = f"{health.version} at {config.ollama.url}, {where}; {models}"
    if slow:
        return [Finding.warn("Ollama", seen, "a part on the CPU is slow: a smaller LLM fits")]
    return [Finding.ok("Ollama", seen)]


def _model(model: Loaded) -> str:
    part = f" ({model.vram_mib / 1024:.1f} GB of it on the card)" if model.is_partial else ""
    return f"{model.name} {model.size_mib / 1024:.1f} GB{part}"


# --- engines -----------------------------------------------------------------------------------


async def _engine(engine: Engine, *, has_card: bool) -> list[Finding]:
    """Ask one engine how it is; the sketch engine draws, so that its fonts are tried too."""
    if isinstance(engine, CloudEngine):
        await engine.run_once()  # A question that costs nothing: key, account, model.
    what = f"engine {engine.name}"
    health = await engine.health()
    if health.state != "up":
        way_out = "start it, or take it out of MMG_ENGINES"
        if isinstance(engine, CloudEngine):
            way_out = f"mend {KEYS.get(engine.name, 'its key')}, or take it out of MMG_ENGINES"
        return [Finding.warn(what, f"{health.state}: {health.detail}", way_out)]
    found = [Finding.ok(what, f"up: {health.detail}")]
    if engine.name == "sketch":
        found = [await _sketch(engine, health.detail)]
    if isinstance(engine, ComfyEngine):
        found += _comfyui(engine, has_card=has_card)
    return [*found, *(Finding.warn(what, words, ENGINE_PAGE) for words in health.warnings)]


async def _sketch(engine: Engine, detail: str) -> Finding:
    what = f"engine {engine.name}"
    try:
        await engine.generate(TRIAL, lambda _: None)
    except (Fault, OSError) as error:
        return Finding.fail(what, f"cannot draw: {error}", "install mmg anew: fonts may be missing")
    return Finding.ok(what, f"up: {detail}; drew a trial picture")


def _comfyui(engine: ComfyEngine, *, has_card: bool) -> list[Finding]:
    """Look at what each server computes with, and at which workflows find their files."""
    found: list[Finding] = []
    for url, server in engine.drawers().items():
        if server.stats is None or not server.stats.devices:
            continue
        what, device = f"ComfyUI device {url}", server.stats.devices[0]
        if server.stats.on_cpu and has_card and is_local(url):
            way_out = "start it without --cpu, with a PyTorch that knows CUDA"
            found.append(Finding.warn(what, "the CPU, although there is a card", way_out))
        else:
            found.append(Finding.ok(what, "the CPU" if server.stats.on_cpu else device.name))
    facts = engine.facts
    workflows = facts.workflows or {}
    able = sorted(name for name in workflows if not facts.problems.get(name))
    seen = f"{len(able)} of {len(workflows)} workflows have theirs: {', '.join(able) or 'none'}"
    if able:
        return [*found, Finding.ok("model files", seen)]
    way_out = "put a checkpoint into ComfyUI's models/checkpoints; see docs/comfyui.md"
    return [*found, Finding.warn("model files", seen, way_out)]


def _clouds(config: Config, engines: dict[str, Engine]) -> list[Finding]:
    """Say which clouds are not used, and what those that are may cost."""
    if config.cloud.mode == "off":
        return [Finding.ok("clouds", "switched off: MMG_CLOUD")]
    found = [
        Finding.ok(f"key {name}", f"none: {name} is not used")
        for name in config.cloud.order
        if name not in engines and getattr(config.cloud, f"{name}_key", None) is None
    ]
    if any(isinstance(engine, CloudEngine) for engine in engines.values()):
        cloud = config.cloud
        seen = (
            f"${cloud.day_usd:.2f} a day, ${cloud.request_usd:.2f} a request,"
            f" ${cloud.requester_usd:.2f} a requester and day"
        )
        found.append(Finding.ok("budgets", seen))
    return found


async def money(bus: Bus, config: Config) -> list[Finding]:
    """Say what of the day's budget is left, where a cloud may be used. Raises: BusError."""
    cloud = config.cloud
    if cloud.mode == "off" or not (cloud.stability_key or cloud.openai_key):
        return []
    found = rolled(await books.read_money(bus), SystemClock().now().date())
    seen = f"${found.spent_usd:.2f} of ${cloud.day_usd:.2f} spent today"
    seen += f", ${found.held_usd:.2f} held" if found.holds else ""
    doubts = [one.amount for one in found.unknown if one.day == found.day]
    if doubts:
        seen += f", ${sum(doubts) / MICRO:.2f} of it with unknown outcome ({len(doubts)} calls)"
    if found.spent_usd + found.held_usd >= NEARLY * cloud.day_usd:
        way_out = "clouds draw again after 00:00 UTC, or with a larger MMG_CLOUD_DAY_USD"
        return [Finding.warn("money", seen, way_out)]
    return [Finding.ok("money", seen)]


TRIAL: Final = EngineJob(
    agent="user",
    request_id="mmg-doctor",
    attempt=1,
    prompt="trial",
    negative_prompt=None,
    style=None,
    brand=Brand(palette=("#ffffff", "#111111")),
    quality="draft",
    width=TRIAL_SIDE,
    height=TRIAL_SIDE,
    count=1,
    seed=1,
)
