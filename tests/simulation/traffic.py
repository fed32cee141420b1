"""A day's requests, drawn from a seed: who asks for what, when, and how long it really takes."""

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from agent.core.routing import EngineFacts
from agent.workflows import load_workflows
from contracts.requests import Options, Priority, Quality, Request

START: Final = datetime(2026, 1, 1, tzinfo=UTC)
DAY_S: Final = 86_400.0
BURST_S: Final = 600.0
"""Every second stretch of this length brings three times as many requests as the other."""
CLASSES: Final = {"CRITICAL": 2, "HIGH": 20, "MEDIUM": 45, "LOW": 33}
RUNS_S: Final = {"draft": 4.0, "standard": 10.0, "high": 20.0, "premium": 20.0}
QUALITIES: Final = {"draft": 20, "standard": 55, "high": 22, "premium": 3}
MEAN_RUN_S: Final = sum(RUNS_S[name] * share for name, share in QUALITIES.items()) / 100
REQUESTERS: Final = {"user": 5, "L2_05_03": 3, "L2_07_01": 2, "batch": 4, "reports": 1}
ERROR_S: Final = 0.15
"""The spread of real runs around what is expected, as a share of it."""


class Arrival(NamedTuple):
    """A request when it is stored. `run_s` is expected, `real_s` is what a run takes."""

    at_s: float
    priority: Priority
    requester: str
    quality: Quality
    local_only: bool
    run_s: float
    real_s: float

    @property
    def request(self) -> Request:
        return Request(
            type="image",
            prompt="a lighthouse in the rain",
            options=Options(quality=self.quality),
            local_only=self.local_only,
        )


class Traffic(msgspec.Struct, frozen=True, kw_only=True):
    """How much comes. `per_day` requests; three times as many in bursts as between them."""

    per_day: float
    days: float = 1.0
    local_only: float = 0.1
    classes: dict[str, int] = msgspec.field(default_factory=lambda: dict(CLASSES))

    @classmethod
    def of_load(cls, load: float, days: float = 1.0, **fields: Any) -> "Traffic":
        """Return traffic whose runs would fill the card to `load` if all were drawn on it."""
        per_day = load * DAY_S / MEAN_RUN_S
        return cls(per_day=per_day, days=days, **fields)

    def arrivals(self, seed: int) -> Iterator[Arrival]:
        rng = random.Random(seed)
        classes, class_shares = list(self.classes), list(self.classes.values())
        qualities, quality_shares = list(QUALITIES), list(QUALITIES.values())
        requesters, requester_shares = list(REQUESTERS), list(REQUESTERS.values())
        peak = 1.5 * self.per_day / DAY_S
        at_s = 0.0
        while True:
            at_s += rng.expovariate(peak)
            if at_s >= self.days * DAY_S:
                return
            is_quiet = int(at_s // BURST_S) % 2 == 1
            if is_quiet and rng.random() > 1 / 3:
                continue
            quality = rng.choices(qualities, quality_shares)[0]
            run_s = RUNS_S[quality]
            yield Arrival(
                at_s=at_s,
                priority=Priority(rng.choices(classes, class_shares)[0]),
                requester=rng.choices(requesters, requester_shares)[0],
                quality=Quality(quality),
                local_only=rng.random() < self.local_only,
                run_s=run_s,
                real_s=run_s * rng.lognormvariate(0.0, ERROR_S),
            )


def moment(at_s: float) -> datetime:
    return START + timedelta(seconds=at_s)


def engines(*, cloud: bool) -> tuple[EngineFacts, ...]:
    """Return what routing knows: ComfyUI with the workflows of this repository, and two clouds."""
    folder = Path(__file__).parents[2] / "workflows"
    workflows = load_workflows([folder])
    problems: dict[str, tuple[str, ...]] = {"sdxl-draft": ("its LoRA is not installed",)}
    local = EngineFacts(
        name="comfyui",
        slot="gpu",
        models=("sdxl-1.0", "sd-1.5"),
        workflows=workflows,
        problems=problems,
    )
    clouds = (
        EngineFacts(name="stability", slot="cloud", models=("core",)),
        EngineFacts(name="openai", slot="cloud", models=("image",), ignores_seed=True),
    )
    return (local, *(clouds if cloud else ()))
