"""Space: whether the disk has enough space left to take work. Pure; must not measure anything."""

from typing import Final, Literal

LOW_BYTES: Final = 2 * 1024**3
LOW_SHARE: Final = 0.05
MIN_BYTES: Final = 512 * 1024**2

Room = Literal["ok", "low", "full"]


def room(free: int, total: int) -> Room:
    """Judge the space that is left: `low` is worth an alert, `full` takes no new work.

    Units: both in bytes.
    """
    if free < MIN_BYTES:
        return "full"
    if free < LOW_BYTES or free < LOW_SHARE * total:
        return "low"
    return "ok"
