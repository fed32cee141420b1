"""The cards of an infographic: their inner rooms and the words and figures set on them.

It must not draw charts and must not choose what stands on a card.
"""

from collections.abc import Sequence
from typing import Final

import msgspec
from PIL import Image

from agent.engines.sketch.canvas import Box
from agent.engines.sketch.palette import RGB, quiet
from agent.engines.sketch.typeset import Block, Setting, fit, place, width_of
from agent.engines.sketch.wording import Figure

_FLAT: Final = 1.3
"""Width over height from which a hero's label stands beside its ring."""

_CAP: Final = 0.73
"""Height of a figure, as a share of its size."""


class Card(msgspec.Struct, frozen=True, kw_only=True):
    """One panel: its room and its colours; `figure` is None for an illustrative one."""

    box: Box
    label: str
    figure: Figure | None
    hero: bool
    fill: RGB
    ink: RGB
    accent: RGB
    share: float | None

    @property
    def inner(self) -> Box:
        """The room inside the padding."""
        return self.box.inset(min(self.box.width, self.box.height) * 0.11)

    @property
    def flat(self) -> bool:
        """Whether the label of a ring stands beside it."""
        return self.inner.width > self.inner.height * _FLAT

    @property
    def ring(self) -> Box:
        """The square of the ring of a hero card: left of the label or over it."""
        box = self.inner
        if self.flat:
            return Box(box.left, box.top, box.left + box.height, box.bottom)
        side = min(box.width, box.height * 0.72)
        left = box.centre[0] - side / 2
        top = box.top + max(0.0, (box.height - side * 1.3) / 2)
        return Box(left, top, left + side, top + side)


def set_cards(image: Image.Image, cards: Sequence[Card], unit: float) -> None:
    """Set the words of all cards, the figures of the small ones in one size."""
    plain = [card for card in cards if card.figure and not (card.hero and card.figure.percent)]
    sizes = {
        id(card): _number_size(card.figure, _floor_room(card, unit))
        for card in plain
        if card.figure
    }
    shared = min((sizes[id(card)] for card in plain if not card.hero), default=0)
    for card in cards:
        if card.figure is None:
            _set_topic(image, card, unit)
        elif id(card) not in sizes:
            _set_ring(image, card, unit)
        else:
            _set_plain(image, card, unit, sizes[id(card)] if card.hero else shared)


def _label(unit: float, largest: float) -> Setting:
    return Setting(
        face="bold", largest=unit * largest, smallest=max(9.0, unit * 1.5), max_lines=3, leading=1.2
    )


def _set_topic(image: Image.Image, card: Card, unit: float) -> None:
    if card.hero:
        return
    box = card.inner
    block = fit(card.label, _label(unit, 2.5), box.width, box.height * 0.3)
    place(image, block, (box.left, box.bottom - block.height * 0.86), card.ink)


def _set_ring(image: Image.Image, card: Card, unit: float) -> None:
    """Set a percentage into its ring, its label beside or under it."""
    assert card.figure is not None, "only figures have a ring"
    ring, box = card.ring, card.inner
    hole = ring.inset(ring.width * 0.23)
    size = _number_size(card.figure, Box(hole.left, hole.top, hole.right, hole.centre[1]))
    wide = _number_width(card.figure, size)
    at = (ring.centre[0] - wide / 2, ring.centre[1] - _CAP * size / 2)
    _set_number(image, card, at, size)
    if card.flat:
        left = ring.right + unit * 3.4
        block = fit(card.label, _label(unit, 4.6), box.right - left, box.height)
        top = box.centre[1] - (block.height - 0.24 * block.size) / 2
        place(image, block, (left, top), card.ink)
    else:
        block = fit(card.label, _label(unit, 3.4), box.width, box.bottom - ring.bottom - unit)
        place(image, block, (box.centre[0], ring.bottom + unit * 2.6), card.ink, "center")


def _set_plain(image: Image.Image, card: Card, unit: float, size: int) -> None:
    """Set the label at the top of a card and the figure over its foot."""
    box, room = card.inner, _floor_room(card, unit)
    if card.label:
        largest = 3.4 if card.hero else 2.6
        block = fit(card.label, _label(unit, largest), box.width, room.top - box.top)
        place(image, block, (box.left, box.top), quiet(card.fill, card.ink))
    _set_number(image, card, (room.left, room.bottom - _CAP * size), size)


def _floor_room(card: Card, unit: float) -> Box:
    """Return the room of the figure, over the bar at the foot."""
    box = card.inner
    bottom = box.bottom - min(box.height * 0.26, unit * 4.4)
    return Box(box.left, bottom - (bottom - box.top) * 0.57, box.right, bottom)


def _number_size(figure: Figure, room: Box) -> int:
    """Return the size at which figure and unit fill `room`."""
    size = room.height / _CAP
    wide = _number_width(figure, size)
    return max(9, int(size * min(1.0, room.width / wide)))


def _number_width(figure: Figure, size: float) -> float:
    wide = width_of(figure.text, "display", size)
    if figure.unit:
        wide += size * 0.06 + width_of(figure.unit, "display", size * 0.5)
    return wide


def _set_number(image: Image.Image, card: Card, at: tuple[float, float], size: int) -> None:
    """Set a figure with its unit half as large, the top of the figure at `at`."""
    assert card.figure is not None, "only figures have a number"
    number = Block(lines=(card.figure.text,), face="display", size=size, leading=size, width=0)
    place(image, number, at, card.ink)
    if card.figure.unit:
        small = round(size * 0.5)
        x = at[0] + width_of(card.figure.text, "display", size) + size * 0.06
        mark = msgspec.structs.replace(number, lines=(card.figure.unit,), size=small)
        place(image, mark, (x, at[1] + _CAP * (size - small)), card.ink)
