"""Font files: which one has a character, and the opened font for a size.

Characters are looked up in the fonts' own tables. It must not measure or draw text.
"""

import struct
from bisect import bisect_right
from functools import lru_cache
from pathlib import Path
from typing import Final, Literal

from PIL import ImageFont

Face = Literal["display", "serif", "bold", "text"]

FOLDER: Final = Path(__file__).parent / "fonts"
FACES: Final[dict[Face, str]] = {
    "display": "InterDisplay-Bold.otf",
    "serif": "NotoSerifDisplay-Bold.ttf",
    "bold": "Inter-SemiBold.otf",
    "text": "Inter-Regular.otf",
}
FALLBACKS: Final = ("DejaVuSans.ttf", "NotoSansDevanagari-Regular.ttf", "NotoSansThai-Regular.ttf")
INSTALLED: Final = (
    "NotoSansCJK-Regular.ttc",
    "NotoSansCJKsc-Regular.otf",
    "wqy-microhei.ttc",
    "msyh.ttc",
    "malgun.ttf",
    "PingFang.ttc",
    "Hiragino Sans GB.ttc",
    "Arial Unicode.ttf",
    "arialuni.ttf",
)
"""Names that Pillow looks for in the system's font folders when no font of ours has a character."""


_LAST: Final = 0xFFFF
"""The range that closes a subtable of format 4 and holds no character."""


class Coverage:
    """The characters of one font file, read from its `cmap` table.

    Source: OpenType 1.9, `cmap`, formats 4 and 12. Both are read as ranges; a glyph 0 inside a
    range of format 4 is not looked for, as fonts in use leave such holes out of their ranges.
    """

    def __init__(self, path: Path) -> None:
        """Read the ranges; a file that is no font has none."""
        ranges = sorted(_ranges(path.read_bytes()))
        self._starts = [first for first, _ in ranges]
        self._ends = [last for _, last in ranges]

    def __contains__(self, char: str) -> bool:
        """Whether the font has a glyph for `char`."""
        code = ord(char)
        place = bisect_right(self._starts, code) - 1
        return place >= 0 and code <= self._ends[place]


@lru_cache(maxsize=32)
def coverage(file: str) -> Coverage:
    """Return what the font `file` covers."""
    return Coverage(Path(file))


@lru_cache(maxsize=512)
def opened(file: str, size: int) -> ImageFont.FreeTypeFont:
    """Open `file` at `size` pixels."""
    return ImageFont.truetype(file, size)


@lru_cache(maxsize=4096)
def file_for(char: str, face: Face) -> str | None:
    """Return the font file that sets `char` in `face`, None if there is none anywhere."""
    for name in (FACES[face], *FALLBACKS):
        file = str(FOLDER / name)
        if char in coverage(file):
            return file
    return next((file for file in _installed() if char in coverage(file)), None)


@lru_cache(maxsize=1)
def _installed() -> tuple[str, ...]:
    """Return the files of the wide fonts that this machine has."""
    found = []
    for name in INSTALLED:
        try:
            path = ImageFont.truetype(name, 16).path
        except OSError:
            continue
        if isinstance(path, str):
            found.append(path)
    return tuple(found)


def _ranges(data: bytes) -> list[tuple[int, int]]:
    """Return the character ranges of the best `cmap` subtable."""
    start = struct.unpack_from(">L", data, 12)[0] if data[:4] == b"ttcf" else 0
    tables = struct.unpack_from(">H", data, start + 4)[0]
    for place in range(start + 12, start + 12 + 16 * tables, 16):
        tag, _, offset, _ = struct.unpack_from(">4sLLL", data, place)
        if tag == b"cmap":
            return _best(data, offset)
    return []


def _best(data: bytes, cmap: int) -> list[tuple[int, int]]:
    """Return the widest set of ranges among the Unicode subtables at `cmap`."""
    found: list[list[tuple[int, int]]] = [[]]
    for place in range(struct.unpack_from(">H", data, cmap + 2)[0]):
        platform, _, offset = struct.unpack_from(">HHL", data, cmap + 4 + 8 * place)
        table = cmap + offset
        if platform not in (0, 3):
            continue
        match struct.unpack_from(">H", data, table)[0]:
            case 12:
                groups = struct.unpack_from(">L", data, table + 12)[0]
                found.append(
                    [struct.unpack_from(">LL", data, table + 16 + 12 * n) for n in range(groups)]
                )
            case 4:
                size = struct.unpack_from(">H", data, table + 6)[0]
                ends = struct.unpack_from(f">{size // 2}H", data, table + 14)
                starts = struct.unpack_from(f">{size // 2}H", data, table + 16 + size)
                found.append([pair for pair in zip(starts, ends, strict=True) if pair[0] != _LAST])
            case _:
                pass
    return max(found, key=lambda ranges: sum(last - first + 1 for first, last in ranges))
