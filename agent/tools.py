"""What every job of one worker works with: bus, assets, engines, clock, and its slot.

Held, not decided: the story says what to do with them.
"""

from collections.abc import Callable, Mapping
from typing import Protocol
from uuid import UUID

import msgspec

from agent.assets import AssetStore
from agent.bus.connection import Bus
from agent.clock import OffsetClock
from agent.core.catalog import StyleBook
from agent.core.routing import EngineFacts
from agent.engines.protocol import Engine, EngineJob


class Slot(Protocol):
    """One place among the jobs worked at once; taken and freed by the story."""

    def held(self, kind: str) -> bool:
        """Tell whether a place of this kind is held, so that `take` would not wait."""
        ...

    async def take(self, kind: str) -> str | None:
        """Wait for a free place of this kind, at once where one is held; return its name."""
        ...

    def free(self) -> None:
        """Give the place back, if one is held."""
        ...


class Tools(msgspec.Struct, frozen=True, kw_only=True):
    """What every job of one worker shares. Units: seconds; `ack_wait_s` is the consumer's."""

    bus: Bus
    assets: AssetStore
    engines: Mapping[str, Engine]
    book: StyleBook
    clock: OffsetClock
    new_nonce: Callable[[], UUID]
    worker: str
    ack_wait_s: float
    run_timeout_s: float = 120.0

    def time_limit_s(self, job: EngineJob) -> float:
        """Return how long an engine may take for a job: half as much for each further picture."""
        return self.run_timeout_s * (1 + (job.count - 1) / 2)

    @property
    def facts(self) -> tuple[EngineFacts, ...]:
        """The engines as routing sees them, in configured order."""
        return tuple(engine.facts for engine in self.engines.values())
