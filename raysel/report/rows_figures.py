"""Figures with one row for each language: arrays in, SVG out."""

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from raysel.evaluation.intervals import Interval
from raysel.report.formats import decimal, integer, language_name, shorten
from raysel.report.palette import LIGHT
from raysel.report.score_summary import ScoreSummary, bin_centres
from raysel.report.svg import drawing, inline, place

WIDTH = 520
TOP, BOTTOM, RIGHT = 8, 40, 58
PIXELS_PER_CHARACTER = 6.6
NAME_CHARACTERS = 20


def row_height(rows: int) -> float:
    """Pixels for one row: airy for a few, tight for many."""
    return 34 if rows <= 8 else 26 if rows <= 20 else 20


def row_name(lang: str) -> str:
    return shorten(language_name(lang), NAME_CHARACTERS)


def _rows_axes(figure: Figure, names: Sequence[str], headroom: float, right: float = RIGHT) -> Axes:
    """Axes with one named row per unit of y, the first on top."""
    left = 12 + PIXELS_PER_CHARACTER * max(len(name) for name in names)
    axes = place(figure, left, TOP, right, BOTTOM)
    axes.set_ylim(len(names) - 0.5, -0.5 - headroom)
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(axis="y", pad=6)
    axes.grid(axis="x", color=LIGHT["grid"], linewidth=1)
    axes.set_axisbelow(True)
    return axes


def _height(rows: int, headroom: float) -> float:
    return TOP + BOTTOM + (rows + headroom) * row_height(rows)


def ridgeline(scores: ScoreSummary, selected: ScoreSummary | None) -> Markup:
    """The distribution of separability in every language, by falling mean; the selected part of each filled in."""
    langs = scores.by_mean()
    overlap = 0.7
    centres = bin_centres()
    low = max(-1.0, min(scores.quantile(lang, 0.002) - 3 * scores.kernel_width(lang) for lang in langs))
    high = min(1.0, max(scores.quantile(lang, 0.998) + 3 * scores.kernel_width(lang) for lang in langs))
    shown = np.flatnonzero((centres >= low) & (centres <= high))
    # A point every 3 pixels draws the same curve as all 2,000 bins.
    shown = shown[:: max(1, len(shown) // 120)]
    with drawing(WIDTH, _height(len(langs), overlap)) as figure:
        axes = _rows_axes(figure, [row_name(lang) for lang in langs], overlap)
        axes.set_xlim(low, high)
        axes.axvline(0, color=LIGHT["muted"], linewidth=1, linestyle=(0, (2, 3)))
        for number, lang in enumerate(langs):
            width, base = scores.kernel_width(lang), number + 0.4
            curve = scores.density(lang, width)[shown]
            scale = (1 + overlap) * 0.92 / curve.max()
            part = selected.density(lang, width)[shown] if selected is not None else np.zeros_like(curve)
            # Each row lies over the one above it; the ticks of the means lie over all rows.
            for area, colour in ((curve, "all"), (part, "accent")):
                if area.any():
                    filled = axes.fill_between(centres[shown], base, base - area * scale, color=LIGHT[colour])
                    filled.set(zorder=3 + number, linewidth=0, alpha=0.85)
            axes.plot(centres[shown], base - curve * scale, color=LIGHT["before"], linewidth=1, zorder=3 + number)
            mean = scores.mean_of(lang) or 0.0
            axes.plot([mean, mean], [base, base - 0.34], color=LIGHT["ink"], linewidth=2, zorder=3 + len(langs))
            axes.text(1.02, number, decimal(mean), transform=axes.get_yaxis_transform(), va="center", fontsize=11)
        axes.set_xlabel("separability; the tick is the mean, also written at the right")
        return inline(figure, "ridgeline", "Distribution of separability in each language, by falling mean")


def nested_bars(langs: Sequence[str], layers: Sequence[tuple[str, Sequence[int]]]) -> Markup:
    """Rows of each language at every stage of the selection, one inside the other.

    layers: (colour, (K,) counts), the outermost first; the last one's count is written at the right.
    """
    with drawing(WIDTH, _height(len(langs), 0)) as figure:
        axes = _rows_axes(figure, [row_name(lang) for lang in langs], 0)
        rows = np.arange(len(langs))
        for depth, (colour, counts) in enumerate(layers):
            axes.barh(rows, counts, height=0.78 - 0.2 * depth, color=LIGHT[colour], zorder=3 + depth)
        axes.set_xlim(0, max(1, *(max(counts) for _, counts in layers)) * 1.02)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_formatter(lambda value, _: integer(value))
        for number, count in enumerate(layers[-1][1]):
            axes.text(1.02, number, integer(count), transform=axes.get_yaxis_transform(), va="center", fontsize=11)
        axes.set_xlabel("rows")
        return inline(figure, "selection", "Rows of each language in the corpus, in the pool and selected")


def dumbbells(
    name: str,
    langs: Sequence[str],
    before: Sequence[Interval | None],
    after: Sequence[Interval | None],
    *,
    label: str,
    description: str,
    percent: bool = False,
    digits: int = 3,
) -> Markup:
    """Two values of each language, with their intervals where there are any, joined by a line."""
    factor = 100 if percent else 1
    with drawing(WIDTH, _height(len(langs), 0)) as figure:
        axes = _rows_axes(figure, [row_name(lang) for lang in langs], 0)
        for number, pair in enumerate(zip(before, after, strict=True)):
            values = [shown.value * factor for shown in pair if shown is not None]
            axes.plot(values, [number] * len(values), color=LIGHT["all"], linewidth=2, zorder=2)
            for shown, colour, offset in zip(pair, ("before", "accent"), (-0.14, 0.14), strict=True):
                if shown is None:
                    continue
                if shown.low is not None and shown.high is not None:
                    ends = [shown.low * factor, shown.high * factor]
                    axes.plot(ends, [number + offset] * 2, color=LIGHT[colour], linewidth=1.4, alpha=0.75, zorder=3)
                axes.plot([shown.value * factor], [number], "o", color=LIGHT[colour], markersize=6.5, zorder=4)
            if len(values) == 2:
                text = decimal(values[1] - values[0], 1 if percent else digits, sign=True)
                axes.text(1.02, number, text, transform=axes.get_yaxis_transform(), va="center", fontsize=11)
        axes.margins(x=0.04)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.set_xlabel(label)
        return inline(figure, name, description)
