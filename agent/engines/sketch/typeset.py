"""Type: text measured, wrapped, fitted into a room and set.

Widths are measured once per word at one size and scaled. It must not choose words or colours.
"""

import re
import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from typing import Final, Literal

import msgspec
from PIL import Image, ImageDraw

from agent.engines.sketch.canvas import Box, Point
from agent.engines.sketch.glyphs import FACES, FOLDER, Face, coverage, file_for, opened
from agent.engines.sketch.palette import RGB

Align = Literal["left", "center", "right"]

_GAUGE: Final = 64
"""The size in pixels at which words are measured."""

_CAP: Final = 0.73
"""Height of a capital letter, as a share of the size."""

_DROP: Final = 0.24
"""Depth of a descender, as a share of the size."""

_STEP: Final = 0.94
"""Each try at fitting is smaller by this factor."""

_SLACK: Final = 1.012
"""Hinting may make a word a little wider than its scaled gauge."""

_LONGEST: Final = 1500
"""Characters of a text that are looked at; no room here holds more."""

_BAR: Final = 0.78
"""Width of a placeholder for one character, as a share of the size."""

_HALVINGS: Final = 6
_JOINERS: Final = frozenset("\u200c\u200d")
_SELECTORS: Final = frozenset(map(chr, range(0xFE00, 0xFE10)))
_ELLIPSIS: Final = "\N{HORIZONTAL ELLIPSIS}"
_WIDE: Final = (
    "\u1100-\u115f\u2e80-\u9fff\ua960-\ua97f\uac00-\ud7ff\uf900-\ufaff\uff01-\uff60"
    "\U0001f300-\U0001faff\U00020000-\U0003ffff"
)
"""Scripts that are written without spaces, and emoji."""

_CLOSING: Final = "\u3001\u3002\u300b\u300d\u300f\u3011\uff01\uff09\uff0c\uff0e\uff1a\uff1b\uff1f"
"""Marks that never begin a line."""

_PIECE: Final = re.compile(f"[{_WIDE}][{_CLOSING}]*|[^{_WIDE}]+")
_RIGHT_TO_LEFT: Final = frozenset({"R", "AL"})


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """How a text may be set: sizes in pixels, `leading` as a multiple of the size."""

    face: Face
    largest: float
    smallest: float
    max_lines: int
    leading: float = 1.2
    balanced: bool = False


class Block(msgspec.Struct, frozen=True, kw_only=True):
    """A text as it was fitted. Units: pixels; `height` runs from capitals to descenders."""

    lines: tuple[str, ...]
    face: Face
    size: int
    leading: float
    width: float
    cut: bool = False

    @property
    def height(self) -> float:
        """From the top of the first capital to the last descender."""
        return (_CAP + _DROP) * self.size + max(0, len(self.lines) - 1) * self.leading


class _Run(msgspec.Struct, frozen=True):
    """Neighbouring characters of one font; without a file nothing on this machine has them."""

    text: str
    file: str | None


class _Word(msgspec.Struct, frozen=True):
    """What may not be broken, and whether a space stands before it."""

    text: str
    spaced: bool


def clean(text: str) -> str:
    """Return composed text on one line, without controls, surrogates and variation marks."""
    kept = (char for char in unicodedata.normalize("NFC", text) if not _invisible(char))
    return " ".join("".join(kept).split())


def width_of(text: str, face: Face, size: float) -> float:
    """Return the width of `text` on one line."""
    return _gauge(text, face) * size / _GAUGE * _SLACK


def fit(text: str, setting: Setting, width: float, height: float) -> Block:
    """Set `text` as large as the room allows; what does not fit at the smallest size is cut."""
    words = _words(clean(text[:_LONGEST]))
    size = setting.largest
    while size >= setting.smallest:
        block = _tried(words, setting, round(size), width)
        if block.height <= height and len(block.lines) <= setting.max_lines and not block.cut:
            return _balanced(words, setting, block) if setting.balanced else block
        size *= _STEP
    return _cut(
        _tried(_broken(words, setting, width), setting, _floor(setting), width),
        setting,
        width,
        height,
    )


def place(image: Image.Image, block: Block, at: Point, fill: RGB, align: Align = "left") -> None:
    """Set `block` with the top of its capitals at `at`: its left, middle or right end."""
    y = at[1] + _CAP * block.size
    for line in block.lines:
        _set_line(image, line, (at[0], y), block, (fill, align))
        y += block.leading


def place_in(image: Image.Image, block: Block, box: Box, fill: RGB) -> None:
    """Set `block` in the middle of `box`."""
    x, y = box.centre
    optical = block.height - _DROP * block.size
    place(image, block, (x, y - optical / 2), fill, "center")


def _set_line(
    image: Image.Image, line: str, at: Point, block: Block, look: tuple[RGB, Align]
) -> None:
    fill, align = look
    runs = list(_runs(line, block.face))
    widths = [_run_width(run, block.size) for run in runs]
    shift = {"left": 0.0, "center": 0.5, "right": 1.0}[align]
    x = at[0] - sum(widths) * shift
    pairs = list(zip(runs, widths, strict=True))
    draw = ImageDraw.Draw(image)
    for run, wide in reversed(pairs) if _backward(line) else pairs:
        if run.file is None:
            _placeholder(image, Box(x, at[1] - _CAP * block.size, x + wide, at[1]), fill)
        else:
            heavy = block.face != "text" and not run.file.endswith(FACES[block.face])
            draw.text(
                (x, at[1]),
                run.text,
                fill=fill,
                font=opened(run.file, block.size),
                anchor="ls",
                stroke_width=block.size / 40 if heavy else 0,
            )
        x += wide


