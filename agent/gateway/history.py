"""The history of requests and its figures, from the ledger; what is queued, from the lanes.

It reads what was asked and puts an answer together. Must not write the ledger.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Final

import msgspec
import structlog
from aiohttp import web

from agent.assets import AssetStore
from agent.bus import overview
from agent.bus.connection import Bus, BusError
from agent.clock import Clock, SystemClock
from agent.core import ledger_row
from agent.gateway.lookup import require
from agent.gateway.problems import Problem, problem
from agent.ledger import Ledger
from agent.ledger.asking import Query, read_query
from agent.ledger.counting import Stats
from agent.ledger.database import LedgerError
from contracts.errors import ErrorCode
from contracts.events import Status
from contracts.requests import Priority

JSON: Final = "application/json"
DISK_S: Final = 60.0
"""Adding up a hundred thousand files takes some tenths of a second: not at every look."""
NOT_OF_STATS: Final = ("page", "offset", "limit", "cursor")

log = structlog.get_logger()


class StatsAnswer(Stats, frozen=True, kw_only=True):
    """The figures of the ledger, and two that stand elsewhere.

    Units: `disk_usage_gb` in GiB. `queue_length` is null while the bus does not say it.
    """

    queue_length: int | None
    disk_usage_gb: float


class History:
    """The two routes over one ledger; without a ledger they answer `not_enabled`."""

    def __init__(
        self, bus: Bus, assets: AssetStore, ledger: Ledger | None, *, clock: Clock | None = None
    ) -> None:
        """Read nothing yet."""
        self._bus = bus
        self._assets = assets
        self._ledger = ledger
        self._clock = clock or SystemClock()
        self._disk_gb = 0.0
        self._disk_until_s = 0.0

    async def history(self, request: web.Request) -> web.Response:
        """Answer with one page. Raises: ContractError, Problem, BusError."""
        query = read_query(_asked(request))
        async with self._reading() as ledger:
            if query.status == Status.QUEUED:
                page = await ledger.queued(await self._stored(query), query)
            else:
                page = await ledger.history(query)
        # A page may have ten thousand rows: some hundredths of a second, not on the loop.
        body = await asyncio.to_thread(msgspec.json.encode, page)
        return web.Response(body=body, content_type=JSON)

    async def stats(self, request: web.Request) -> web.Response:
        """Answer with the figures of what the filters find. Raises: ContractError, Problem."""
        asked = _asked(request)
        for name in NOT_OF_STATS:
            if name in asked:
                raise problem(
                    ErrorCode.INVALID_REQUEST, f"?{name}= is for pages; these are figures"
                )
        query = read_query(asked)
        async with self._reading() as ledger:
            found = await ledger.stats(query)
            working = await ledger.stats(Query(status=Status.PROCESSING))
        answer = StatsAnswer(
            **msgspec.structs.asdict(found),
            queue_length=await self._queue_length(working.processing),
            disk_usage_gb=await self._disk_usage_gb(),
        )
        return web.Response(body=msgspec.json.encode(answer), content_type=JSON)

    async def _stored(self, query: Query) -> list[ledger_row.Row]:
        """Return what lies in the lanes. Raises: Problem while the bus is away, BusError."""
        require(self._bus)
        priority = None if query.priority is None else Priority(query.priority)
        stored = await overview.read_stored(self._bus, priority)
        return [ledger_row.queued(one) for one in stored]

    async def _queue_length(self, processing: int) -> int | None:
        """Return how many requests wait: what lies in the lanes, without those that are worked on.

        A request that a worker holds and has not begun waits, too.
        """
        if not self._bus.connected:
            return None
        try:
            lanes = await overview.read_lanes(self._bus)
        except BusError as error:
            log.warning("history.queue_unknown", reason=str(error))
            return None
        return max(0, sum(lane.waiting + lane.in_work for lane in lanes) - processing)

    async def _disk_usage_gb(self) -> float:
        now_s = self._clock.monotonic_s()
        if now_s >= self._disk_until_s:
            self._disk_until_s = now_s + DISK_S
            self._disk_gb = round(await self._assets.used_bytes() / 1024**3, 6)
        return self._disk_gb

    @asynccontextmanager
    async def _reading(self) -> AsyncIterator[Ledger]:
        """Give the ledger, and say in our form that it cannot be read. Raises: Problem."""
        if self._ledger is None:
            raise problem(ErrorCode.NOT_ENABLED, "this gateway keeps no ledger")
        try:
            yield self._ledger
        except LedgerError as error:
            log.warning("history.unreadable", reason=str(error))
            raise _away() from error


def _away() -> Problem:
    return problem(
        ErrorCode.INTERNAL,
        "the ledger cannot be read now; it is being made, or see the log of the gateway",
        status=HTTPStatus.SERVICE_UNAVAILABLE,
    )


def _asked(request: web.Request) -> Mapping[str, str]:
    """Return what stands behind the question mark. Raises: Problem where a name comes twice."""
    for name in request.query:
        if len(request.query.getall(name)) > 1:
            raise problem(ErrorCode.INVALID_REQUEST, f"?{name[:64]}= stands there twice")
    return dict(request.query)
