"""What a request's options mean: sizes, styles, models. Pure data and look-ups.

It must not know an engine; engines say which models they have.
"""

import zlib
from typing import Final, Literal

import msgspec

from contracts.requests import AspectRatio, Options, Style
from contracts.subjects import Identity

SIZES: Final[dict[AspectRatio, tuple[int, int]]] = {
    AspectRatio.SQUARE: (1024, 1024),
    AspectRatio.WIDE: (1344, 768),
    AspectRatio.CLASSIC: (1152, 896),
    AspectRatio.TALL: (768, 1344),
}
"""Width and height in pixels: SDXL's training sizes, so that every engine shares them."""


class StyleSheet(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One table of `workflows/styles.toml`: what a style adds to a request."""

    class Sampler(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
        """Sampler settings that suit the style, where the request gives none."""

        steps: int | None = None
        cfg: float | None = None

    class Marks(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
        """Brand: `palette` is background, ink, accents as #rrggbb."""

        palette: tuple[str, ...]
        logo: str | None = None
        font: str | None = None

    prompt_prefix: str = ""
    prompt_suffix: str = ""
    negative: str = ""
    aspect_ratio: AspectRatio = AspectRatio.SQUARE
    route: Literal["any", "local", "cloud"] = "any"
    sampler: Sampler = Sampler()
    brand: Marks


StyleBook = dict[str, StyleSheet]
"""Style name -> sheet; `default` is used when a request names no style."""


def sheet(book: StyleBook, style: Style | None) -> StyleSheet:
    """Return the sheet of a style, or the default one."""
    return book[style.value if style is not None else "default"]


def size(options: Options, style: StyleSheet) -> tuple[int, int]:
    """Return width and height in pixels: asked for, else by aspect ratio, else by style."""
    if options.width is not None and options.height is not None:
        return options.width, options.height
    return SIZES[options.aspect_ratio or style.aspect_ratio]


def words(prompt: str, style: StyleSheet, options: Options) -> tuple[str, str]:
    """Return prompt and negative prompt for an engine that has a model.

    The style's prefix and suffix stand around the user's words; a negative prompt of the
    request, also an empty one, replaces the style's.
    """
    asked = options.negative_prompt
    negative = asked if asked is not None else style.negative
    return f"{style.prompt_prefix}{prompt.strip()}{style.prompt_suffix}", negative.strip()


def seed_for(who: Identity) -> int:
    """Return the seed of a request that names none: drawn from its identity.

    So a second attempt, after a crash or on another worker, draws the same picture.
    """
    return zlib.crc32(str(who).encode())
