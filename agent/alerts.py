"""The alerts of one worker: each raised once when it begins, and cleared once when it is over.

It must not judge: who watches something says what holds now.
"""

from typing import Final

import msgspec
import structlog

from agent.bus import control, history
from agent.bus.connection import Bus, BusError
from agent.clock import Clock
from contracts import subjects
from contracts.events import Alert
from contracts.status import TEXT_MAX, RaisedAlert

OVER: Final = "over"

log = structlog.get_logger()


class Alerts:
    """Order: `open` first, so that what an earlier process raised is cleared when it is over."""

    def __init__(self, bus: Bus, worker: str, clock: Clock) -> None:
        """Nothing is raised yet."""
        self._bus = bus
        self._worker = worker
        self._clock = clock
        self._raised: dict[str, RaisedAlert] = {}
        self._inherited: set[str] = set()

    @property
    def raised(self) -> tuple[RaisedAlert, ...]:
        """What is raised now, the oldest first."""
        return tuple(sorted(self._raised.values(), key=lambda one: one.since))

    def is_raised(self, name: str) -> bool:
        """Tell whether an alert is raised and not cleared."""
        return name in self._raised

    async def open(self) -> None:
        """Take over what an earlier process of this worker raised; without a bus, nothing."""
        try:
            kept = await history.read_last(self._bus, subjects.STREAM_EVENTS, [subjects.alert("*")])
        except BusError as error:
            log.info("alerts.not_read", reason=str(error))
            return
        for message in kept:
            try:
                alert = msgspec.json.decode(message.data, type=Alert)
            except (msgspec.DecodeError, UnicodeDecodeError):
                continue  # Of another build; who raised it clears it.
            if alert.by == self._worker and alert.state == "raised":
                self._raised[alert.name] = _noted(alert)
                self._inherited.add(alert.name)

    async def end_orphans(self) -> None:
        """Clear what an earlier process raised and nobody here watches: an engine that is gone.

        Order: after everybody has judged once.
        """
        for name in tuple(self._inherited):
            await self.set(name, None)

    async def set(self, name: str, message: str | None) -> None:
        """Raise an alert that holds and is not raised, clear one that is over; else nothing."""
        self._inherited.discard(name)
        if (message is None) == (name not in self._raised):
            return
        alert = Alert(
            name=name,
            state="cleared" if message is None else "raised",
            message=message or OVER,
            by=self._worker,
            at=self._clock.now(),
        )
        if message is None:
            del self._raised[name]
        else:
            self._raised[name] = _noted(alert)
        await control.raise_alert(self._bus, alert)


def _noted(alert: Alert) -> RaisedAlert:
    return RaisedAlert(name=alert.name, message=alert.message[:TEXT_MAX], since=alert.at)
