"""A picture of an asset graph: layers from the top down, drawn with matplotlib.

Assets lie in layers, inputs above what is made from them; a line that passes a layer has its own place
in it, so that no line runs through a box. The same graph gives the same bytes, and the picture carries
the graph that it shows, as text.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations, pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from captcha_assets.storage import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Key under which the picture carries its graph.
DESCRIPTION = "Description"

#: Fill and edge of the boxes of a group, in the order in which groups come.
_COLOURS = [
    ("#fdf3dc", "#c98a1b"), ("#e3f1e4", "#3f8f4b"), ("#e1eefa", "#2f73b5"), ("#f0e6f8", "#8050a8"),
    ("#fbe6e4", "#c0483c"), ("#e2f3f3", "#2b8a8a"),
]  # fmt: skip
_WIDTH, _HEIGHT = 1.86, 0.5
_LAYER, _GAP, _LINE_GAP = 1.0, 0.22, 0.26
_ROUNDS = 24
_BEHIND = 0.06


@dataclass(frozen=True)
class Asset:
    """One box.

    Attributes:
        name: unique.
        group: its colour.
        kinds: what it is, in small print.
        parts: how its partitions are called, None for an asset that is one.
        made: whether the platform makes it; otherwise it only looks.
        inputs: names of the assets that it is made from.
    """

    name: str
    group: str
    kinds: tuple[str, ...]
    parts: str | None
    made: bool
    inputs: tuple[str, ...]


#: A place in a layer: an asset's name, or a line that passes (from, to, layer).
_Place = str | tuple[str, str, int]


def described(assets: Iterable[Asset]) -> str:
    """Return the graph as text, always the same for the same graph."""
    return json.dumps([asdict(one) for one in sorted(assets, key=lambda one: one.name)], sort_keys=True)


def description_of(picture: Path) -> str | None:
    """Return the graph that a picture shows, as `described` wrote it; None where it does not say."""
    with Image.open(picture) as image:
        return image.info.get(DESCRIPTION)


def draw(assets: Sequence[Asset], groups: Sequence[str], target: Path) -> None:
    """Draw the graph as a PNG, complete or not at all.

    Args:
        assets: all boxes.
        groups: names of the groups in the order of the legend.
        target: the file to make.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415

    places = _places(assets)
    xs, ys = zip(*places.values(), strict=True)
    left, right = min(xs) - _WIDTH / 2 - 0.15, max(xs) + _WIDTH / 2 + 0.15
    bottom, top = min(ys) - _HEIGHT, max(ys) + _HEIGHT + 0.55
    figure = Figure(figsize=(right - left, top - bottom), facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1), xlim=(left, right), ylim=(bottom, top))
    axes.set_axis_off()
    colours = {group: _COLOURS[number % len(_COLOURS)] for number, group in enumerate(groups)}
    for asset in assets:
        for name in asset.inputs:
            way = [places[one] for one in _way(name, asset.name, places)]
            _line(axes, way, _BEHIND if asset.parts else 0.0)
    for asset in assets:
        _box(axes, asset, places[asset.name], colours[asset.group])
    _legend(axes, colours, (left + 0.15, top - 0.3))
    with replacing(target) as part:
        figure.savefig(part, dpi=160, metadata={DESCRIPTION: described(assets), "Software": None})


# --- where things lie


def _places(assets: Sequence[Asset]) -> dict[_Place, tuple[float, float]]:
    """Return the middle of every box, and of every place where a line passes a layer."""
    depth = _depths(assets)
    lines = [
        _chain(name, asset.name, depth)
        for asset in sorted(assets, key=lambda a: a.name)
        for name in asset.inputs
    ]
    layers: list[list[_Place]] = [[] for _ in range(max(depth.values()) + 1)]
    for name in sorted(depth):
        layers[depth[name]].append(name)
    for line in lines:
        for passing in line[1:-1]:
            layers[int(passing[2])].append(passing)
    neighbours: dict[_Place, list[_Place]] = {place: [] for layer in layers for place in layer}
    for line in lines:
        for above, below in pairwise(line):
            neighbours[above].append(below)
            neighbours[below].append(above)
    _untangle(layers, neighbours)
    across = _spread(layers, neighbours)
    return {
        place: (across[place], -_LAYER * number) for number, layer in enumerate(layers) for place in layer
    }


def _depths(assets: Sequence[Asset]) -> dict[str, int]:
    """Return the layer of each asset: below all its inputs; one without inputs right above its first user."""
    known = {asset.name: asset for asset in assets}
    depth: dict[str, int] = {}

    def below(name: str) -> int:
        if name not in depth:
            depth[name] = max((below(one) + 1 for one in known[name].inputs), default=0)
        return depth[name]

    for name in sorted(known):
        below(name)
    for name, asset in known.items():
        users = [depth[one.name] for one in assets if name in one.inputs]
        if not asset.inputs and users:
            depth[name] = min(users) - 1
    return depth


def _chain(above: str, below: str, depth: Mapping[str, int]) -> list[_Place]:
    return [above, *((above, below, layer) for layer in range(depth[above] + 1, depth[below])), below]


def _way(above: str, below: str, places: Mapping[_Place, object]) -> list[_Place]:
    passing = sorted((one for one in places if one[:2] == (above, below)), key=lambda one: one[2])
    return [above, *passing, below]


def _untangle(layers: list[list[_Place]], neighbours: Mapping[_Place, list[_Place]]) -> None:
    """Exchange places within their layers as long as fewer lines cross, or the lines get shorter."""
    best, improved = _cost(layers, neighbours), True
    while improved:
        improved = False
        for layer in layers:
            for one, other in combinations(range(len(layer)), 2):
                layer[one], layer[other] = layer[other], layer[one]
                cost = _cost(layers, neighbours)
                if cost < best:
                    best, improved = cost, True
                else:
                    layer[one], layer[other] = layer[other], layer[one]


