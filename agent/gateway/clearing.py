"""Clears what waits: counted first, then confirmed, then cancelled one by one.

Nobody purges: each request ends with its own last link, so everybody who follows it hears why.
What came after the count, and what is being worked on, stays. Operators only.
"""

import asyncio
import base64
import binascii
from collections import Counter
from typing import Annotated, Final

import msgspec
import structlog
from aiohttp import web
from msgspec import Meta

from agent.bus.cancel import cancel
from agent.bus.connection import Bus
from agent.clock import Clock, SystemClock
from agent.core.board import Entry
from agent.gateway.access import caller_of
from agent.gateway.asked import JSON, asked_once, body_of
from agent.gateway.describing import Described, described
from agent.gateway.hearing import Hearing
from agent.gateway.lookup import require
from agent.gateway.problems import problem
from agent.gateway.queueing import Filter
from agent.gateway.settings import API
from contracts.errors import ErrorBody, ErrorCode
from contracts.requests import AgentId, Priority

AT_ONCE: Final = 16
PATIENCE_S: Final = 60.0
"""What is not cancelled by then is left, and said so: the same call goes on with it."""
FAILED_SHOWN_MAX: Final = 50
REASON_MAX: Final = 100

log = structlog.get_logger()


class Clear(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to clear: by class, by requester, or `all`. `confirm` is the word of the count."""

    priority: Priority | None = None
    requester: AgentId | None = None
    all: bool = False
    reason: Annotated[str, Meta(max_length=REASON_MAX)] = ""
    confirm: str | None = None


class Impact(msgspec.Struct, frozen=True, kw_only=True):
    """How many requests it is about."""

    count: int
    by_priority: dict[str, int]
    by_requester: dict[str, int]


class Cleared(msgspec.Struct, frozen=True, kw_only=True):
    """What was counted, and, once confirmed, done. `failed` are ids; `left` were not reached."""

    impact: Impact
    cancelled: int
    failed: tuple[str, ...]
    left: int
    confirm: str | None


class _Token(msgspec.Struct, frozen=True, array_like=True):
    priority: Priority | None
    requester: str | None
    last_seq: int


class Clearing:
    """The route that clears the queue."""

    def __init__(self, bus: Bus, hearing: Hearing, *, clock: Clock | None = None) -> None:
        """Clear nothing yet."""
        self._bus = bus
        self._hearing = hearing
        self._clock = clock or SystemClock()

    def routes(self) -> list[web.RouteDef]:
        """Return what to serve."""
        return [web.post(f"{API}/queue/clear", self.clear)]

    @described(
        Described(
            summary="Count what would be cleared; with the count's word, cancel it",
            access="operator",
            body=Clear,
            answers={200: Cleared},
            statuses=(408, 413, 415),
            tag="queue",
        )
    )
    async def clear(self, request: web.Request) -> web.Response:
        """Count, or cancel what was counted. Raises: Problem, BusError."""
        asked_once(request, ())
        asked = await body_of(request, Clear)
        if asked.all == (asked.priority is not None or asked.requester is not None):
            raise problem(
                ErrorCode.INVALID_REQUEST, "name a priority, a requester, or both; or say all: true"
            )
        require(self._bus)
        wanted = Filter(asked.priority, asked.requester)
        counted = [one for one in self._hearing.board.waiting() if wanted.fits(one)]
        if asked.confirm is None:
            last_seq = max((one.seq for one in counted), default=0)
            token = _Token(asked.priority, asked.requester, last_seq)
            cleared = _cleared(counted, confirm=_word(token))
        else:
            token = _token(asked.confirm)
            if (token.priority, token.requester) != (asked.priority, asked.requester):
                raise problem(
                    ErrorCode.INVALID_REQUEST, "that count was of something else", "$.confirm"
                )
            counted = [one for one in counted if one.seq <= token.last_seq]
            by = caller_of(request).name
            why = f"queue/clear by {by}" + (f": {asked.reason}" if asked.reason else "")
            cleared = await self._cancel(counted, why)
        return web.Response(body=msgspec.json.encode(cleared), content_type=JSON)

    async def _cancel(self, counted: list[Entry], by: str) -> Cleared:
        """Cancel some at once, for a minute at most."""
        waiting = iter(counted)
        cancelled: list[Entry] = []
        failed: list[str] = []

        async def work() -> None:
            for one in waiting:
                now = self._hearing.board.get(one.who)
                if now is None or now.running is not None:
                    continue
                ended = await cancel(self._bus, one.who, by, self._clock)
                if not isinstance(ended, ErrorBody):
                    cancelled.append(one)
                elif ended.code is not ErrorCode.ALREADY_COMPLETED:
                    failed.append(str(one.who))

        try:
            async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as group:
                for number in range(AT_ONCE):
                    group.create_task(work(), name=f"gateway-clear-{number}")
        except TimeoutError:
            log.warning("gateway.clear_unfinished", cancelled=len(cancelled))
        left = sum(1 for _ in waiting)
        log.warning("gateway.cleared", by=by, cancelled=len(cancelled), left=left)
        return _cleared(
            counted, cancelled=len(cancelled), failed=tuple(failed[:FAILED_SHOWN_MAX]), left=left
        )


def _cleared(
    counted: list[Entry],
    *,
    cancelled: int = 0,
    failed: tuple[str, ...] = (),
    left: int = 0,
    confirm: str | None = None,
) -> Cleared:
    impact = Impact(
        count=len(counted),
        by_priority=dict(Counter(one.priority.value for one in counted)),
        by_requester=dict(Counter(one.who.requester for one in counted)),
    )
    return Cleared(impact=impact, cancelled=cancelled, failed=failed, left=left, confirm=confirm)


def _word(token: _Token) -> str:
    return base64.urlsafe_b64encode(msgspec.json.encode(token)).decode().rstrip("=")


def _token(text: str) -> _Token:
    try:
        data = base64.b64decode(text + "=" * (-len(text) % 4), altchars="-_", validate=True)
        return msgspec.json.decode(data, type=_Token)
    except (ValueError, binascii.Error, msgspec.DecodeError) as error:
        raise problem(
            ErrorCode.INVALID_REQUEST, "confirm must be the word of an earlier count", "$.confirm"
        ) from error
