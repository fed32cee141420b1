"""What can go wrong at a cloud, by name. A trap is used up by paid calls, first set first."""

from typing import Any

TRAPS: dict[str, tuple[str, dict[str, Any]]] = {
    "rate_limit": ("429; `retry_after` as a header, or none", {"retry_after": None}),
    "rate_date": ("429 with Retry-After as a date `seconds` from now", {"seconds": 30}),
    "rate_reset": ("429 with x-ratelimit-reset-requests only", {"reset": "6m30s"}),
    "no_credits": ("out of money: 402, at OpenAI 429 insufficient_quota", {}),
    "forbidden": ("403: the key may not do this", {}),
    "filtered": ("200 with a blurred picture and CONTENT_FILTERED, charged", {}),
    "ended_as": ("Stability: 200 with another finish reason, charged", {"reason": "ERROR"}),
    "moderated": ("403 content_moderation, at OpenAI 400 moderation_blocked", {}),
    "retired": ("the model is gone: 404", {}),
    "too_large": ("413", {}),
    "rejected": ("422", {}),
    "error": ("`status` with an error of the provider's shape", {"status": 500}),
    "proxy": ("`status` with a page of HTML, after the charge", {"status": 502}),
    "garbage": ("200 with `body`, after the charge", {"body": "<html>"}),
    "no_png": ("200 with bytes that are no picture, after the charge", {}),
    "no_usage": ("OpenAI: 200 without usage", {}),
    "fewer": ("OpenAI: one picture less than asked for", {}),
    "cut": (
        "the connection is reset: `when` before, drawn (after the charge) or midway in the body",
        {"when": "drawn"},
    ),
    "redirect": ("307 to somewhere else", {}),
    "hang": ("charged, then no answer until the connection ends", {}),
}
"""Name -> what it does, and its values with their defaults; each also has `times` (1)."""


class Traps:
    """The traps that are set now."""

    def __init__(self) -> None:
        self._set: list[tuple[str, dict[str, Any]]] = []

    def set(self, name: str, times: int = 1, **values: Any) -> None:
        """Set a trap for so many paid calls. *Raises* ValueError for what traps do not have."""
        if name not in TRAPS:
            raise ValueError(f"no trap {name!r}; known: {', '.join(sorted(TRAPS))}")
        if unknown := values.keys() - TRAPS[name][1].keys():
            raise ValueError(f"trap {name} has no {sorted(unknown)}")
        self._set += [(name, TRAPS[name][1] | values)] * times

    def take(self) -> tuple[str, dict[str, Any]]:
        """Return the trap for this call and use it up; an empty name where none is set."""
        return self._set.pop(0) if self._set else ("", {})

    def clear(self) -> None:
        """Take all traps away."""
        self._set.clear()
