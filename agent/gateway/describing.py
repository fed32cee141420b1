"""What each route says about itself: who may ask, how often, with what, and what comes back.

The access of a route and its page in the OpenAPI document are made of the same words, so neither
can be forgotten. Must not serve anything.
"""

from collections.abc import Callable
from typing import Any, Final, Literal, TypeVar

import msgspec

from contracts.errors import ErrorCode

JSON: Final = "application/json"

T = TypeVar("T", bound=Callable[..., object])
Access = Literal["public", "any", "operator"]


class Param(msgspec.Struct, frozen=True, kw_only=True):
    """One parameter of a route. `shape` is its JSON Schema."""

    name: str
    text: str
    shape: dict[str, Any] = msgspec.field(default_factory=lambda: {"type": "string"})
    where: Literal["query", "header", "path"] = "query"
    needed: bool = False


class Limit(msgspec.Struct, frozen=True, kw_only=True):
    """How often one caller may ask: requests with one name share their allowance."""

    name: str
    per_minute: int


class Described(msgspec.Struct, frozen=True, kw_only=True):
    """What a route says about itself.

    `access`: public needs no key, any takes every key, operator only an operator's. `ticket`: a
    one-time ticket in the address does instead of a key. `answers` has a struct or a media type for
    each good status; `errors` are codes beyond those that every route may answer with.
    """

    summary: str
    access: Access = "any"
    ticket: bool = False
    limit: Limit | None = None
    params: tuple[Param, ...] = ()
    body: Any = None
    body_needed: bool = True
    answers: dict[int, Any] = msgspec.field(default_factory=lambda: {200: JSON})
    errors: tuple[ErrorCode, ...] = ()
    statuses: tuple[int, ...] = ()
    tag: str = "operations"


_UNSAID: Final = Described(summary="")
_NAME: Final = "__described__"


def described(words: Described) -> Callable[[T], T]:
    """Mark a handler with what it says about itself."""

    def mark(handler: T) -> T:
        setattr(handler, _NAME, words)
        return handler

    return mark


def description(handler: object) -> Described:
    """Return what a handler says about itself; one that says nothing needs a key."""
    found = getattr(handler, _NAME, _UNSAID)
    assert isinstance(found, Described), "only `described` sets it"
    return found


def is_described(handler: object) -> bool:
    """Tell whether a handler says anything about itself."""
    return description(handler) is not _UNSAID


def number(low: int, high: int, unset: int | None = None) -> dict[str, Any]:
    """Return the shape of a whole number in the address."""
    shape: dict[str, Any] = {"type": "integer", "minimum": low, "maximum": high}
    return shape if unset is None else {**shape, "default": unset}


def choice(*allowed: str) -> dict[str, Any]:
    """Return the shape of one of these words."""
    return {"type": "string", "enum": list(allowed)}


AGENT: Final[dict[str, Any]] = {"type": "string", "pattern": "^[A-Za-z0-9_.]{1,64}$"}
"""The shape of an agent id."""
WORD: Final[dict[str, Any]] = {"type": "string", "pattern": "^[ -~]{1,64}$"}
"""The shape of a word that is only compared."""
WHEN: Final[dict[str, Any]] = {
    "anyOf": [{"type": "string", "format": kind} for kind in ("date", "date-time")]
}
"""The shape of a day or an instant."""
CURSOR: Final[dict[str, Any]] = {"type": "string", "pattern": "^[A-Za-z0-9_-]{8,300}$"}
"""The shape of what a page before has given."""
