"""What happened to the double, for tests to look at; it decides nothing."""

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class Log:
    """Everything since the double was made, over its restarts."""

    requests: list[str] = field(default_factory=list)
    """`METHOD path` in the order they came."""
    prompts: list[dict[str, Any]] = field(default_factory=list)
    """Each prompt that was queued: prompt_id, number, client_id, graph, extra_data."""
    rejected: list[dict[str, Any]] = field(default_factory=list)
    started: list[str] = field(default_factory=list)
    ended: list[tuple[str, str]] = field(default_factory=list)
    """(prompt_id, success | error | interrupted | lost)."""
    executed: list[tuple[str, str, str]] = field(default_factory=list)
    """(prompt_id, node, class) of each node that ran, so cached ones are missing."""
    interrupts: list[str | None] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)
    cleared: int = 0
    freed: list[dict[str, Any]] = field(default_factory=list)
    forgotten: list[str] = field(default_factory=list)
    """Ids deleted from the history."""
    viewed: list[str] = field(default_factory=list)
    uploads: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    """Files written, relative to the state folder."""
    sockets_opened: list[str] = field(default_factory=list)
    sockets_closed: list[str] = field(default_factory=list)
    traps: list[str] = field(default_factory=list)
    restarts: int = 0

    def as_json(self) -> dict[str, Any]:
        """Return all of it as plain values."""
        return asdict(self)
