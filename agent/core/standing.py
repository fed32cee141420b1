"""What the rules of admission look at besides a job, and what they answer. Data only.

`agent.core.arbiter` fills it in, `agent.core.admission` decides on it.
"""

from datetime import datetime
from typing import Literal

import msgspec

from agent.core.card import Owed, Reading
from agent.core.leases import Need, WaitFor
from agent.core.scheduler import Rules


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What an operator may choose.

    `downgrade_first`: rule 5 before rule 4, for everyone. `rules` are those of the order. Units:
    `preempt_after_s` is the rest of a run from which on a CRITICAL interrupts it, and what a
    CRITICAL waits before it goes to the cloud instead.
    """

    reserve_mib: int = 2048
    downgrade_first: bool = False
    preempt_after_s: float = 5.0
    rules: Rules = Rules()


class Busy(msgspec.Struct, frozen=True, kw_only=True):
    """Why nobody may be granted now. Units: `rest_s` how long it is expected to take.

    `is_brief`: the first in the line does not go elsewhere for it: memory is being made free, which
    has a deadline of seconds, or who draws is being interrupted.
    """

    wait_for: WaitFor
    rest_s: float
    until: str
    reason: str
    is_brief: bool = False


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """What the rules look at besides the job.

    `reading` None: none that is fresh; `is_unknown`: for so long that the card counts as unknown.
    `lost` is why there is no card. `is_first`: no waiting job comes before this one. `ahead_s` is
    what is on the card and those before it are expected to take. Units: `free_in_s` and
    `unload_in_s` until one that failed may be tried again, `turn_in_s` until models that have just
    come back although jobs waited may go again, `lower_in_s` until MEDIUM and LOW have an unload
    again, `cloud_s` what a job waits for a slot of the cloud.
    """

    now: datetime
    settings: Settings
    reading: Reading | None
    is_unknown: bool = False
    lost: str | None = None
    busy: Busy | None = None
    is_first: bool = True
    ahead_s: float = 0.0
    free_in_s: float = 0.0
    unload_in_s: float = 0.0
    turn_in_s: float = 0.0
    lower_in_s: float = 0.0
    cloud_s: float = 0.0


class Admit(msgspec.Struct, frozen=True, kw_only=True):
    """The job may draw now."""

    need: Need
    downgraded: bool
    rule: int
    reason: str


class Free(msgspec.Struct, frozen=True, kw_only=True):
    """ComfyUI has to free first. `goal_mib`: what NVML must show as free then."""

    goal_mib: int
    rule: int
    reason: str


class Unload(msgspec.Struct, frozen=True, kw_only=True):
    """These models have to go first. `goal_mib`: what NVML must show as free then."""

    models: tuple[Owed, ...]
    goal_mib: int
    reason: str


class Away(msgspec.Struct, frozen=True, kw_only=True):
    """The job goes to the cloud."""

    reason: str


class Never(msgspec.Struct, frozen=True, kw_only=True):
    """This card will not do the job."""

    why: Literal["no_card", "too_big", "out_of_memory"]
    reason: str


class Hold(msgspec.Struct, frozen=True, kw_only=True):
    """The job waits."""

    wait_for: WaitFor
    until: str
    reason: str


Verdict = Admit | Free | Unload | Away | Never | Hold
