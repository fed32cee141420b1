"""What can go wrong at the double, by name: set in the constructor, on the command line, later.

Knows only names, values and how often; the module that is trapped asks for itself.
"""

from dataclasses import dataclass
from typing import Any

ALWAYS = 1 << 30
BUSY = "server busy, please try again.  maximum pending requests exceeded"
OOM = "llama runner process has terminated: cudaMalloc failed: out of memory"

TRAPS: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": (
        "somebody chats with `model` now, for `seconds` or until cleared; loads it if need be",
        {"model": None, "seconds": None, "num_ctx": None},
    ),
    "reloads": (
        "somebody uses `model` every `every_s` for `for_s`, which loads it again, until cleared",
        {"model": None, "every_s": 5.0, "for_s": 0.0},
    ),
    "keeps_listed": ("an unload is answered with 200 and does not happen, until cleared", {}),
    "keeps_memory": ("a model that is unloaded leaves its memory behind, until cleared", {}),
    "partial": ("a load puts only `share` of the model on the card", {"times": 1, "share": 0.5}),
    "slow_load": ("a load takes `seconds`", {"times": ALWAYS, "seconds": 5.0}),
    "load_fails": ("a load ends with 500 and `error`", {"times": 1, "error": OOM}),
    "says": (
        "a model writes `text` and, if it can, thinks `thinking`",
        {"text": "", "thinking": ""},
    ),
    "slow_text": ("a text takes `seconds`", {"times": ALWAYS, "seconds": 5.0}),
    "breaks_off": ("a text ends with 200 and `error`", {"times": 1, "error": "unexpected EOF"}),
    "error": (
        "a call of `path` (or any) answers `status` with `error`",
        {"times": 1, "path": None, "status": 503, "error": BUSY},
    ),
    "garbage": (
        "a call of `path` (or any) answers 200 with `body` and `mib` MiB of blanks",
        {"times": 1, "path": None, "body": "<html>", "mib": 0},
    ),
    "redirect": ("a call of `path` (or any) answers 307", {"times": 1, "path": None}),
    "cut": ("a call of `path` (or any) is reset", {"times": 1, "path": None}),
    "freeze": (
        "all stands still, as under SIGSTOP, for `seconds` or until cleared",
        {"seconds": None},
    ),
    "die": ("as kill -9; alone it ends the process, in a test call restart()", {}),
}
"""Name -> what it does, and its values with their defaults. `times` counts down to nothing."""

ACTS = {"chat", "reloads", "freeze", "die"}
"""Those that happen at once; the rest wait for their occasion."""


@dataclass
class Trap:
    """A trap that is set."""

    values: dict[str, Any]
    left: int


class Traps:
    """The traps that are set now."""

    def __init__(self) -> None:
        self._set: dict[str, Trap] = {}

    def set(self, name: str, values: dict[str, Any]) -> dict[str, Any]:
        """Set a trap; return all its values. *Raises* ValueError for a name or value not known."""
        if name not in TRAPS:
            raise ValueError(f"no trap {name!r}; known: {', '.join(sorted(TRAPS))}")
        defaults = TRAPS[name][1]
        allowed = {"times", *defaults}
        if unknown := values.keys() - allowed:
            raise ValueError(f"trap {name} has no {sorted(unknown)}; it has {sorted(allowed)}")
        full = {"times": None, **defaults, **values}
        self._set[name] = Trap(full, int(full["times"] or ALWAYS))
        return full

    def clear(self, name: str) -> None:
        """Take a trap away; silent when it was not set."""
        self._set.pop(name, None)

    def on(self, name: str) -> dict[str, Any] | None:
        """Return the values of a trap that is set, without using it up."""
        trap = self._set.get(name)
        return trap.values if trap and trap.left > 0 else None

    def take(self, name: str, /, **wanted: Any) -> dict[str, Any] | None:
        """Use a trap once if it is set and each wanted value is its own, or it says any."""
        values = self.on(name)
        if values is None or any(values[key] not in (None, want) for key, want in wanted.items()):
            return None
        self._set[name].left -= 1
        return values

    def listing(self) -> dict[str, Any]:
        """Show the traps that are set, for the control route."""
        return {n: {**t.values, "left": t.left} for n, t in self._set.items() if t.left > 0}
