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
from agent.bus.connection import Bus
from agent.clock import Clock, SystemClock
from agent.core import ledger_row
from agent.gateway.access import caller_of
from agent.gateway.describing import (
    AGENT,
    CURSOR,
    WHEN,
    WORD,
    Described,
    Limit,
    Param,
    choice,
    described,
    number,
)
from agent.gateway.hearing import Hearing
from agent.gateway.lookup import require
from agent.gateway.machines import GpuStatus, Machines, gpu_status
from agent.gateway.problems import Problem, problem
from agent.gateway.settings import API
from agent.ledger import Ledger
from agent.ledger.asking import LIMIT, LIMIT_MAX, PLACE_MAX, Query, read_query
from agent.ledger.counting import Stats
from agent.ledger.database import LedgerError
from agent.ledger.reading import Page
from contracts.errors import ErrorCode
from contracts.events import Status
from contracts.requests import Priority, Quality, Style

JSON: Final = "application/json"
DISK_S: Final = 60.0
"""Adding up a hundred thousand files takes some tenths of a second: not at every look."""
NOT_OF_STATS: Final = ("page", "offset", "limit", "cursor")
PER_MINUTE: Final = Limit(name="history", per_minute=60)
FILTERS: Final = (
    Param(name="type", text="only this one", shape=choice("image", "voice", "video")),
    Param(name="requester", text="only those of this agent", shape=AGENT),
    Param(name="status", text="only these; queued: not begun", shape=choice(*Status)),
    Param(name="priority", text="only this class", shape=choice(*Priority)),
    Param(name="quality", text="only this one", shape=choice(*Quality)),
    Param(name="style", text="only this one", shape=choice(*Style)),
    Param(name="model", text="only this one; either spelling", shape=WORD),
    Param(name="engine", text="only those that it drew last", shape=WORD),
    Param(name="since", text="a day (UTC) or an instant; stored then or later", shape=WHEN),
    Param(name="until", text="a day (UTC) or an instant; stored before it", shape=WHEN),
)
PLACES: Final = (
    Param(name="page", text="from 1", shape=number(1, PLACE_MAX, 1)),
    Param(name="limit", text="rows on a page", shape=number(1, LIMIT_MAX, LIMIT)),
    Param(name="offset", text="rows to skip; excludes page", shape=number(0, PLACE_MAX)),
    Param(name="cursor", text="a next_cursor; excludes page and offset", shape=CURSOR),
)

log = structlog.get_logger()


class StatsAnswer(Stats, frozen=True, kw_only=True):
    """The figures of the ledger, and those that stand elsewhere.

    Units: `disk_usage_gb` in GiB. `queue_length` is null while the bus does not say it.
    `eta_calibration_percent`: how many promised waits held; null before the first.
    """

    queue_length: int | None
    disk_usage_gb: float
    gpu_status: GpuStatus
    eta_calibration_percent: float | None


class History:
    """The two routes over one ledger; without a ledger they answer `not_enabled`."""

    def __init__(
        self,
        bus: Bus,
        assets: AssetStore,
        ledger: Ledger | None,
        machines: Machines,
        hearing: Hearing,
        *,
        clock: Clock | None = None,
    ) -> None:
        """Read nothing yet."""
        self._machines = machines
        self._hearing = hearing
        self._bus = bus
        self._assets = assets
        self._ledger = ledger
        self._clock = clock or SystemClock()
        self._disk_gb = 0.0
        self._disk_until_s = 0.0

    def routes(self) -> list[web.RouteDef]:
        """Return what to serve."""
        return [
            web.get(f"{API}/history", self.history, allow_head=False),
            web.get(f"{API}/stats", self.stats, allow_head=False),
        ]

    @described(
        Described(
            summary="What was asked for and what became of it, newest first",
            limit=PER_MINUTE,
            params=(*FILTERS, *PLACES),
            answers={200: Page},
            errors=(ErrorCode.NOT_ENABLED,),
            tag="history",
        )
    )
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

    @described(
        Described(
            summary="Figures over what the filters find",
            params=FILTERS,
            answers={200: StatsAnswer},
            errors=(ErrorCode.NOT_ENABLED,),
            tag="history",
        )
    )
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
        answer = StatsAnswer(
            **msgspec.structs.asdict(found),
            queue_length=self._queue_length(),
            disk_usage_gb=await self._disk_usage_gb(),
            gpu_status=gpu_status(await self._machines.look()),
            eta_calibration_percent=self._hearing.calibration.share,
        )
        return web.Response(body=msgspec.json.encode(answer), content_type=JSON)

    async def _stored(self, query: Query) -> list[ledger_row.Row]:
        """Return what lies in the lanes. Raises: Problem while the bus is away, BusError."""
        require(self._bus)
        priority = None if query.priority is None else Priority(query.priority)
        stored = await overview.read_stored(self._bus, priority)
        return [ledger_row.queued(one) for one in stored]

    def _queue_length(self) -> int | None:
        """Return how many requests wait, as the queue has it; a bus that is away does not say."""
        if not self._bus.connected or self._hearing.loaded_at is None:
            return None
        return self._hearing.board.count()

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
    """Return what stands behind the question mark; a requester asks for its own only.

    Raises: Problem where a name comes twice, or is somebody else's.
    """
    for name in request.query:
        if len(request.query.getall(name)) > 1:
            raise problem(ErrorCode.INVALID_REQUEST, f"?{name[:64]}= stands there twice")
    asked = dict(request.query)
    requester = caller_of(request).scope(asked.get("requester"))
    return asked if requester is None else {**asked, "requester": requester}
