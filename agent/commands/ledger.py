"""`mmg ledger`: fold it again from the stream, or copy it while it is in use.

It deletes nothing: rows that are older than the stream stay.
"""

import argparse
import asyncio
from pathlib import Path

import msgspec

from agent.clock import SystemClock
from agent.commands import exits, session
from agent.config import Config
from agent.ledger import FILE, upkeep


def run(arguments: argparse.Namespace) -> int:
    """Do what the verb says."""
    config = session.read_config()
    match arguments.verb:
        case "rebuild":
            return asyncio.run(_rebuild(config, json=arguments.json))
        case _:
            return asyncio.run(_backup(config, Path(arguments.path), json=arguments.json))


async def _rebuild(config: Config, *, json: bool) -> int:
    """Raise what the bus and the ledger say: BusError, LedgerError."""
    path = config.storage.data_dir / FILE
    async with session.plain_bus(config) as bus:
        folded = await upkeep.rebuild(bus, path, SystemClock())
    if json:
        print(msgspec.json.encode(folded).decode())
        return exits.OK
    who = " by the gateway" if folded.by_gateway else ""
    print(f"folded again{who}: {folded.rows} requests, up to message {folded.seq} of the stream")
    print(path)
    return exits.OK


async def _backup(config: Config, target: Path, *, json: bool) -> int:
    """Raise what the ledger and the disk say: LedgerError, OSError."""
    session.log_from("critical", config)
    count = await upkeep.backup(config.storage.data_dir / FILE, target)
    if json:
        print(msgspec.json.encode({"path": str(target), "rows": count}).decode())
    else:
        print(f"copied and checked: {count} requests")
        print(target)
    return exits.OK
