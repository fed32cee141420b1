"""Boxes and arrows in pixels: a graph laid into a room, whatever its shape.

Pure: a graph and a room in, rectangles and lines out. It must not draw.
"""

from itertools import pairwise
from typing import Final

import msgspec

from agent.engines.sketch.canvas import Box, Point
from agent.engines.sketch.layers import Grid, Way, layered, path_of, ring_of
from agent.engines.sketch.wording import Graph

_RATIO: Final = 1.9
"""Width over height that a box would like to have."""

_FILL: Final = 0.66
"""Share of a cell that its box may fill; the rest is for arrows."""

_TALL: Final = 0.8
"""Width over height under which a short chain runs straight down."""

_DOWN_MOST: Final = 7


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """One arrow: its bends, the head at the last point; `back` closes a circle."""

    points: tuple[Point, ...]
    back: bool = False


class Drawing(msgspec.Struct, frozen=True, kw_only=True):
    """A graph in its room: one box per node, one route per arrow."""

    boxes: tuple[Box, ...]
    routes: tuple[Route, ...]


def laid_out(graph: Graph, room: Box, largest: float) -> Drawing:
    """Lay `graph` into `room`; no box gets higher than `largest` pixels."""
    path = path_of(graph)
    if path is not None:
        return _snake(path, room, largest)
    ring = ring_of(graph)
    if ring is not None:
        return _circle(graph, ring, room, largest)
    grid = layered(graph)
    choices = [_Frame(grid, room, largest, upright=upright) for upright in (False, True)]
    return max(choices, key=lambda frame: frame.score).drawing()


