"""`mmg models`, `mmg load`, `mmg unload`: the models of workers, and what an operator does to them.

The worker does it, by the leave of its card's arbiter; nothing is touched from here.
"""

import argparse
import asyncio
from collections.abc import Iterator
from typing import Literal

import msgspec

from agent.bus.connection import Bus, NoResponders
from agent.bus.overview import ask_models, ask_workers, tell_worker
from agent.commands import exits, session, workers
from agent.commands.wording import operator, plain
from agent.config import Config
from contracts.errors import ContractError, ErrorCode
from contracts.status import EngineModels, Loaded, ModelWish, TenantModels, WorkerModels

NO_REASON = "not given"


def run(arguments: argparse.Namespace) -> int:
    """Show the models, load one or unload some."""
    return asyncio.run(_run(session.read_config(), arguments))


async def _run(config: Config, arguments: argparse.Namespace) -> int:
    async with session.plain_bus(config) as bus:
        if arguments.command != "models":
            return await _tell(bus, arguments)
        found = await ask_models(bus, arguments.worker)
    if arguments.json:
        print(msgspec.json.encode(found).decode())
    else:
        print("\n".join(lines(found)))
    return exits.OK if found else exits.FAILED


async def _tell(bus: Bus, arguments: argparse.Namespace) -> int:
    """Let one worker do it. Raises: ContractError with its reason, BusError."""
    keep_alive = getattr(arguments, "keep_alive", None)
    wish = ModelWish(
        model=arguments.model,
        engine=arguments.engine,
        unload_others=getattr(arguments, "unload_others", False),
        keep_alive_s=None if keep_alive is None else max(1, round(keep_alive.total_seconds())),
        by=operator(),
        reason=plain(arguments.reason or NO_REASON)[:400],
    )
    worker = arguments.worker or await _only_worker(bus)
    verb: Literal["load", "unload"] = "load" if arguments.command == "load" else "unload"
    try:
        done = await tell_worker(bus, verb, worker, wish)
    except NoResponders as error:
        reason = f"no worker {worker} answers; `mmg workers` shows the names"
        raise ContractError(ErrorCode.NOT_FOUND, reason) from error
    if arguments.json:
        print(msgspec.json.encode(done).decode())
    else:
        print(_told(done))
    return exits.OK


async def _only_worker(bus: Bus) -> str:
    """Return the worker that is meant where nobody was named."""
    found = await ask_workers(bus)
    if len(found) == 1:
        return found[0].worker
    if not found:
        raise ContractError(ErrorCode.NOT_FOUND, workers.NOBODY)
    names = ", ".join(one.worker for one in found)
    raise ContractError(ErrorCode.AMBIGUOUS_ID, f"several workers answer: {names}; use --worker")


def lines(found: tuple[WorkerModels, ...]) -> Iterator[str]:
    """Write the models of workers, for people."""
    if not found:
        yield workers.NOBODY
    for number, worker in enumerate(found):
        if number:
            yield ""
        yield worker.worker
        for engine in worker.engines:
            yield from _engine(engine)
        for tenant in worker.tenants:
            yield from _tenant(tenant)


def _engine(engine: EngineModels) -> Iterator[str]:
    reason = "" if engine.ready else f"  {plain(engine.reason)}"
    yield f"  {engine.name} ({engine.slot}){reason}"
    for model in engine.models:
        mark = "*" if model in engine.loaded else " "
        flows = [
            flow.name for flow in engine.workflows if flow.model == model and not flow.problems
        ]
        through = f"  {', '.join(flows)}" if flows else ""
        yield f"   {mark} {plain(model):<16}{plain(through)}".rstrip()
    for flow in engine.workflows:
        if flow.problems:
            yield f"   - {plain(flow.name)} cannot run: {plain('; '.join(flow.problems))}"


def _tenant(tenant: TenantModels) -> Iterator[str]:
    if not tenant.answers:
        yield f"  {tenant.name} (shares the card)  does not answer"
        return
    yield f"  {tenant.name} (shares the card)"
    loaded = {model.name: model for model in tenant.loaded}
    for name in dict.fromkeys((*loaded, *tenant.installed)):
        model = loaded.get(name)
        if model is None:
            yield f"     {plain(name)}"
            continue
        slow = "" if model.vram_mib >= model.size_mib else ", the rest on the CPU: slow"
        yield f"   * {plain(name):<16}  {model.vram_mib / 1024:.1f} GB on the card{slow}"


def _told(done: Loaded) -> str:
    free = ""
    if done.free_before_mib is not None and done.free_after_mib is not None:
        before, after = done.free_before_mib / 1024, done.free_after_mib / 1024
        free = f"; {before:.1f} -> {after:.1f} GB free"
    return f"{done.worker}: {plain(done.message)} in {done.took_s:.1f} s{free}"
