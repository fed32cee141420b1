"""How long a provider wants no calls, read from the headers of a 429. Pure."""

import re
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Final

_DURATION: Final = re.compile(r"(?:(\d+)h)?(?:(\d+)m(?!s))?(?:(\d+(?:\.\d+)?)s)?(?:(\d+)ms)?")
_NUMBER: Final = re.compile(r"\d{1,6}(\.\d{1,6})?")


def pause_s(headers: Mapping[str, str], otherwise_s: float) -> float:
    """Return the pause that is asked for, in seconds.

    1. `retry-after` as a number of seconds.
    2. `retry-after` as a date: seconds after the answer's own `date`, so that no clock of ours
       is compared with theirs.
    3. OpenAI's `x-ratelimit-reset-*` of what has run out: durations such as `6m30s`.
    4. Nothing is said: `otherwise_s`.
    """
    said = headers.get("retry-after", "").strip()
    if _NUMBER.fullmatch(said):  # 1
        return float(said)
    dated = _between(headers.get("date", ""), said) if said else None  # 2
    if dated is not None:
        return dated
    resets = [  # 3
        seconds(headers.get(f"x-ratelimit-reset-{kind}", ""))
        for kind in ("requests", "tokens")
        if headers.get(f"x-ratelimit-remaining-{kind}") == "0"
    ]
    found = [reset for reset in resets if reset is not None]
    return max(found) if found else otherwise_s  # 4


def seconds(duration: str) -> float | None:
    """Read a duration such as `1s`, `6m30s` or `120ms`; None for anything else."""
    match = _DURATION.fullmatch(duration.strip())
    if match is None or not any(match.groups()):
        return None
    hours, minutes, rest, thousandths = (float(part or 0) for part in match.groups())
    return hours * 3600 + minutes * 60 + rest + thousandths / 1000


def _between(now: str, then: str) -> float | None:
    try:
        return max(0.0, (parsedate_to_datetime(then) - parsedate_to_datetime(now)).total_seconds())
    except (TypeError, ValueError):
        return None
