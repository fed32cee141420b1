"""Answers operators: how this worker stands, pause and resume, intake on and off.

`mmg.rpc.<verb>` is for everybody, `mmg.rpc.<verb>.<worker>` for this one. What is switched is kept
on the server (`agent.bus.control`); nothing here remembers anything.
"""

from collections.abc import Awaitable, Callable
from typing import Final

import msgspec
import structlog
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from agent.bus import control
from agent.bus.connection import Bus, BusError
from agent.bus.snapshot import respond_error
from agent.clock import Clock
from agent.dispatch import Dispatch
from contracts import subjects
from contracts.errors import ErrorCode, error_body
from contracts.events import Intake, Pause, WorkerStatus

log = structlog.get_logger()


class Wish(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an operator may say with a verb. `open` is for `intake` only."""

    by: str = "operator"
    reason: str = "not given"
    open: bool | None = None


class Control:
    """The operators' verbs of one worker. Order: `open`, then `close`."""

    def __init__(self, bus: Bus, dispatch: Dispatch, worker: str, clock: Clock) -> None:
        """Answer for `worker`."""
        self._bus = bus
        self._dispatch = dispatch
        self._worker = worker
        self._clock = clock
        self._subscriptions: list[Subscription] = []
        self._verbs: Final[dict[str, Callable[[Wish], Awaitable[None]]]] = {
            "status": self._nothing,
            "pause": self._pause,
            "resume": self._resume,
            "intake": self._intake,
        }

    async def open(self) -> None:
        """Begin to answer. Raises: BusError."""
        for verb in self._verbs:
            for subject in (subjects.rpc(verb), subjects.rpc(verb, self._worker)):
                self._subscriptions.append(await self._bus.subscribe(subject, self._answer))

    async def close(self) -> None:
        """Answer no more."""
        for subscription in self._subscriptions:
            await self._bus.unsubscribe(subscription)
        self._subscriptions.clear()

    async def _answer(self, msg: Msg) -> None:
        """Do what was asked and answer with how this worker stands then."""
        verb = subjects.parse_verb(msg.subject)
        act = self._verbs.get(verb or "")
        if act is None:
            return
        try:
            wish = msgspec.json.decode(msg.data or b"{}", type=Wish)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            body = error_body(ErrorCode.INVALID_REQUEST, f"not understood: {error}", "$")
            await respond_error(self._bus, msg, body)
            return
        try:
            await act(wish)
        except BusError as error:
            await respond_error(self._bus, msg, error_body(ErrorCode.INTERNAL, str(error)))
            return
        if verb != "status":
            log.warning("control.switched", verb=verb, by=wish.by, reason=wish.reason)
        status: WorkerStatus = self._dispatch.status()
        await self._bus.respond(msg, msgspec.json.encode(status))

    async def _nothing(self, _wish: Wish) -> None:
        """A question changes nothing."""

    async def _pause(self, wish: Wish) -> None:
        await self._set_pause(wish, paused=True)

    async def _resume(self, wish: Wish) -> None:
        await self._set_pause(wish, paused=False)

    async def _set_pause(self, wish: Wish, *, paused: bool) -> None:
        pause = Pause(paused=paused, by=wish.by, reason=wish.reason, at=self._clock.now())
        await control.set_pause(self._bus, self._worker, pause)
        await self._dispatch.look_again()

    async def _intake(self, wish: Wish) -> None:
        if wish.open is None:
            raise BusError("intake needs open: true or false")
        intake = Intake(open=wish.open, by=wish.by, reason=wish.reason, at=self._clock.now())
        await control.set_intake(self._bus, intake)
