"""The colours of one picture, derived from the few that a brand names.

Pure arithmetic on colours. It must not draw and must not know a style.
"""

import colorsys
import random
import re
from collections.abc import Sequence
from typing import Final

import msgspec

RGB = tuple[int, int, int]

BLACK: Final[RGB] = (0, 0, 0)
WHITE: Final[RGB] = (255, 255, 255)
LEGIBLE: Final = 4.5
"""Contrast that WCAG 2.1 AA asks of body text; black or white always reaches it."""

_VISIBLE: Final = 1.6
"""Contrast under which an accent would sink into the ground."""

_DARK: Final = 0.18
"""Relative luminance under which a ground counts as dark."""

_GREY: Final = 0.12
"""Saturation under which a colour has no hue worth keeping."""

_ACCENTS: Final = 4
_FALLBACK: Final = ("#f6f3ec", "#17223b", "#d9583b", "#2f7f79", "#e3a73f", "#6d7fb3")
_HEX: Final = re.compile(r"#[0-9a-fA-F]{6}")


class Palette(msgspec.Struct, frozen=True, kw_only=True):
    """Colours by their part: `panel` is a quiet ground, `line` a hairline, `muted` small type."""

    ground: RGB
    ink: RGB
    muted: RGB
    line: RGB
    panel: RGB
    accents: tuple[RGB, ...]

    @property
    def dark(self) -> bool:
        """Whether the ground is a dark one."""
        return luminance(self.ground) < _DARK


def parse(text: str) -> RGB:
    """Read `#rrggbb`."""
    return (int(text[1:3], 16), int(text[3:5], 16), int(text[5:7], 16))


def mix(first: RGB, second: RGB, share: float) -> RGB:
    """Blend two colours; `share` 0 is the first, 1 the second."""
    return (
        round(first[0] + (second[0] - first[0]) * share),
        round(first[1] + (second[1] - first[1]) * share),
        round(first[2] + (second[2] - first[2]) * share),
    )


def luminance(colour: RGB) -> float:
    """Return the relative luminance.

    Source: WCAG 2.1, definition of relative luminance.
    """
    red, green, blue = (_linear(channel / 255) for channel in colour)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(first: RGB, second: RGB) -> float:
    """Return the contrast ratio of two colours, from 1 to 21."""
    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


def legible(ground: RGB, *wishes: RGB) -> RGB:
    """Return the first wish that can be read on `ground`, if need be moved to black or white."""
    end = max((BLACK, WHITE), key=lambda colour: contrast(colour, ground))
    for share in (0.0, 0.3, 0.6):
        for wish in wishes:
            near = mix(wish, end, share)
            if contrast(near, ground) >= LEGIBLE:
                return near
    return end


def quiet(ground: RGB, ink: RGB) -> RGB:
    """Return the softest blend of `ink` into `ground` that can still be read."""
    for share in (0.62, 0.7, 0.78, 0.86, 0.94):
        blend = mix(ground, ink, share)
        if contrast(blend, ground) >= LEGIBLE:
            return blend
    return legible(ground, ink)


def derive(colours: Sequence[str], dice: random.Random) -> Palette:
    """Build the palette of one picture; `dice` only turns the order of the accents."""
    named = [parse(colour) for colour in colours if _HEX.fullmatch(colour)]
    if len(named) < 2:  # noqa: PLR2004 - a ground and an ink
        named = [parse(colour) for colour in _FALLBACK]
    ground, ink = named[0], legible(named[0], named[1])
    accents = [c for c in dict.fromkeys(named[2:]) if contrast(c, ground) >= _VISIBLE]
    accents = accents or [_kin(ground, ink, 0.0)]
    turn = 0.0
    while len(accents) < _ACCENTS:
        turn += 0.09
        accents.append(_kin(ground, accents[0], turn))
    start = dice.randrange(len(accents))
    return on_ground(ground, ink, tuple(accents[start:] + accents[:start]))


def on_ground(ground: RGB, ink: RGB, accents: tuple[RGB, ...]) -> Palette:
    """Place the given colours on `ground`; ink gives way where it could not be read."""
    ink = legible(ground, ink)
    return Palette(
        ground=ground,
        ink=ink,
        muted=quiet(ground, ink),
        line=mix(ground, ink, 0.22),
        panel=mix(ground, ink, 0.06),
        accents=accents,
    )


def inverted(palette: Palette) -> Palette:
    """Return the same colours on the ink as ground."""
    lifted = tuple(
        c if contrast(c, palette.ink) >= _VISIBLE else palette.ground for c in palette.accents
    )
    return on_ground(palette.ink, palette.ground, lifted)


def tinted(palette: Palette) -> Palette:
    """Return the same colours on a ground with a breath of the first accent."""
    ground = mix(palette.ground, palette.accents[0], 0.14)
    return on_ground(ground, palette.ink, palette.accents)


def _kin(ground: RGB, seed: RGB, turn: float) -> RGB:
    """Return a colour related to `seed`, its hue turned, visible on `ground`."""
    hue, light, strength = colorsys.rgb_to_hls(*(channel / 255 for channel in seed))
    if strength < _GREY:
        hue, strength = 0.04, 0.5
    light = 0.62 if luminance(ground) < _DARK else 0.46
    light += 0.1 if turn > 0.1 else 0.0  # noqa: PLR2004 - each second one a little lighter
    made = colorsys.hls_to_rgb((hue + turn) % 1.0, light, min(0.62, max(0.35, strength)))
    colour = (round(made[0] * 255), round(made[1] * 255), round(made[2] * 255))
    return colour if contrast(colour, ground) >= _VISIBLE else mix(colour, legible(ground), 0.5)


def _linear(channel: float) -> float:
    """Undo the sRGB transfer curve."""
    if channel <= 0.04045:  # noqa: PLR2004 - the curve's own constant
        return channel / 12.92
    return float(((channel + 0.055) / 1.055) ** 2.4)
