"""The picture without a style: an illustrated title card, art in a window over centred words.

It must not read numbers or chains out of the prompt.
"""

import random
from typing import Final

from agent.engines.sketch.art import FAMILIES, emblem
from agent.engines.sketch.brief import Stages, Studio
from agent.engines.sketch.canvas import Box, Canvas
from agent.engines.sketch.palette import BLACK, WHITE, inverted, legible, quiet, tinted
from agent.engines.sketch.typeset import Block, Setting, fit, place
from agent.engines.sketch.wording import wording

_WIDE: Final = 1.15


def compose(studio: Studio) -> Stages:
    """Draw one title card, stage by stage."""
    brief, dice = studio.brief, studio.dice
    paper = studio.palette if dice.random() < 0.6 else inverted(studio.palette)  # noqa: PLR2004
    window, room = _rooms(brief.width, brief.height)
    yield "layout chosen"
    title, body = _words(studio, room)
    yield "words fitted"
    canvas = Canvas(brief.width, brief.height, paper.ground)
    yield "ground laid"
    picture = inverted(paper) if dice.random() < 0.5 else tinted(paper)  # noqa: PLR2004
    art = Canvas(round(window.width), round(window.height), picture.ground, canvas.scale)
    dice.choice(FAMILIES)(art, picture, dice)
    yield "art drawn"
    canvas.paste(art, window, _shape(art, dice))
    unit = canvas.unit
    middle = room.centre[0]
    size = unit * 3.6
    emblem(
        canvas,
        Box(middle - size / 2, room.bottom - size, middle + size / 2, room.bottom),
        paper,
        dice,
    )
    yield "window cut"
    image = canvas.smooth()
    yield "edges smoothed"
    tall = title.height + (body.height + title.size * 0.5 if body else 0.0)
    y = room.top + max(0.0, (room.height - size * 1.6 - tall) / 2)
    place(image, title, (middle, y), legible(paper.ground, paper.ink), "center")
    if body:
        y += title.height + title.size * 0.5
        place(image, body, (middle, y), quiet(paper.ground, paper.ink), "center")
    yield "title set"
    return image


def _rooms(width: int, height: int) -> tuple[Box, Box]:
    """Return the window for the art and the room for the words."""
    margin = min(width, height) * 0.075
    if width / height >= _WIDE:
        split = width * 0.5
        return (
            Box(margin, margin, split - margin * 0.25, height - margin),
            Box(split + margin * 0.75, margin * 1.2, width - margin, height - margin * 1.2),
        )
    split = height * 0.56
    return (
        Box(margin, margin, width - margin, split),
        Box(margin, split + margin * 0.8, width - margin, height - margin),
    )


def _words(studio: Studio, room: Box) -> tuple[Block, Block | None]:
    """Fit the title and, under it, the rest."""
    brief = studio.brief
    said = wording(brief.prompt)
    unit = (brief.width * brief.height) ** 0.5 / 100
    face = studio.title_face()
    free = room.height - unit * 6
    title = fit(
        said.title,
        Setting(
            face=face,
            largest=unit * 7.4,
            smallest=max(11.0, unit * 2.8),
            max_lines=5,
            leading=1.14,
            balanced=True,
        ),
        room.width,
        free * (0.6 if said.body else 0.95),
    )
    left = free - title.height - title.size * 0.5
    least = max(9.0, unit * 1.6)
    if not said.body or left < least * 1.2:
        return title, None
    body = fit(
        said.body,
        Setting(
            face="text",
            largest=unit * 2.3,
            smallest=least,
            max_lines=6,
            leading=1.45,
            balanced=True,
        ),
        room.width,
        left,
    )
    return title, body


def _shape(art: Canvas, dice: random.Random) -> Canvas:
    """Return the mask of the window: an arch, rounded corners or a stadium."""
    mask = Canvas(art.width, art.height, BLACK, art.scale)
    box, short = mask.frame, min(art.width, art.height)
    match dice.randrange(3):
        case 0:
            mask.rectangle(box, WHITE, short * 0.06)
        case 1:
            mask.rectangle(box, WHITE, short * 0.5)
            mask.rectangle(Box(0, art.height - short * 0.5, art.width, art.height), WHITE)
        case _:
            mask.rectangle(box, WHITE, short * 0.5)
    return mask
