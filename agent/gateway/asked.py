"""What stands in an address or a small body, read strictly: names, numbers, words.

Must not know what a route does with it.
"""

import asyncio
from collections.abc import Collection, Mapping
from typing import Final, TypeVar

import msgspec
from aiohttp import web

from agent.gateway.problems import Problem, problem
from contracts.errors import ErrorCode

JSON: Final = "application/json"
BODY_TIMEOUT_S: Final = 10.0
"""A client that sends its 64 KB more slowly than this is no client."""
WORD_LENGTH_MAX: Final = 64
NUMBER_DIGITS_MAX: Final = 12

T = TypeVar("T")


def asked_once(request: web.Request, names: Collection[str]) -> Mapping[str, str]:
    """Return what stands behind the question mark.

    Raises: Problem for a name that is not known, or that comes twice.
    """
    for name in request.query:
        if name not in names:
            known = ", ".join(names) or "none"
            raise invalid(name[:WORD_LENGTH_MAX], f"is not known; there are {known}")
        if len(request.query.getall(name)) > 1:
            raise problem(ErrorCode.INVALID_REQUEST, f"?{name[:64]}= stands there twice")
    return dict(request.query)


def number_of(asked: Mapping[str, str], name: str, unset: int, bounds: tuple[int, int]) -> int:
    """Read a whole number within bounds. Raises: Problem."""
    text = asked.get(name)
    if text is None:
        return unset
    low, high = bounds
    digits = text.isascii() and text.isdigit() and len(text) <= NUMBER_DIGITS_MAX
    if not digits or not low <= int(text) <= high:
        raise invalid(name, f"must be a whole number from {low} to {high}")
    return int(text)


def word_of(asked: Mapping[str, str], name: str) -> str | None:
    """Read a word. Raises: Problem."""
    text = asked.get(name)
    if text is not None and not (0 < len(text) <= WORD_LENGTH_MAX and text.isprintable()):
        raise invalid(name, f"must have 1 to {WORD_LENGTH_MAX} printable characters")
    return text


def choice_of(asked: Mapping[str, str], name: str, allowed: Collection[str]) -> str | None:
    """Read one of several words, in any case. Raises: Problem."""
    text = asked.get(name)
    if text is None:
        return None
    for word in allowed:
        if text.casefold() == word.casefold():
            return word
    raise invalid(name, f"must be one of {', '.join(allowed)}")


def invalid(name: str, reason: str) -> Problem:
    """Return the answer for a parameter that cannot be meant."""
    return problem(ErrorCode.INVALID_REQUEST, f"?{name}= {reason}", f"$.{name}")


async def body_of(request: web.Request, kind: type[T], unset: T | None = None) -> T:
    """Read a JSON body; an empty one is `unset`, where there is that. Raises: Problem."""
    data = await bytes_of(request)
    if not data and unset is not None:
        return unset
    if request.content_type != JSON:
        raise problem(
            ErrorCode.INVALID_REQUEST,
            f"send the body as {JSON}, not as {request.content_type[:80]}",
            status=415,
        )
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.ValidationError as error:
        words, _, path = str(error).partition(" - at `")
        raise problem(ErrorCode.INVALID_REQUEST, words, path.rstrip("`") or "$") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise problem(ErrorCode.INVALID_REQUEST, f"not JSON: {error}", "$") from error


async def bytes_of(request: web.Request) -> bytes:
    """Read the body as it is, within ten seconds. Raises: Problem."""
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            return await request.read()
    except TimeoutError as error:
        raise problem(
            ErrorCode.INVALID_REQUEST,
            f"the body did not arrive within {BODY_TIMEOUT_S:.0f} s",
            status=408,
            headers={"Connection": "close"},
        ) from error
