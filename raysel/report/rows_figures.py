"""Figures with one row for each language: a table in, SVG out."""

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from raysel.report.figure_data import Row, finite, grouped, numbers
from raysel.report.formats import decimal, integer, language_name, shorten
from raysel.report.palette import LIGHT
from raysel.report.score_summary import ScoreSummary, bin_centres
from raysel.report.svg import drawing, inline, place

WIDTH = 520
TOP, BOTTOM, RIGHT = 8, 40, 58
PIXELS_PER_CHARACTER = 6.6
NAME_CHARACTERS = 20
# Rows of languages lie over each other by so much of a row.
OVERLAP = 0.7
# The parts of a selection from the outermost in, and their colours.
PARTS = {"corpus": "all", "pool": "pool", "selected": "accent"}
MISSING = "missing"


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


def ridgeline_rows(scores: ScoreSummary, selected: ScoreSummary | None) -> list[Row]:
    """Of every language, by falling mean: its mean, and samples per unit of score along the scale, of all and of the
    selected ones."""
    langs = scores.by_mean()
    centres = bin_centres()
    low = max(-1.0, min(scores.quantile(lang, 0.002) - 3 * scores.kernel_width(lang) for lang in langs))
    high = min(1.0, max(scores.quantile(lang, 0.998) + 3 * scores.kernel_width(lang) for lang in langs))
    shown = np.flatnonzero((centres >= low) & (centres <= high))
    # A point every 3 pixels draws the same curve as all 2,000 bins.
    shown = shown[:: max(1, len(shown) // 120)]
    rows: list[Row] = []
    for lang in langs:
        width = scores.kernel_width(lang)
        of_all = scores.density(lang, width)[shown].tolist()
        part = selected.density(lang, width)[shown].tolist() if selected is not None else [None] * len(shown)
        mean = finite(scores.mean_of(lang))
        rows.append({"lang": lang, "shown": "mean", "separability": mean, "density": None, "selected_density": None})
        rows += [
            {"lang": lang, "shown": "curve", "separability": at, "density": density, "selected_density": own}
            for at, density, own in zip(centres[shown].round(4).tolist(), of_all, part, strict=True)
        ]
    return [{key: float(f"{v:.6g}") if "density" in key and v else v for key, v in row.items()} for row in rows]


def ridgeline(name: str, rows: Sequence[Row]) -> Markup:
    """The distribution of separability in every language; the selected part of each filled in."""
    of_lang = grouped(rows, "lang")
    at = numbers([row for row in rows if row["shown"] == "curve"], "separability")
    with drawing(WIDTH, _height(len(of_lang), OVERLAP)) as figure:
        axes = _rows_axes(figure, [row_name(lang) for lang in of_lang], OVERLAP)
        axes.set_xlim(at.min(), at.max())
        axes.axvline(0, color=LIGHT["muted"], linewidth=1, linestyle=(0, (2, 3)))
        for number, own in enumerate(of_lang.values()):
            _ridge(axes, number, own, top=3 + len(of_lang))
        axes.set_xlabel("separability; the tick is the mean, also written at the right")
        return inline(figure, name, "Distribution of separability in each language, by falling mean")


def _ridge(axes: Axes, number: int, rows: Sequence[Row], *, top: int) -> None:
    """One language's row: it lies over the one above it; the ticks of the means lie over all rows."""
    of = grouped(rows, "shown")
    at, curve, part = (numbers(of["curve"], column) for column in ("separability", "density", "selected_density"))
    base = number + 0.4
    scale = (1 + OVERLAP) * 0.92 / curve.max()
    for area, colour in ((curve, "all"), (part, "accent")):
        if np.nan_to_num(area).any():
            filled = axes.fill_between(at, base, base - area * scale, color=LIGHT[colour])
            filled.set(zorder=3 + number, linewidth=0, alpha=0.85)
    axes.plot(at, base - curve * scale, color=LIGHT["before"], linewidth=1, zorder=3 + number)
    [mean] = [row["separability"] for row in of["mean"]]
    axes.plot([mean, mean], [base, base - 0.34], color=LIGHT["ink"], linewidth=2, zorder=top)
    axes.text(1.02, number, decimal(mean), transform=axes.get_yaxis_transform(), va="center", fontsize=11)


def nested_bars(name: str, rows: Sequence[Row]) -> Markup:
    """Rows of each language at every stage of the selection (columns `corpus`, `pool`, `selected`, as far as they are
    there), one inside the other; the innermost count is written at the right."""
    parts = [part for part in PARTS if part in rows[0]]
    with drawing(WIDTH, _height(len(rows), 0)) as figure:
        axes = _rows_axes(figure, [row_name(row["lang"]) for row in rows], 0)
        for depth, part in enumerate(parts):
            axes.barh(range(len(rows)), [row[part] for row in rows], height=0.78 - 0.2 * depth,
                      color=LIGHT[PARTS[part]], edgecolor=LIGHT["before"], linewidth=0.8 if part == "corpus" else 0,
                      zorder=3 + depth)  # fmt: skip
        axes.set_xlim(0, max(1, *(row[part] for row in rows for part in parts)) * 1.02)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_formatter(lambda value, _: integer(value))
        for number, row in enumerate(rows):
            text = integer(row[parts[-1]])
            axes.text(1.02, number, text, transform=axes.get_yaxis_transform(), va="center", fontsize=11)
        axes.set_xlabel("rows")
        return inline(figure, name, "Rows of each language in the corpus, in the pool and selected")


def dumbbells(
    name: str,
    rows: Sequence[Row],
    *,
    pair: tuple[str, str],
    label: str,
    description: str,
    percent: bool = False,
    digits: int = 3,
) -> Markup:
    """Two values of each language, joined by a line.

    pair: their columns; `<column>_low` and `<column>_high` are the ends of an interval. Where there is a column
    `verdict`, a difference that is not `higher` or `lower` has a dotted line and a grey number: it may be noise.
    """
    factor = 100 if percent else 1
    several = all(any(row[column] is not None for row in rows) for column in pair)
    with drawing(WIDTH, _height(len(rows), 0)) as figure:
        axes = _rows_axes(figure, [row_name(row["lang"]) for row in rows], 0)
        for number, row in enumerate(rows):
            clear = row.get("verdict", "higher") in ("higher", "lower")
            values = [row[column] * factor for column in pair if row[column] is not None]
            axes.plot(values, [number] * len(values), color=LIGHT["before"], linewidth=1.6 if clear else 1.2,
                      linestyle="-" if clear else (0, (1, 2)), zorder=2)  # fmt: skip
            for column, colour, offset in zip(pair, ("before", "accent"), (-0.14, 0.14), strict=True):
                _value(axes, row, column, LIGHT[colour], factor, number, offset)
            text = decimal(values[1] - values[0], 1 if percent else digits, sign=True) if len(values) == 2 else MISSING
            if len(values) == 2 or several:
                marked = clear and "verdict" in row and len(values) == 2
                axes.text(1.02, number, text, transform=axes.get_yaxis_transform(), va="center", fontsize=11,
                          weight="bold" if marked else "normal",
                          color=LIGHT["ink" if clear and len(values) == 2 else "muted"])  # fmt: skip
        axes.margins(x=0.04)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.set_xlabel(label)
        return inline(figure, name, description)


def _value(axes: Axes, row: Row, column: str, colour: str, factor: int, number: int, offset: float) -> None:
    """A dot where there is a value, with its interval where that has ends."""
    if row[column] is None:
        return
    low, high = row.get(f"{column}_low"), row.get(f"{column}_high")
    if low is not None and high is not None:
        ends = [low * factor, high * factor]
        axes.plot(ends, [number + offset] * 2, color=colour, linewidth=1.4, zorder=3)
    axes.plot([row[column] * factor], [number], "o", color=colour, markersize=6.5, zorder=4)
