"""Figures of a study, each drawn from its table."""

import math
from collections.abc import Sequence
from functools import partial

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from raysel.report.figure_data import DataFigure, Row
from raysel.report.formats import shorten
from raysel.report.palette import CATEGORICAL, LIGHT
from raysel.report.rows_figures import PIXELS_PER_CHARACTER
from raysel.report.svg import drawing, inline, place
from raysel.studies.analysis import CLEAR, Findings
from raysel.sweep.marks import axis_number

WIDTH, HEIGHT = 640, 340
LEFT, TOP, RIGHT, BOTTOM = 70, 12, 20, 44
ROW = 30
LABEL_CHARACTERS = 42


def conditions_figure(name: str, findings: Findings, axis: str) -> DataFigure:
    """Every condition: its seeds, their mean and its interval; over `axis` where the conditions have places on it."""
    rows: list[Row] = [
        {
            "condition": line.label,
            "line": line.group,
            "across": line.across,
            "seed": seed,
            "value": sum(of[lang] for lang in line.langs) / len(line.langs),
            "mean": line.mean.value,
            "low": line.mean.low,
            "high": line.mean.high,
            "compared_with": line.is_reference,
            "clear": line.against is not None and line.against.overall.verdict in CLEAR,
        }
        for line in findings.lines
        for seed, of in sorted(line.condition.values.items())
    ]
    placed = all(row["across"] is not None for row in rows) and len({row["across"] for row in rows}) > 1
    draw = partial(_over, axis=axis) if placed else _in_rows
    draw = partial(draw, unit=findings.unit, measure=findings.axis)
    return DataFigure.of(name, rows, draw)


def front_figure(name: str, findings: Findings) -> DataFigure | None:
    """What each condition has of both: the mean separability of what was chosen, and its coverage; None where the first
    was not measured."""
    rows: list[Row] = [
        {
            "condition": line.label,
            "line": line.group,
            "across": line.across,
            "seed": seed,
            "separability": separability,
            "value": sum(line.condition.values[seed][lang] for lang in line.langs) / len(line.langs),
        }
        for line in findings.lines
        for seed, separability in sorted(line.condition.separability.items())
    ]
    return DataFigure.of(name, rows, partial(_front, unit=findings.unit, measure=findings.axis)) if rows else None


def _front(name: str, rows: Sequence[Row], *, unit: str, measure: str) -> Markup:
    groups = list(dict.fromkeys(row["line"] for row in rows))
    with drawing(WIDTH, HEIGHT) as figure:
        axes = place(figure, LEFT, TOP, RIGHT, BOTTOM)
        for number, group in enumerate(groups):
            _front_line(axes, [row for row in rows if row["line"] == group], CATEGORICAL[number % len(CATEGORICAL)])
        _measure_axis(axes, measure, across=False)
        axes.set_xmargin(0.12)
        axes.set_xlabel("mean separability of what was chosen (more is better)")
        return inline(figure, name, f"{unit} against the mean separability of what was chosen")


def _front_line(axes: Axes, rows: Sequence[Row], colour: str) -> None:
    """Conditions of one kind: their seeds, and their means joined and named by their places."""
    names = list(dict.fromkeys(row["condition"] for row in rows))
    means = [
        (_mean([row["separability"] for row in own]), _mean([row["value"] for row in own]))
        for own in ([row for row in rows if row["condition"] == name] for name in names)
    ]
    axes.plot([row["separability"] for row in rows], [row["value"] for row in rows], ".", color=colour, markersize=4)
    axes.plot(*zip(*means, strict=True), "o-", color=colour, markersize=6.5, linewidth=1.4, markeredgewidth=0)
    placed = {row["condition"]: row["across"] for row in rows}
    for name, at in zip(names, means, strict=True):
        shown = axis_number(placed[name]) if placed[name] is not None else shorten(name, LABEL_CHARACTERS)
        axes.annotate(shown, at, (6, 6), textcoords="offset points", color=colour)
    axes.annotate(rows[0]["line"], means[0], (6, -14), textcoords="offset points", color=colour)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _in_rows(name: str, rows: Sequence[Row], *, unit: str, measure: str) -> Markup:
    names = list(dict.fromkeys(row["condition"] for row in rows))
    shown = [shorten(one, LABEL_CHARACTERS) for one in names]
    left = 20 + PIXELS_PER_CHARACTER * max(len(one) for one in shown)
    with drawing(WIDTH, TOP + BOTTOM + ROW * max(len(names), 2)) as figure:
        axes = place(figure, left, TOP, RIGHT, BOTTOM)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.set_yticks(range(len(names)), shown)
        for at, condition in enumerate(names):
            own = [row for row in rows if row["condition"] == condition]
            _mark(axes, [row["value"] for row in own], at, own[0])
            if own[0]["compared_with"]:
                axes.axvline(own[0]["mean"], color=LIGHT["before"], linewidth=1.2, linestyle=(0, (4, 3)), zorder=1)
        _measure_axis(axes, measure, across=True)
        return inline(figure, name, f"{unit} of every condition")


