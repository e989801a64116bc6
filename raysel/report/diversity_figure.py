"""Separability against diversity: one point for each choice, as SVG."""

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from raysel.report.diversity import Diversity
from raysel.report.figure_data import Row, numbers
from raysel.report.palette import LIGHT
from raysel.report.projection import place_labels
from raysel.report.svg import drawing, inline, place

WIDTH, HEIGHT = 640, 420
LEFT, TOP, RIGHT, BOTTOM = 62, 12, 14, 46
PIXELS_PER_CHARACTER = 9.2
LABEL_HEIGHT = 15
# A label farther than so many pixels from its point is joined to it by a line.
FAR = 11
# Around the outermost points, as a share of the span between them, across and up: at the right names stand.
BEFORE, AFTER = np.array([0.12, 0.14]), np.array([0.36, 0.14])
COLOURS = {"everything": LIGHT["muted"], "corpus": LIGHT["c1"], "pool": LIGHT["accent"]}
DASHES = (0, (2, 3))


def diversity_rows(diversity: Diversity) -> list[Row]:
    """The choices that have a place, by mean separability and by 1 less the mean similarity within a language; none
    where fewer than two selectors have one."""
    lines = [(line, line.place) for line in diversity.lines]
    if sum(line.candidates != "everything" and at is not None for line, at in lines) < 2:
        return []
    front = diversity.front
    return [
        {
            "name": line.name,
            "candidates": line.candidates,
            "is_random": line.is_random,
            "is_trained": line.is_trained,
            "separability": at[0],
            "diversity": at[1],
            "on_front": any(line is other for other in front),
        }
        for line, at in lines
        if at is not None
    ]


def diversity_scatter(name: str, rows: Sequence[Row]) -> Markup:
    """The choices by mean separability and diversity, with their Pareto front."""
    points = np.stack([numbers(rows, "separability"), numbers(rows, "diversity")], axis=1)
    low, span = points.min(axis=0), np.maximum(np.ptp(points, axis=0), 1e-9)
    low, span = low - BEFORE * span, span * (1 + BEFORE + AFTER)
    with drawing(WIDTH, HEIGHT) as figure:
        axes = place(figure, LEFT, TOP, RIGHT, BOTTOM)
        axes.set_xlim(low[0], low[0] + span[0])
        axes.set_ylim(low[1], low[1] + span[1])
        axes.grid(color=LIGHT["grid"], linewidth=1)
        axes.set_axisbelow(True)
        axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.yaxis.set_major_locator(MaxNLocator(6))
        axes.set_xlabel("mean separability")
        axes.set_ylabel("1 − mean cosine of two samples of a language")
        for row, (x, y) in zip(rows, points, strict=True):
            if row["is_random"] and row["candidates"] == "corpus":
                axes.axvline(x, color=LIGHT["before"], linewidth=1, linestyle=DASHES, zorder=2)
                axes.axhline(y, color=LIGHT["before"], linewidth=1, linestyle=DASHES, zorder=2)
        corners = points[[row["on_front"] for row in rows]]
        corners = corners[np.lexsort(corners.T[::-1])]
        axes.step(corners[:, 0], corners[:, 1], where="pre", color=LIGHT["ink"], linewidth=1.2, alpha=0.55, zorder=3)
        for row, (x, y) in zip(rows, points, strict=True):
            colour, is_reference = COLOURS[row["candidates"]], row["is_random"] or row["candidates"] == "everything"
            axes.plot([x], [y], "D" if row["candidates"] == "everything" else "o",
                      markersize=10 if row["on_front"] else 8,
                      markerfacecolor=LIGHT["paper"] if is_reference else colour,
                      markeredgecolor=LIGHT["ink"] if row["on_front"] else colour,
                      markeredgewidth=2 if row["on_front"] else 1.6, zorder=5)  # fmt: skip
        _labels(axes, rows, (points - low) / span)
        return inline(figure, name, "Mean separability of each choice against its diversity within a language")


def _labels(axes: Axes, rows: Sequence[Row], places: NDArray[np.float64]) -> None:
    """The selectors' names beside their points."""
    size = (WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM)
    dots = places * size
    widths = [PIXELS_PER_CHARACTER * len(row["name"]) for row in rows]
    # Of left and right as good, the left comes first: turned round, names begin at their points.
    turned, away = np.array([size[0], 0.0]), np.array([-1.0, 1.0])
    seen = turned + away * dots
    for number, turned_centre in place_labels(seen, seen, widths, LABEL_HEIGHT, size, range(len(rows))).items():
        row, half = rows[number], np.array([widths[number], LABEL_HEIGHT]) / 2
        centre = turned + away * turned_centre
        edge = np.clip(dots[number], centre - half, centre + half)
        if np.hypot(*(edge - dots[number])) > FAR:
            ends = np.stack([dots[number], edge]) / size
            axes.plot(ends[:, 0], ends[:, 1], color=LIGHT["before"], linewidth=0.8, transform=axes.transAxes, zorder=4)
        axes.text(centre[0] / size[0], centre[1] / size[1], row["name"], transform=axes.transAxes, ha="center",
                  va="center", color=COLOURS[row["candidates"]], weight="bold" if row["is_trained"] else "normal",
                  fontsize=12, gid=f"halo-{number}", zorder=6)  # fmt: skip
