"""Layers of a graph: which box stands in which layer, and where across it.

Pure: graph in, grid positions out. It must not know pixels, boxes or type.
"""

from itertools import pairwise
from typing import Final

import msgspec

from agent.engines.sketch.wording import Graph

_SWEEPS: Final = 6
_RING_LEAST: Final = 3
_PULLS: Final = 60
_THIN: Final = 0.55
"""Room that a passing arrow takes across a layer, as a share of a box's."""


class Spot(msgspec.Struct, frozen=True, kw_only=True):
    """A place on the grid: `layer` along the arrows, `across` in rooms of one box."""

    layer: int
    across: float


class Way(msgspec.Struct, frozen=True, kw_only=True):
    """One arrow as a row of spots, in the direction of the layers.

    `back` says that the arrow itself runs against it.
    """

    ends: tuple[int, int]
    spots: tuple[Spot, ...]
    back: bool


class Grid(msgspec.Struct, frozen=True, kw_only=True):
    """A laid out graph: `layers` long, `extent` rooms wide."""

    boxes: tuple[Spot, ...]
    ways: tuple[Way, ...]
    layers: int
    extent: float


def path_of(graph: Graph) -> tuple[int, ...] | None:
    """Return the boxes in order if the graph is one plain chain, else None."""
    following = dict(graph.edges)
    if len(graph.edges) != len(graph.nodes) - 1 or len(following) != len(graph.edges):
        return None
    starts = set(range(len(graph.nodes))) - set(following.values())
    if len(starts) != 1:
        return None
    order = [starts.pop()]
    while order[-1] in following:
        order.append(following[order[-1]])
    return tuple(order) if len(order) == len(graph.nodes) else None


def ring_of(graph: Graph) -> tuple[int, ...] | None:
    """Return the boxes in order if the graph is one circle of three or more, else None."""
    following = dict(graph.edges)
    if not len(graph.nodes) == len(graph.edges) == len(following) >= _RING_LEAST:
        return None
    order = [0]
    while following.get(order[-1], 0) not in order:
        order.append(following[order[-1]])
    closed = following.get(order[-1]) == 0
    return tuple(order) if closed and len(order) == len(graph.nodes) else None


def layered(graph: Graph) -> Grid:
    """Lay out any graph: arrows run from layer to layer, those of a circle back."""
    turned = _against(graph)
    down = {edge: (edge[1], edge[0]) if edge in turned else edge for edge in graph.edges}
    layer = _longest(len(graph.nodes), list(down.values()))
    rows: list[list[int]] = [[] for _ in range(max(layer) + 1)]
    for node, place in enumerate(layer):
        rows[place].append(node)
    links: list[tuple[int, int]] = []
    passes: dict[tuple[int, int], list[int]] = {}
    spare = len(graph.nodes)
    for edge, (start, end) in down.items():
        last, passes[edge] = start, []
        for between in range(layer[start] + 1, layer[end]):
            rows[between].append(spare)
            passes[edge].append(spare)
            links.append((last, spare))
            last, spare = spare, spare + 1
        links.append((last, end))
    _order(rows, links)
    across = _spread(rows, links, len(graph.nodes))
    spots = {
        node: Spot(layer=place, across=across[node])
        for place, row in enumerate(rows)
        for node in row
    }
    ways = tuple(
        Way(
            ends=edge,
            back=edge in turned,
            spots=tuple(spots[node] for node in (pair[0], *passes[edge], pair[1])),
        )
        for edge, pair in down.items()
    )
    return Grid(
        boxes=tuple(spots[node] for node in range(len(graph.nodes))),
        ways=ways,
        layers=len(rows),
        extent=max(across.values()) + 1,
    )