def _cost(layers: Sequence[Sequence[_Place]], neighbours: Mapping[_Place, list[_Place]]) -> tuple[int, float]:
    """Return how many lines cross, and how far lines go sideways."""
    across = _spread(layers, neighbours)
    sideways = sum((across[place] - across[one]) ** 2 for place, ends in neighbours.items() for one in ends)
    return _crossings(layers, neighbours), round(sideways, 3)


def _crossings(layers: Sequence[Sequence[_Place]], neighbours: Mapping[_Place, list[_Place]]) -> int:
    total = 0
    for above, below in pairwise(layers):
        at = {place: number for number, place in enumerate(below)}
        ends = [[at[one] for one in neighbours[place] if one in at] for place in above]
        total += sum(
            one > other
            for number, first in enumerate(ends)
            for second in ends[number + 1 :]
            for one in first
            for other in second
        )
    return total


def _spread(
    layers: Sequence[Sequence[_Place]], neighbours: Mapping[_Place, list[_Place]]
) -> dict[_Place, float]:
    """Return how far across each place lies: near its neighbours, apart from those beside it."""
    across = {place: float(number) for layer in layers for number, place in enumerate(layer)}
    for round_ in range(_ROUNDS):
        for layer in layers if round_ % 2 else layers[::-1]:
            wish = [
                float(np.mean([across[one] for one in neighbours[place]] or [across[place]]))
                for place in layer
            ]
            offsets = np.cumsum([0.0, *(_apart(one, other) for one, other in pairwise(layer))])
            across.update(zip(layer, _rising(np.array(wish) - offsets) + offsets, strict=True))
    return across


def _apart(one: _Place, other: _Place) -> float:
    """Return how far the middles of two places in a layer must lie apart."""
    return sum(_WIDTH / 2 if isinstance(place, str) else 0 for place in (one, other)) + (
        _GAP if isinstance(one, str) and isinstance(other, str) else _LINE_GAP
    )


def _rising(wish: np.ndarray) -> np.ndarray:
    """Return the rising numbers nearest to `wish`: neighbours that would fall are set to their mean."""
    blocks: list[list[float]] = []
    for value in wish:
        blocks.append([float(value)])
        while len(blocks) > 1 and np.mean(blocks[-2]) > np.mean(blocks[-1]):
            last = blocks.pop()
            blocks[-1] += last
    return np.concatenate([np.full(len(block), np.mean(block)) for block in blocks])


# --- how they look


def _box(axes: "Axes", asset: Asset, at: tuple[float, float], colour: tuple[str, str]) -> None:
    from matplotlib.patches import FancyBboxPatch  # noqa: PLC0415

    (x, y), (fill, edge) = at, colour
    shifts = [_BEHIND, 0.0] if asset.parts else [0.0]  # an asset of parts lies on a second box
    for shift in shifts:
        axes.add_patch(
            FancyBboxPatch(
                (x - _WIDTH / 2 + shift, y - _HEIGHT / 2 + shift),
                _WIDTH,
                _HEIGHT,
                boxstyle="round,pad=0,rounding_size=0.09",
                facecolor=fill,
                edgecolor=edge,
                linewidth=1.2,
                linestyle="-" if asset.made else (0, (4, 2)),
                zorder=3,
            )
        )
    axes.text(
        x, y + 0.085, asset.name, ha="center", va="center", size=9.5, weight="bold", color="#222222", zorder=4
    )
    small = " · ".join(kind.replace("_", " ") for kind in asset.kinds)
    axes.text(x, y - 0.125, small, ha="center", va="center", size=6.6, color="#555555", zorder=4)


def _line(axes: "Axes", way: Sequence[tuple[float, float]], behind: float) -> None:
    """Draw a curve from the bottom of a box to the top of another one, upright in every layer it passes."""
    from matplotlib.patches import FancyArrowPatch  # noqa: PLC0415
    from matplotlib.path import Path as Curve  # noqa: PLC0415

    half = _HEIGHT / 2
    upright = [(x, y + side) for x, y in way for side in (half, -half)]
    ends = [*upright[1:-2], (way[-1][0], way[-1][1] + half + behind + 0.02)]
    corners, codes = [ends[0]], [Curve.MOVETO]
    for number, ((x, y), (to_x, to_y)) in enumerate(pairwise(ends)):
        if number % 2:
            corners.append((to_x, to_y))
            codes.append(Curve.LINETO)
        else:
            corners += [(x, y + 0.55 * (to_y - y)), (to_x, to_y - 0.55 * (to_y - y)), (to_x, to_y)]
            codes += [Curve.CURVE4] * 3
    axes.add_patch(
        FancyArrowPatch(
            path=Curve(corners, codes),
            arrowstyle="-|>,head_length=4,head_width=2",
            color="#8a8f98",
            lw=1.1,
            zorder=2,
        )
    )


def _legend(axes: "Axes", colours: Mapping[str, tuple[str, str]], at: tuple[float, float]) -> None:
    from matplotlib.patches import FancyBboxPatch  # noqa: PLC0415

    x, y = at
    for group, (fill, edge) in colours.items():
        axes.add_patch(
            FancyBboxPatch(
                (x, y - 0.08),
                0.22,
                0.16,
                boxstyle="round,pad=0,rounding_size=0.04",
                facecolor=fill,
                edgecolor=edge,
            )
        )
        axes.text(x + 0.3, y - 0.01, group, va="center", size=8.5, color="#333333")
        x += 0.62 + 0.085 * len(group)
    words = "double: one part per delivery, day or trial   dashed: looked at, never made"
    axes.text(at[0], y - 0.28, words, va="center", size=7.5, color="#777777")
