"""The figures of the ledger: how many, how well, how fast, where, and for how much money.

Counts rows; must not know a price by itself.
"""

from collections.abc import Mapping
from typing import Final, TypeVar

import msgspec

from agent.ledger import asking, tables
from agent.ledger.asking import Query
from agent.ledger.database import Database, Value

LOCAL: Final = ("comfyui", "sketch", "piper")
"""Engines that run on our own machines; every other one is somebody's cloud."""
NO_SUBSTITUTE: Final = "sketch"
"""Local, too, but nobody would have bought what it draws: it avoids no cost."""
DAYS_MAX: Final = 366

Prices = Mapping[str, float]
"""What a picture of a quality costs in the cloud. Units: US dollars."""


class EngineFigures(msgspec.Struct, frozen=True, kw_only=True):
    """What one engine did; `failed` are requests whose last try was there."""

    engine: str
    local: bool
    completed: int
    failed: int
    avg_generation_time: float | None
    cost_usd: float


class DayFigures(msgspec.Struct, frozen=True, kw_only=True):
    """The requests that were stored on one day, UTC."""

    day: str
    total: int
    completed: int
    failed: int
    local: int
    cost_usd: float


class Stats(msgspec.Struct, frozen=True, kw_only=True):
    """Figures over requests whose chain has begun. Null: nothing to judge by.

    Units: rates and shares in percent, times in seconds, money in US dollars. `success_rate` is of
    those completed or failed: who cancels a request does not call it a failure.
    """

    total_generations: int
    queued: int
    processing: int
    completed: int
    failed: int
    cancelled: int
    success_rate: float | None
    avg_generation_time: float | None
    avg_queue_time: float | None
    local_share: float | None
    cost_usd: float
    cost_avoided_usd: float
    ratings: int
    avg_rating: float | None
    by_engine: tuple[EngineFigures, ...]
    by_day: tuple[DayFigures, ...]


class _Totals(msgspec.Struct, frozen=True):
    total: int
    queued: int
    processing: int
    completed: int
    failed: int
    cancelled: int
    local: int
    time: float | None
    wait: float | None
    cost: float
    ratings: int
    rating: float | None


_IS_LOCAL: Final = f"engine IN ({', '.join(repr(name) for name in LOCAL)})"
_DONE: Final = "count(*) FILTER (WHERE status = 'completed')"
_FAILED: Final = "count(*) FILTER (WHERE status = 'failed')"
_DONE_HERE: Final = f"count(*) FILTER (WHERE status = 'completed' AND {_IS_LOCAL})"
_COLUMNS: Final[dict[type[msgspec.Struct], str]] = {
    _Totals: f"""
        count(*), count(*) FILTER (WHERE status = 'queued'),
        count(*) FILTER (WHERE status = 'processing'), {_DONE}, {_FAILED},
        count(*) FILTER (WHERE status = 'cancelled'), {_DONE_HERE}, avg(generation_time_sec),
        avg(queue_time_sec), total(cost_usd), count(rating), avg(rating)""",
    EngineFigures: f"""
        engine, {_IS_LOCAL}, {_DONE}, {_FAILED}, round(avg(generation_time_sec), 3),
        round(total(cost_usd), 6)""",
    DayFigures: f"""
        substr(created_at, 1, 10) AS day, count(*), {_DONE}, {_FAILED}, {_DONE_HERE},
        round(total(cost_usd), 6)""",
}
"""In the order of the fields."""

T = TypeVar("T", bound=msgspec.Struct)


async def count(database: Database, query: Query, prices: Prices) -> Stats:
    """Return the figures of what a query finds, whatever page it asks for. Raises: LedgerError."""
    where, values = asking.condition(query)

    async def ask(what: str, more: str = "") -> list[tuple[Value, ...]]:
        sql = f"SELECT {what} FROM {tables.TABLE} WHERE {where} {more}"  # noqa: S608 - fixed texts
        return await database.rows(sql, values)

    async def figures(kind: type[T], more: str = "") -> tuple[T, ...]:
        found = await ask(_COLUMNS[kind], more)
        named = [dict(zip(kind.__struct_fields__, row, strict=True)) for row in found]
        return tuple(msgspec.convert(one, kind, strict=False) for one in named)

    totals = (await figures(_Totals))[0]
    engines = await figures(EngineFigures, "AND engine IS NOT NULL GROUP BY engine ORDER BY engine")
    days = await figures(DayFigures, f"GROUP BY day ORDER BY day DESC LIMIT {DAYS_MAX}")
    drawn = await ask(
        "quality_tier, sum(output_count)",
        f"AND status = 'completed' AND {_IS_LOCAL} AND engine <> '{NO_SUBSTITUTE}'"
        " GROUP BY quality_tier",
    )
    return Stats(
        total_generations=totals.total,
        queued=totals.queued,
        processing=totals.processing,
        completed=totals.completed,
        failed=totals.failed,
        cancelled=totals.cancelled,
        success_rate=_percent(totals.completed, totals.completed + totals.failed),
        avg_generation_time=_rounded(totals.time),
        avg_queue_time=_rounded(totals.wait),
        local_share=_percent(totals.local, totals.completed),
        cost_usd=round(totals.cost, 6),
        cost_avoided_usd=_avoided(drawn, prices),
        ratings=totals.ratings,
        avg_rating=_rounded(totals.rating),
        by_engine=engines,
        by_day=tuple(reversed(days)),
    )


def _avoided(drawn: list[tuple[Value, ...]], prices: Prices) -> float:
    """Return what the pictures would have cost in the cloud; one without a price counts nothing."""
    usd = sum(prices.get(str(quality), 0.0) * int(str(count)) for quality, count in drawn)
    return round(usd, 6)


def _percent(part: int, whole: int) -> float | None:
    return None if whole == 0 else round(100 * part / whole, 2)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
