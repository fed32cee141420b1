"""What every job of one worker works with: bus, assets, engines, slots, clock.

Held, not decided: the story says what to do with them.
"""

from collections.abc import Callable, Mapping
from typing import Literal
from uuid import UUID

import msgspec

from agent.assets import AssetStore
from agent.bus.connection import Bus
from agent.clock import OffsetClock
from agent.core.catalog import StyleBook
from agent.core.choosing import Chosen
from agent.core.routing import EngineFacts
from agent.decisions import Recorder
from agent.engines.protocol import Engine, EngineJob
from agent.prompting import Extender
from agent.slots import GPU, Slots
from agent.tracing import UNTRACED, Tracer
from agent.turnstile import Turnstile


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
    turnstile: Turnstile
    slots: Slots
    cloud: Literal["off", "fallback", "on"] = "fallback"
    extender: Extender | None = None
    recorder: Recorder | None = None
    tracer: Tracer = UNTRACED
    run_timeout_s: float = 120.0

    def time_limit_s(self, job: EngineJob) -> float:
        """Return how long an engine may take for a job: half as much for each further picture."""
        return self.run_timeout_s * (1 + (job.count - 1) / 2)

    def note(self, chosen: Chosen | None, before: Chosen | None) -> Chosen | None:
        """Record a choice among engines, unless it came out as the one before; return it."""
        if self.recorder is None or chosen is None or chosen is before:
            return chosen
        is_same = before is not None and str(before[1]) == str(chosen[1])
        if not is_same:
            self.recorder.routed(*chosen, self.clock.now())
        return chosen

    @property
    def first_slot(self) -> str:
        """The kind of slot that most requests want here."""
        return next((facts.slot for facts in self.facts if facts.up), "cpu")

    @property
    def facts(self) -> tuple[EngineFacts, ...]:
        """The engines as routing sees them, in configured order; without a card, as down."""
        found = []
        for engine in self.engines.values():
            facts = engine.facts
            if facts.slot == GPU and self.slots.keepers and not self.slots.has_card():
                facts = msgspec.structs.replace(facts, up=False, down=self.slots.why_no_card())
            found.append(facts)
        return tuple(found)

    @property
    def is_any_ready(self) -> bool:
        """Whether any engine would take a job now."""
        return any(self.turnstile.seen(facts, "", 0.0).is_ready for facts in self.facts)
