"""`mmg gpu`: who holds each card, what is owed, who draws, who waits and why.

Workers are asked and their answers shown; nothing is changed.
"""

import argparse
import asyncio
from collections.abc import Iterator
from datetime import datetime
from typing import Final

import msgspec
from rich.console import Console
from rich.live import Live
from rich.text import Text

from agent.bus.connection import Bus
from agent.bus.overview import ask_reports
from agent.commands import exits, session, workers
from agent.commands.wording import age, plain
from agent.config import Config
from agent.engines.comfyui.server import SOMEBODYS
from contracts.status import CardState, RunningJob, WaitingJob, WorkerReport

STRIP: Final = 48
EVERY_S: Final = 1.0
SHOWN_MAX: Final = 5
WAITS_S: Final = 0.7


def run(arguments: argparse.Namespace) -> int:
    """Show the cards, once or until Ctrl-C."""
    return asyncio.run(_run(session.read_config(), arguments))


async def _run(config: Config, arguments: argparse.Namespace) -> int:
    async with session.plain_bus(config) as bus:
        if arguments.watch:
            await _watch(bus, arguments)
        found = await ask_reports(bus, arguments.worker, WAITS_S)
        if arguments.json:
            print(msgspec.json.encode(found).decode())
        else:
            print("\n".join(lines(found)))
    return exits.OK if found else exits.FAILED


async def _watch(bus: Bus, arguments: argparse.Namespace) -> None:
    """Show the cards again and again; Ctrl-C ends it."""
    console = Console()
    if arguments.json or not console.is_terminal:
        while True:
            found = await ask_reports(bus, arguments.worker, WAITS_S)
            shown = (
                msgspec.json.encode(found).decode() if arguments.json else "\n".join(lines(found))
            )
            print(shown, flush=True)
            await asyncio.sleep(EVERY_S)
    with Live(console=console, auto_refresh=False, screen=True) as screen:
        while True:
            found = await ask_reports(bus, arguments.worker, WAITS_S)
            screen.update(Text("\n".join(lines(found))), refresh=True)
            await asyncio.sleep(EVERY_S)


def lines(reports: tuple[WorkerReport, ...]) -> Iterator[str]:
    """Write what workers report, for people."""
    if not reports:
        yield workers.NOBODY
    for number, report in enumerate(reports):
        if number:
            yield ""
        reason = f": {plain(report.reason)}" if report.reason else ""
        yield f"{report.worker}  {report.state}{reason}"
        for alert in report.alerts:
            yield f"  ! {alert.name}, {_ago(alert.since, report.at)}: {plain(alert.message)}"
        if not report.cards:
            yield "  no card: this worker has no ComfyUI"
        for card in report.cards:
            yield from _card(card, report.at)
        yield from _running(report.jobs, report.at)
        yield from _waiting(report.waits)
        yield from _decisions(report)


def strip(card: CardState) -> str:
    """Draw the memory of a card as one line."""
    total = card.total_mib or 0
    if not total:
        return ""
    held = [("C", card.comfyui.held_mib)]
    held += [("o", model.vram_mib) for tenant in card.tenants for model in tenant.models]
    held.append(("x", card.other_mib or 0))
    cells = "".join(mark * round(mib / total * STRIP) for mark, mib in held)[:STRIP]
    cells += "." * (STRIP - len(cells))
    at = STRIP - max(1, round(card.reserve_mib / total * STRIP))
    return f"{cells[:at]}|{cells[at:]}"


