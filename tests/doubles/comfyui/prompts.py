"""The queue and the history of the double; it runs nothing and sends nothing."""

import asyncio
import heapq
from typing import Any

HISTORY_LIMIT = 10000

Item = tuple[Any, str, dict[str, Any], dict[str, Any], list[str]]
"""(number, prompt_id, graph, extra_data, outputs), as /queue shows it."""


class Prompts:
    """Pending by number, one running, and what has ended."""

    def __init__(self) -> None:
        self.counter = 0
        self.pending: list[Item] = []
        """A heap; /queue shows it as it lies."""
        self.running: Item | None = None
        self.history: dict[str, dict[str, Any]] = {}
        self.news = asyncio.Event()

    @property
    def remaining(self) -> int:
        """How many wait or run."""
        return len(self.pending) + (self.running is not None)

    def put(self, item: Item) -> None:
        """Queue a prompt. *Raises* TypeError for a twin, which is queued all the same.

        *Source*: recording g; the heap compares the graphs of two equal numbers and ids.
        """
        self.news.set()
        heapq.heappush(self.pending, item)

    def pop(self) -> Item:
        """Take the prompt of the lowest number, then of the lowest id."""
        try:
            self.running = heapq.heappop(self.pending)
        except TypeError:  # twins; the heap has lost none of them
            self.pending.sort(key=lambda item: item[:2])
            self.running = self.pending.pop(0)
        return self.running

    def delete(self, prompt_id: str) -> bool:
        """Drop one pending prompt of this id."""
        for at, item in enumerate(self.pending):
            if item[1] == prompt_id:
                del self.pending[at]
                self.pending.sort(key=lambda other: other[:2])
                return True
        return False

    def end(self, item: Item, entry: dict[str, Any] | None) -> None:
        """Note the end of the running prompt; without an entry it leaves no trace."""
        self.running = None
        if entry is None:
            return
        while len(self.history) >= HISTORY_LIMIT:
            del self.history[next(iter(self.history))]
        self.history[item[1]] = {"prompt": list(item), **entry}
