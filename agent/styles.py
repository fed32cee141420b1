"""Reads the styles: `styles.toml` in the folder of workflows, one table for each style.

Only reads and judges; what a style means is in `agent.core.catalog`.
"""

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

from agent.core.catalog import StyleBook, StyleSheet
from contracts.requests import Style

FILE_NAME: Final = "styles.toml"
DEFAULT: Final = "default"
COLOURS_MIN: Final = 2
FILE_SIZE_MAX_BYTES: Final = 1024**2

_COLOUR: Final = re.compile(r"#[0-9A-Fa-f]{6}")
_AT: Final = re.compile(r"^(?P<what>.*?) - at `(?:key in )?\$\.?(?P<field>[^`]*)`$", re.DOTALL)


class StyleError(Exception):
    """The styles cannot be used; the text names file, table and field."""


def load_styles(directory: Path) -> StyleBook:
    """Read all styles of a folder of workflows.

    Raises: StyleError naming the first thing that is wrong.
    """
    path = directory / FILE_NAME
    tables = _read(path)
    needed = (DEFAULT, *(style.value for style in Style))
    for name in tables:
        if name not in needed:
            raise StyleError(f"{path}: [{name}] is no style; there are {', '.join(needed)}")
    for name in needed:
        if name not in tables:
            raise StyleError(f"{path}: the table [{name}] is missing")
    return {name: _sheet(path, name, tables[name]) for name in needed}


def _read(path: Path) -> Mapping[str, object]:
    try:
        with path.open("rb") as file:
            raw = file.read(FILE_SIZE_MAX_BYTES + 1)
    except OSError as error:
        raise StyleError(f"{path} cannot be read: {error.strerror or error}") from error
    if len(raw) > FILE_SIZE_MAX_BYTES:
        raise StyleError(f"{path} is larger than {FILE_SIZE_MAX_BYTES} bytes")
    try:
        return tomllib.loads(raw.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise StyleError(f"{path} is not TOML: {error}") from error


def _sheet(path: Path, name: str, table: object) -> StyleSheet:
    """Turn one table into a sheet. Raises: StyleError."""
    try:
        sheet = msgspec.convert(table, StyleSheet)
    except msgspec.ValidationError as error:
        match = _AT.match(str(error))
        field = match["field"] if match else ""
        what = match["what"] if match else str(error)
        raise StyleError(f"{_place(path, name, field)}: {what}") from error
    palette = sheet.brand.palette
    if len(palette) < COLOURS_MIN:
        raise StyleError(
            f"{_place(path, name, 'brand.palette')}: {len(palette)} colours, at least"
            f" {COLOURS_MIN}: background, ink, then accents"
        )
    for number, colour in enumerate(palette):
        if not _COLOUR.fullmatch(colour):
            place = _place(path, name, f"brand.palette[{number}]")
            raise StyleError(f"{place}: {colour!r} is not a colour; write #rrggbb")
    return sheet


def _place(path: Path, name: str, field: str) -> str:
    return f"{path}: [{name}] {field}".rstrip()
