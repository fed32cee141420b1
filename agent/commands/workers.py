"""`mmg workers`: who works on this bus, and how each one stands.

Everybody is asked and those who answer at once are shown; nothing is changed.
"""

import argparse
import asyncio

import msgspec

from agent.bus.overview import ask_workers
from agent.commands import exits, session, wording
from agent.config import Config
from contracts.events import WorkerStatus

NOBODY = "no worker answers; start one with `mmg worker` or `mmg up`"


def run(arguments: argparse.Namespace) -> int:
    """Print one line for each worker."""
    workers = asyncio.run(_ask(session.read_config()))
    if arguments.json:
        print(msgspec.json.encode(workers).decode())
    else:
        _print(workers)
    return exits.OK


async def _ask(config: Config) -> tuple[WorkerStatus, ...]:
    async with session.plain_bus(config) as bus:
        return await ask_workers(bus)


def _print(workers: tuple[WorkerStatus, ...]) -> None:
    if not workers:
        print(NOBODY)
        return
    width = max(6, *(len(one.worker) for one in workers))
    print(f"{'worker':<{width}}  {'state':<9}{'running':>7}  engines")
    for one in workers:
        engines = ", ".join(one.engines) or "none"
        print(f"{one.worker:<{width}}  {one.state:<9}{len(one.running):>7}  {engines}")
        details = [wording.plain(one.reason)] if one.reason else []
        details += [f"runs {wording.plain(request)}" for request in one.running]
        if one.permission_errors:
            details.append(f"{one.permission_errors} times refused by the server: see its log")
        for detail in details:
            print(f"{'':<{width}}  {detail}")