def _card(card: CardState, now: datetime) -> Iterator[str]:
    name = card.name or "card"
    if card.state == "missing":
        yield f"  {name} at {card.server}: {plain(card.missing)}"
    elif card.state == "cpu":
        yield f"  {card.server} draws on the CPU: no card is needed"
    else:
        yield f"  {name}  [{strip(card)}]"
        yield f"  {_gb(card.free_mib)} of {_gb(card.total_mib)} free{_gauges(card)}"
    yield from (f"  {line}" for line in _holders(card))
    if card.lease is not None:
        lease = card.lease
        words = f"{lease.job} ({lease.priority}) draws with {lease.model or 'nothing'}"
        if lease.downgraded:
            words += ", downgraded"
        if lease.preempted_by:
            words += f", gives way to {lease.preempted_by}"
        yield f"  lease  {plain(words)}, {lease.rest_s:.0f} s more expected"
    if card.act is not None:
        names = ", ".join(card.act.models)
        yield f"  act    {card.act.kind} {plain(names)} since {_ago(card.act.begun_at, now)}"
    if card.debt is not None:
        names = ", ".join(f"{model.name} {_gb(model.vram_mib)}" for model in card.debt.models)
        left_s = (card.debt.due_at - now).total_seconds()
        due = f"in {age(left_s)} at the latest" if left_s > 0 else "as soon as it can be"
        yield f"  debt   {plain(names)} comes back when nobody waits, {due}"


def _holders(card: CardState) -> Iterator[str]:
    comfyui = card.comfyui
    if not comfyui.answers:
        yield "C  ComfyUI does not answer"
    elif comfyui.models or comfyui.foreign:
        people = f", {comfyui.foreign} prompts of people" if comfyui.foreign else ""
        names = ", ".join(comfyui.models) or "none of ours"
        if comfyui.models == (SOMEBODYS,):
            names = "a model that is being loaded, or that mmg has not loaded"
        yield f"C  ComfyUI {_gb(comfyui.held_mib)}: {plain(names)}{people}"
    for tenant in card.tenants:
        if not tenant.answers:
            yield f"o  {tenant.name} does not answer"
        for model in tenant.models:
            slow = "" if model.vram_mib >= model.size_mib else ", the rest on the CPU: slow"
            yield f"o  {tenant.name} {_gb(model.vram_mib)}: {plain(model.name)}{slow}"
    if card.other_mib:
        yield f"x  other programs and contexts {_gb(card.other_mib)}"
    if card.xid:
        yield f"!  Xid {plain(card.xid)}"


def _gauges(card: CardState) -> str:
    told = []
    if card.temperature_c is not None:
        told.append(f"{card.temperature_c} °C")
    if card.utilisation_percent is not None:
        told.append(f"{card.utilisation_percent} % busy")
    if card.power_w is not None:
        told.append(f"{card.power_w:.0f} W")
    return "".join(f", {one}" for one in told)


def _running(jobs: tuple[RunningJob, ...], now: datetime) -> Iterator[str]:
    for job in jobs:
        since = "" if job.started_at is None else f" for {_ago(job.started_at, now)}"
        who = f"{job.requester} {job.request_id}"
        what = f"{job.engine} {job.model}".strip() or "nothing yet"
        done = f"{job.progress_percent} %"
        yield f"  runs   {plain(who)} ({job.priority}) on {plain(what)}{since}, {done}"


def _waiting(waits: tuple[WaitingJob, ...]) -> Iterator[str]:
    for one in waits:
        late = f", {age(-one.left_s)} past its bound" if one.left_s < 0 else ""
        who = f"{one.requester} {one.request_id} ({one.priority})"
        yield f"  waits  {one.place}. {plain(who)}: {_expected(one)}{late}"
        yield f"         {plain(one.sentence)}"


def _expected(one: WaitingJob) -> str:
    if one.start_s is None or one.early_s is None or one.late_s is None:
        return "no start is in sight"
    return f"starts in about {age(one.start_s)} ({age(one.early_s)} to {age(one.late_s)})"


def _decisions(report: WorkerReport) -> Iterator[str]:
    for one in report.decisions[:SHOWN_MAX]:
        words = f"{one.what} {one.job}".strip()
        yield f"  {one.at:%H:%M:%S} #{one.seq} {plain(words)}: {plain(one.reason)}"


def _ago(at: datetime, now: datetime) -> str:
    return age(max(0.0, (now - at).total_seconds()))


def _gb(mib: int | None) -> str:
    return "?" if mib is None else f"{mib / 1024:.1f} GB"
