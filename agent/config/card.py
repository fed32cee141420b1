"""The settings of the card and of who waits for it, for the table in `agent.config.settings`."""

from typing import Final

from agent.config import values
from agent.config.row import Row

CARD: Final = (
    Row(
        name="MMG_CARD",
        section="card",
        key="cards",
        default="auto",
        parse=values.cards,
        allowed="auto, an index, a UUID, or comfyui; with several ComfyUIs one each, with commas",
        help="the card that a ComfyUI on this machine draws on; comfyui: measure what it tells,"
        " where NVML cannot be reached",
    ),
    Row(
        name="MMG_RESERVE_MIB",
        section="card",
        key="reserve_mib",
        default="2048",
        parse=values.whole(0, 65536),
        allowed="0 to 65536",
        help="MiB of the card that stay free, for the desktop and for what grows",
    ),
    Row(
        name="MMG_DOWNGRADE_FIRST",
        section="card",
        key="downgrade_first",
        default="no",
        parse=values.boolean,
        allowed="yes, no, true, false, on, off, 1, 0",
        help="whether draft and standard take the smaller model before an LLM is unloaded",
    ),
    Row(
        name="MMG_PREEMPT_AFTER_S",
        section="card",
        key="preempt_after_s",
        default="5",
        parse=values.seconds(0, 3600),
        allowed="0 to 3600",
        help="a CRITICAL interrupts a MEDIUM or LOW whose run would take longer than this",
    ),
    Row(
        name="MMG_MAX_WAIT_S",
        section="card",
        key="max_wait_s",
        default="critical:0,high:30,medium:120,low:600",
        parse=values.bounds,
        allowed="class:seconds with commas; one that is not named keeps its default",
        help="how long a request of each class should wait at most for its start",
    ),
    Row(
        name="MMG_LOW_HOURS",
        section="card",
        key="low_hours",
        default=None,
        unset="LOW may start at any hour",
        parse=values.hours,
        allowed="from-to in local hours, such as 22-6",
        help="the hours in which LOW may start",
    ),
)
