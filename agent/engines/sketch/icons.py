"""Small drawn signs for the boxes of a diagram, chosen by the words of a label.

It must not set type; a label without a known word gets a plain sign.
"""

import re
from collections.abc import Callable
from typing import Final

from agent.engines.sketch.canvas import Box, Canvas
from agent.engines.sketch.palette import RGB

Icon = Callable[[Canvas, Box, RGB, RGB], None]


def draw_icon(canvas: Canvas, box: Box, label: str, pair: tuple[RGB, RGB]) -> None:
    """Draw the sign of `label` into a square; `pair` is its colour and that of the ground."""
    for pattern, icon in _ICONS:
        if pattern.search(label):
            icon(canvas, box, *pair)
            return
    _step(canvas, box, *pair)


def _at(box: Box, left: float, top: float, right: float, bottom: float) -> Box:
    """Return a part of `box` by shares of its sides."""
    return Box(
        box.left + left * box.width,
        box.top + top * box.height,
        box.left + right * box.width,
        box.top + bottom * box.height,
    )


def _store(canvas: Canvas, box: Box, ink: RGB, ground: RGB) -> None:
    """A drum of three discs."""
    for top in (0.1, 0.38, 0.66):
        canvas.rectangle(_at(box, 0.14, top, 0.86, top + 0.24), ink, box.width * 0.12)
        canvas.disc(
            (box.left + box.width * 0.72, box.top + box.height * (top + 0.12)),
            box.width * 0.045,
            ground,
        )


def _lanes(canvas: Canvas, box: Box, ink: RGB, ground: RGB) -> None:
    """Three lanes with a message each."""
    for row, place in enumerate((0.62, 0.3, 0.48)):
        top = 0.16 + row * 0.26
        canvas.rectangle(_at(box, 0.06, top, 0.94, top + 0.17), ink, box.width * 0.085)
        x = box.left + place * box.width
        canvas.disc((x, box.top + (top + 0.085) * box.height), box.width * 0.05, ground)


def _person(canvas: Canvas, box: Box, ink: RGB, ground: RGB) -> None:
    """A head over shoulders."""
    del ground
    x, y = box.centre
    canvas.disc((x, box.top + box.height * 0.3), box.width * 0.19, ink)
    canvas.slice((x, y + box.height * 0.42), box.width * 0.37, (180, 360), ink)


def _cloud(canvas: Canvas, box: Box, ink: RGB, ground: RGB) -> None:
    """A cloud."""
    del ground
    canvas.disc((box.left + box.width * 0.32, box.top + box.height * 0.56), box.width * 0.2, ink)
    canvas.disc((box.left + box.width * 0.54, box.top + box.height * 0.42), box.width * 0.24, ink)
    canvas.disc((box.left + box.width * 0.75, box.top + box.height * 0.58), box.width * 0.18, ink)
    canvas.rectangle(_at(box, 0.3, 0.55, 0.76, 0.76), ink)


def _chip(canvas: Canvas, box: Box, ink: RGB, ground: RGB) -> None:
    """A chip with its pins."""
    for share in (0.32, 0.5, 0.68):
        canvas.rectangle(_at(box, share - 0.035, 0.04, share + 0.035, 0.96), ink)
        canvas.rectangle(_at(box, 0.04, share - 0.035, 0.96, share + 0.035), ink)
    canvas.rectangle(_at(box, 0.17, 0.17, 0.83, 0.83), ink, box.width * 0.08)
    canvas.rectangle(_at(box, 0.36, 0.36, 0.64, 0.64), ground, box.width * 0.04)


def _photo(canvas: Canvas, box: Box, ink: RGB, ground: RGB) -> None:
    """A framed landscape."""
    canvas.rectangle(_at(box, 0.06, 0.14, 0.94, 0.86), ink, box.width * 0.09)
    canvas.disc(
        (box.left + box.width * 0.31, box.top + box.height * 0.36), box.width * 0.08, ground
    )
    left, top, size = box.left, box.top, box.width
    canvas.polygon(
        [
            (left + a * size, top + b * size)
            for a, b in ((0.15, 0.77), (0.42, 0.5), (0.54, 0.62), (0.68, 0.42), (0.86, 0.77))
        ],
        ground,
    )


