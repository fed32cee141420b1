"""`mmg pause`, `mmg resume`, `mmg intake`: what an operator switches.

Kept on the server, so that it outlives every restart. Each says what holds now, and how to undo it.
"""

import argparse
import asyncio
from datetime import datetime, timedelta

from agent.bus import control, overview
from agent.bus.connection import Bus
from agent.commands import exits, session, wording
from agent.config import Config
from contracts.events import Intake, Pause

NO_REASON = "not given"
LANES_MEAN = """\
  Workers finish what they have and start nothing new. Requests are still taken, and wait.
  undo: mmg resume    see: mmg queue"""
INTAKE_MEANS = """\
  New requests by `mmg generate`, the client library and the gateway are refused with intake_closed.
  What is queued goes on. Who publishes on the bus without them is not refused.
  undo: mmg intake on    see: mmg queue"""


def run(arguments: argparse.Namespace) -> int:
    """Switch, and print what holds now."""
    for line in asyncio.run(_switch(arguments, session.read_config())):
        print(line)
    return exits.OK


async def _switch(arguments: argparse.Namespace, config: Config) -> list[str]:
    async with session.plain_bus(config) as bus:
        now = await overview.server_now(bus)
        if arguments.command == "intake":
            return await _intake(bus, arguments, now)
        wanted = Pause(
            paused=arguments.command == "pause",
            by=wording.operator(),
            reason=wording.plain(getattr(arguments, "reason", None) or NO_REASON),
            at=now,
            until=_until(getattr(arguments, "how_long", None), now),
        )
        if arguments.worker is not None:
            return await _worker(bus, arguments.worker, wanted)
        return await (_pause_lanes(bus, wanted) if wanted.paused else _resume_lanes(bus, wanted))


async def _intake(bus: Bus, arguments: argparse.Namespace, now: datetime) -> list[str]:
    is_open = arguments.state == "on"
    reason = wording.plain(arguments.reason or NO_REASON)
    intake = Intake(open=is_open, by=wording.operator(), reason=reason, at=now)
    await control.set_intake(bus, intake)
    if is_open:
        return ["the intake is open: new requests are taken"]
    return [f"the intake is closed ({reason})", INTAKE_MEANS]


async def _pause_lanes(bus: Bus, wanted: Pause) -> list[str]:
    how_long = control.PAUSE_FOR_EVER if wanted.until is None else wanted.until - wanted.at
    await control.pause_lanes(bus, wanted.at, how_long)
    await control.note_lanes(bus, wanted)
    return [f"all lanes are paused {wording.until(wanted.until, wanted.at)}", LANES_MEAN]


async def _resume_lanes(bus: Bus, wanted: Pause) -> list[str]:
    await control.resume_lanes(bus)
    await control.note_lanes(bus, wanted)
    stays = [
        f"  worker {one.worker} stays {wording.plain(one.reason)};"
        f" undo: mmg resume --worker {one.worker}"
        for one in await overview.ask_workers(bus)
        if one.state == "paused"
    ]
    return ["all lanes are handed out again", *stays]


async def _worker(bus: Bus, worker: str, wanted: Pause) -> list[str]:
    """Pause or resume one worker, whether it runs or not."""
    await control.set_pause(bus, worker, wanted)
    if wanted.paused:
        words = [
            f"worker {worker} is paused {wording.until(wanted.until, wanted.at)}",
            "  It finishes what it has and takes nothing new, also after a restart. Others go on.",
            f"  undo: mmg resume --worker {worker}    see: mmg workers",
        ]
    else:
        words = [f"worker {worker} takes requests again"]
        if any(lane.paused_until for lane in await overview.read_lanes(bus)):
            words.append("  but lanes are paused, so nothing is started; undo: mmg resume")
    if not await overview.ask_workers(bus, worker):
        words.append(
            "  No worker of this name answers now, so it holds when one starts; `mmg workers`"
            " has the names."
        )
    return words


def _until(how_long: timedelta | None, now: datetime) -> datetime | None:
    return None if how_long is None else now + how_long
