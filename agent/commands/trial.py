"""`mmg doctor --generate`: one small picture through each engine, with its time and its path.

An engine on a card that a worker keeps is asked through the bus, so that the worker's arbiter gives
the card. What a cloud sells is written into the books like any purchase.
"""

import asyncio
import time
from pathlib import Path
from typing import Final
from uuid import uuid4

import msgspec

from agent.building import build_engines, is_local, limits
from agent.bus.connection import BusError
from agent.clock import OffsetClock, SystemClock
from agent.commands import pictures, session
from agent.commands.findings import Finding
from agent.config import Config
from agent.core.faults import Fault
from agent.core.job import StoredRequest
from agent.core.workflow import choose
from agent.engines.comfyui import ComfyEngine
from agent.engines.protocol import Engine, EngineJob, Generation, order_for
from agent.gpu.lock import CardLock
from agent.gpu.missing import Missing
from agent.gpu.nvml import Nvml
from agent.styles import load_styles
from agent.turnstile import Turnstile
from contracts.errors import ContractError
from contracts.events import Cancelled, Completed, Expired, Failed
from contracts.requests import Options, Priority, Quality, Request
from contracts.subjects import Identity

FOLDER: Final = "doctor"
SIDE: Final = 256
STEPS: Final = 4
LIMIT_S: Final = 180.0
PROMPT: Final = "a lighthouse on a rock, calm sea, morning light"


async def examine(config: Config, *, paid: bool) -> list[Finding]:
    """Draw with each engine that costs nothing; with `paid` also with those that do."""
    engines = await build_engines(config, SystemClock(), "doctor")
    found: list[Finding] = []
    try:
        for engine in engines.values():
            if engine.slot == "cloud" and not paid:
                price = f"${engine.price_usd(_job(config, engine)):.3f}"
                found.append(Finding.ok(_what(engine), f"not tried: it costs {price}; --paid"))
            else:
                found.append(await _try(config, engine))
    finally:
        for engine in engines.values():
            await engine.close()
    return found


async def _try(config: Config, engine: Engine) -> Finding:
    """Draw with one engine and say how long it took and where the picture is."""
    health = await engine.health()
    if health.state != "up":
        return Finding.warn(_what(engine), f"not tried: {health.detail}", "see its line above")
    began_s = time.monotonic()
    try:
        async with asyncio.timeout(LIMIT_S):
            path = await _draw(config, engine)
    except (Fault, ContractError, BusError, OSError, pictures.NotHereError) as error:
        return Finding.fail(_what(engine), f"drew nothing: {error}", "docs/errors.md")
    except TimeoutError:
        return Finding.fail(_what(engine), f"drew nothing in {LIMIT_S:.0f} s", "docs/errors.md")
    return Finding.ok(_what(engine), f"{time.monotonic() - began_s:.1f} s: {path}")


async def _draw(config: Config, engine: Engine) -> Path:
    job = _job(config, engine)
    if engine.slot == "cloud":
        return await asyncio.to_thread(_keep, config, engine, await _bought(config, engine, job))
    lock = await _lock(engine, config)
    if lock is not None and not lock.try_acquire():
        return await _through_the_bus(config)
    try:
        generation = await engine.generate(job, lambda _step: None)
    finally:
        await engine.forget(job)
        if lock is not None:
            lock.release()
    return await asyncio.to_thread(_keep, config, engine, generation)


async def _lock(engine: Engine, config: Config) -> CardLock | None:
    """Return the lock of the card that an engine draws on; None: it needs no card of ours."""
    if not isinstance(engine, ComfyEngine):
        return None
    url, server = next(iter(engine.drawers().items()))
    if (server.stats is not None and server.stats.on_cpu) or not is_local(url):
        return None
    card = config.card.cards[0]
    nvml = Nvml(SystemClock(), "auto" if card == "comfyui" else card)
    try:
        read = await nvml.read()
    finally:
        nvml.close()
    if isinstance(read, Missing) or nvml.facts is None:
        return None
    return CardLock(nvml.facts.uuid, "doctor")


async def _through_the_bus(config: Config) -> Path:
    """Let the worker that keeps the card draw; it may choose another engine, and says which.

    Raises: ContractError, BusError.
    """
    request = Request(
        type="image",
        prompt=PROMPT,
        options=_options(),
        request_id=f"doctor-{uuid4().hex[:12]}",
        requester="user",
        priority=Priority.HIGH,
        local_only=True,
    )
    assert request.request_id is not None, "it has its id"
    async with (
        session.connected(config, "user") as client,
        client.follow(request.request_id) as events,
    ):
        await client.submit(request)
        async for event in events:
            if isinstance(event, Completed):
                (path, *_) = await pictures.on_this_disk(event, lambda _text: None)
                return path
            if isinstance(event, Failed | Expired):
                raise ContractError(event.error.code, event.error.message)
            if isinstance(event, Cancelled):
                break
    raise BusError("its request was ended by somebody else")


async def _bought(config: Config, engine: Engine, job: EngineJob) -> Generation:
    """Buy one picture; its price is reserved before and settled after. Raises: Fault, BusError."""
    async with session.plain_bus(config) as bus:
        turnstile = Turnstile(bus, OffsetClock(SystemClock()), "doctor", limits(config))
        await turnstile.open((engine,))
        ticket = await turnstile.enter(engine, job)
        outcome: Generation | BaseException = asyncio.CancelledError()
        try:
            outcome = await engine.generate(job, lambda _step: None)
        except Fault as fault:
            outcome = fault
            raise
        finally:
            turnstile.leave(ticket, outcome)
            await turnstile.close()
        return outcome


def _job(config: Config, engine: Engine) -> EngineJob:
    """Return the order for one small picture; engines that have sizes of their own take theirs."""
    stored = StoredRequest(
        who=Identity("user", f"doctor-{uuid4().hex[:12]}"),
        priority=Priority.HIGH,
        seq=0,
        stored_at=SystemClock().now(),
        request=Request(type="image", prompt=PROMPT, options=_options()),
    )
    order = order_for(stored, load_styles(config.storage.workflows_dir))
    facts = engine.facts
    model = facts.by_quality.get(Quality.DRAFT) or next(iter(facts.models), "")
    if facts.workflows is None or not facts.up:
        return msgspec.structs.replace(order, model=model)
    chosen = choose(order.options, facts.workflows, facts.problems).workflow
    return msgspec.structs.replace(order, model=chosen.manifest.model, workflow=chosen.name)


def _options() -> Options:
    return Options(quality=Quality.DRAFT, width=SIDE, height=SIDE, steps=STEPS, seed=1)


def _keep(config: Config, engine: Engine, generation: Generation) -> Path:
    """Write the picture where the next trial replaces it; return where."""
    folder = config.storage.data_dir / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    picture = generation.pictures[0]
    path = folder / f"{engine.name}.{picture.format}"
    path.write_bytes(picture.data)
    return path


def _what(engine: Engine) -> str:
    return f"picture by {engine.name}"
