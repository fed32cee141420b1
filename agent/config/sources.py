"""Where values come from: the environment, `.env`, `mmg.toml` and files that hold a secret.

Finds for each setting the text that counts and the place it came from; judges no value.
"""

import re
import tomllib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from agent.config.row import Row
from agent.config.settings import CONFIG_NAME, FILE_SUFFIX, PREFIX, ROWS, SECTIONS

FILE_SIZE_MAX_BYTES: Final = 1024**2
ENVIRONMENT: Final = "environment"
DOTENV: Final = ".env"
TOML: Final = "mmg.toml"

_ASSIGNMENT: Final = re.compile(r"(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=\s*(.*)")
_QUOTED: Final = re.compile(r"""(?:'([^']*)'|"((?:[^"\\]|\\.)*)")\s*(?:#.*)?""")
_ESCAPE: Final = re.compile(r"\\(.)")
_ESCAPES: Final[Mapping[str, str]] = {"n": "\n", "r": "\r", "t": "\t"}


class Text(msgspec.Struct, frozen=True, kw_only=True):
    """A value as it was written, and where."""

    value: str
    origin: str


class Found(msgspec.Struct, kw_only=True):
    """What the sources say: a text for each name that is set, and what is wrong with them."""

    texts: dict[str, Text]
    faults: list[str]
    warnings: list[str]


class _SourceFault(Exception):
    """A source that cannot be read."""


def collect(environ: Mapping[str, str], directory: Path) -> Found:
    """Read all sources, each once; the environment counts before `.env` before the toml file."""
    found = Found(texts={}, faults=[], warnings=[])
    dotenv = _dotenv(directory / DOTENV, found)
    named = environ.get(CONFIG_NAME, "").strip() or dotenv.get(CONFIG_NAME, "").strip()
    layers = (
        (ENVIRONMENT, environ),
        (DOTENV, dotenv),
        (named or TOML, _toml(directory / (named or TOML), named, found)),
    )
    known = {*(row.name for row in ROWS), *_file_names(), CONFIG_NAME}
    for origin, layer in layers[:2]:
        found.warnings += [
            f"{name} ({origin}): no setting of this version has this name{_guess(name, known)}"
            for name in sorted(layer)
            if name.startswith(PREFIX) and name not in known
        ]
    for row in ROWS:
        for origin, layer in layers:
            if (text := _take(row, origin, layer, directory, found)) is not None:
                found.texts[row.name] = text
                break
    return found


def _take(
    row: Row, origin: str, layer: Mapping[str, str], directory: Path, found: Found
) -> Text | None:
    """Return the setting's text in one layer, read from its file where one is named."""
    direct = layer.get(row.name, "").strip()
    if row.hide == "nothing":
        return Text(value=direct, origin=origin) if direct else None
    name = row.name + FILE_SUFFIX
    path = layer.get(name, "").strip()
    if direct and path:
        found.faults.append(f"{row.name} and {name} ({origin}): only one of the two may be set")
        return None
    if not path:
        return Text(value=direct, origin=origin) if direct else None
    try:
        value = (_read(directory / path) or "").strip()
    except _SourceFault as error:
        found.faults.append(f"{name} = {path!r} ({origin}): {error}; allowed: a readable file")
        return None
    if not value:
        found.faults.append(f"{name} = {path!r} ({origin}): nothing there; allowed: a text file")
        return None
    return Text(value=value, origin=f"{origin}, {name}")


def _file_names() -> set[str]:
    return {row.name + FILE_SUFFIX for row in ROWS if row.hide != "nothing"}


def _guess(name: str, known: Iterable[str]) -> str:
    from difflib import get_close_matches  # noqa: PLC0415 - only where there is something wrong

    close = get_close_matches(name, sorted(known), n=1, cutoff=0.7)
    return f"; did you mean {close[0]}?" if close else ""