def _mark(axes: Axes, values: Sequence[float], at: float, row: Row) -> None:
    """The seeds as small points, their mean with its interval; hollow where the difference is no more than noise."""
    if row["low"] is not None:
        axes.hlines(at, row["low"], row["high"], color=LIGHT["pool"], linewidth=2, zorder=2)
    axes.plot(values, np.full(len(values), at + 0.2), "o", color=LIGHT["before"], markersize=3.5, markeredgewidth=0)
    colour = LIGHT["ink"] if row["compared_with"] else LIGHT["accent"]
    filled = row["clear"] or row["compared_with"]
    axes.plot(row["mean"], at, "D" if row["compared_with"] else "o", markersize=7, zorder=4, color=colour,
              markerfacecolor=colour if filled else LIGHT["paper"], markeredgewidth=1.6)  # fmt: skip


def _over(name: str, rows: Sequence[Row], *, axis: str, unit: str, measure: str) -> Markup:
    groups = list(dict.fromkeys(row["line"] for row in rows))
    places = sorted({row["across"] for row in rows})
    logarithmic = places[0] > 0 and places[-1] / places[0] > 20
    with drawing(WIDTH, HEIGHT) as figure:
        axes = place(figure, LEFT, TOP, 130 if groups != [""] else RIGHT, BOTTOM)
        if logarithmic:
            axes.set_xscale("log")
            axes.minorticks_off()
        axes.set_xticks(places, [axis_number(at) for at in places])
        for number, group in enumerate(groups):
            own = [row for row in rows if row["line"] == group]
            _line(axes, own, CATEGORICAL[number % len(CATEGORICAL)])
        _measure_axis(axes, measure, across=False)
        axes.set_xlabel(axis)
        _name_lines(axes, rows, groups)
        return inline(figure, name, f"{unit} over {axis}")


def _line(axes: Axes, rows: Sequence[Row], colour: str) -> None:
    first = {row["across"]: row for row in rows}
    at = sorted(first)
    axes.plot(at, [first[x]["mean"] for x in at], "-", color=colour, linewidth=1.6, zorder=3)
    for x in at:
        row = first[x]
        if row["low"] is not None:
            axes.vlines(x, row["low"], row["high"], color=colour, linewidth=1.6, alpha=0.45, zorder=2)
        filled = row["clear"] or row["compared_with"]
        axes.plot(x, row["mean"], "o", color=colour, markersize=6.5, markeredgewidth=1.6, zorder=4,
                  markerfacecolor=colour if filled else LIGHT["paper"])  # fmt: skip
    axes.plot(
        [row["across"] for row in rows], [row["value"] for row in rows], ".", color=colour, markersize=4, zorder=2
    )


def _name_lines(axes: Axes, rows: Sequence[Row], groups: Sequence[str]) -> None:
    """The lines' names at their right ends, apart from each other."""
    if list(groups) == [""]:
        return
    last = max(row["across"] for row in rows)
    ends = {g: next((r["mean"] for r in rows if r["line"] == g and r["across"] == last), math.nan) for g in groups}
    low, high = axes.get_ylim()
    apart, taken = 0.06 * (high - low), -math.inf
    for group, value in sorted(ends.items(), key=lambda end: end[1]):
        taken = max(value, taken + apart)
        number = list(groups).index(group)
        axes.annotate(shorten(group, 18), (last, taken), (10, 0), textcoords="offset points", va="center",
                      color=CATEGORICAL[number % len(CATEGORICAL)], annotation_clip=False)  # fmt: skip


def _measure_axis(axes: Axes, measure: str, *, across: bool) -> None:
    axis = axes.xaxis if across else axes.yaxis
    axes.grid(axis="x" if across else "y", color=LIGHT["grid"], linewidth=1)
    axes.set_axisbelow(True)
    (axes.set_xmargin if across else axes.set_ymargin)(0.08)
    axis.set_major_locator(MaxNLocator(5))
    axis.set_major_formatter(lambda value, _: axis_number(value))
    axis.set_label_text(measure)
