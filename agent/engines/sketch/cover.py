"""The style `report-cover`: a title block beside, under or on a panel over generative art.

It must not read numbers or chains out of the prompt; a cover only carries its words.
"""

from typing import Final

import msgspec
from PIL import Image

from agent.engines.sketch.art import FAMILIES, emblem
from agent.engines.sketch.brief import Stages, Studio
from agent.engines.sketch.canvas import Box, Canvas
from agent.engines.sketch.palette import Palette, inverted, legible, quiet, tinted
from agent.engines.sketch.typeset import Block, Setting, fit, place
from agent.engines.sketch.wording import wording

_WIDE: Final = 1.15
"""Width over height from which the title stands beside the art."""

_BAR_ROOM: Final = 3.6
"""Units from the top of the room to the title."""

_EMBLEM: Final = 4.4
"""Side of the emblem in units."""


class _Plan(msgspec.Struct, frozen=True, kw_only=True):
    """Where art and words go, and the palettes of both."""

    art: Box
    words: Box
    paper: Palette
    picture: Palette
    framed: bool


class _Words(msgspec.Struct, frozen=True, kw_only=True):
    """The fitted blocks of a title block."""

    title: Block
    body: Block | None
    mark: Block | None
    gap: float


def compose(studio: Studio) -> Stages:
    """Draw one cover, stage by stage."""
    brief, dice = studio.brief, studio.dice
    plan = _plan(studio)
    yield "layout chosen"
    words = _words(studio, plan.words)
    yield "words fitted"
    canvas = Canvas(brief.width, brief.height, plan.paper.ground)
    yield "ground laid"
    art = Canvas(round(plan.art.width), round(plan.art.height), plan.picture.ground, canvas.scale)
    dice.choice(FAMILIES)(art, plan.picture, dice)
    yield "art drawn"
    canvas.paste(art, plan.art)
    _furniture(canvas, plan, studio)
    yield "panels drawn"
    image = canvas.smooth()
    yield "edges smoothed"
    _set(image, plan, words)
    yield "title set"
    return image


def _plan(studio: Studio) -> _Plan:
    """Choose the layout: beside on wide pictures, under or on a panel on the others."""
    brief, dice, palette = studio.brief, studio.dice, studio.palette
    wide, high = float(brief.width), float(brief.height)
    unit = (wide * high) ** 0.5 / 100
    margin = min(wide, high) * 0.075
    paper, other = dice.choice(((palette, inverted(palette)), (inverted(palette), palette)))
    picture = dice.choice((paper, other, other))
    if paper is not picture and dice.random() < 0.5:  # noqa: PLR2004 - a panel must stand out
        words = _panel(wide, high, margin)
        return _Plan(
            art=Box(0, 0, wide, high), words=words, paper=paper, picture=picture, framed=True
        )
    if wide / high >= _WIDE:
        split = round(wide * dice.uniform(0.46, 0.52))
        art = Box(split, 0, wide, high)
        words = Box(margin, margin, split - margin * 0.8, high - margin)
    else:
        split = round(high * dice.uniform(0.5, 0.55))
        art = Box(0, 0, wide, split)
        words = Box(margin, split + unit * 5, wide - margin, high - margin * 0.85)
    if picture is paper:
        picture = tinted(paper)
    return _Plan(art=art, words=words, paper=paper, picture=picture, framed=False)


def _panel(wide: float, high: float, margin: float) -> Box:
    """Return the room for words on a panel over full art."""
    inner = margin * 0.8
    if wide / high >= _WIDE:
        return Box(margin + inner, high * 0.3 + inner, wide * 0.56 - inner, high - margin - inner)
    return Box(margin + inner, high * 0.46 + inner, wide - margin - inner, high - margin - inner)


def _words(studio: Studio, room: Box) -> _Words:
    """Fit the title first, then the rest into what is left."""
    brief = studio.brief
    said = wording(brief.prompt)
    unit = (brief.width * brief.height) ** 0.5 / 100
    least = max(9.0, unit * 1.6)
    face = studio.title_face()
    share = 0.62 if said.body else 1.0
    foot = unit * (4 if brief.mark else 0)
    free = room.height - unit * _BAR_ROOM - foot
    title = fit(
        said.title,
        Setting(
            face=face,
            largest=unit * 8.6,
            smallest=max(11.0, unit * 3.0),
            max_lines=6,
            leading=1.12,
            balanced=True,
        ),
        room.width,
        free * share,
    )
    mark = None
    if brief.mark:
        mark = fit(
            brief.mark,
            Setting(face="bold", largest=least * 1.1, smallest=9, max_lines=1),
            room.width * 0.7,
            least * 2,
        )
    gap = max(unit * 3.2, title.size * 0.62)
    left = room.height - title.height - gap - unit * _BAR_ROOM - foot
    body = None
    if said.body and left > least * 1.2:
        body = fit(
            said.body,
            Setting(
                face="text",
                largest=max(least, min(unit * 2.5, title.size * 0.42)),
                smallest=least,
                max_lines=9,
                leading=1.45,
            ),
            room.width - unit * (_EMBLEM + 3),
            left,
        )
    return _Words(title=title, body=body, mark=mark, gap=gap)


def _furniture(canvas: Canvas, plan: _Plan, studio: Studio) -> None:
    """Draw the panel, the accent bar and the emblem."""
    unit = canvas.unit
    words = plan.words
    if plan.framed:
        inner = min(canvas.width, canvas.height) * 0.06
        canvas.rectangle(words.inset(-inner), plan.paper.ground)
    bar = unit * 0.7
    canvas.rectangle(
        Box(words.left, words.top, words.left + unit * 7, words.top + bar), plan.paper.accents[0]
    )
    size = unit * _EMBLEM
    corner = Box(words.right - size, words.bottom - size, words.right, words.bottom)
    emblem(canvas, corner, plan.paper, studio.dice)


def _set(image: Image.Image, plan: _Plan, words: _Words) -> None:
    """Set the blocks under the bar."""
    unit = (image.width * image.height) ** 0.5 / 100
    room, paper = plan.words, plan.paper
    y = room.top + unit * _BAR_ROOM
    place(image, words.title, (room.left, y), legible(paper.ground, paper.ink))
    y += words.title.height + words.gap * 0.6
    if words.body:
        place(image, words.body, (room.left, y), quiet(paper.ground, paper.ink))
    if words.mark:
        place(
            image,
            words.mark,
            (room.left, room.bottom - words.mark.height * 0.8),
            legible(paper.ground, paper.accents[0], paper.ink),
        )
