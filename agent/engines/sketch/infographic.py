"""The style `infographic`: the numbers of a prompt as big figures, rings and bars.

Without numbers its topics get illustrative shapes. It must not show a number of its own.
"""

from collections.abc import Sequence
from typing import Final

from agent.engines.sketch.art import FAMILIES, emblem
from agent.engines.sketch.brief import Stages, Studio
from agent.engines.sketch.canvas import Box, Canvas
from agent.engines.sketch.cards import Card, set_cards
from agent.engines.sketch.charts import SHAPES, bar, donut, tally
from agent.engines.sketch.palette import Palette, inverted, legible, mix, quiet
from agent.engines.sketch.typeset import Block, Setting, fit, place
from agent.engines.sketch.wording import (
    Figure,
    Wording,
    figures,
    figures_wording,
    topics,
    wording,
)

_WIDE: Final = 1.25
_TOPICS_MOST: Final = 4
_NOTE: Final = "Shapes are illustrative, not data"


def compose(studio: Studio) -> Stages:
    """Draw one infographic, stage by stage."""
    brief, dice = studio.brief, studio.dice
    found = figures(brief.prompt)
    said = figures_wording(brief.prompt) if found else wording(brief.prompt)
    yield "numbers read"
    paper = inverted(studio.palette) if dice.random() < 0.3 else studio.palette  # noqa: PLR2004
    canvas = Canvas(brief.width, brief.height, paper.ground)
    margin = min(brief.width, brief.height) * 0.065
    page = canvas.frame.inset(margin)
    title, body = _heading(studio, said, page)
    top = page.top + title.height + (body.height + title.size * 0.5 if body else 0)
    foot = canvas.unit * 3 if not found else 0.0
    room = Box(page.left, top + canvas.unit * 2.6, page.right, page.bottom - foot)
    yield "words fitted"
    cards = _figure_cards(found, room, paper) if found else _topic_cards(studio, room, paper)
    size = canvas.unit * 4.6
    emblem(canvas, Box(page.right - size, page.top, page.right, page.top + size), paper, dice)
    yield "ground laid"
    for card in cards:
        canvas.rectangle(card.box, card.fill, canvas.unit * 1.4)
    yield "cards drawn"
    for index, card in enumerate(cards):
        _chart(canvas, card, paper, studio, index)
    yield "charts drawn"
    image = canvas.smooth()
    yield "edges smoothed"
    place(image, title, (page.left, page.top), legible(paper.ground, paper.ink))
    if body:
        place(
            image,
            body,
            (page.left, page.top + title.height + title.size * 0.5),
            quiet(paper.ground, paper.ink),
        )
    set_cards(image, cards, canvas.unit)
    if not found:
        note = fit(
            _NOTE,
            Setting(face="text", largest=max(9, canvas.unit * 1.4), smallest=8, max_lines=1),
            page.width,
            canvas.unit * 3,
        )
        place(
            image,
            note,
            (page.left, page.bottom - note.height * 0.75),
            quiet(paper.ground, paper.ink),
        )
    yield "figures set"
    return image


def _heading(studio: Studio, said: Wording, page: Box) -> tuple[Block, Block | None]:
    """Fit the title and the sentence under it, leaving room for the emblem."""
    unit = (studio.brief.width * studio.brief.height) ** 0.5 / 100
    wide, high = page.width - unit * 7, page.height * 0.22
    title = fit(
        said.title,
        Setting(
            face=studio.brief.face or "display",
            largest=unit * 5.6,
            smallest=max(11.0, unit * 2.6),
            max_lines=3,
            leading=1.12,
        ),
        wide,
        high * 0.8,
    )
    least = max(9.0, unit * 1.5)
    left = high - title.height - title.size * 0.5
    if not said.body or left < least:
        return title, None
    return title, fit(
        said.body,
        Setting(face="text", largest=unit * 2.0, smallest=least, max_lines=2, leading=1.4),
        wide,
        left,
    )