def _placeholder(image: Image.Image, box: Box, fill: RGB) -> None:
    """Draw a soft bar where characters stand that no font here has."""
    gap = box.height * 0.12
    wide, high = max(2, round(box.width - 2 * gap)), max(2, round(box.height * 0.72))
    mask = Image.new("L", (wide * 4, high * 4), 0)
    ImageDraw.Draw(mask).rounded_rectangle((0, 0, wide * 4 - 1, high * 4 - 1), high * 2, fill=110)
    left, top = round(box.left + gap), round(box.centre[1] - high / 2)
    image.paste(fill, (left, top), mask.reduce(4))


def _invisible(char: str) -> bool:
    """Whether `char` leaves no mark: controls that are no space, surrogates, selectors."""
    if char.isspace():
        return False
    return unicodedata.category(char) in {"Cc", "Cs", "Co", "Cn"} or char in _SELECTORS


@lru_cache(maxsize=8192)
def _gauge(text: str, face: Face) -> float:
    return sum(_run_width(run, _GAUGE) for run in _runs(text, face))


def _run_width(run: _Run, size: int) -> float:
    if run.file is None:
        return len(run.text) * size * _BAR
    return opened(run.file, size).getlength(run.text)


def _runs(text: str, face: Face) -> Iterator[_Run]:
    """Split `text` where the font changes; spaces and marks stay with what precedes them."""
    start = 0
    file: str | None = str(FOLDER / FACES[face])
    for index, char in enumerate(text):
        wanted = file if _sticks(char, file) else file_for(char, face)
        if wanted != file:
            if index > start:
                yield _Run(text[start:index], file)
            start, file = index, wanted
    if start < len(text):
        yield _Run(text[start:], file)


def _sticks(char: str, file: str | None) -> bool:
    """Whether `char` is set in the font of the character before it."""
    if unicodedata.category(char)[0] == "M" or char in _JOINERS:
        return True
    if file is None:
        return False
    return char.isspace() or (not char.isalnum() and char in coverage(file))


def _backward(line: str) -> bool:
    """Whether the first letter of `line` belongs to a script written from right to left."""
    for char in line:
        kind = unicodedata.bidirectional(char)
        if kind in _RIGHT_TO_LEFT:
            return True
        if kind == "L":
            return False
    return False


def _words(text: str) -> list[_Word]:
    """Split at spaces, and between the characters of scripts that write without them."""
    return [
        _Word(piece, index == 0)
        for token in text.split(" ")
        for index, piece in enumerate(_PIECE.findall(token))
    ]


def _tried(words: list[_Word], setting: Setting, size: int, width: float) -> Block:
    """Fill lines at one size; `cut` says that a single word is wider than the room."""
    space = width_of(" ", setting.face, size)
    lines: list[str] = []
    line, used, widest, over = "", 0.0, 0.0, False
    for word in words:
        wide = width_of(word.text, setting.face, size)
        over = over or wide > width
        gap = space if word.spaced else 0.0
        if line and used + gap + wide > width:
            lines.append(line)
            line, used = word.text, wide
        elif line:
            line, used = line + (" " if word.spaced else "") + word.text, used + gap + wide
        else:
            line, used = word.text, wide
        widest = max(widest, used)
    lines.append(line)
    return Block(
        lines=tuple(lines),
        face=setting.face,
        size=size,
        width=widest,
        cut=over,
        leading=size * setting.leading,
    )


def _balanced(words: list[_Word], setting: Setting, block: Block) -> Block:
    """Return the same lines made as even as possible: the narrowest room of as many lines."""
    low, high, best = block.width / 2, block.width, block
    if len(block.lines) == 1:
        return block
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        tried = _tried(words, setting, block.size, middle)
        if tried.cut or len(tried.lines) > len(block.lines):
            low = middle
        else:
            high, best = middle, tried
    return best


def _floor(setting: Setting) -> int:
    return max(1, round(setting.smallest))


def _broken(words: list[_Word], setting: Setting, width: float) -> list[_Word]:
    """Break words that are wider than the room at the smallest size."""
    pieces = []
    for word in words:
        text, spaced = word.text, word.spaced
        while len(text) > 1 and width_of(text, setting.face, _floor(setting)) > width:
            share = width / width_of(text, setting.face, _floor(setting))
            keep = max(1, int(len(text) * share))
            while keep > 1 and width_of(text[:keep], setting.face, _floor(setting)) > width:
                keep -= 1
            pieces.append(_Word(text[:keep], spaced))
            text, spaced = text[keep:], False
        pieces.append(_Word(text, spaced))
    return pieces


def _cut(block: Block, setting: Setting, width: float, height: float) -> Block:
    """Keep the lines that the room holds and end the last one with an ellipsis."""
    spare = height - (_CAP + _DROP) * block.size
    count = max(1, min(setting.max_lines, int(spare / block.leading) + 1))
    if len(block.lines) <= count:
        return msgspec.structs.replace(block, cut=False)
    lines = list(block.lines[:count])
    last = lines[-1].rstrip(" ,;:.-")
    while last and width_of(last + _ELLIPSIS, block.face, block.size) > width:
        shorter = last.rsplit(" ", 1)[0] if " " in last else last[:-1]
        last = shorter.rstrip(" ,;:.-")
    lines[-1] = last + _ELLIPSIS
    return msgspec.structs.replace(block, lines=tuple(lines), cut=True)
