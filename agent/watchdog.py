"""Tells systemd that this process is ready, and then that its event loop still turns.

Without systemd (no NOTIFY_SOCKET) it does nothing. A process that hangs is not told from a busy one
by anything else: systemd kills it, and the redelivery of its requests does the rest.
Source: sd_notify(3), systemd 252.
"""

import asyncio
import os
import socket
from typing import Final

import structlog

MICRO: Final = 1_000_000
READY: Final = b"READY=1"
ALIVE: Final = b"WATCHDOG=1"
STOPPING: Final = b"STOPPING=1"

log = structlog.get_logger()


async def run() -> None:
    """Say ready, then alive twice in each period of the watchdog; at the end that it stops.

    Order: from the moment work can be taken. Without a watchdog it waits for its cancellation.
    """
    place = os.environ.get("NOTIFY_SOCKET")
    if not place:
        return
    _tell(place, READY)
    period_s = _period_s()
    try:
        while True:
            await asyncio.sleep(period_s / 2)
            _tell(place, ALIVE)
    finally:
        _tell(place, STOPPING)


def _period_s() -> float:
    """Return how long systemd waits for a sign of life; an hour where it does not."""
    of_another = os.environ.get("WATCHDOG_PID") not in (None, str(os.getpid()))
    told = os.environ.get("WATCHDOG_USEC", "")
    if of_another or not told.isdigit() or int(told) == 0:
        return 3600.0
    return int(told) / MICRO


def _tell(place: str, word: bytes) -> None:
    """Send one word; a supervisor that is away must not keep anybody from working."""
    address = f"\0{place[1:]}" if place.startswith("@") else place
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
            out.setblocking(False)
            out.sendto(word, address)
    except OSError as error:
        log.warning("watchdog.not_told", word=word.decode(), reason=error.strerror or str(error))
