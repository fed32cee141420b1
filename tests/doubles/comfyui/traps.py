"""What can go wrong, by name: set in the constructor, on the command line or at run time.

Knows only names, values and how often; the module that is trapped asks for itself.
"""

from dataclasses import dataclass
from typing import Any

ALWAYS = 1 << 30

TRAPS: dict[str, tuple[str, dict[str, Any]]] = {
    "history_late": ("GET /history/{id} says {} for the first `reads` after the end", {"reads": 2}),
    "deaf_socket_after_reconnect": (
        "a client that comes back gets its first status, then nothing",
        {"times": 1},
    ),
    "silent_socket": (
        "no WebSocket is served, as if a stuck reader blocked all",
        {"seconds": None},
    ),
    "drop_sockets": ("every open WebSocket is cut now, without a close frame", {}),
    "no_executed_on_cached": ("a cached output sends no `executed`, as newer servers", {}),
    "lose_prompt": (
        "a prompt answered with 200 is gone; `when` is post or start",
        {"times": 1, "when": "post"},
    ),
    "queued_but_500": ("POST /prompt answers 500, yet the prompt is queued", {"times": 1}),
    "queued_but_reset": ("POST /prompt queues, then resets the connection", {"times": 1}),
    "slow_post": (
        "POST /prompt queues at once, answers after `seconds`",
        {"times": 1, "seconds": 1},
    ),
    "interrupt_lost": ("POST /interrupt answers 200 and does nothing", {"times": 1}),
    "freeze": ("all stands still, as under SIGSTOP; forever without `seconds`", {"seconds": None}),
    "gc_pause": ("all stands still for `ms` at the end of each prompt", {"ms": 250}),
    "oom": (
        "`node` runs out of memory; `spelling` is torch, cuda, allocation, allowed or tips",
        {"times": 1, "spelling": "torch", "node": "KSampler"},
    ),
    "corrupt_checkpoint": (
        "loading it fails; `checkpoint` or any",
        {"checkpoint": None, "times": ALWAYS},
    ),
    "fail": (
        "`node` raises `type` with `message`",
        {"times": 1, "node": "KSampler", "type": "RuntimeError", "message": "rig: told to fail"},
    ),
    "missing_file_on_view": ("GET /view answers 404", {"times": 1}),
    "cut_view_midway": ("GET /view breaks off after half the bytes", {"times": 1}),
    "slow_view": ("GET /view takes `seconds`", {"times": ALWAYS, "seconds": 1}),
    "garbage_on_view": ("GET /view answers 200 with bytes that are no picture", {"times": 1}),
    "refuse_connections": ("nobody listens; without `seconds` until cleared", {"seconds": None}),
    "die": ("as kill -9; alone it ends the process, in a test call restart()", {}),
    "restart_empty": ("as kill -9, back after `seconds` with nothing", {"seconds": 0}),
    "broadcast_without_client_id": ("client_id is ignored: events go to all or to nobody", {}),
    "hang_at_step": (
        "sampling stops at `step`, deaf to interrupts, until cleared or `seconds`",
        {"times": 1, "step": 1, "seconds": None},
    ),
    "foreign_prompt": (
        "somebody else queues `count` prompts of `steps`; with `client_id` or without",
        {"count": 1, "steps": 20, "client_id": None, "checkpoint": None},
    ),
    "old_version": ("an older server: no prompt_id in /interrupt", {"version": "0.3.40"}),
    "step_ms": ("time of a step", {"value": 0.0}),
    "load_ms": ("time to load a checkpoint", {"value": 0.0}),
    "decode_ms": ("time to decode", {"value": 0.0}),
    "encode_ms": ("time to encode a text", {"value": 0.0}),
}
"""Name -> what it does, and its values with their defaults. `times` counts down to nothing."""

ACTS = {"drop_sockets", "die", "restart_empty", "foreign_prompt", "freeze", "refuse_connections"}
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
        self._set[name] = Trap(full, int(full.get("times") or ALWAYS))
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
