"""Layers of a graph: which box stands in which layer, and where across it.

Pure: graph in, grid positions out. It must not know pixels, boxes or type.
"""

from itertools import pairwise
from typing import Final

import msgspec

from agent.engines.sketch.wording import Graph

_SWEEPS: Final = 6
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
        for row in rows if forth else reversed(rows):
            for node in row:
                near = (
                    [place[a] for a, b in links if b == node]
                    if forth
                    else [place[b] for a, b in links if a == node]
                )
                if near:
                    place[node] = sum(near) / len(near)
            row.sort(key=lambda node: (place[node], node))
            for index, node in enumerate(row):
                place[node] = float(index)


def _spread(rows: list[list[int]], links: list[tuple[int, int]], real: int) -> dict[int, float]:
    """Return positions across, pulled to the neighbours, never nearer than there is room for.

    The fullest layer stays where it is, so that the others settle around it; an arrow that only
    passes does not pull a box out of line.
    """

    def room(first: int, second: int) -> float:
        return sum(0.5 if node < real else _THIN / 2 for node in (first, second))

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
                wish[node] = sum(near) / len(near) if near else across[node]
            lows = [wish[row[0]]]
            for before, node in pairwise(row):
                lows.append(max(wish[node], lows[-1] + room(before, node)))
            highs = [wish[row[-1]]]
            for after, node in pairwise(row[::-1]):
                highs.append(min(wish[node], highs[-1] - room(after, node)))
            for index, node in enumerate(row):
                across[node] = (lows[index] + highs[len(row) - 1 - index]) / 2
    least = min(across.values())
    return {node: value - least for node, value in across.items()}