def _against(graph: Graph) -> set[tuple[int, int]]:
    """Return the arrows that close a circle, found by walking depth first."""
    state = dict.fromkeys(range(len(graph.nodes)), 0)
    found: set[tuple[int, int]] = set()

    def walk(node: int) -> None:
        state[node] = 1
        for edge in graph.edges:
            if edge[0] != node:
                continue
            if state[edge[1]] == 1:
                found.add(edge)
            elif state[edge[1]] == 0:
                walk(edge[1])
        state[node] = 2

    for node in range(len(graph.nodes)):
        if state[node] == 0:
            walk(node)
    return found


def _longest(count: int, edges: list[tuple[int, int]]) -> list[int]:
    """Return each box's layer: one more than the farthest box before it."""
    layer = [0] * count
    for _ in range(count):
        for start, end in edges:
            layer[end] = max(layer[end], layer[start] + 1)
    return layer


def _order(rows: list[list[int]], links: list[tuple[int, int]]) -> None:
    """Sort each layer by the middle of its neighbours, forth and back."""
    place = {node: float(index) for row in rows for index, node in enumerate(row)}
    for sweep in range(_SWEEPS):
        forth = sweep % 2 == 0
        ways = links if forth else [(end, start) for start, end in links]
        for row in rows if forth else reversed(rows):
            ranked = sorted(
                (_middle([place[a] for a, b in ways if b == node], place[node]), node)
                for node in row
            )
            row[:] = [node for _, node in ranked]
            place.update({node: float(index) for index, node in enumerate(row)})


def _middle(values: list[float], otherwise: float) -> float:
    return sum(values) / len(values) if values else otherwise


def _spread(rows: list[list[int]], links: list[tuple[int, int]], real: int) -> dict[int, float]:
    """Return positions across, pulled to the neighbours, never nearer than there is room for.

    The fullest layer stays where it is, so that the others settle around it; an arrow that only
    passes does not pull a box out of line.
    """
    across: dict[int, float] = {}
    for row in rows:
        middle = (len(row) - 1) / 2
        across.update({node: index - middle for index, node in enumerate(row)})
    anchor = max(rows, key=len)
    for sweep in range(_PULLS):
        for row in rows if sweep % 2 == 0 else reversed(rows):
            if row is anchor:
                continue
            wish = {}
            for node in row:
                others = [b if a == node else a for a, b in links if node in (a, b)]
                boxes = [other for other in others if other < real]
                near = [across[other] for other in (boxes if node < real and boxes else others)]
                wish[node] = _middle(near, across[node])
            across.update(_settled(row, wish, real))
    least = min(across.values())
    return {node: value - least for node, value in across.items()}


def _settled(row: list[int], wish: dict[int, float], real: int) -> dict[int, float]:
    """Return places of one layer near the wishes, boxes before passing arrows."""
    reach = [0.0]
    for before, node in pairwise(row):
        reach.append(reach[-1] + sum(0.5 if end < real else _THIN / 2 for end in (before, node)))
    firm = [index for index, node in enumerate(row) if node < real] or list(range(len(row)))
    lows, highs = [wish[row[firm[0]]]], [wish[row[firm[-1]]]]
    for before, index in pairwise(firm):
        lows.append(max(wish[row[index]], lows[-1] + reach[index] - reach[before]))
    for after, index in pairwise(firm[::-1]):
        highs.append(min(wish[row[index]], highs[-1] - reach[after] + reach[index]))
    places = {
        index: (low + high) / 2 for index, low, high in zip(firm, lows, highs[::-1], strict=True)
    }
    for index in range(firm[0] - 1, -1, -1):
        limit = places[index + 1] - reach[index + 1] + reach[index]
        places[index] = min(wish[row[index]], limit)
    for index in range(firm[0] + 1, len(row)):
        if index in places:
            continue
        place = max(wish[row[index]], places[index - 1] + reach[index] - reach[index - 1])
        for later in firm:
            if later > index:
                place = min(place, places[later] - reach[later] + reach[index])
        places[index] = place
    return {row[index]: place for index, place in places.items()}