def _snake(path: tuple[int, ...], room: Box, largest: float) -> Drawing:
    """Lay a chain in rows that turn at their ends."""
    count = len(path)
    options = range(1, count + 1)
    if room.width / room.height < _TALL and count <= _DOWN_MOST:
        options = range(1, 2)
    columns = max(options, key=lambda n: _cell_score(room, n, -(-count // n)))
    rows = -(-count // columns)
    columns = -(-count // rows)
    wide, high = room.width / columns, room.height / rows
    size = _box_size(wide, high, largest, lone=columns == 1)
    centres = []
    for step in range(count):
        row, place = divmod(step, columns)
        column = place if row % 2 == 0 else columns - 1 - place
        centres.append((room.left + (column + 0.5) * wide, room.top + (row + 0.5) * high))
    boxes = [_around(centre, size) for centre in centres]
    routes = []
    for one, two in pairwise(boxes):
        points = _joined(one, two, upright=False)
        routes.append(Route(points=points))
    by_node = dict(zip(path, boxes, strict=True))
    return Drawing(boxes=tuple(by_node[node] for node in range(count)), routes=tuple(routes))


def _circle(graph: Graph, ring: tuple[int, ...], room: Box, largest: float) -> Drawing:
    """Lay a circle in two rows, there and back; in two columns where the room is upright."""
    count = len(ring)
    upright = room.height > room.width
    long = -(-count // 2)
    wide, high = room.width / (2 if upright else long), room.height / (long if upright else 2)
    size = _box_size(wide, high, largest)
    boxes: dict[int, Box] = {}
    for step, node in enumerate(ring):
        spot = (step, 0) if step < long else (2 * long - 1 - step, 1)
        column, row = spot[::-1] if upright else spot
        boxes[node] = _around(
            (room.left + (column + 0.5) * wide, room.top + (row + 0.5) * high), size
        )
    routes = []
    for start, end in graph.edges:
        points = _joined(boxes[start], boxes[end], upright=upright)
        routes.append(Route(points=points, back=end == ring[0]))
    return Drawing(boxes=tuple(boxes[node] for node in range(count)), routes=tuple(routes))


def _joined(one: Box, two: Box, *, upright: bool) -> tuple[Point, ...]:
    """Return a straight line between boxes in one row or column, else one with a single bend."""
    (ax, ay), (bx, by) = one.centre, two.centre
    if abs(ay - by) < 1:
        ahead = bx > ax
        return ((one.right if ahead else one.left, ay), (two.left if ahead else two.right, by))
    if abs(ax - bx) < 1:
        ahead = by > ay
        return ((ax, one.bottom if ahead else one.top), (bx, two.top if ahead else two.bottom))
    if upright:
        return (
            (ax, one.top if ay > by else one.bottom),
            (ax, by),
            (two.right if ax > bx else two.left, by),
        )
    return (
        (one.left if ax > bx else one.right, ay),
        (bx, ay),
        (bx, two.bottom if ay > by else two.top),
    )


def _cell_score(room: Box, columns: int, rows: int) -> float:
    wide, high = room.width / columns * _FILL, room.height / rows * _FILL
    return min(wide / _RATIO, high)


def _box_size(wide: float, high: float, largest: float, *, lone: bool = False) -> Point:
    """Return width and height of the boxes of cells of the given size."""
    tall = min(high * (0.58 if lone else _FILL), largest)
    across = min(wide * (0.86 if lone else _FILL + 0.1), tall * (3.4 if lone else 2.6))
    return across, min(tall, across / 1.25)


def _around(centre: Point, size: Point) -> Box:
    return Box(
        centre[0] - size[0] / 2,
        centre[1] - size[1] / 2,
        centre[0] + size[0] / 2,
        centre[1] + size[1] / 2,
    )


class _Frame:
    """A grid laid into a room, its layers running right or, `upright`, down."""

    def __init__(self, grid: Grid, room: Box, largest: float, *, upright: bool) -> None:
        """Work out cells and box size."""
        self._grid, self._upright = grid, upright
        along, across = (room.height, room.width) if upright else (room.width, room.height)
        self._start = (room.top, room.left) if upright else (room.left, room.top)
        self._pitch = (along / grid.layers, across / grid.extent)
        wide, high = (self._pitch[1] * 1.16, self._pitch[0]) if upright else self._pitch
        self._size = _box_size(wide, high, largest)
        self.score = min(self._size[0] / _RATIO, self._size[1])
        self._tracks: dict[tuple[int, object], int] = {}

    def drawing(self) -> Drawing:
        """Return boxes and routes."""
        boxes = tuple(
            _around(self._point(spot.layer, spot.across), self._size) for spot in self._grid.boxes
        )
        for way in sorted(self._grid.ways, key=lambda way: way.spots[0].across):
            for gap, key in self._gaps(way):
                known = [track for track in self._tracks if track[0] == gap]
                self._tracks.setdefault((gap, key), len(known))
        return Drawing(boxes=boxes, routes=tuple(map(self._route, self._grid.ways)))

    def _gaps(self, way: Way) -> list[tuple[int, object]]:
        """Return each gap between layers where `way` changes its place across, with its track."""
        start = way.ends[1] if way.back else way.ends[0]
        return [
            (one.layer, (way.ends if index or way.back else start))
            for index, (one, two) in enumerate(pairwise(way.spots))
            if abs(self._across(way, index) - self._across(way, index + 1)) > self._near
        ]

    @property
    def _near(self) -> float:
        return 0.02 * self._pitch[1]

    def _across(self, way: Way, index: int) -> float:
        """Return where `way` stands across at its spot `index`, in pixels."""
        middle = self._start[1] + (way.spots[index].across + 0.5) * self._pitch[1]
        reach = self._size[0] if self._upright else self._size[1]
        if index == 0:
            return middle + (reach * 0.3 if way.back else 0.0)
        if index < len(way.spots) - 1:
            return middle
        rivals = [other for other in self._grid.ways if other.spots[-1] == way.spots[-1]]
        rivals.sort(key=lambda other: (other.spots[-2].across, other.back))
        place = rivals.index(way) - (len(rivals) - 1) / 2
        return middle + reach * min(0.22, 0.66 / len(rivals)) * place

    def _route(self, way: Way) -> Route:
        """Return the bends of one arrow: straight through layers, sideways in the gaps."""
        half = (self._size[1] if self._upright else self._size[0]) / 2
        points: list[tuple[float, float]] = []
        for index, (one, two) in enumerate(pairwise(way.spots)):
            here, there = self._across(way, index), self._across(way, index + 1)
            begin = self._along(one.layer) + half
            end = self._along(two.layer) - half
            points.append((begin, here))
            if abs(here - there) > self._near:
                start = way.ends[1] if way.back else way.ends[0]
                key = (one.layer, way.ends if index or way.back else start)
                tracks = sum(1 for track in self._tracks if track[0] == one.layer)
                share = (self._tracks[key] + 1) / (tracks + 1)
                turn = begin + (end - begin) * (0.2 + 0.5 * share)
                points += [(turn, here), (turn, there)]
            else:
                there = here if index == len(way.spots) - 2 else there
            points.append((end, there))
        placed = [(b, a) if self._upright else (a, b) for a, b in points]
        return Route(points=tuple(placed[::-1] if way.back else placed), back=way.back)

    def _along(self, layer: int) -> float:
        return self._start[0] + (layer + 0.5) * self._pitch[0]

    def _point(self, layer: int, across: float) -> Point:
        along = self._along(layer)
        side = self._start[1] + (across + 0.5) * self._pitch[1]
        return (side, along) if self._upright else (along, side)
