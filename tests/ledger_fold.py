"""Processes that only fold, in small batches: made to be killed. POSIX only.

`python -m tests.ledger_fold URL PATH` imports everything once. Each line it then reads makes it
fork a process that folds for ever, and say its id; the next line first waits for the end of that
one. Must not check anything.
"""

import asyncio
import os
import sys
from pathlib import Path

import structlog

from agent.bus.connection import connect
from agent.ledger import Projection

BATCH = 5


def main(url: str, path: Path) -> None:
    """Fork on each line, until there are no more."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger("critical"))
    child = 0
    for _ in sys.stdin:
        if child:
            os.waitpid(child, 0)
        child = os.fork()
        if child == 0:
            asyncio.run(_fold(url, path))
        sys.stdout.write(f"{child}\n")
        sys.stdout.flush()
    if child:
        os.waitpid(child, 0)


async def _fold(url: str, path: Path) -> None:
    async with await connect([url], "fold") as bus:
        await Projection(bus, path, batch=BATCH).run()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
