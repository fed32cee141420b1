"""Money and breakers on the server: kept in the state bucket, changed by compare-and-set.

All workers share them. What a change means is for `agent.core.money` and `agent.core.breaker`;
here it is read, applied and written, again from the start when somebody else was first.
"""

import asyncio
import random
from collections.abc import Callable
from datetime import date, datetime
from typing import Final, TypeVar, cast

import msgspec

from agent.bus import state
from agent.bus.connection import Bus, BusError
from agent.core import breaker, money
from agent.core.breaker import CLOSED, Breaker, Open
from agent.core.money import Books, Hold, Limits, Refusal
from contracts.errors import ErrorCode

MONEY_KEY: Final = "money"
ROUNDS_MAX: Final = 60
"""In each round one writer succeeds: enough for as many writers at once."""
PAUSE_FIRST_S: Final = 0.001
PAUSE_MAX_S: Final = 0.05

T = TypeVar("T", bound=msgspec.Struct)
R = TypeVar("R", Refusal, Open)


class BooksError(BusError):
    """The books cannot be read or changed: nothing may be bought."""


async def read_money(bus: Bus) -> Books:
    """Return the books as they were last written. Raises: BusError."""
    return (await _read(bus, MONEY_KEY, Books()))[0]


async def reserve(bus: Bus, hold: Hold, limits: Limits, today: date) -> Refusal | None:
    """Set money aside before a call; None: it is held.

    Raises: BusError, and then nothing may be bought; what may be held all the same is counted
    against the budget until `refund` or `forfeit_lost`.
    """

    def step(books: Books) -> Books | Refusal:
        return money.reserve(books, hold, limits, today)

    return await _change(bus, MONEY_KEY, Books(), step)


async def settle(
    bus: Bus, hold_id: str, usd: float, today: date, *, doubt_usd: float = 0.0
) -> None:
    """Write down what a call has cost and end its hold. Raises: BusError; the hold stays then."""

    def step(books: Books) -> Books:
        return money.settle(books, hold_id, usd, today, doubt_usd=doubt_usd)

    await _change(bus, MONEY_KEY, Books(), step)


async def refund(bus: Bus, hold_id: str, today: date) -> None:
    """Give a hold back: nothing was bought. Raises: BusError; the hold stays then."""
    await _change(bus, MONEY_KEY, Books(), lambda books: money.refund(books, hold_id, today))


async def forfeit_lost(bus: Bus, worker: str, today: date) -> None:
    """Count as spent what an earlier process of this worker held. Order: before its first job.

    Raises: BusError.
    """
    await _change(bus, MONEY_KEY, Books(), lambda books: money.forfeit_lost(books, worker, today))


async def forfeit(bus: Bus, hold_id: str, today: date) -> None:
    """Count as spent what a lost worker held for an attempt. Raises: BusError."""
    await _change(bus, MONEY_KEY, Books(), lambda books: money.forfeit(books, hold_id, today))


async def read_breaker(bus: Bus, engine: str) -> Breaker:
    """Return an engine's breaker; one that was never written is closed. Raises: BusError."""
    return (await _read(bus, _breaker_key(engine), CLOSED))[0]


async def admit(bus: Bus, engine: str, job: str, now: datetime) -> Open | None:
    """Let a job go to an engine; None: it may. Order: tell how it ended. Raises: BusError."""

    def step(found: Breaker) -> Breaker | Open:
        return breaker.admit(found, job, now)

    return await _change(bus, _breaker_key(engine), CLOSED, step)


async def succeeded(bus: Bus, engine: str) -> None:
    """Tell that a job succeeded there. Raises: BusError."""
    await _change(bus, _breaker_key(engine), CLOSED, breaker.succeeded)


async def failed(bus: Bus, engine: str, job: str, code: ErrorCode, now: datetime) -> None:
    """Tell that a job failed there. Raises: BusError."""
    await _change(
        bus, _breaker_key(engine), CLOSED, lambda found: breaker.failed(found, job, code, now)
    )


async def ended(bus: Bus, engine: str, job: str) -> None:
    """Tell that a job ended without a verdict on the engine. Raises: BusError."""
    await _change(bus, _breaker_key(engine), CLOSED, lambda found: breaker.ended(found, job))


async def _change(bus: Bus, key: str, first: T, step: Callable[[T], T | R]) -> R | None:
    """Apply a pure step to a key; a refusal is returned and nothing is written.

    Raises: BusError without an answer (the step may be applied), BooksError when others were
    first too often or the value is not ours.
    """
    pause_s = PAUSE_FIRST_S
    for _ in range(ROUNDS_MAX):
        found, revision = await _read(bus, key, first)
        new = step(found)
        if isinstance(new, Refusal | Open):
            return cast("R", new)
        assert isinstance(new, type(first)), "a step gives a state or a refusal"
        if new == found:
            return None
        try:
            await state.write(bus, key, new, revision)
        except state.StaleRevisionError:
            spread = random.uniform(0.5, 1.5)  # noqa: S311 - jitter, no secret
            await asyncio.sleep(pause_s * spread)
            pause_s = min(pause_s * 2, PAUSE_MAX_S)
            continue
        return None
    raise BooksError(f"others changed {key!r} first, {ROUNDS_MAX} times in a row")


async def _read(bus: Bus, key: str, first: T) -> tuple[T, int]:
    """Read a key with its revision; `first` and 0 where there is none. Raises: BusError."""
    entry = await state.read(bus, key)
    if entry is None:
        return first, 0
    try:
        return msgspec.json.decode(entry.data, type=type(first)), entry.revision
    except msgspec.DecodeError as error:
        raise BooksError(f"{key!r} in the state bucket is not of this version: {error}") from error


def _breaker_key(engine: str) -> str:
    return f"breaker.{engine}"
