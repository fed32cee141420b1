"""The style `technical-diagram`: boxes and arrows of the chains that a prompt names.

Without arrows in the prompt its topics become the boxes. It must not invent a box.
"""

import math
from collections.abc import Sequence
from typing import Final

import msgspec
from PIL import Image

from agent.engines.sketch.art import emblem
from agent.engines.sketch.brief import Stages, Studio
from agent.engines.sketch.canvas import Box, Canvas, Point
from agent.engines.sketch.icons import draw_icon
from agent.engines.sketch.palette import RGB, Palette, inverted, legible, mix, quiet
from agent.engines.sketch.routes import Drawing, Route, laid_out
from agent.engines.sketch.typeset import Block, Setting, fit, place, place_in
from agent.engines.sketch.wording import (
    Graph,
    Wording,
    graph,
    graph_wording,
    subject,
    topics,
    wording,
)

_PARTS_MOST: Final = 6
_ICON_LEAST: Final = 54
"""Boxes lower than this, in pixels, carry their label alone."""


class _Node(msgspec.Struct, frozen=True, kw_only=True):
    """How one box looks."""

    box: Box
    icon: Box | None
    room: Box
    fill: RGB
    sign: RGB
    words: RGB


def compose(studio: Studio) -> Stages:
    """Draw one diagram, stage by stage."""
    brief, dice = studio.brief, studio.dice
    shape, said = _understood(brief.prompt)
    yield "prompt read"
    paper = inverted(studio.palette) if dice.random() < 0.2 else studio.palette  # noqa: PLR2004
    canvas = Canvas(brief.width, brief.height, paper.ground)
    margin = min(brief.width, brief.height) * 0.065
    head = Box(margin, margin, brief.width - margin, margin + brief.height * 0.2)
    title, body = _heading(studio, said, head)
    used = title.height + (body.height + title.size * 0.5 if body else 0.0)
    room = Box(margin, margin + used + canvas.unit * 3, brief.width - margin, brief.height - margin)
    drawing = laid_out(shape, room, canvas.unit * 15)
    yield "boxes placed"
    _grid(canvas, room, paper, dice.uniform(0.0, 1.0))
    size = canvas.unit * 4.6
    emblem(canvas, Box(head.right - size, head.top, head.right, head.top + size), paper, dice)
    yield "ground laid"
    _arrows(canvas, drawing.routes, paper)
    yield "arrows drawn"
    nodes = _nodes(canvas, shape, drawing, paper)
    yield "boxes drawn"
    image = canvas.smooth()
    yield "edges smoothed"
    _labels(image, shape, nodes, canvas.unit)
    place(image, title, (head.left, head.top), legible(paper.ground, paper.ink))
    if body:
        place(
            image,
            body,
            (head.left, head.top + title.height + title.size * 0.5),
            quiet(paper.ground, paper.ink),
        )
    yield "labels set"
    return image


def _understood(prompt: str) -> tuple[Graph, Wording]:
    """Return the graph and the words around it; a list hangs from its subject."""
    named = graph(prompt)
    if named is not None:
        return named, graph_wording(prompt)
    said = wording(prompt)
    whole = subject(prompt)
    parts = [part for part in topics(prompt, _PARTS_MOST) if part.casefold() != whole.casefold()]
    if not parts:
        return Graph(nodes=(whole,), edges=()), said
    edges = tuple((0, place + 1) for place in range(len(parts)))
    return Graph(nodes=(whole, *parts), edges=edges), said


def _heading(studio: Studio, said: Wording, head: Box) -> tuple[Block, Block | None]:
    """Fit the title and the sentence under it, leaving room for the emblem."""
    unit = (studio.brief.width * studio.brief.height) ** 0.5 / 100
    wide = head.width - unit * 7
    title = fit(
        said.title,
        Setting(
            face=studio.brief.face or "display",
            largest=unit * 5.2,
            smallest=max(11.0, unit * 2.6),
            max_lines=2,
            leading=1.14,
        ),
        wide,
        head.height * 0.7,
    )
    least = max(9.0, unit * 1.5)
    left = head.height - title.height - title.size * 0.5
    if not said.body or left < least:
        return title, None
    return title, fit(
        said.body,
        Setting(face="text", largest=unit * 2.0, smallest=least, max_lines=2, leading=1.4),
        wide,
        left,
    )


def _grid(canvas: Canvas, room: Box, paper: Palette, phase: float) -> None:
    """Draw a quiet field of points behind the boxes."""
    pitch = canvas.unit * 3.2
    tone = mix(paper.ground, paper.ink, 0.16)
    across, down = math.ceil(room.width / pitch), math.ceil(room.height / pitch)
    for row in range(down):
        for column in range(across):
            x = room.left + (column + phase) * pitch
            y = room.top + (row + phase) * pitch
            if x < room.right and y < room.bottom:
                canvas.disc((x, y), canvas.unit * 0.16, tone)


