"""`mmg` that is less patient: `HURRY=20 python -m tests.hurried_worker worker`.

Waits that a worker has for a card, for models and for engines that are away take a 20th of what
they take at work. What it decides, and in which order, stays as it is. Before and after each act on
the card there is a crash point: `after act unloadmodels`.
"""

import importlib
import os
import sys

from agent import cli
from agent.core import tending
from agent.crash_point import crash_point
from agent.gpu.acts import Act, Answers, Performer
from agent.gpu.nvml import PATIENT, Limits, Nvml

WAITS = (
    ("agent.core.tending", "EVICTION_S"),
    ("agent.core.tending", "UNKNOWN_S"),
    ("agent.core.tending", "PAUSE_S"),
    ("agent.core.tending", "DEBT_S"),
    ("agent.core.tending", "LOWER_S"),
    ("agent.core.tending", "TURN_S"),
    ("agent.core.tending", "BACKOFF_S"),
    ("agent.core.arbiter", "EVICTION_S"),
    ("agent.core.arbiter", "LOWER_S"),
    ("agent.gpu.acts", "EVICTION_S"),
    ("agent.gpu.by_hand", "CARD_S"),
    ("agent.gpu.by_hand", "GONE_S"),
    ("agent.gpu.keeper", "LOST_LOOK_S"),
    ("agent.core.breaker", "OPEN_FIRST_S"),
    ("agent.core.job", "RETRY_FIRST_S"),
    ("agent.engines.comfyui.server", "PING_DOWN_S"),
)
"""Modules and their names of seconds; some keep a copy of another's."""


def hurry(factor: float) -> None:
    """Divide the waits. *Raises* AttributeError where one has another name by now."""
    for module, name in WAITS:
        here = importlib.import_module(module)
        setattr(here, name, getattr(here, name) / factor)
    for kind in ("freeing", "unloading"):
        tending.LIMITS_S[kind] /= factor
    patient = Limits(call_s=PATIENT.call_s / factor, retry_s=PATIENT.retry_s / factor)
    defaults = Nvml.__init__.__kwdefaults__
    assert defaults is not None, "the meter has limits"
    defaults["limits"] = patient


def name_the_acts() -> None:
    """Put a crash point before and after each act."""
    perform = Performer.perform

    async def named(self: Performer, act: Act, tell: Answers) -> None:
        name = type(act).__name__.lower()
        crash_point(f"before act {name}")
        await perform(self, act, tell)
        crash_point(f"after act {name}")

    Performer.perform = named  # type: ignore[method-assign]


if __name__ == "__main__":
    name_the_acts()
    hurry(float(os.environ.get("HURRY", "1")))
    sys.exit(cli.main(sys.argv[1:]))