def _window(canvas: Canvas, box: Box, ink: RGB, ground: RGB) -> None:
    """A window with its bar."""
    canvas.rectangle(_at(box, 0.06, 0.14, 0.94, 0.86), ink, box.width * 0.09)
    canvas.rectangle(_at(box, 0.14, 0.36, 0.86, 0.78), ground, box.width * 0.03)
    for share in (0.18, 0.3):
        canvas.disc(
            (box.left + share * box.width, box.top + box.height * 0.25), box.width * 0.04, ground
        )


def _lock(canvas: Canvas, box: Box, ink: RGB, ground: RGB) -> None:
    """A padlock."""
    centre = (box.centre[0], box.top + box.height * 0.36)
    canvas.arc(centre, box.width * 0.24, (180, 360), ink, box.width * 0.09)
    canvas.rectangle(_at(box, 0.26, 0.34, 0.35, 0.5), ink)
    canvas.rectangle(_at(box, 0.65, 0.34, 0.74, 0.5), ink)
    canvas.rectangle(_at(box, 0.16, 0.45, 0.84, 0.9), ink, box.width * 0.08)
    canvas.disc((box.centre[0], box.top + box.height * 0.66), box.width * 0.08, ground)


def _graph(canvas: Canvas, box: Box, ink: RGB, ground: RGB) -> None:
    """Bars that rise."""
    del ground
    for left, top in ((0.1, 0.58), (0.33, 0.4), (0.56, 0.5), (0.79, 0.16)):
        canvas.rectangle(_at(box, left, top, left + 0.15, 0.88), ink, box.width * 0.03)


def _fork(canvas: Canvas, box: Box, ink: RGB, ground: RGB) -> None:
    """One way that becomes two."""
    del ground
    left, middle = box.left + box.width * 0.16, box.centre[1]
    for top in (0.22, 0.78):
        end = (box.left + box.width * 0.82, box.top + box.height * top)
        canvas.line([(left, middle), (box.centre[0], middle), end], ink, box.width * 0.08)
        canvas.disc(end, box.width * 0.12, ink)
    canvas.disc((left, middle), box.width * 0.14, ink)


def _step(canvas: Canvas, box: Box, ink: RGB, ground: RGB) -> None:
    """A ring with a core: any other part."""
    canvas.disc(box.centre, box.width * 0.36, ink)
    canvas.disc(box.centre, box.width * 0.24, ground)
    canvas.disc(box.centre, box.width * 0.12, ink)


def _words(text: str) -> re.Pattern[str]:
    return re.compile(rf"\b(?:{text})", re.IGNORECASE)


_ICONS: Final[tuple[tuple[re.Pattern[str], Icon], ...]] = (
    (_words("auth|lock|key|secret|secure|security|vault|login|token|permission|firewall"), _lock),
    (
        _words(
            "route|router|routing|split|branch|decide|decision|balance|balancer|arbiter|"
            "schedule|scheduling|switch"
        ),
        _fork,
    ),
    (
        _words(
            "queue|stream|bus|nats|jetstream|kafka|topic|lane|event|message|broker|rabbit|buffer"
        ),
        _lanes,
    ),
    (_words("cloud|internet|s3|cdn|saas|stability|openai"), _cloud),
    (
        _words(
            "store|storage|database|db|sql|postgres|redis|ledger|cache|disk|warehouse|archive|"
            "table|index|lake|backup|asset"
        ),
        _store,
    ),
    (
        _words(
            "user|person|people|agent|client|customer|team|operator|human|requester|author|"
            "reader|visitor|subscriber"
        ),
        _person,
    ),
    (
        _words(
            "gpu|cpu|chip|worker|model|engine|comfyui|llm|ollama|compute|server|infer|train|"
            "processor|device|sensor|controller"
        ),
        _chip,
    ),
    (_words("image|picture|photo|render|thumbnail|camera|video|preview|cover"), _photo),
    (
        _words(
            "metric|report|chart|analytic|statistic|monitor|grafana|prometheus|dashboard|insight"
        ),
        _graph,
    ),
    (_words("web|page|browser|gateway|api|app|site|portal|front|ui|http|console"), _window),
)
