"""Listens for the critical errors that a card's driver reports (Xids). It must not act on them.

Source: NVIDIA "Xid Errors"; NVML's event sets. Waiting for one blocks: it has its own thread.
"""

from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from threading import Event, Thread
from types import ModuleType
from typing import Any, Final

import msgspec

WAIT_MS: Final = 200
"""How long one wait lasts: after it the thread looks whether it shall end."""
STOP_S: Final = 1.0

_MEANINGS: Final[dict[int, str]] = {
    13: "a program on the card failed",
    31: "a program used memory of the card that is not its own",
    43: "a program on the card was stopped",
    45: "the card was taken from a program that failed",
    48: "an error in the card's memory that could not be corrected",
    61: "the card's controller stopped",
    62: "the card's controller stopped",
    63: "a bad row of the card's memory is no longer used",
    64: "a bad row of the card's memory could not be retired",
    74: "an error on NVLink",
    79: "the card fell off the bus: power, seating or heat",
    94: "an error in the card's memory, kept to one program",
    95: "an error in the card's memory that may touch every program",
    119: "the card's own processor (GSP) does not answer",
    120: "the card's own processor (GSP) failed",
}


class Xid(msgspec.Struct, frozen=True, kw_only=True):
    """One critical error, with the time it was heard of."""

    number: int
    at: datetime

    @property
    def meaning(self) -> str:
        """What it stands for, as far as it is one of the frequent ones."""
        return _MEANINGS.get(self.number, "see the driver's list of Xid errors")


class XidWatch:
    """Tells each Xid of one card by a call from its thread, until stopped or the card is gone.

    Order: NVML is initialised before it is made, and shut down only after `stop` said yes.
    """

    def __init__(self, library: ModuleType, handle: Any, tell: Callable[[int], None]) -> None:
        self._library = library
        self._tell = tell
        self._stop = Event()
        self._events = library.nvmlEventSetCreate()
        try:
            library.nvmlDeviceRegisterEvents(
                handle, library.nvmlEventTypeXidCriticalError, self._events
            )
        except library.NVMLError:
            self._free()
            raise
        self._thread = Thread(target=self._run, name="xid", daemon=True)
        self._thread.start()

    def stop(self) -> bool:
        """Listen no more; False if its thread did not end in time, as when the driver hangs."""
        self._stop.set()
        self._thread.join(STOP_S)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                event = self._library.nvmlEventSetWait_v2(self._events, WAIT_MS)
            except self._library.NVMLError_Timeout:
                continue
            except self._library.NVMLError:
                break  # The next reading meets the same and says so.
            self._tell(int(event.eventData))
        self._free()

    def _free(self) -> None:
        with suppress(self._library.NVMLError):
            self._library.nvmlEventSetFree(self._events)
