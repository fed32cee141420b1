"""Makes the parts of a worker from its settings: engines, clouds, cards, slots.

It decides nothing about a request, and starts nothing: `agent.app` does.
"""

import ipaddress
import socket
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import msgspec
import structlog
from filelock import FileLock, Timeout

from agent.assets import AssetStore, SharedStore, open_objects
from agent.bus.connection import Bus, BusError, connect
from agent.bus.debts import Debts
from agent.bus.login import Login
from agent.bus.provision import Plan
from agent.clock import Clock, OffsetClock
from agent.config import Config
from agent.core.money import Limits
from agent.core.scheduler import MAX_WAIT_S, Night, Rules
from agent.core.standing import Settings
from agent.embedded import EmbeddedError, EmbeddedServer
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
from agent.gateway import KEYS, GatewaySettings, HookSettings
from agent.gpu.keeper import Keeper
from agent.gpu.meter import Meter
from agent.gpu.nvml import Nvml
from agent.ollama import Ollama
from agent.places import Places
from agent.site.layout import Layout
from agent.slots import CLOUD, GPU, Slots
from agent.tools import Tools
from agent.workflows import load_workflows
from contracts.requests import Priority

NAMES_MAX: Final = 64
BY_COMFYUI: Final = "comfyui"

log = structlog.get_logger()


def build_assets(config: Config, worker: str = "gateway") -> AssetStore:
    """Return the store of the assets: one folder, and where they are kept as well if that is said.

    Raises: RemoteError for a place that cannot be used.
    """
    storage, public_url = config.storage, config.http.public_url
    if storage.assets_url is None:
        return AssetStore(storage.assets_dir, public_url, worker, jpeg=storage.jpeg)
    return SharedStore(
        storage.assets_dir,
        public_url,
        worker,
        remote=open_objects(storage.assets_url),
        jpeg=storage.jpeg,
    )


def build_login(config: Config) -> Login:
    """Return what this process logs in to the bus with; a key of its own counts before the site."""
    site = config.site
    folder = None if site.dir is None else Layout(site.dir)
    own = site.nkey is not None or site.creds is not None
    return Login(
        seed=site.nkey,
        creds=site.creds,
        keys=None if own or folder is None else folder.keys,
        ca=site.ca or (None if folder is None else folder.ca),
    )


async def open_bus(
    config: Config, role: str, urls: Sequence[str] | None = None, patience_s: float | None = None
) -> Bus:
    """Connect a process of ours in its role. Raises: as `connect`."""
    login = build_login(config)
    return await connect(
        urls or config.bus.urls, role, role=role, patience_s=patience_s, login=login
    )


def build_plan(config: Config) -> Plan:
    """Return what this site wants of its streams."""
    return Plan(
        replicas=config.bus.replicas,
        ack_wait_s=config.bus.ack_wait_s,
        events_max_bytes=config.bus.events_max_mib * 1024**2,
    )


def build_server(config: Config) -> EmbeddedServer:
    """Make the nats-server of `mmg up`, with the accounts and the TLS of a site if there is one.

    Raises: EmbeddedError where the folder holds no site.
    """
    includes: tuple[Path, ...] = ()
    if config.site.dir is not None:
        site = Layout(config.site.dir)
        if not site.exists:
            raise EmbeddedError(f"MMG_SITE_DIR: {site.path} holds no site; run `mmg key init`")
        includes = (site.tls_conf, site.accounts_conf)
    return EmbeddedServer(config.storage.data_dir / "nats", config.bus.port, includes)


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


def named(config: Config, name: str) -> Config:
    """Return the settings with the name that the worker got."""
    return msgspec.structs.replace(config, worker=msgspec.structs.replace(config.worker, name=name))


async def close_all(tools: Tools, ollama: Ollama) -> None:
    """Close what a worker draws with, then send the last of its spans."""
    for engine in tools.engines.values():
        await engine.close()
    for keeper in tools.slots.keepers.values():
        keeper.close()
    await ollama.close()
    await tools.tracer.close()


def gateway_settings(config: Config) -> GatewaySettings:
    """Return how the gateway listens, and whom it believes."""
    http = config.http
    # With port 0 the address is known only once it is bound; the gateway then names it itself.
    public_url = None if http.port == 0 and http.public_url.endswith(":0") else http.public_url
    hooks = HookSettings(
        secrets=config.webhook.secret or (),
        allowed=frozenset(config.webhook.allow or ()),
        alert_url=config.webhook.alert_url,
    )
    return GatewaySettings(
        host=http.host,
        port=http.port,
        public_url=public_url,
        keys_file=http.keys_file or config.storage.data_dir / KEYS,
        trusted_proxies=http.trusted_proxies or (),
        cors_origins=http.cors_origins or (),
        rate_limits=http.rate_limits,
        agent_queued_max=config.bus.agent_queued_max,
        hooks=hooks,
    )


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


@contextmanager
def own_name(configured: str | None) -> Iterator[str]:
    """Hold a worker name that no other worker on this host has; default: the host's name.

    A name that is stable over restarts finds its own leftovers again. Raises: BusError where a
    configured name is taken.
    """
    host = "".join(c if c.isalnum() or c in "-_" else "-" for c in socket.gethostname())[:48]
    names = [configured] if configured else [host, *(f"{host}-{n}" for n in range(2, NAMES_MAX))]
    for name in names:
        lock = FileLock(Path(tempfile.gettempdir()) / f"mmg-worker-{name}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            continue
        try:
            yield name
        finally:
            lock.release()
        return
    raise BusError(f"a worker called {names[0]!r} runs on this host already; set MMG_WORKER_NAME")
