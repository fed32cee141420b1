"""The lock of one card: at most one worker of this machine performs on it.

A file lock, so that a worker that is killed gives the card free with its process. It must not
wait: who does not get the card stands by and tries again.
"""

import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

_FOR_ALL: Final = 0o666
"""The next worker may run as another user."""


class CardLock:
    """The right to one card on this machine. `uuid` is NVML's; `worker` is what others read."""

    def __init__(self, uuid: str, worker: str, folder: Path | None = None) -> None:
        name = "".join(c if c.isalnum() or c in "-_" else "-" for c in uuid)
        folder = folder if folder is not None else Path(tempfile.gettempdir())
        self._lock = FileLock(folder / f"mmg-card-{name}.lock", mode=_FOR_ALL, thread_local=False)
        # Beside the lock: older filelocks empty a locked file, and Windows lets nobody read it.
        self._holder = folder / f"mmg-card-{name}.holder"
        self._worker = worker
        self._obstacle = ""

    @property
    def is_held(self) -> bool:
        """Whether this worker has the card."""
        return bool(self._lock.is_locked)

    def try_acquire(self) -> bool:
        """Take the card if nobody has it; True also if it is ours already."""
        if self._lock.is_locked:
            return True
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            return False
        except OSError as error:  # a full disk, or a file that belongs to another user
            self._obstacle = str(error)
            return False
        self._obstacle = ""
        self._sign()
        return True

    def release(self) -> None:
        """Give the card back; nothing if it is not ours. The file stays, as its lock is its use."""
        if self._lock.is_locked:
            self._lock.release()

    def holder(self) -> str:
        """Say who has the card, for people: as the last one who took it wrote.

        Or what else kept us from it, if it was something else.
        """
        if self._obstacle:
            return f"somebody else (the lock cannot be opened: {self._obstacle})"
        try:
            return self._holder.read_text(encoding="utf-8").strip() or "another worker"
        except (OSError, UnicodeDecodeError):
            return "another worker"

    def _sign(self) -> None:
        """Write who has the card. Replaced and not written into: a link laid there is no trap."""
        with suppress(OSError):
            handle, name = tempfile.mkstemp(dir=self._holder.parent, prefix="mmg-card-")
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(f"worker {self._worker}, pid {os.getpid()}\n")
            Path(name).chmod(0o644)
            Path(name).replace(self._holder)
