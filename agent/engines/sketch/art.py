"""Generative art: families of pattern that fill a canvas, each from seeded dice.

Every family takes a canvas, a palette and dice. It must not set type; it names no fact.
"""

import math
import random
from collections.abc import Callable
from typing import Final

from PIL import Image

from agent.engines.sketch.canvas import Box, Canvas, Point
from agent.engines.sketch.palette import BLACK, RGB, Palette, luminance, mix

_COARSE: Final = 48
"""Points of a height map along the side of a square."""

Family = Callable[[Canvas, Palette, random.Random], None]


def ridges(canvas: Canvas, palette: Palette, dice: random.Random) -> None:
    """Layered hills under a disc, from far and pale to near and strong."""
    wide, high = canvas.width, canvas.height
    tone = palette.accents[0]
    far, near = mix(palette.ground, tone, 0.3), mix(tone, palette.ink, 0.5)
    if palette.dark:
        far, near = mix(palette.ground, tone, 0.9), mix(palette.ground, tone, 0.12)
    centre = (wide * dice.uniform(0.22, 0.78), high * dice.uniform(0.24, 0.4))
    canvas.disc(centre, min(wide, high) * dice.uniform(0.13, 0.2), palette.accents[2])
    layers = dice.randint(6, 9)
    for layer in range(layers):
        depth = layer / (layers - 1)
        waves = [
            (dice.uniform(0.6, 3.4) * (k + 1), dice.uniform(0, math.tau), 0.5**k) for k in range(4)
        ]
        level = high * (0.36 + 0.56 * depth)
        reach = high * (0.055 + 0.05 * depth)
        points: list[Point] = [(0.0, float(high))]
        for step in range(121):
            x = step / 120
            swing = sum(size * math.sin(pace * x * math.pi + start) for pace, start, size in waves)
            points.append((x * wide, level - reach * swing))
        points.append((float(wide), float(high)))
        canvas.polygon(points, mix(far, near, depth))


def flow(canvas: Canvas, palette: Palette, dice: random.Random) -> None:
    """Long lines that follow a field of slow turns."""
    wide, high = canvas.width, canvas.height
    size = math.sqrt(wide * high)
    turns = [
        (dice.uniform(1.2, 3.2), dice.uniform(1.2, 3.2), dice.uniform(0, math.tau))
        for _ in range(3)
    ]
    lean = dice.uniform(0, math.tau)
    tones = (*palette.accents[:3], mix(palette.ground, palette.ink, 0.75))
    stride = size / 85
    for number in range(460):
        x, y = dice.uniform(-0.1, 1.1) * wide, dice.uniform(-0.1, 1.1) * high
        points = []
        for _ in range(dice.randint(14, 46)):
            points.append((x, y))
            angle = lean + sum(math.sin(a * x / size + b * y / size + c) for a, b, c in turns)
            x, y = x + stride * math.cos(angle), y + stride * math.sin(angle)
        tone = mix(palette.ground, tones[number * number % len(tones)], dice.uniform(0.45, 1.0))
        canvas.hairline(points, tone, size * dice.choice((0.0016, 0.0024, 0.0045)))