def _arrows(canvas: Canvas, routes: Sequence[Route], paper: Palette) -> None:
    """Draw the routes, those that lead back in an accent and over the others."""
    width = max(1.2, canvas.unit * 0.32)
    for route in sorted(routes, key=lambda route: route.back):
        tone = paper.accents[0] if route.back else mix(paper.ground, paper.ink, 0.72)
        head = canvas.unit * 1.5
        bends = _shortened(route.points, head * 0.8)
        canvas.line(_rounded(bends, canvas.unit * 1.4), tone, width)
        _head(canvas, route.points[-2], route.points[-1], head, tone)


def _head(canvas: Canvas, before: Point, tip: Point, size: float, tone: RGB) -> None:
    angle = math.atan2(tip[1] - before[1], tip[0] - before[0])
    wings = [
        (tip[0] - size * math.cos(angle + turn), tip[1] - size * math.sin(angle + turn))
        for turn in (0.46, -0.46)
    ]
    canvas.polygon([tip, *wings], tone)


def _shortened(points: Sequence[Point], by: float) -> list[Point]:
    """Return the line without its last bit, which the head covers."""
    (ax, ay), (bx, by_) = points[-2], points[-1]
    length = math.hypot(bx - ax, by_ - ay)
    share = max(0.0, 1 - by / length) if length else 0.0
    return [*points[:-1], (ax + (bx - ax) * share, ay + (by_ - ay) * share)]


def _rounded(points: Sequence[Point], radius: float) -> list[Point]:
    """Return the line with its corners drawn as curves."""
    result = [points[0]]
    for before, corner, after in zip(points, points[1:], points[2:], strict=False):
        near = _towards(corner, before, radius)
        far = _towards(corner, after, radius)
        for step in range(9):
            t = step / 8
            result.append(
                tuple(  # type: ignore[arg-type]
                    (1 - t) ** 2 * near[k] + 2 * t * (1 - t) * corner[k] + t * t * far[k]
                    for k in (0, 1)
                )
            )
    return [*result, points[-1]]


def _towards(start: Point, goal: Point, radius: float) -> Point:
    length = math.hypot(goal[0] - start[0], goal[1] - start[1])
    share = min(0.5, radius / length) if length else 0.0
    return (start[0] + (goal[0] - start[0]) * share, start[1] + (goal[1] - start[1]) * share)


def _nodes(canvas: Canvas, shape: Graph, drawing: Drawing, paper: Palette) -> list[_Node]:
    """Draw the boxes: where it starts in one accent, where it ends in another."""
    starts = {a for a, _ in shape.edges} - {b for _, b in shape.edges}
    starts = starts or {0}
    ends = {b for _, b in shape.edges} - {a for a, _ in shape.edges}
    nodes = []
    for index, box in enumerate(drawing.boxes):
        if index in starts:
            fill = edge = paper.accents[0]
            sign = legible(fill, paper.ground, paper.ink)
        elif index in ends:
            fill, edge = mix(paper.ground, paper.accents[1], 0.24), paper.accents[1]
            sign = legible(fill, paper.ink)
        else:
            fill, edge = paper.panel, mix(paper.ground, paper.ink, 0.45)
            sign = paper.accents[1]
        radius = min(box.width, box.height) * 0.14
        canvas.framed(box, fill, edge, max(1.2, canvas.unit * 0.24), radius)
        node = _furnished(
            box, fill, sign, legible(fill, *((sign,) if fill == edge else (paper.ink,)))
        )
        if node.icon:
            draw_icon(canvas, node.icon, shape.nodes[index], (node.sign, fill))
        nodes.append(node)
    return nodes


def _furnished(box: Box, fill: RGB, sign: RGB, words: RGB) -> _Node:
    """Divide a box: sign over label, beside it in a flat box, label alone in a small one."""
    pad = min(box.width, box.height) * 0.13
    inner = box.inset(pad)
    icon: Box | None = None
    room = inner
    if box.height >= _ICON_LEAST and box.width >= _ICON_LEAST:
        if box.width / box.height > 2.9:  # noqa: PLR2004 - a flat box
            size = inner.height * 0.66
            top = box.centre[1] - size / 2
            icon = Box(inner.left + pad * 0.5, top, inner.left + pad * 0.5 + size, top + size)
            room = Box(icon.right + pad, inner.top, inner.right, inner.bottom)
        else:
            size = inner.height * 0.42
            middle = box.centre[0]
            icon = Box(middle - size / 2, inner.top, middle + size / 2, inner.top + size)
            room = Box(inner.left, icon.bottom + pad * 0.5, inner.right, inner.bottom)
    return _Node(box=box, icon=icon, room=room, fill=fill, sign=sign, words=words)


def _labels(image: Image.Image, shape: Graph, nodes: Sequence[_Node], unit: float) -> None:
    """Set the labels, all in the size that the longest one allows."""

    def fitted(largest: float) -> list[Block]:
        setting = Setting(
            face="bold",
            largest=largest,
            smallest=max(8.0, unit * 1.1),
            max_lines=3,
            leading=1.16,
            balanced=True,
        )
        return [
            fit(name, setting, node.room.width, node.room.height)
            for name, node in zip(shape.nodes, nodes, strict=True)
        ]

    size = min(block.size for block in fitted(unit * 2.7))
    for block, node in zip(fitted(size), nodes, strict=True):
        place_in(image, block, node.room, node.words)
