"""Which languages were chosen, of which: on a map, or by the first two components of their features."""

from collections.abc import Mapping, Sequence

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from raysel.languages.layout import Picture
from raysel.report.figure_data import Row, numbers
from raysel.report.formats import percent
from raysel.report.palette import CATEGORICAL, LIGHT
from raysel.report.projection import place_labels
from raysel.report.svg import drawing, inline, place

WIDTH, HEIGHT = 640, 430
LEFT, TOP, RIGHT, BOTTOM = 52, 10, 10, 44
PIXELS_PER_CHARACTER = 7.2
LABEL_HEIGHT = 13
# A label farther than so many pixels from its dot is joined to it by a line.
FAR = 11
# Around the outermost languages, as a share of what is shown.
MARGIN = 0.06
PLACES = ("longitude", "latitude")


def subset_rows(picture: Picture) -> list[Row]:
    """The candidates that have a place."""
    across, up = PLACES if picture.kind == "map" else ("component_1", "component_2")
    return [
        {"lang": line.lang, "chosen": line.chosen, "cluster": line.cluster, across: line.place[0], up: line.place[1]}
        for line in picture.candidates
        if line.place is not None
    ]


def draw_subset(
    name: str, rows: Sequence[Row], *, explained: tuple[float, float], colours: Mapping[str, int]
) -> Markup:
    """The picture as an SVG element; at least one candidate has a place."""
    with drawing(WIDTH, HEIGHT) as figure:
        plot_subset(figure, rows, explained=explained, colours=colours)
        return inline(figure, name, "The chosen languages among the candidates")


def plot_subset(
    figure: Figure, rows: Sequence[Row], *, explained: tuple[float, float], colours: Mapping[str, int]
) -> None:
    """Chosen languages as large dots, the others small and joined to the chosen one of their cluster.

    explained: the components' shares of the variance, of no use to a map; colours: the numbers of the languages'
    colours. A cluster has that of the language that stands for it; without clusters one is for whatever is chosen.
    """
    is_map = PLACES[0] in rows[0]
    points = np.stack([numbers(rows, column) for column in list(rows[0])[-2:]], axis=1)
    axes = place(figure, LEFT, TOP, RIGHT, BOTTOM)
    size = (WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM)
    low, span = _extent(points, size)
    axes.set_xlim(low[0], low[0] + span[0])
    axes.set_ylim(low[1], low[1] + span[1])
    shades = _shades(rows, colours)
    place_of = dict(zip((row["lang"] for row in rows), points, strict=True))
    for row, point, shade in zip(rows, points, shades, strict=True):
        centre = None if row["chosen"] else place_of.get(row["cluster"])
        if centre is not None:
            axes.plot(*zip(point, centre, strict=True), color=shade, linewidth=0.7, zorder=2)
        face, diameter = (shade, 9) if row["chosen"] else (LIGHT["paper"], 5)
        axes.plot([point[0]], [point[1]], "o", markersize=diameter, markerfacecolor=face, markeredgecolor=shade,
                  markeredgewidth=1.2, zorder=4 if row["chosen"] else 3)  # fmt: skip
    _labels(axes, rows, (points - low) / span, shades, size)
    axes.grid(color=LIGHT["grid"], linewidth=1)
    axes.set_axisbelow(True)
    if is_map:
        axes.xaxis.set_major_locator(MaxNLocator(7, steps=[1, 2, 3, 5, 10]))
        axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 3, 5, 10]))
        axes.xaxis.set_major_formatter(lambda value, _: _degrees(value, "E", "W"))
        axes.yaxis.set_major_formatter(lambda value, _: _degrees(value, "N", "S"))
    else:
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_xlabel(f"first component, {percent(explained[0])} of the variance of the features")
        axes.set_ylabel(f"second component, {percent(explained[1])}")


def _degrees(value: float, positive: str, negative: str) -> str:
    return f"{abs(value):.0f}°{'' if not round(value) else positive if value > 0 else negative}"


def _extent(points: NDArray[np.float64], size: tuple[int, int]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Lower left corner and span of what is shown: all points, with a unit as long across as up."""
    low, high = points.min(axis=0), points.max(axis=0)
    room = np.array(size, dtype=float)
    unit = max(float(((high - low) / room).max()), 1e-9) * (1 + 2 * MARGIN)
    return (low + high) / 2 - room * unit / 2, room * unit


def _shades(rows: Sequence[Row], colours: Mapping[str, int]) -> list[str]:
    if all(row["cluster"] is None for row in rows):
        return [LIGHT["accent"] if row["chosen"] else LIGHT["before"] for row in rows]
    return [CATEGORICAL[colours[row["cluster"]]] if row["cluster"] is not None else LIGHT["before"] for row in rows]


def _labels(
    axes: Axes, rows: Sequence[Row], places: NDArray[np.float64], shades: Sequence[str], size: tuple[int, int]
) -> None:
    """The languages' codes beside their dots; a line leads back from those that stand farther off."""
    dots = places * size
    place_of = dict(zip((row["lang"] for row in rows), dots, strict=True))
    centres = np.array([place_of.get(row["cluster"], dot) for row, dot in zip(rows, dots, strict=True)])
    widths = [PIXELS_PER_CHARACTER * len(row["lang"]) for row in rows]
    first = sorted(range(len(rows)), key=lambda number: (not rows[number]["chosen"], number))
    for number, label in place_labels(dots, centres, widths, LABEL_HEIGHT, size, first).items():
        row, dot = rows[number], dots[number]
        half = np.array([widths[number], LABEL_HEIGHT]) / 2
        edge = np.clip(dot, label - half, label + half)
        if np.hypot(*(edge - dot)) > FAR:
            ends = np.stack([dot, edge]) / size
            axes.plot(ends[:, 0], ends[:, 1], color=LIGHT["before"], linewidth=0.6, transform=axes.transAxes, zorder=2)
        weight, colour = ("bold", shades[number]) if row["chosen"] else ("normal", LIGHT["muted"])
        axes.text(label[0] / size[0], label[1] / size[1], row["lang"], transform=axes.transAxes, ha="center",
                  va="center", color=colour, weight=weight, fontsize=12 if row["chosen"] else 10,
                  gid=f"halo-{number}", zorder=5)  # fmt: skip
