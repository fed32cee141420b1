"""How times, ages and words of other people look on a terminal.

What others wrote never reaches a terminal as it is: a control character could rewrite the screen.
"""

import getpass
import socket
from datetime import UTC, datetime, timedelta
from typing import Final

PROMPT_MAX: Final = 44
FOR_EVER: Final = timedelta(days=3000)


def age(seconds: float) -> str:
    """Show an age in the unit a person would use."""
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def plain(text: str) -> str:
    """Return text on one line, without what a terminal would obey."""
    return "".join(char if char.isprintable() else " " for char in text)


def cut(text: str, width: int = PROMPT_MAX) -> str:
    """Return text on one line of at most `width` columns."""
    line = plain(text)
    return line if len(line) <= width else f"{line[: width - 1]}…"


def instant(at: datetime) -> str:
    """Show a time of day with its date, UTC: logs and links say the same."""
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%SZ}"


def since(at: datetime, now: datetime) -> str:
    """Show a time and how long ago it was."""
    return f"{instant(at)}, {age(max(0.0, (now - at).total_seconds()))} ago"


def until(at: datetime | None, now: datetime) -> str:
    """Show when something ends by itself; None, or years away: it does not."""
    if at is None or at - now > FOR_EVER:
        return "until it is ended by hand"
    return f"until {instant(at)}, for {age((at - now).total_seconds())} from now"


def whose(requester: str) -> str:
    """Return the option that names a requester, where a command needs it."""
    return "" if requester == "user" else f" --requester {requester}"


def operator() -> str:
    """Return who sits here, for those who ask later who switched it."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):
        name = "operator"
    return cut(f"{name}@{socket.gethostname()}", 120)
