"""Which languages were chosen, of which: on a map, or by the first two components of their features."""

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from raysel.languages.layout import Picture, Shown
from raysel.report.formats import percent
from raysel.report.palette import CATEGORICAL, LIGHT
from raysel.report.projection import contrasting_colours, place_labels
from raysel.report.svg import drawing, inline, place

WIDTH, HEIGHT = 640, 430
LEFT, TOP, RIGHT, BOTTOM = 52, 10, 10, 44
PIXELS_PER_CHARACTER = 7.2
LABEL_HEIGHT = 13
# A label farther than so many pixels from its dot is joined to it by a line.
FAR = 11
# Around the outermost languages, as a share of what is shown.
MARGIN = 0.06


def draw_subset(picture: Picture) -> Markup:
    """The picture as an SVG element; at least one candidate has a place."""
    with drawing(WIDTH, HEIGHT) as figure:
        plot_subset(figure, picture)
        return inline(figure, "subset", "The chosen languages among the candidates")


def plot_subset(figure: Figure, picture: Picture) -> None:
    """Chosen languages as large dots, the others small and joined to the chosen one of their cluster."""
    shown = [(line, line.place) for line in picture.candidates if line.place is not None]
    lines = [line for line, _ in shown]
    points = np.array([point for _, point in shown]).reshape(-1, 2)
    axes = place(figure, LEFT, TOP, RIGHT, BOTTOM)
    size = (WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM)
    low, span = _extent(points, size)
    axes.set_xlim(low[0], low[0] + span[0])
    axes.set_ylim(low[1], low[1] + span[1])
    colours = _colours(lines, points)
    place_of = dict(zip((line.lang for line in lines), points, strict=True))
    for line, point, colour in zip(lines, points, colours, strict=True):
        centre = place_of.get(line.cluster) if line.cluster is not None and not line.chosen else None
        if centre is not None:
            axes.plot(*zip(point, centre, strict=True), color=colour, linewidth=1, alpha=0.45, zorder=2)
        face, diameter = (colour, 9) if line.chosen else (LIGHT["paper"], 5)
        axes.plot([point[0]], [point[1]], "o", markersize=diameter, markerfacecolor=face, markeredgecolor=colour,
                  markeredgewidth=1.2, zorder=4 if line.chosen else 3)  # fmt: skip
    _labels(axes, lines, (points - low) / span, colours, size)
    axes.grid(color=LIGHT["grid"], linewidth=1)
    axes.set_axisbelow(True)
    if picture.kind == "map":
        axes.xaxis.set_major_locator(MaxNLocator(7, steps=[1, 2, 3, 5, 10]))
        axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 3, 5, 10]))
        axes.xaxis.set_major_formatter(lambda value, _: _degrees(value, "E", "W"))
        axes.yaxis.set_major_formatter(lambda value, _: _degrees(value, "N", "S"))
    else:
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_xlabel(f"first component, {percent(picture.explained[0])} of the variance of the features")
        axes.set_ylabel(f"second component, {percent(picture.explained[1])}")


def _degrees(value: float, positive: str, negative: str) -> str:
    return f"{abs(value):.0f}°{'' if not round(value) else positive if value > 0 else negative}"


def _extent(points: NDArray[np.float64], size: tuple[int, int]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Lower left corner and span of what is shown: all points, with a unit as long across as up."""
    low, high = points.min(axis=0), points.max(axis=0)
    room = np.array(size, dtype=float)
    unit = max(float(((high - low) / room).max()), 1e-9) * (1 + 2 * MARGIN)
    return (low + high) / 2 - room * unit / 2, room * unit


def _colours(lines: Sequence[Shown], points: NDArray[np.float64]) -> list[str]:
    """A colour for each cluster, neighbours differing; without clusters one for whatever is chosen."""
    clusters = sorted({line.cluster for line in lines if line.cluster is not None})
    if not clusters:
        return [LIGHT["accent"] if line.chosen else LIGHT["before"] for line in lines]
    of = [line.cluster for line in lines]
    centres = np.array([points[[cluster == one for one in of]].mean(axis=0) for cluster in clusters])
    numbers = dict(zip(clusters, contrasting_colours(centres, len(CATEGORICAL)), strict=True))
    return [CATEGORICAL[numbers[cluster]] if cluster is not None else LIGHT["before"] for cluster in of]


def _labels(
    axes: Axes, lines: Sequence[Shown], places: NDArray[np.float64], colours: Sequence[str], size: tuple[int, int]
) -> None:
    """The languages' codes beside their dots; a line leads back from those that stand farther off."""
    dots = places * size
    place_of = dict(zip((line.lang for line in lines), dots, strict=True))
    centres = np.array([place_of.get(line.cluster or "", dot) for line, dot in zip(lines, dots, strict=True)])
    widths = [PIXELS_PER_CHARACTER * len(line.lang) for line in lines]
    first = sorted(range(len(lines)), key=lambda row: (not lines[row].chosen, row))
    for row, label in place_labels(dots, centres, widths, LABEL_HEIGHT, size, first).items():
        line, dot = lines[row], dots[row]
        half = np.array([widths[row], LABEL_HEIGHT]) / 2
        edge = np.clip(dot, label - half, label + half)
        if np.hypot(*(edge - dot)) > FAR:
            ends = np.stack([dot, edge]) / size
            axes.plot(ends[:, 0], ends[:, 1], color=LIGHT["before"], linewidth=0.6, transform=axes.transAxes, zorder=2)
        weight, colour = ("bold", colours[row]) if line.chosen else ("normal", LIGHT["muted"])
        axes.text(label[0] / size[0], label[1] / size[1], line.lang, transform=axes.transAxes, ha="center",
                  va="center", color=colour, weight=weight, fontsize=12 if line.chosen else 10,
                  gid=f"halo-{row}", zorder=5)  # fmt: skip
