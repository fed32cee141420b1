"""What one picture is asked to be: plain values, no engine and no thread.

It must not draw.
"""

import random
from collections.abc import Generator
from typing import Final

import msgspec
from PIL import Image

from agent.engines.sketch.glyphs import Face
from agent.engines.sketch.palette import Palette


class Brief(msgspec.Struct, frozen=True, kw_only=True):
    """One picture. Units: `width` and `height` in pixels."""

    prompt: str
    style: str | None
    colours: tuple[str, ...]
    mark: str
    face: Face | None
    width: int
    height: int
    seed: int


class Studio(msgspec.Struct, frozen=True, kw_only=True):
    """A brief with its palette and its dice."""

    brief: Brief
    palette: Palette
    dice: random.Random

    def title_face(self) -> Face:
        """Return the face of the brand, else one of two by the dice."""
        if self.brief.face is not None:
            return self.brief.face
        return "serif" if self.dice.randrange(2) else "display"


Stages = Generator[str, None, Image.Image]
"""Yields the name of each stage when it is done, `STAGES - 1` of them; returns the picture."""

STAGES: Final = 8
"""Stages of one picture; the last one is the encoding, which is no style's business."""


def dice_for(seed: int) -> random.Random:
    """Return the dice of one picture."""
    return random.Random(seed)  # noqa: S311 - a picture needs repeatable dice, not secrets


def seed_of(seed: int, index: int) -> int:
    """Return the seed of picture `index`; the first has the seed of the job.

    Source: splitmix64 by S. Vigna, the finaliser.
    """
    if index == 0:
        return seed
    mask = (1 << 64) - 1
    state = (seed + index * 0x9E3779B97F4A7C15) & mask
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & mask
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & mask
    return (state ^ (state >> 31)) & 0xFFFFFFFF
