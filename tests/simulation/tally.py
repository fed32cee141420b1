"""What a simulated day came to: waits, swaps, the LLM's absence, the cloud and its price."""

from collections import Counter, defaultdict
from typing import Final

from contracts.requests import Priority

PATIENCE_S: Final = 5.0
"""A CRITICAL counts as late if it starts after so long: its bound of 0 s cannot be kept by any."""
CLASSES: Final = tuple(Priority)


class Tally:
    """Counts of one or several days. Units: seconds, US dollars."""

    def __init__(self) -> None:
        self.waits_s: dict[Priority, list[float]] = {one: [] for one in CLASSES}
        self.late: Counter[Priority] = Counter()
        self.requests = 0
        self.cloud = 0
        self.cost_usd = 0.0
        self.run_s = 0.0
        self.lost_s = 0.0
        self.preempted = 0
        self.swaps = 0
        self.downgraded = 0
        self.unloads = 0
        self.absent_s = 0.0
        self.absent_max_s = 0.0
        self.failed = 0
        self.total_s = 0.0
        self.alerts: Counter[str] = Counter()
        self.rules: Counter[int] = Counter()
        self.turns: Counter[int] = Counter()
        self.order: list[str] = []
        self.most: defaultdict[str, float] = defaultdict(float)

    def started(self, priority: Priority, wait_s: float, max_wait_s: float) -> None:
        self.waits_s[priority].append(wait_s)
        bound_s = max_wait_s if priority is not Priority.CRITICAL else PATIENCE_S
        self.late[priority] += wait_s > bound_s

    def late_share(self, priority: Priority) -> float:
        """Return how many of a class started too late, in per cent."""
        count = len(self.waits_s[priority])
        return 100 * self.late[priority] / count if count else 0.0

    def wait_s(self, priority: Priority, share: float) -> float:
        """Return the wait that this share of a class did not exceed."""
        waits = sorted(self.waits_s[priority])
        return waits[min(len(waits) - 1, int(share * len(waits)))] if waits else 0.0

    def add(self, other: "Tally") -> None:
        for name, value in vars(other).items():
            mine = getattr(self, name)
            if name == "absent_max_s":
                self.absent_max_s = max(mine, value)
            elif name == "waits_s":
                for priority, waits in value.items():
                    mine[priority] += waits
            elif isinstance(mine, Counter):
                mine.update(value)
            elif isinstance(mine, int | float):
                setattr(self, name, mine + value)
