"""Why there is no reading of the card: a kind for programs, a sentence for people.

To have no card is a normal state and no error: nothing in this package raises for it.
Source: error values of NVML (nvml.h, stable), as nvidia-ml-py 13 raises them.
"""

from enum import StrEnum
from typing import Final

import msgspec


class MissingKind(StrEnum):
    """What stands between us and the card."""

    NO_LIBRARY = "no_library"
    NO_DRIVER = "no_driver"
    NO_CARD = "no_card"
    NO_PERMISSION = "no_permission"
    DRIVER_UPGRADED = "driver_upgraded"
    LOST = "lost"
    RESET_REQUIRED = "reset_required"
    UNSUPPORTED = "unsupported"
    HANG = "hang"
    UNKNOWN = "unknown"


class Missing(msgspec.Struct, frozen=True, kw_only=True):
    """There is no reading. `reason` says why and, where something helps, what."""

    kind: MissingKind
    reason: str


NEVER_SEEN: Final = frozenset({MissingKind.NO_LIBRARY, MissingKind.NO_DRIVER, MissingKind.NO_CARD})
"""What a machine without a card says; no cause for concern unless a card was there before."""

NOT_SUPPORTED: Final = 3
NO_PERMISSION: Final = 4
NOT_FOUND: Final = 6
FUNCTION_NOT_FOUND: Final = 13
_INVALID_ARGUMENT: Final = 2
"""Also the answer to an index beyond the last card."""

_KINDS: Final[dict[int, MissingKind]] = {
    _INVALID_ARGUMENT: MissingKind.NO_CARD,
    NOT_SUPPORTED: MissingKind.UNSUPPORTED,
    NO_PERMISSION: MissingKind.NO_PERMISSION,
    NOT_FOUND: MissingKind.NO_CARD,
    9: MissingKind.NO_DRIVER,
    12: MissingKind.NO_LIBRARY,
    FUNCTION_NOT_FOUND: MissingKind.UNSUPPORTED,
    15: MissingKind.LOST,
    16: MissingKind.RESET_REQUIRED,
    18: MissingKind.DRIVER_UPGRADED,
    28: MissingKind.LOST,
}
_REASONS: Final[dict[MissingKind, str]] = {
    MissingKind.NO_LIBRARY: "there is no NVML: no NVIDIA driver here, or not in this container",
    MissingKind.NO_DRIVER: "the NVIDIA driver is not loaded; nvidia-smi tells more",
    MissingKind.NO_CARD: "the driver knows no such card; nvidia-smi -L lists those it knows",
    MissingKind.NO_PERMISSION: "this user may not talk to the NVIDIA driver; see /dev/nvidia*",
    MissingKind.DRIVER_UPGRADED: (
        "the NVIDIA driver was upgraded while the old one runs; restart the machine,"
        " or load the new driver and restart the worker"
    ),
    MissingKind.LOST: "the card is lost: it fell off the bus; restart the machine",
    MissingKind.RESET_REQUIRED: (
        "the card needs a reset: end the programs on it, then nvidia-smi --gpu-reset"
    ),
    MissingKind.UNSUPPORTED: "the card or its driver does not tell its memory",
}


def missing(value: int, text: str, *, was_there: bool) -> Missing:
    """Return what an error of NVML means. `was_there`: this very card answered before.

    A card that the driver does not know any more is lost, and was not chosen wrongly.
    """
    kind = _KINDS.get(value, MissingKind.UNKNOWN)
    if kind is MissingKind.NO_CARD and was_there:
        kind = MissingKind.LOST
    return Missing(kind=kind, reason=_REASONS.get(kind, f"NVML says: {text} ({value})"))


def hang(limit_s: float, count: int, most: int, retry_s: float) -> Missing:
    """Return that NVML does not answer, for the `count`th time in a row. *Units*: seconds."""
    reason = f"NVML did not answer within {limit_s:g} s ({count} of {most} in a row)"
    if count >= most:
        reason = f"NVML hangs; it is asked again every {retry_s:g} s"
    return Missing(kind=MissingKind.HANG, reason=reason)
