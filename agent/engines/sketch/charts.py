"""Charts and chart-like shapes of the infographic.

`donut`, `bar` and `tally` show a given share truthfully; `SHAPES` are plainly illustrative and
carry no number. It must not set type.
"""

import math
import random
from collections.abc import Callable
from typing import Final

from agent.engines.sketch.canvas import Box, Canvas
from agent.engines.sketch.palette import RGB, Palette, mix

Shape = Callable[[Canvas, Box, Palette, random.Random], None]


def donut(canvas: Canvas, box: Box, share: float, pair: tuple[RGB, RGB]) -> None:
    """Draw a ring of which `share` is filled; `pair` is the filled colour and the rest."""
    radius = min(box.width, box.height) / 2
    thick = radius * 0.24
    canvas.ring(box.centre, radius, pair[1], thick)
    if share > 0:
        canvas.arc(box.centre, radius, (-90, -90 + 360 * min(1.0, share)), pair[0], thick)


def bar(canvas: Canvas, box: Box, share: float, pair: tuple[RGB, RGB]) -> None:
    """Draw a bar of which `share` is filled."""
    radius = box.height / 2
    canvas.rectangle(box, pair[1], radius)
    if share > 0:
        wide = max(box.height, box.width * min(1.0, share))
        canvas.rectangle(Box(box.left, box.top, box.left + wide, box.bottom), pair[0], radius)


def tally(canvas: Canvas, box: Box, share: float, pair: tuple[RGB, RGB]) -> None:
    """Draw ten discs in a row of which `share`, a number of tenths, are filled."""
    pitch = box.width / 10
    for place in range(10):
        centre = (box.left + (place + 0.5) * pitch, box.centre[1])
        canvas.disc(
            centre,
            min(pitch * 0.36, box.height / 2),
            pair[0] if place < round(share * 10) else pair[1],
        )


def area(canvas: Canvas, box: Box, palette: Palette, dice: random.Random) -> None:
    """Two soft hills, one before the other."""
    for layer in range(2):
        pace, start = dice.uniform(1.2, 2.4), dice.uniform(0, math.tau)
        tone = mix(palette.panel, palette.accents[layer], 0.45 + 0.55 * layer)
        points = [(box.left, box.bottom)]
        for step in range(41):
            x = step / 40
            rise = 0.34 + 0.2 * math.sin(pace * x * math.pi + start) + 0.3 * x * (1 - layer * 0.6)
            points.append((box.left + x * box.width, box.bottom - box.height * rise))
        canvas.polygon([*points, (box.right, box.bottom)], tone)


def columns(canvas: Canvas, box: Box, palette: Palette, dice: random.Random) -> None:
    """Columns of uneven height, one of them stressed."""
    count = dice.randint(5, 7)
    pitch = box.width / count
    chosen = dice.randrange(count)
    for place in range(count):
        high = box.height * dice.uniform(0.25, 0.95)
        tone = palette.accents[0] if place == chosen else mix(palette.panel, palette.ink, 0.3)
        canvas.rectangle(
            Box(
                box.left + (place + 0.16) * pitch,
                box.bottom - high,
                box.left + (place + 0.84) * pitch,
                box.bottom,
            ),
            tone,
            pitch * 0.1,
        )


def rings(canvas: Canvas, box: Box, palette: Palette, dice: random.Random) -> None:
    """Three arcs around one middle."""
    radius = min(box.width, box.height) / 2
    for ring in range(3):
        reach = radius * (1 - ring * 0.3)
        canvas.ring(box.centre, reach, mix(palette.panel, palette.ink, 0.14), radius * 0.17)
        start = dice.uniform(0, 360)
        canvas.arc(
            box.centre,
            reach,
            (start, start + dice.uniform(90, 250)),
            palette.accents[ring],
            radius * 0.17,
        )


def field(canvas: Canvas, box: Box, palette: Palette, dice: random.Random) -> None:
    """A grid of discs, some in an accent."""
    rows = 5
    pitch = box.height / rows
    count = max(3, int(box.width / pitch))
    left = box.centre[0] - count * pitch / 2
    for row in range(rows):
        for column in range(count):
            tone = (
                palette.accents[dice.randrange(2)]
                if dice.random() < 0.4  # noqa: PLR2004
                else mix(palette.panel, palette.ink, 0.2)
            )
            canvas.disc(
                (left + (column + 0.5) * pitch, box.top + (row + 0.5) * pitch), pitch * 0.3, tone
            )


def web(canvas: Canvas, box: Box, palette: Palette, dice: random.Random) -> None:
    """Points joined to a middle one."""
    spots = []
    for place in range(6):
        angle = math.tau * (place + dice.uniform(-0.25, 0.25)) / 6
        reach = dice.uniform(0.62, 0.9)
        spots.append(
            (
                box.centre[0] + math.cos(angle) * reach * box.width * 0.42,
                box.centre[1] + math.sin(angle) * reach * box.height * 0.46,
            )
        )
    size = min(box.width, box.height)
    tone = mix(palette.panel, palette.ink, 0.45)
    for one, two in zip(spots, [*spots[1:], spots[0]], strict=True):
        canvas.line([box.centre, one], tone, size * 0.018)
        canvas.line([one, two], mix(palette.panel, palette.ink, 0.2), size * 0.012)
    for place, spot in enumerate(spots):
        canvas.disc(spot, size * dice.uniform(0.05, 0.085), palette.accents[place % 3])
    canvas.disc(box.centre, size * 0.13, palette.ink)


SHAPES: Final[tuple[Shape, ...]] = (area, columns, rings, field, web)