def _cells(room: Box, count: int) -> list[Box]:
    """Divide a room: the first cell is the largest, the others share the rest evenly."""
    gap = (room.width * room.height) ** 0.5 * 0.022
    if count == 1:
        return [room]
    if room.width / room.height >= _WIDE:
        split = room.left + room.width * (0.5 if count == 2 else 0.38)  # noqa: PLR2004
        hero = Box(room.left, room.top, split - gap / 2, room.bottom)
        rest = Box(split + gap / 2, room.top, room.right, room.bottom)
        columns = 1 if count <= 3 else 2  # noqa: PLR2004
    else:
        split = room.top + room.height * (0.5 if count == 2 else 0.38)  # noqa: PLR2004
        hero = Box(room.left, room.top, room.right, split - gap / 2)
        rest = Box(room.left, split + gap / 2, room.right, room.bottom)
        columns = 1 if count == 2 else 2  # noqa: PLR2004
    return [hero, *_even(rest, count - 1, columns, gap)]


def _even(room: Box, count: int, columns: int, gap: float) -> list[Box]:
    """Divide a room into rows; a last row that is not full stretches."""
    rows = -(-count // columns)
    high = (room.height - gap * (rows - 1)) / rows
    cells = []
    for place_ in range(count):
        row, column = divmod(place_, columns)
        here = min(columns, count - row * columns)
        wide = (room.width - gap * (here - 1)) / here
        left, top = room.left + column * (wide + gap), room.top + row * (high + gap)
        cells.append(Box(left, top, left + wide, top + high))
    return cells


def _figure_cards(found: Sequence[Figure], room: Box, paper: Palette) -> list[Card]:
    """Give each figure a card; figures of one unit are drawn against their largest."""
    cards = []
    for index, (figure, box) in enumerate(zip(found, _cells(room, len(found)), strict=True)):
        hero = index == 0
        fill = paper.accents[0] if hero else paper.panel
        peers = [other.value for other in found if other.unit == figure.unit and figure.unit]
        share = None
        if figure.percent:
            share = figure.value / 100
        elif len(peers) > 1 and max(peers) > 0:
            share = figure.value / max(peers)
        cards.append(
            Card(
                box=box,
                label=figure.label,
                figure=figure,
                hero=hero,
                fill=fill,
                ink=legible(fill, paper.ground if hero else paper.ink, paper.ink),
                accent=paper.accents[1 + index % 2],
                share=share,
            )
        )
    return cards


def _topic_cards(studio: Studio, room: Box, paper: Palette) -> list[Card]:
    """Give each topic a card; the first card is a picture."""
    names = topics(studio.brief.prompt, _TOPICS_MOST)
    cells = _cells(room, len(names) + 1)
    return [
        Card(
            box=box,
            label=name,
            figure=None,
            hero=index == 0,
            fill=paper.panel,
            ink=legible(paper.panel, paper.ink),
            accent=paper.accents[0],
            share=None,
        )
        for index, (name, box) in enumerate(zip(("", *names), cells, strict=True))
    ]


def _chart(canvas: Canvas, card: Card, paper: Palette, studio: Studio, index: int) -> None:
    """Draw what a card shows besides its words."""
    if card.figure is None:
        _illustrate(canvas, card, paper, studio, index)
        return
    box = card.inner
    rest = mix(card.fill, card.ink, 0.2)
    tone = card.ink if card.hero else card.accent
    if card.share is None:
        size = min(box.width, box.height) * 0.2
        canvas.rectangle(
            Box(box.left, box.bottom - size * 0.12, box.left + size * 1.6, box.bottom), tone
        )
    elif card.hero and card.figure.percent:
        donut(canvas, card.ring, card.share, (tone, rest))
    else:
        thick = min(box.height * 0.1, canvas.unit * 1.8)
        line = Box(box.left, box.bottom - thick, box.right, box.bottom)
        tenths = card.figure.percent and card.figure.value % 10 == 0
        draw = tally if tenths else bar
        draw(canvas, line, card.share, (tone, rest))


def _illustrate(canvas: Canvas, card: Card, paper: Palette, studio: Studio, index: int) -> None:
    """Fill the first card with art, each other one with a shape over its label."""
    dice = studio.dice
    if card.hero:
        art = Canvas(round(card.box.width), round(card.box.height), paper.panel, canvas.scale)
        dice.choice(FAMILIES)(art, paper, dice)
        mask = Canvas(art.width, art.height, (0, 0, 0), art.scale)
        mask.rectangle(mask.frame, (255, 255, 255), canvas.unit * 1.4)
        canvas.paste(art, card.box, mask)
        return
    box = card.inner
    SHAPES[(index + studio.brief.seed) % len(SHAPES)](
        canvas, Box(box.left, box.top, box.right, box.top + box.height * 0.64), paper, dice
    )
