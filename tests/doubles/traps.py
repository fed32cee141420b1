"""Traps of a double: what can go wrong, by name; set when it is made, by an option, or later.

Knows only names, values and how often; the module that is trapped asks for itself.
"""

from dataclasses import dataclass
from typing import Any

ALWAYS = 1 << 30

Known = dict[str, tuple[str, dict[str, Any]]]
"""Name -> what it does, and its values with their defaults. `times` counts down to nothing."""


@dataclass
class Trap:
    """A trap that is set."""

    values: dict[str, Any]
    left: int


class Traps:
    """The traps that are set now, of those that a double has."""

    def __init__(self, known: Known) -> None:
        self.known = known
        self._set: dict[str, Trap] = {}

    def set(self, name: str, values: dict[str, Any]) -> dict[str, Any]:
        """Set a trap; return all its values. *Raises* ValueError for a name or value not known."""
        if name not in self.known:
            raise ValueError(f"no trap {name!r}; known: {', '.join(sorted(self.known))}")
        defaults = self.known[name][1]
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
