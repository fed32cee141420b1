"""What can be asked of the ledger's history: filters, and the place where a page begins.

Checks what was asked, and says it in SQL with values apart. Must not open the file.
"""

import base64
import binascii
import re
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Final

import msgspec

from agent.core import ledger_row
from agent.ledger.database import Value
from contracts.errors import ContractError, ErrorCode
from contracts.events import Status
from contracts.requests import Priority, Quality, Style

LIMIT: Final = 50
LIMIT_MAX: Final = 10_000
PLACE_MAX: Final = 2**31
NUMBER_DIGITS_MAX: Final = 12
WORD_LENGTH_MAX: Final = 64

MODELS: Final = (("sdxl", "sdxl-1.0"), ("sd15", "sd-1.5"))
"""Two names of one model each: the spec uses both, and whoever asks may use either."""

_CHOICES: Final[Mapping[str, tuple[str, ...]]] = {
    "status": tuple(Status),
    "priority": tuple(Priority),
    "type": ("image", "voice", "video"),
    "quality": tuple(Quality),
    "style": tuple(Style),
}
_WORDS: Final = ("requester", "model", "engine")
_TIMES: Final = ("since", "until")
_NUMBERS: Final = ("page", "offset", "limit")
NAMES: Final = (*_CHOICES, *_WORDS, *_TIMES, *_NUMBERS, "cursor")
_COLUMNS: Final = {
    "status": "status",
    "priority": "priority",
    "type": "request_type",
    "quality": "quality_tier",
    "style": "style",
    "requester": "requester_agent",
    "engine": "engine",
}
_DAY: Final = re.compile(r"\d{4}-\d{2}-\d{2}")


class Place(msgspec.Struct, frozen=True, array_like=True):
    """The last row of a page: the next one begins behind it, whatever has come since."""

    created_at: str
    requester_key: str
    id: str


class Query(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked: all filters hold together, None asks for anything.

    `since` and `until` are about the time when the request was stored; `until` is not in it.
    `offset` counts rows, so rows that arrive shift it; `after` does not shift.
    """

    status: str | None = None
    priority: str | None = None
    type: str | None = None
    quality: str | None = None
    style: str | None = None
    requester: str | None = None
    model: str | None = None
    engine: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    limit: int = LIMIT
    offset: int = 0
    after: Place | None = None

    @property
    def page(self) -> int | None:
        """The number of the page, from 1; behind a place nobody has counted them."""
        return None if self.after is not None else self.offset // self.limit + 1


def read_query(asked: Mapping[str, str]) -> Query:
    """Read what was asked in words, for instance in an address.

    Raises: ContractError(invalid_request) that names the parameter and what it may be.
    """
    for name in asked:
        if name not in NAMES:
            raise _invalid(name[:WORD_LENGTH_MAX], f"is not known; there are {', '.join(NAMES)}")
    given = [name for name in ("page", "offset", "cursor") if name in asked]
    if len(given) > 1:
        raise _invalid(given[1], f"excludes {given[0]}: each says where the page begins")
    limit = _number(asked, "limit", LIMIT, (1, LIMIT_MAX))
    page = _number(asked, "page", 1, (1, PLACE_MAX))
    filters = {name: _choice(asked, name) for name in _CHOICES}
    filters |= {name: _word(asked, name) for name in _WORDS}
    return Query(
        **filters,
        since=_time(asked, "since"),
        until=_time(asked, "until"),
        limit=limit,
        offset=_number(asked, "offset", (page - 1) * limit, (0, PLACE_MAX)),
        after=_cursor(asked),
    )


def condition(query: Query) -> tuple[str, list[Value]]:
    """Return the filters, without the place, as the text behind WHERE and its values."""
    parts = ["1"]
    values: list[Value] = []
    for name, column in _COLUMNS.items():
        wanted = getattr(query, name)
        if wanted is not None:
            parts.append(f"{column} = ?")
            values.append(wanted)
    if query.model is not None:
        spellings = next((both for both in MODELS if query.model in both), (query.model,))
        parts.append(f"model_used IN ({', '.join('?' * len(spellings))})")
        values += spellings
    for sign, limit in ((">=", query.since), ("<", query.until)):
        if limit is not None:
            parts.append(f"created_at {sign} ?")
            values.append(ledger_row.instant(limit))
    return " AND ".join(parts), values


def cursor(place: Place) -> str:
    """Return a place as the word that a client sends back."""
    return base64.urlsafe_b64encode(msgspec.json.encode(place)).decode().rstrip("=")


def _cursor(asked: Mapping[str, str]) -> Place | None:
    text = asked.get("cursor")
    if text is None:
        return None
    try:
        data = base64.b64decode(text + "=" * (-len(text) % 4), altchars="-_", validate=True)
        return msgspec.json.decode(data, type=Place)
    except (ValueError, binascii.Error, msgspec.DecodeError) as error:
        raise _invalid("cursor", "must be a next_cursor of an earlier page") from error


def _choice(asked: Mapping[str, str], name: str) -> str | None:
    text = asked.get(name)
    if text is None:
        return None
    spelled = text.upper() if name == "priority" else text.lower()
    if spelled not in _CHOICES[name]:
        raise _invalid(name, f"must be one of {', '.join(_CHOICES[name])}")
    return spelled


def _word(asked: Mapping[str, str], name: str) -> str | None:
    text = asked.get(name)
    if text is not None and not (text and len(text) <= WORD_LENGTH_MAX and text.isprintable()):
        raise _invalid(name, f"must have 1 to {WORD_LENGTH_MAX} printable characters")
    return text


def _number(asked: Mapping[str, str], name: str, unset: int, bounds: tuple[int, int]) -> int:
    text = asked.get(name)
    if text is None:
        return min(unset, bounds[1])
    low, high = bounds
    digits = text.isascii() and text.isdigit() and len(text) <= NUMBER_DIGITS_MAX
    if not digits or not low <= int(text) <= high:
        raise _invalid(name, f"must be a whole number from {low} to {high}")
    return int(text)


def _time(asked: Mapping[str, str], name: str) -> datetime | None:
    """Read a day (UTC; as `until` its end is meant) or an instant with its zone."""
    text = asked.get(name)
    if text is None:
        return None
    try:
        if _DAY.fullmatch(text):
            day = datetime.combine(date.fromisoformat(text), datetime.min.time(), UTC)
            return day + timedelta(days=1) if name == "until" else day
        at = datetime.fromisoformat(text)
        zoned = None if at.tzinfo is None else at.astimezone(UTC)
    except (ValueError, OverflowError):
        zoned = None
    if zoned is None:
        raise _invalid(name, "must be a day (2026-03-02) or an instant (2026-03-02T09:15:00Z)")
    return zoned


def _invalid(name: str, reason: str) -> ContractError:
    return ContractError(ErrorCode.INVALID_REQUEST, f"?{name}= {reason}", f"$.{name}")
