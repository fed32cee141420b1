"""The page that explains each error code, `docs/errors.md`, as a command shows it.

The page is the only place of these texts; an installed package carries a copy of it.
"""

import re
from pathlib import Path
from typing import Final

import msgspec

from contracts.errors import ErrorCode

PAGE: Final = "docs/errors.md"
_PLACES: Final = (Path(__file__).parents[2] / PAGE, Path(__file__).with_name("errors.md"))
_ENTRY: Final = re.compile(
    r"^### (?P<code>\w+)\n\n.*\n\n- Meaning: (?P<meaning>.+)\n- Usual cause: (?P<cause>.+)\n"
    r"- Agents: .+\n- Operators: (?P<todo>.+)$",
    re.MULTILINE,
)


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """What a code means, why it usually happens, and what an operator does about it."""

    meaning: str
    cause: str
    todo: str


def explain(code: ErrorCode) -> Explanation | None:
    """Return the entry of a code; None where the page is not installed."""
    for place in _PLACES:
        try:
            text = place.read_text(encoding="utf-8")
        except OSError:
            continue
        return parse(text).get(code)
    return None


def parse(text: str) -> dict[str, Explanation]:
    """Read all entries of the page."""
    return {
        entry["code"]: Explanation(
            meaning=entry["meaning"], cause=entry["cause"], todo=entry["todo"]
        )
        for entry in _ENTRY.finditer(text)
    }
