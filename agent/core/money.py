"""What pictures cost: budgets, money held for a call and money spent. Pure.

Whoever buys a picture reserves its price first, settles it with what it really cost, or gives it
back. Nothing here knows who sells; `agent.bus.books` keeps the state where all workers see it.

The rules:

1. Amounts are whole millionths of a US dollar, rounded up: the books never say less than was spent.
2. Held money counts as spent until it is settled or given back. A call without a known end is
   settled at what was held, and listed: what the books say beyond the bill is what is listed.
3. A new day (UTC) starts with nothing spent; what is held moves into it. The day never goes back.
4. Each step may be told twice: the same hold is reserved once and settled once.
"""

import math
from datetime import date
from typing import Final, Literal

import msgspec

from agent.core.faults import CancelledFault, Fault, Remedy
from contracts.errors import ErrorCode

MICRO: Final = 1_000_000
UNKNOWN_MAX: Final = 200
"""Purchases whose end nobody knows that are listed; the oldest are dropped first, still counted."""
REQUESTS_MAX: Final = 2_000
"""Requests whose spending is remembered; the oldest are forgotten first, they ended long ago."""

Scope = Literal["day", "request", "requester"]
_WORDS: Final[dict[Scope, str]] = {
    "day": "of the day",
    "request": "of one request",
    "requester": "of the requester for the day",
}


class PaidFault(Fault):
    """A try failed at an engine that costs money; `spent_usd` is what it cost all the same.

    `doubt_usd` is how much of that counts as spent only because nobody knows.
    """

    def __init__(self, message: str, detail: str | None = None, *, spent_usd: float = 0.0) -> None:
        """Keep what was spent beside the sentence."""
        super().__init__(message, detail)
        self.spent_usd = spent_usd
        self.doubt_usd = 0.0


class UnknownOutcomeFault(PaidFault):
    """A paid call was sent and its end is not known: it counts as spent and is not sent again."""

    code = ErrorCode.UNKNOWN_OUTCOME
    remedy = Remedy.OTHER_ENGINE

    def __init__(self, message: str, detail: str | None = None, *, spent_usd: float = 0.0) -> None:
        """Doubt all of it; what calls before this one cost is added to `spent_usd` alone."""
        super().__init__(message, detail, spent_usd=spent_usd)
        self.doubt_usd = spent_usd


class BudgetExceededFault(PaidFault):
    """There is no money left for this picture."""

    code = ErrorCode.BUDGET_EXCEEDED
    remedy = Remedy.OTHER_ENGINE


class PaidCancelledFault(CancelledFault):
    """The job was interrupted; what was under way counts as spent: `doubt_usd` of `spent_usd`."""

    def __init__(self, message: str, *, spent_usd: float, doubt_usd: float = 0.0) -> None:
        """Keep what was spent beside the sentence."""
        super().__init__(message)
        self.spent_usd = spent_usd
        self.doubt_usd = doubt_usd


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """The budgets. Units: US dollars; None: without a limit."""

    day_usd: float | None = None
    request_usd: float | None = None
    requester_usd: float | None = None


class Hold(msgspec.Struct, frozen=True, kw_only=True):
    """Money set aside for one attempt at one engine. Units: millionths of a US dollar.

    `worker` is who buys: when it is lost, so is the end of the call.
    """

    id: str
    request: str
    requester: str
    engine: str
    worker: str
    amount: int


class Unknown(msgspec.Struct, frozen=True, kw_only=True):
    """A purchase whose end nobody knows: `amount` of it counts as spent. Units: see `Hold`."""

    id: str
    request: str
    engine: str
    day: str
    amount: int


class Books(msgspec.Struct, frozen=True, kw_only=True):
    """What was spent on `day` (UTC, YYYY-MM-DD), and what is held. Units: see `Hold`.

    `before` is what requests spent on the day before: one may live over midnight. `unknown` is
    of all days, the newest last.
    """

    day: str = ""
    spent: int = 0
    requesters: dict[str, int] = {}
    requests: dict[str, int] = {}
    before: dict[str, int] = {}
    holds: tuple[Hold, ...] = ()
    unknown: tuple[Unknown, ...] = ()

    @property
    def spent_usd(self) -> float:
        """What was spent today. Units: US dollars."""
        return self.spent / MICRO

    @property
    def held_usd(self) -> float:
        """What is set aside now. Units: US dollars."""
        return sum(hold.amount for hold in self.holds) / MICRO

    def request_usd(self, request: str) -> float:
        """What one request, `<agent>.<request_id>`, has cost so far. Units: US dollars."""
        return (self.requests.get(request, 0) + self.before.get(request, 0)) / MICRO


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """A budget does not allow a purchase; `reason` is for a person."""

    scope: Scope
    reason: str

    def fault(self) -> BudgetExceededFault:
        """Return this as the fault of a try that was not made."""
        return BudgetExceededFault(self.reason, self.scope)


def micro(usd: float) -> int:
    """Return dollars as millionths, rounded up but for the dust of binary fractions."""
    assert usd >= 0, "money is never negative"
    return math.ceil(round(usd * MICRO, 3))


