"""Answers operators: how this worker stands, its models, load and unload, pause, resume, intake.

`mmg.rpc.<verb>` is for everybody, `mmg.rpc.<verb>.<worker>` for this one; to load and unload, a
worker has to be named. What is switched is kept on the server (`agent.bus.control`); nothing here
remembers anything.
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
from agent.dispatch import Dispatch
from agent.loading import Loading
from agent.models import models
from agent.report import Reporter
from agent.tools import Tools
from contracts import subjects
from contracts.errors import ContractError, ErrorBody, ErrorCode, error_body
from contracts.events import Intake, Pause
from contracts.status import ModelWish

log = structlog.get_logger()

Act = Callable[[bytes], Awaitable[msgspec.Struct]]
QUESTIONS: Final = frozenset({"status", "models"})


class Wish(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an operator may say with a verb. `open` is for `intake` only."""

    by: str = "operator"
    reason: str = "not given"
    open: bool | None = None


class Control:
    """The operators' verbs of one worker. Order: `open`, then `close`."""

    def __init__(self, tools: Tools, dispatch: Dispatch, reporter: Reporter) -> None:
        """Answer for the worker of these tools."""
        self._tools = tools
        self._bus: Bus = tools.bus
        self._worker = tools.worker
        self._dispatch = dispatch
        self._reporter = reporter
        self._loading = Loading(tools)
        self._subscriptions: list[Subscription] = []
        self._for_all: Final[dict[str, Act]] = {
            "status": self._status,
            "models": self._models,
            "pause": self._pause,
            "resume": self._resume,
            "intake": self._intake,
        }
        self._for_one: Final[dict[str, Act]] = {"load": self._load, "unload": self._unload}

    async def open(self) -> None:
        """Begin to answer. Raises: BusError."""
        named = [subjects.rpc(verb, self._worker) for verb in (*self._for_all, *self._for_one)]
        for subject in (*map(subjects.rpc, self._for_all), *named):
            self._subscriptions.append(await self._bus.subscribe(subject, self._answer))

    async def close(self) -> None:
        """Answer no more."""
        for subscription in self._subscriptions:
            await self._bus.unsubscribe(subscription)
        self._subscriptions.clear()

    async def _answer(self, msg: Msg) -> None:
        """Do what was asked and answer with what came of it."""
        verb = subjects.parse_verb(msg.subject) or ""
        act = self._for_all.get(verb) or self._for_one.get(verb)
        if act is None:
            return
        found = await self._done(verb, act, msg.data or b"{}")
        if isinstance(found, ErrorBody):
            await respond_error(self._bus, msg, found)
        else:
            await self._bus.respond(msg, msgspec.json.encode(found))

    async def _done(self, verb: str, act: Act, body: bytes) -> msgspec.Struct:
        """Return what a verb answers, or why it was refused; the log says who wanted what."""
        try:
            found = await act(body)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            return error_body(ErrorCode.INVALID_REQUEST, f"not understood: {error}", "$")
        except ContractError as error:
            log.warning("control.refused", verb=verb, code=error.body.code, reason=str(error))
            return error.body
        except BusError as error:
            return error_body(ErrorCode.INTERNAL, str(error))
        if verb not in QUESTIONS:
            wish = msgspec.json.decode(body, type=_Who)
            log.warning("control.done", verb=verb, by=wish.by, reason=wish.reason)
        return found

    # --- questions -----------------------------------------------------------------------------

    async def _status(self, body: bytes) -> msgspec.Struct:
        msgspec.json.decode(body, type=Wish)
        return await self._reporter.report()

    async def _models(self, body: bytes) -> msgspec.Struct:
        msgspec.json.decode(body, type=Wish)
        return await models(self._tools)

    # --- switches ------------------------------------------------------------------------------

    async def _pause(self, body: bytes) -> msgspec.Struct:
        return await self._set_pause(msgspec.json.decode(body, type=Wish), paused=True)

    async def _resume(self, body: bytes) -> msgspec.Struct:
        return await self._set_pause(msgspec.json.decode(body, type=Wish), paused=False)

    async def _set_pause(self, wish: Wish, *, paused: bool) -> msgspec.Struct:
        now = self._tools.clock.now()
        pause = Pause(paused=paused, by=wish.by, reason=wish.reason, at=now)
        await control.set_pause(self._bus, self._worker, pause)
        await self._dispatch.look_again()
        return await self._reporter.report()

    async def _intake(self, body: bytes) -> msgspec.Struct:
        wish = msgspec.json.decode(body, type=Wish)
        if wish.open is None:
            reason = "intake needs open: true or false"
            raise ContractError(ErrorCode.INVALID_REQUEST, reason, "$.open")
        now = self._tools.clock.now()
        intake = Intake(open=wish.open, by=wish.by, reason=wish.reason, at=now)
        await control.set_intake(self._bus, intake)
        return await self._reporter.report()

    # --- models --------------------------------------------------------------------------------

    async def _load(self, body: bytes) -> msgspec.Struct:
        return await self._loading.load(msgspec.json.decode(body, type=ModelWish))

    async def _unload(self, body: bytes) -> msgspec.Struct:
        return await self._loading.unload(msgspec.json.decode(body, type=ModelWish))


class _Who(msgspec.Struct):
    by: str = "operator"
    reason: str = "not given"
