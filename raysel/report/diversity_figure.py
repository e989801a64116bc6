"""Separability against diversity: one point for each choice, as SVG."""

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from raysel.report.diversity import Diversity, DiversityLine
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


def diversity_scatter(diversity: Diversity) -> Markup | None:
    """The choices by mean separability and by 1 less the mean similarity within a language, with their Pareto front;
    None where fewer than two selectors have a place."""
    lines = [line for line in diversity.lines if line.place is not None]
    if sum(line.candidates != "everything" for line in lines) < 2:
        return None
    points = np.array([line.place for line in lines])
    low, span = points.min(axis=0), np.maximum(np.ptp(points, axis=0), 1e-9)
    low, span = low - BEFORE * span, span * (1 + BEFORE + AFTER)
    front = diversity.front
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
        for line, (x, y) in zip(lines, points, strict=True):
            if line.is_random and line.candidates == "corpus":
                axes.axvline(x, color=LIGHT["before"], linewidth=1, linestyle=DASHES, zorder=2)
                axes.axhline(y, color=LIGHT["before"], linewidth=1, linestyle=DASHES, zorder=2)
        corners = np.array([line.place for line in front])
        axes.step(corners[:, 0], corners[:, 1], where="pre", color=LIGHT["ink"], linewidth=1.2, alpha=0.55, zorder=3)
        for line, (x, y) in zip(lines, points, strict=True):
            colour, is_reference = COLOURS[line.candidates], line.is_random or line.candidates == "everything"
            on_front = any(line is other for other in front)
            axes.plot([x], [y], "D" if line.candidates == "everything" else "o", markersize=10 if on_front else 8,
                      markerfacecolor=LIGHT["paper"] if is_reference else colour,
                      markeredgecolor=LIGHT["ink"] if on_front else colour,
                      markeredgewidth=2 if on_front else 1.6, zorder=5)  # fmt: skip
        _labels(axes, lines, (points - low) / span)
        return inline(figure, "diversity", "Mean separability of each choice against its diversity within a language")


def _labels(axes: Axes, lines: list[DiversityLine], places: NDArray[np.float64]) -> None:
    """The selectors' names beside their points."""
    size = (WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM)
    dots = places * size
    widths = [PIXELS_PER_CHARACTER * len(line.name) for line in lines]
    # Of left and right as good, the left comes first: turned round, names begin at their points.
    turned, away = np.array([size[0], 0.0]), np.array([-1.0, 1.0])
    seen = turned + away * dots
    for row, turned_centre in place_labels(seen, seen, widths, LABEL_HEIGHT, size, range(len(lines))).items():
        line, half, centre = lines[row], np.array([widths[row], LABEL_HEIGHT]) / 2, turned + away * turned_centre
        edge = np.clip(dots[row], centre - half, centre + half)
        if np.hypot(*(edge - dots[row])) > FAR:
            ends = np.stack([dots[row], edge]) / size
            axes.plot(ends[:, 0], ends[:, 1], color=LIGHT["before"], linewidth=0.8, transform=axes.transAxes, zorder=4)
        axes.text(centre[0] / size[0], centre[1] / size[1], line.name, transform=axes.transAxes, ha="center",
                  va="center", color=COLOURS[line.candidates], weight="bold" if line.is_trained else "normal",
                  fontsize=12, gid=f"halo-{row}", zorder=6)  # fmt: skip
