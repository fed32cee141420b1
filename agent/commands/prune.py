"""`mmg prune`: deletes the pictures that have had their time, or says which those are.

It works on the folders of this machine, by the ledger of this machine. It decides nothing.
"""

import argparse
import asyncio
from typing import Final

import msgspec

from agent.building import build_assets
from agent.clock import SystemClock
from agent.commands import exits, session, wording
from agent.commands.faults import complain
from agent.config import Config
from agent.core.faults import Fault
from agent.ledger import FILE, keeping
from agent.retention import Pruned, Retention

SHOWN_MAX: Final = 50


def run(arguments: argparse.Namespace) -> int:
    """Prune, and print what went."""
    try:
        pruned = asyncio.run(_run(session.read_config(), dry_run=arguments.dry_run))
    except Fault as fault:
        complain(f"{fault}: {fault.detail or ''}", "What is left goes with the next prune.")
        return exits.FAILED
    if arguments.json:
        print(msgspec.json.encode(pruned).decode())
        return exits.OK
    _show(pruned)
    return exits.OK


async def _run(config: Config, *, dry_run: bool) -> Pruned:
    """Raise what the bus, the ledger and the disk say: BusError, LedgerError, Fault."""
    storage, clock = config.storage, SystemClock()
    async with session.plain_bus(config) as bus:
        await keeping.catch_up(bus, storage.data_dir / FILE, clock)
        retention = Retention(
            bus, build_assets(config), storage.data_dir, storage.retention_days, clock
        )
        return await retention.prune(dry_run=dry_run)


def _show(pruned: Pruned) -> None:
    for removal in pruned.removals[:SHOWN_MAX]:
        count = len(removal.files)
        why = "has had its time" if removal.ends else "no chain names it"
        files = f"{count} file{'' if count == 1 else 's'}"
        print(f"{wording.plain(str(removal.who))}  {files}, {why}")
    if len(pruned.removals) > SHOWN_MAX:
        print(f"... and {len(pruned.removals) - SHOWN_MAX} more; --json shows all")
    done = "would go" if pruned.dry_run else "deleted"
    size = f"{pruned.bytes / 1e6:.1f} MB"
    print(f"{done}: {pruned.files} files, {size}, of them {pruned.requests} requests' pictures")
    print(f"pinned: {pruned.pinned}")
