"""A picture in the making: shapes drawn large and reduced once, so that edges are smooth.

All coordinates are pixels of the finished picture. It must not set type and must not know a style.
"""

import io
import math
from collections.abc import Sequence
from typing import Final

from PIL import Image, ImageDraw

from agent.engines.sketch.palette import RGB

Point = tuple[float, float]

_FINE_PIXELS: Final = 1_600_000
"""Pictures up to this many pixels are drawn three times as large, others twice."""

_COMPRESS: Final = 3


class Box:
    """An upright rectangle."""

    __slots__ = ("bottom", "left", "right", "top")

    def __init__(self, left: float, top: float, right: float, bottom: float) -> None:
        """Keep the four edges."""
        self.left, self.top, self.right, self.bottom = left, top, right, bottom

    @property
    def width(self) -> float:
        """From left to right."""
        return self.right - self.left

    @property
    def height(self) -> float:
        """From top to bottom."""
        return self.bottom - self.top

    @property
    def centre(self) -> Point:
        """The middle."""
        return ((self.left + self.right) / 2, (self.top + self.bottom) / 2)

    def inset(self, across: float, down: float | None = None) -> "Box":
        """Return the rectangle made smaller on each side; negative makes it larger."""
        down = across if down is None else down
        return Box(self.left + across, self.top + down, self.right - across, self.bottom - down)


class Canvas:
    """Draws opaque shapes at a multiple of the size; `smooth` makes the final pixels."""

    def __init__(self, width: int, height: int, ground: RGB, scale: int = 0) -> None:
        """Start with a plain ground; a part of another canvas takes that one's `scale`."""
        self.width, self.height = width, height
        self.scale = scale or (3 if width * height <= _FINE_PIXELS else 2)
        self.image = Image.new("RGB", (width * self.scale, height * self.scale), ground)
        self._draw = ImageDraw.Draw(self.image)

    @property
    def unit(self) -> float:
        """One hundredth of the side of a square of the same area."""
        return math.sqrt(self.width * self.height) / 100

    @property
    def frame(self) -> Box:
        """The whole picture."""
        return Box(0, 0, self.width, self.height)

    def smooth(self) -> Image.Image:
        """Reduce to the final pixels, on which type is set. Nothing is drawn here after it."""
        small = self.image.reduce(self.scale)
        self.image, self._draw = small, ImageDraw.Draw(small)
        self.scale = 1
        return small

    def polygon(self, points: Sequence[Point], fill: RGB) -> None:
        """Fill a polygon."""
        self._draw.polygon(self._scaled(points), fill=fill)

    def line(self, points: Sequence[Point], fill: RGB, width: float) -> None:
        """Draw an open line with round bends and ends."""
        thick = max(1, round(width * self.scale))
        scaled = self._scaled(points)
        self._draw.line(scaled, fill=fill, width=thick, joint="curve")
        radius = thick / 2
        if radius > 1:
            for x, y in (scaled[0], scaled[-1]):
                self._draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=fill)

    def hairline(self, points: Sequence[Point], fill: RGB, width: float) -> None:
        """Draw an open line of many short pieces, without care for its bends."""
        self._draw.line(self._scaled(points), fill=fill, width=max(1, round(width * self.scale)))

    def disc(self, centre: Point, radius: float, fill: RGB) -> None:
        """Fill a circle."""
        self._draw.ellipse(self._round(centre, radius), fill=fill)

    def ring(self, centre: Point, radius: float, fill: RGB, width: float) -> None:
        """Draw a circle's outline, its width lying inside."""
        thick = max(1, round(width * self.scale))
        self._draw.ellipse(self._round(centre, radius), outline=fill, width=thick)

    def slice(self, centre: Point, radius: float, turn: tuple[float, float], fill: RGB) -> None:
        """Fill a slice of a circle between two angles in degrees, clockwise from the right."""
        self._draw.pieslice(self._round(centre, radius), turn[0], turn[1], fill=fill)

    def arc(
        self, centre: Point, radius: float, turn: tuple[float, float], fill: RGB, width: float
    ) -> None:
        """Draw a part of a circle's outline, its width lying inside."""
        thick = max(1, round(width * self.scale))
        self._draw.arc(self._round(centre, radius), turn[0], turn[1], fill=fill, width=thick)

    def rectangle(self, box: Box, fill: RGB, radius: float = 0) -> None:
        """Fill a rectangle, its corners rounded by `radius`."""
        edges = self._edges(box)
        if radius <= 0:
            self._draw.rectangle(edges, fill=fill)
            return
        limit = min(edges[2] - edges[0], edges[3] - edges[1]) / 2
        self._draw.rounded_rectangle(edges, radius=min(radius * self.scale, limit), fill=fill)

    def framed(self, box: Box, fill: RGB, edge: RGB, width: float, radius: float) -> None:
        """Fill a rounded rectangle and draw its edge inside it."""
        self.rectangle(box, edge, radius)
        self.rectangle(box.inset(width), fill, max(0.0, radius - width))

    def paste(self, other: "Canvas", box: Box, mask: "Canvas | None" = None) -> None:
        """Lay `other` at the corner of `box`, where `mask` is white if there is one."""
        corner = (round(box.left) * self.scale, round(box.top) * self.scale)
        self.image.paste(other.image, corner, mask.image.convert("L") if mask else None)

    def _scaled(self, points: Sequence[Point]) -> list[Point]:
        scale = self.scale
        return [(x * scale, y * scale) for x, y in points]

    def _round(self, centre: Point, radius: float) -> tuple[float, float, float, float]:
        scale = self.scale
        x, y, reach = centre[0] * scale, centre[1] * scale, max(0.5, radius * scale)
        return (x - reach, y - reach, x + reach, y + reach)

    def _edges(self, box: Box) -> tuple[float, float, float, float]:
        scale = self.scale
        left, top = box.left * scale, box.top * scale
        return (left, top, max(left, box.right * scale - 1), max(top, box.bottom * scale - 1))


def encoded(image: Image.Image) -> bytes:
    """Return the picture as PNG without any text in it."""
    sink = io.BytesIO()
    image.save(sink, "PNG", compress_level=_COMPRESS)
    return sink.getvalue()