def _read(path: Path) -> str | None:
    """Return a small text file, None where there is no such file. Raises: _SourceFault."""
    try:
        with path.open("rb") as file:
            raw = file.read(FILE_SIZE_MAX_BYTES + 1)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = error.strerror if isinstance(error, OSError) else None
        raise _SourceFault(f"cannot be read: {reason or error}") from error
    if len(raw) > FILE_SIZE_MAX_BYTES:
        raise _SourceFault(f"is larger than {FILE_SIZE_MAX_BYTES} bytes")
    try:
        return raw.decode("utf-8-sig")  # editors on Windows put a mark in front
    except UnicodeDecodeError as error:
        raise _SourceFault("is not UTF-8 text") from error


def _dotenv(path: Path, found: Found) -> dict[str, str]:
    """Read `.env`: NAME=value, `export` in front, quotes, comments; nothing is expanded."""
    try:
        text = _read(path)
    except _SourceFault as error:
        found.faults.append(f"{DOTENV} {error}")
        return {}
    values: dict[str, str] = {}
    for number, line in enumerate((text or "").splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        match = _ASSIGNMENT.fullmatch(line.strip())
        value = _unquote(match[2]) if match else None
        if match is None or value is None:
            # The line itself stays unsaid: it may hold a secret.
            found.faults.append(
                f"{DOTENV} line {number}: not a setting; allowed: NAME=value, NAME='value',"
                ' NAME="value" on one line, comments after #'
            )
            continue
        values[match[1]] = value
    return values


def _unquote(text: str) -> str | None:
    """Return the value without quotes and comment, None where the quotes do not close."""
    if not text.startswith(("'", '"')):
        return re.split(r"(?:^|\s)#", text, maxsplit=1)[0].strip()
    if (match := _QUOTED.fullmatch(text)) is None:
        return None
    if match[1] is not None:
        return match[1]
    return _ESCAPE.sub(lambda escape: _ESCAPES.get(escape[1], escape[1]), match[2])


def _toml(path: Path, named: str, found: Found) -> dict[str, str]:
    """Read the toml file into setting names and texts; unknown tables and keys are faults."""
    label = named or TOML
    try:
        text = _read(path)
    except _SourceFault as error:
        found.faults.append(f"{label} {error}")
        return {}
    if text is None:
        if named:
            found.faults.append(f"{CONFIG_NAME} = {named!r}: there is no such file")
        return {}
    try:
        tables = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # also a number with thousands of digits
        found.faults.append(f"{label}: not TOML: {error}")
        return {}
    values: dict[str, str] = {}
    for section, table in tables.items():
        if section not in SECTIONS:
            hint = _guess(section, SECTIONS) or f"; there are {', '.join(SECTIONS)}"
            found.faults.append(f"{label}: there is no table {section!r}{hint}")
        elif not isinstance(table, dict):
            found.faults.append(f"{label}: {section!r} is a table: write [{section}]")
        else:
            _table(section, table, label, values, found)
    return values


def _table(
    section: str, table: Mapping[str, object], label: str, values: dict[str, str], found: Found
) -> None:
    rows = [row for row in ROWS if row.section == section]
    names = {row.key: row.name for row in rows}
    names |= {f"{r.key}_file": r.name + FILE_SUFFIX for r in rows if r.hide != "nothing"}
    for key, value in table.items():
        if key not in names:
            hint = _guess(key, names) or f"; there are {', '.join(names)}"
            found.faults.append(f"{label}: [{section}] has no key {key!r}{hint}")
        elif (text := _as_text(value)) is None:
            found.faults.append(
                f"{label}: [{section}] {key} is a {type(value).__name__};"
                " allowed: a string, a number, true or false, a list of strings"
            )
        else:
            values[names[key]] = text


def _as_text(value: object) -> str | None:
    """Return a TOML value as it would stand in the environment, None if it never could."""
    text: str | None = None
    match value:
        case bool():
            text = str(value).lower()
        case str():
            text = value
        case int() | float():
            with suppress(ValueError):  # more digits than Python writes; no number here has so many
                text = str(value)
        case list() if all(isinstance(item, str) for item in value):
            text = ",".join(value)
        case dict() if all(isinstance(item, int) for item in value.values()):
            text = ",".join(f"{kind}:{_as_text(count)}" for kind, count in value.items())
        case _:
            pass
    return text
