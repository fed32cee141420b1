"""What operators switch: intake, the pause of all lanes, the pause of one worker.

Kept on the server (consumer pause) or in the state bucket, so that it survives every restart.
"""

from datetime import datetime, timedelta
from typing import Final

import msgspec
import structlog

from agent.bus import state
from agent.bus.connection import Bus, BusError
from contracts import subjects
from contracts.events import Alert, Intake, Pause

PAUSE_FOR_EVER: Final = timedelta(days=3650)
INTAKE_KEY: Final = "intake"
LANES_KEY: Final = "lanes"
"""Who paused all lanes and why: the server keeps only until when."""

log = structlog.get_logger()


async def read_intake(bus: Bus) -> Intake | None:
    """Return the intake as it was last switched; None: never, so it is open. Raises: BusError."""
    return await state.read_as(bus, INTAKE_KEY, Intake)


async def set_intake(bus: Bus, intake: Intake) -> None:
    """Open or close the intake for everybody who asks through us. Raises: BusError."""
    await state.write(bus, INTAKE_KEY, intake)


async def read_pause(bus: Bus, worker: str) -> Pause | None:
    """Return the pause of one worker; None: never paused. Raises: BusError."""
    return await state.read_as(bus, _pause_key(worker), Pause)


async def set_pause(bus: Bus, worker: str, pause: Pause) -> None:
    """Pause or resume one worker, running or not. Raises: BusError."""
    await state.write(bus, _pause_key(worker), pause)


def is_over(pause: Pause, now: datetime) -> bool:
    """Tell whether a pause has ended by itself."""
    return pause.until is not None and now >= pause.until


async def read_lanes_note(bus: Bus) -> Pause | None:
    """Return who paused all lanes last, and why; whether they are, the lanes themselves say.

    Raises: BusError.
    """
    return await state.read_as(bus, LANES_KEY, Pause)


async def note_lanes(bus: Bus, pause: Pause) -> None:
    """Note who paused or resumed all lanes, and why. Raises: BusError."""
    await state.write(bus, LANES_KEY, pause)


def pause_subject(worker: str) -> str:
    """Return where a change of this worker's pause can be heard at once."""
    return subjects.state(_pause_key(worker))


async def pause_lanes(bus: Bus, now: datetime, how_long: timedelta = PAUSE_FOR_EVER) -> None:
    """Make the server hand out nothing; requests are still taken. Raises: BusError."""
    until = (now + how_long).isoformat().replace("+00:00", "Z")
    await _each_lane(bus, {"pause_until": until})


async def resume_lanes(bus: Bus) -> None:
    """Make the server hand out requests again. Raises: BusError."""
    await _each_lane(bus, {})


async def raise_alert(bus: Bus, alert: Alert) -> None:
    """Tell a person that something begins or is over; a bus that is away cannot be told."""
    try:
        await bus.store(subjects.alert(alert.name), msgspec.json.encode(alert))
    except BusError as error:
        log.warning("alert.not_stored", alert=alert.name, state=alert.state, reason=str(error))


async def _each_lane(bus: Bus, body: dict[str, str]) -> None:
    for priority in subjects.LANES:
        durable = subjects.durable(priority)
        await bus.api(f"CONSUMER.PAUSE.{subjects.STREAM_REQUESTS}.{durable}", body)


def _pause_key(worker: str) -> str:
    return f"pause.{worker}"