def hold_for(request: str, attempt: int, engine: str, *, worker: str, usd: float) -> Hold:
    """Return the hold of one attempt; `request` is `<agent>.<request_id>`."""
    return Hold(
        id=f"{request}.{attempt}.{engine}",
        request=request,
        requester=request.partition(".")[0],
        engine=engine,
        worker=worker,
        amount=micro(usd),
    )


def rolled(books: Books, today: date) -> Books:
    """Return the books of `today`: rule 3."""
    day = today.isoformat()
    if day <= books.day:
        return books
    follows = books.day != "" and (today - date.fromisoformat(books.day)).days == 1
    before = books.requests if follows else {}
    return Books(day=day, before=before, holds=books.holds, unknown=books.unknown)


def reserve(books: Books, hold: Hold, limits: Limits, today: date) -> Books | Refusal:
    """Set money aside for an attempt, or say which budget does not allow it.

    1. A hold that is there already is not taken twice.
    2. What is spent and held, with this one, may reach a limit and not pass it.
    """
    books = rolled(books, today)
    if any(held.id == hold.id for held in books.holds):  # 1
        return books
    asked: tuple[tuple[Scope, float | None, int], ...] = (
        ("request", limits.request_usd, _of_request(books, hold.request)),
        ("requester", limits.requester_usd, _of_requester(books, hold.requester)),
        ("day", limits.day_usd, books.spent + sum(held.amount for held in books.holds)),
    )
    for scope, limit_usd, used in asked:  # 2
        if limit_usd is not None and used + hold.amount > math.floor(limit_usd * MICRO + 0.001):
            reason = (
                f"{hold.engine} would cost ${hold.amount / MICRO:.3f}; the budget {_WORDS[scope]}"
                f" is ${limit_usd:.2f} and ${used / MICRO:.3f} of it are spent or held"
            )
            return Refusal(scope=scope, reason=reason)
    return msgspec.structs.replace(books, holds=(*books.holds, hold))


def settle(books: Books, hold_id: str, usd: float, today: date, *, doubt_usd: float = 0.0) -> Books:
    """End a hold with what the attempt really cost; a hold that is gone was settled before.

    `doubt_usd`: how much of `usd` nobody knows. It is listed.
    """
    return _ended(rolled(books, today), hold_id, micro(usd), micro(doubt_usd))


def refund(books: Books, hold_id: str, today: date) -> Books:
    """Give a hold back: nothing was bought."""
    return _ended(rolled(books, today), hold_id, 0)


def forfeit(books: Books, hold_id: str, today: date) -> Books:
    """Count a hold as spent in full: nobody will ever know how its call ended."""
    found = next((hold for hold in books.holds if hold.id == hold_id), None)
    books = rolled(books, today)
    return books if found is None else _ended(books, hold_id, found.amount, found.amount)


def forfeit_lost(books: Books, worker: str, today: date) -> Books:
    """Count as spent what an earlier process of this worker held. Order: before its first job."""
    for hold in books.holds:
        if hold.worker == worker:
            books = forfeit(books, hold.id, today)
    return rolled(books, today)


def spent_by(error: BaseException, reserved_usd: float) -> tuple[float, float]:
    """Return what a try that ended in `error` counts as, and how much of it is doubt.

    An error that does not say what it cost leaves the outcome unknown: all that was reserved.
    Units: US dollars.
    """
    if isinstance(error, PaidFault | PaidCancelledFault):
        return error.spent_usd, error.doubt_usd
    return reserved_usd, reserved_usd


def _of_request(books: Books, request: str) -> int:
    held = sum(hold.amount for hold in books.holds if hold.request == request)
    return books.requests.get(request, 0) + books.before.get(request, 0) + held


def _of_requester(books: Books, requester: str) -> int:
    held = sum(hold.amount for hold in books.holds if hold.requester == requester)
    return books.requesters.get(requester, 0) + held


def _ended(books: Books, hold_id: str, amount: int, doubt: int = 0) -> Books:
    """Take a hold out of the books, count `amount` for it, and list the doubt."""
    found = next((hold for hold in books.holds if hold.id == hold_id), None)
    if found is None:  # Rule 4: it was settled when this was told first.
        return books
    left = tuple(hold for hold in books.holds if hold.id != hold_id)
    if amount == 0:
        return msgspec.structs.replace(books, holds=left)
    unknown = books.unknown
    if doubt:
        listed = Unknown(
            id=hold_id, request=found.request, engine=found.engine, day=books.day, amount=doubt
        )
        unknown = (*unknown, listed)[-UNKNOWN_MAX:]
    return msgspec.structs.replace(
        books,
        spent=books.spent + amount,
        requesters=_plus(books.requesters, found.requester, amount),
        requests=_plus(books.requests, found.request, amount),
        holds=left,
        unknown=unknown,
    )


def _plus(amounts: dict[str, int], key: str, amount: int) -> dict[str, int]:
    """Return the amounts with one grown, the newest last and the oldest beyond a bound gone."""
    kept = {name: value for name, value in amounts.items() if name != key}
    kept[key] = amounts.get(key, 0) + amount
    return dict(list(kept.items())[-REQUESTS_MAX:])
