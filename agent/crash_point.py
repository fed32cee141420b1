"""Named places where a chaos run may kill this process; anywhere else they do nothing.

MMG_CRASH_POINT=NAME:N kills the process, as kill -9 does, when it comes to NAME for the N-th time.
"""

import os
import signal
from typing import Final

VARIABLE: Final = "MMG_CRASH_POINT"

_name, _, _times = os.environ.get(VARIABLE, "").partition(":")
_left = int(_times or 1)


def crash_point(name: str) -> None:
    """Return at once, unless this is where the chaos run wants the process to die."""
    global _left  # noqa: PLW0603 - a countdown of the whole process
    if name != _name:
        return
    _left -= 1
    if _left == 0:
        os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))
