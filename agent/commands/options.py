"""Options that several commands share, and the types of their values.

They check the form only; whether a request may say so, the contract decides.
"""

import argparse
import re
from datetime import timedelta
from typing import Any, Final, NoReturn

from contracts.requests import SEED_MAX, AspectRatio, Quality, Style
from contracts.subjects import TOKEN_PATTERN

DURATION_MAX: Final = timedelta(days=365)
_DURATION: Final = re.compile(r"(?:(\d{1,3})d)?(?:(\d{1,4})h)?(?:(\d{1,5})m)?(?:(\d{1,6})s)?")


def add_look(
    command: argparse.ArgumentParser, style: str | None = None, aspect: str | None = None
) -> None:
    """Add what decides how the picture looks."""
    command.add_argument(
        "--style",
        choices=[item.value for item in Style],
        default=style,
        help=f"what the picture is for (default: {style or 'none'})",
    )
    command.add_argument(
        "--aspect",
        choices=[item.value for item in AspectRatio],
        default=aspect,
        help=f"shape, width to height (default: {aspect or 'set by the style'})",
    )
    command.add_argument(
        "--quality",
        choices=[item.value for item in Quality],
        help="effort: draft is quick (default: standard)",
    )
    command.add_argument(
        "--seed",
        type=int,
        metavar="N",
        help=f"0 to {SEED_MAX}: the same picture again (default: drawn)",
    )


def add_requester(command: argparse.ArgumentParser, text: str) -> None:
    """Add the agent in whose name a command speaks."""
    command.add_argument(
        "--requester",
        default="user",
        metavar="AGENT",
        help=f"{text}: an agent id such as L2.05.03 (default: user)",
    )


def add_owner(command: argparse.ArgumentParser, text: str) -> None:
    """Add whose request is meant, for commands that find out by themselves."""
    command.add_argument("--requester", metavar="AGENT", help=text)


def add_json(command: Any, text: str) -> None:
    """Add the form for machines; `text` says what it prints."""
    command.add_argument("--json", action="store_true", help=f"for machines: {text}")


def size(text: str) -> tuple[int, int]:
    """Read a size such as 1024x768."""
    match = re.fullmatch(r"(\d{1,5})x(\d{1,5})", text.lower())
    if match is None:
        refuse(f"{text!r} is no size; write it like 1024x768")
    return int(match[1]), int(match[2])


def seconds(text: str) -> float:
    """Read a number of seconds above 0."""
    match = re.fullmatch(r"\d{1,9}(\.\d{1,3})?", text)
    if match is None or float(text) <= 0:
        refuse(f"{text!r} is no time; write a number of seconds above 0")
    return float(text)


def place(text: str) -> int:
    """Read a place in a chain, from 0."""
    if not re.fullmatch(r"\d{1,9}", text):
        refuse(f"{text!r} is no place; write a whole number from 0")
    return int(text)


def refuse(text: str) -> NoReturn:
    """Say what is wrong with a value. Raises: argparse.ArgumentTypeError."""
    raise argparse.ArgumentTypeError(text)


def duration(text: str) -> timedelta:
    """Read a duration such as 90s, 30m, 2h, 1h30m or 1d."""
    match = _DURATION.fullmatch(text)
    days, hours, minutes, seconds = (
        (int(part or 0) for part in match.groups()) if match else [0] * 4
    )
    found = timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)
    if not timedelta() < found <= DURATION_MAX:
        refuse(f"{text!r} is no duration; write it like 90s, 30m, 2h or 1h30m, at most 365d")
    return found


def token(text: str) -> str:
    """Read a name that fits into a subject."""
    if not re.fullmatch(TOKEN_PATTERN, text):
        refuse(f"{text!r} is no such name; it has 1 to 64 of A-Z a-z 0-9 _ -")
    return text
