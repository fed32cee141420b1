"""`mmg` on a disk that can be made full or slow: `python -m tests.chaos.small_disk worker`.

While the file `disk-full` lies in its folder nothing can be written to the assets; while
`disk-slow` lies there every file takes half a second. Everything else is the program as it is.
"""

import errno
import os
import sys
import time
from pathlib import Path

from agent import cli
from agent.assets import files

FULL = "disk-full"
SLOW = "disk-slow"
SLOW_S = 0.5


def bend() -> None:
    """Put the flags before the one function that writes assets."""
    write_all = files.write_all

    def write(file: int, data: bytes) -> None:
        if Path(SLOW).exists():
            time.sleep(SLOW_S)
        if Path(FULL).exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write_all(file, data)

    files.write_all = write


if __name__ == "__main__":
    bend()
    sys.exit(cli.main(sys.argv[1:]))