def contours(canvas: Canvas, palette: Palette, dice: random.Random) -> None:
    """Terraces of a smooth height map, like a relief cut from paper."""
    size = math.sqrt(canvas.width * canvas.height)
    waves = [
        (dice.uniform(-6.5, 6.5), dice.uniform(-6.5, 6.5), dice.uniform(0, math.tau))
        for _ in range(5)
    ]
    across, down = (round(_COARSE * side / size) for side in (canvas.width, canvas.height))
    heights = [
        sum(math.sin((a * x + b * y) / _COARSE + c) for a, b, c in waves)
        for y in range(down)
        for x in range(across)
    ]
    low, high = min(heights), max(heights)
    field = Image.new("F", (across, down))
    field.putdata([2 + 251 * (height - low) / (high - low) for height in heights])
    large = field.resize(canvas.image.size, Image.Resampling.BICUBIC).convert("L")
    bands = dice.randint(9, 12)
    edge = mix(palette.ground, palette.ink, 0.5)
    tone = min(palette.accents[:3], key=luminance)
    stops = (
        mix(palette.ground, tone, 0.12),
        tone,
        mix(tone, BLACK if palette.dark else palette.ink, 0.62),
    )
    colours: list[int] = []
    for level in range(256):
        share = (level * bands // 256) / (bands - 1)
        place = min(len(stops) - 2, int(share * (len(stops) - 1)))
        shade = mix(stops[place], stops[place + 1], share * (len(stops) - 1) - place)
        colours += shade if level * bands % 256 >= bands else mix(shade, edge, 0.35)
    large.putpalette(colours)
    canvas.image.paste(large.convert("RGB"))


def mosaic(canvas: Canvas, palette: Palette, dice: random.Random) -> None:
    """Tiles of quarter circles, discs and triangles on a square grid."""
    count = dice.choice((4, 5, 6))
    side = math.sqrt(canvas.width * canvas.height) / count
    columns = max(2, round(canvas.width / side))
    side = canvas.width / columns
    rows = math.ceil(canvas.height / side)
    tones = (
        palette.ground,
        palette.panel,
        *palette.accents[:3],
        mix(palette.ink, palette.accents[0], 0.2),
    )
    weights = (5, 3, 4, 3, 2, 2)
    for row in range(rows):
        for column in range(columns):
            under, over = _two(tones, weights, dice)
            box = Box(column * side, row * side, (column + 1) * side, (row + 1) * side)
            canvas.rectangle(box, under)
            tile(canvas, box, (under, over), dice)


def orbits(canvas: Canvas, palette: Palette, dice: random.Random) -> None:
    """Rings around one point, some of them thick arcs, with bodies on their way."""
    wide, high = canvas.width, canvas.height
    centre = (wide * dice.uniform(0.3, 0.7), high * dice.uniform(0.35, 0.65))
    reach = math.hypot(wide, high) * 0.62
    count = dice.randint(10, 14)
    canvas.disc(centre, reach * 0.09, palette.accents[0])
    for ring in range(1, count):
        radius = reach * (0.12 + 0.88 * ring / count)
        canvas.ring(centre, radius, mix(palette.ground, palette.ink, 0.3), reach * 0.0022)
        if dice.random() < 0.62:  # noqa: PLR2004 - most rings carry an arc
            start = dice.uniform(0, 360)
            tone = palette.accents[ring % 3]
            canvas.arc(
                centre,
                radius + reach * 0.016,
                (start, start + dice.uniform(40, 170)),
                tone,
                reach * 0.032,
            )
        angle = dice.uniform(0, math.tau)
        spot = (centre[0] + radius * math.cos(angle), centre[1] + radius * math.sin(angle))
        canvas.disc(spot, reach * dice.uniform(0.008, 0.02), palette.ink)


def ribbons(canvas: Canvas, palette: Palette, dice: random.Random) -> None:
    """Sheaves of fine lines stretched between two waves."""
    wide, high = canvas.width, canvas.height
    for sheaf in range(3):
        first, last = _wave(dice), _wave(dice)
        tone = palette.accents[sheaf % 3]
        lines = 46
        for number in range(lines):
            share = number / (lines - 1)
            points = []
            for step in range(49):
                x = step / 48
                y = first(x) * (1 - share) + last(x) * share
                points.append(((x * 1.1 - 0.05) * wide, y * high))
            strength = 0.3 + 0.7 * math.sin(math.pi * share)
            canvas.hairline(
                points, mix(palette.ground, tone, strength), math.sqrt(wide * high) * 0.0021
            )


def blocks(canvas: Canvas, palette: Palette, dice: random.Random) -> None:
    """A town of cubes seen from above a corner."""
    side = math.sqrt(canvas.width * canvas.height) / dice.choice((9, 11, 13))
    half, rise = side * math.sqrt(3) / 2, side / 2
    columns, rows = math.ceil(canvas.width / half / 2) + 1, math.ceil(canvas.height / rise) + 8
    tones = (
        palette.accents[0],
        palette.accents[1],
        palette.accents[2],
        mix(palette.ground, palette.ink, 0.18),
        mix(palette.ground, palette.ink, 0.08),
    )
    for row in range(-1, rows):
        for column in range(-1, columns):
            x = column * 2 * half + (half if row % 2 else 0)
            tall = side * dice.choice((0.0, 0.3, 0.3, 0.7, 1.1, 1.8))
            y = row * rise - tall
            tone = dice.choices(tones, (2, 1, 1, 5, 5))[0]
            top = [(x, y - rise), (x + half, y), (x, y + rise), (x - half, y)]
            deep = tall + side * 3
            left = [(x - half, y), (x, y + rise), (x, y + rise + deep), (x - half, y + deep)]
            right = [(x + half, y), (x, y + rise), (x, y + rise + deep), (x + half, y + deep)]
            canvas.polygon(left, mix(tone, palette.ink, 0.28))
            canvas.polygon(right, mix(tone, palette.ink, 0.5))
            canvas.polygon(top, tone)


def halftone(canvas: Canvas, palette: Palette, dice: random.Random) -> None:
    """A grid of discs that swell and shrink with crossing waves."""
    pitch = math.sqrt(canvas.width * canvas.height) / dice.randint(22, 30)
    sources = [
        (
            dice.uniform(0, canvas.width),
            dice.uniform(0, canvas.height),
            pitch * dice.uniform(2.2, 4.5),
        )
        for _ in range(2)
    ]
    columns, rows = math.ceil(canvas.width / pitch) + 1, math.ceil(canvas.height / pitch) + 1
    for row in range(rows):
        for column in range(columns):
            x = (column + (0.5 if row % 2 else 0.0)) * pitch
            y = row * pitch
            swell = sum(math.sin(math.hypot(x - a, y - b) / c) for a, b, c in sources) / 2
            share = (swell + 1) / 2
            tone = palette.accents[0] if share > 0.66 else palette.accents[1]  # noqa: PLR2004
            canvas.disc(
                (x, y),
                pitch * (0.06 + 0.44 * share**1.4),
                mix(palette.ground, tone, 0.35 + 0.65 * share),
            )


FAMILIES: Final[tuple[Family, ...]] = (
    ridges,
    flow,
    contours,
    mosaic,
    orbits,
    ribbons,
    blocks,
    halftone,
)


def emblem(canvas: Canvas, box: Box, palette: Palette, dice: random.Random) -> None:
    """Draw a small mark of four tiles, another one for each seed."""
    side = box.width / 2
    tones = (*palette.accents[:2], palette.ink)
    for row in range(2):
        for column in range(2):
            part = Box(
                box.left + column * side,
                box.top + row * side,
                box.left + (column + 1) * side,
                box.top + (row + 1) * side,
            )
            tile(canvas, part, (palette.ground, dice.choice(tones)), dice)


def tile(canvas: Canvas, box: Box, pair: tuple[RGB, RGB], dice: random.Random) -> None:
    """Draw one of a few plain shapes into a square; `pair` is what lies under and the shape."""
    under, over = pair
    corners = [
        (box.left, box.top),
        (box.right, box.top),
        (box.right, box.bottom),
        (box.left, box.bottom),
    ]
    turn = dice.randrange(4)
    match dice.randrange(6):
        case 0:
            canvas.slice(corners[turn], box.width, (90 * turn, 90 * turn + 90), over)
        case 1:
            canvas.slice(corners[turn], box.width, (90 * turn, 90 * turn + 90), over)
            canvas.slice(corners[turn], box.width / 2, (90 * turn, 90 * turn + 90), under)
        case 2:
            canvas.disc(box.centre, box.width * 0.34, over)
        case 3:
            canvas.polygon([corners[turn], corners[turn - 1], corners[turn - 2]], over)
        case 4:
            canvas.slice(box.centre, box.width / 2, (90 * turn, 90 * turn + 180), over)
        case _:
            canvas.rectangle(box, over)


def _two(tones: tuple[RGB, ...], weights: tuple[int, ...], dice: random.Random) -> tuple[RGB, RGB]:
    """Draw two different tones."""
    first = dice.choices(range(len(tones)), weights)[0]
    others = [place for place in range(len(tones)) if tones[place] != tones[first]]
    return tones[first], tones[dice.choice(others)]


def _wave(dice: random.Random) -> Callable[[float], float]:
    """Return a slow curve from 0..1 to about 0..1."""
    level, lean = dice.uniform(0.2, 0.8), dice.uniform(-0.3, 0.3)
    size, pace, start = dice.uniform(0.1, 0.3), dice.uniform(0.8, 2.2), dice.uniform(0, math.tau)

    def curve(x: float) -> float:
        return level + lean * (x - 0.5) + size * math.sin(pace * x * math.pi + start)

    return curve
