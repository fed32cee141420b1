"""Saves the streams of mmg into a folder while they are in use, and restores them.

    python ops/backup.py save FOLDER       the server is in use; a new folder each time
    python ops/backup.py restore FOLDER    onto a server without these streams

Which server: MMG_NATS_URL and the other settings, as for `mmg provision`. The steps around it
(ledger, pictures, keys, settings) are in ops/backup.md.
"""

import argparse
import asyncio
import sys
from pathlib import Path
from typing import Final

import msgspec

ROOT: Final = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from agent.building import open_bus  # noqa: E402 - found through the line above
from agent.bus import backup  # noqa: E402
from agent.bus.connection import BusError  # noqa: E402
from agent.commands.session import read_config  # noqa: E402
from agent.config import ConfigError  # noqa: E402
from contracts import subjects  # noqa: E402

STREAMS: Final = (
    # In this order: a request that ends between the first two copies is in its lane and its chain
    # has ended, and is acked after a restore. The other way round it would be lost.
    subjects.STREAM_REQUESTS,
    subjects.STREAM_EVENTS,
    f"KV_{subjects.BUCKET_STATE}",
)
"""MMG_PROGRESS is left out: it holds a quarter of an hour, and `mmg provision` makes it anew."""
PATIENCE_S: Final = 5.0


async def run(verb: str, folder: Path) -> None:
    """Save or restore all streams. Raises: BusError, OSError."""
    async with await open_bus(read_config(), "backup", patience_s=PATIENCE_S) as bus:
        for stream in STREAMS:
            if verb == "save":
                count = await backup.save(bus, stream, folder)
            else:
                count = await backup.restore(bus, stream, folder)
            print(f"{stream}: {count} messages")


def main() -> int:
    """Do what the command line says; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("verb", choices=("save", "restore"))
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    if arguments.verb == "save":
        arguments.folder.mkdir(parents=True, exist_ok=True)
    try:
        asyncio.run(run(arguments.verb, arguments.folder))
    except (BusError, OSError, msgspec.DecodeError, ConfigError) as error:
        print(f"not done: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
