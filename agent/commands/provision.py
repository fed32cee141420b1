"""`mmg provision`: streams, consumers and the state bucket as designed.

What the server refuses to change is printed as steps for a person; nothing is deleted.
"""

import argparse
import asyncio

import msgspec

from agent.building import build_plan
from agent.bus.provision import Report, provision
from agent.commands import exits, session
from agent.config import Config


def run(arguments: argparse.Namespace) -> int:
    """Provision the bus and print what was done and what is left."""
    report = asyncio.run(_provision(session.read_config()))
    if arguments.json:
        print(msgspec.json.encode(report).decode())
    else:
        _print(report)
    return exits.FAILED if report.by_hand else exits.OK


async def _provision(config: Config) -> Report:
    async with session.plain_bus(config, role="provision") as bus:
        return await provision(bus, build_plan(config))


def _print(report: Report) -> None:
    for line in report.done:
        print(line)
    if not report.done and not report.by_hand:
        print("nothing to do: streams and consumers are as designed")
    for line in report.by_hand:
        print(f"by hand: {line}")
