"""The papers' figures beside a study's own, from their published numbers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, NullLocator

from raysel.report.figure_data import DataFigure, Row
from raysel.report.palette import CATEGORICAL, LIGHT
from raysel.report.rows_figures import PIXELS_PER_CHARACTER
from raysel.report.svg import drawing, inline, place
from raysel.studies import published
from raysel.studies.saturation import relative_to_english
from raysel.sweep.marks import axis_number

WIDTH = 640
LEFT, TOP, RIGHT, BOTTOM, GAP = 48, 30, 16, 44, 46
PANEL_HEIGHT, ROW = 170, 22
# Samples per language are drawn on a logarithmic axis, and none of them at this place.
NONE_AT = 40.0


@dataclass(frozen=True)
class Published:
    """A figure of a paper. caption: what it shows and where it is from."""

    figure: DataFigure
    caption: str


def published_figure(name: str) -> Published:
    """Raises KeyError for a name that is none of the files of `raysel.studies.published`."""
    return FIGURES[name]()


def _selectors() -> Published:
    rows: list[Row] = [
        {"panel": of.model, "label": f"{of.selector}, from {of.chosen_from}", "value": of.gain_percent, "margin": None}
        for of in published.selectors()
    ]
    return _in_rows(
        "selectors.csv", rows, "relative gain, %", "The four gains that could be found; the others are not known."
    )


def _strategies() -> Published:
    found = [
        (of.model, of.strategy, of.mean, of.margin) for of in published.language_strategies() if of.task == "average"
    ]
    return _accuracies("language_strategy.csv", found, "The average of five benchmarks, three runs each.")


def _monolingual() -> Published:
    found = [(of.model, of.trained_on, of.mean, of.margin) for of in published.monolingual() if of.task == "vietnamese"]
    return _accuracies("monolingual.csv", found, "Vietnamese XNLI and XCOPA; vi is Vietnamese alone.")


def _accuracies(file: published.File, found: Sequence[tuple[str, str, float, float]], said: str) -> Published:
    """found: model, what it was trained on, accuracy and half the width of its interval."""
    columns = ("panel", "label", "value", "margin")
    return _in_rows(file, [dict(zip(columns, row, strict=True)) for row in found], "accuracy, %", said)


def _counts() -> Published:
    rows: list[Row] = [
        {"panel": of.model, "line": "", "x": of.languages, "value": of.mean, "margin": of.margin}
        for of in published.language_counts()
        if of.task == "average"
    ]
    return _over(
        "language_count.csv", rows, "languages", "accuracy, %", "The average of five benchmarks, three runs each."
    )


def _transfer() -> Published:
    named = {"IF": "instructions", "SM": "summaries", "MR": "mathematics"}
    tables = (published.transfer_table(number) for number in range(3, 24))
    rows: list[Row] = [
        {"panel": named[of.task], "line": of.model, "x": x, "value": relative_to_english(values), "margin": None}
        for of in tables
        if of.mixture == "single"
        for x, values in of.values.items()
    ]
    said = "Other languages relative to English, one task, one run at each point (so no intervals)."
    return _over("transfer.csv", rows, "samples per language", "ratio", said)


FIGURES: dict[str, Callable[[], Published]] = {
    "selectors": _selectors,
    "language_strategy": _strategies,
    "monolingual": _monolingual,
    "language_count": _counts,
    "transfer": _transfer,
}


def _in_rows(file: published.File, rows: list[Row], unit: str, said: str) -> Published:
    return _made(file, rows, partial(_draw_rows, unit=unit), said)


def _over(file: published.File, rows: list[Row], axis: str, unit: str, said: str) -> Published:
    return _made(file, rows, partial(_draw_lines, axis=axis, unit=unit), said)


def _made(file: published.File, rows: list[Row], draw: Callable[[str, list[Row]], Markup], said: str) -> Published:
    return Published(DataFigure.of("published", rows, draw), f"{said} {published.source(file).caption()}.")


def _panels(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(row["panel"] for row in rows))


def _draw_rows(name: str, rows: Sequence[Row], *, unit: str) -> Markup:
    panels = _panels(rows)
    left = 14 + PIXELS_PER_CHARACTER * max(len(row["label"]) for row in rows)
    heights = [ROW * sum(row["panel"] == panel for row in rows) for panel in panels]
    total = TOP + BOTTOM + sum(heights) + GAP * (len(panels) - 1)
    with drawing(WIDTH, total) as figure:
        above = float(TOP)
        for panel, height in zip(panels, heights, strict=True):
            own = [row for row in rows if row["panel"] == panel]
            axes = place(figure, left, above, RIGHT, total - above - height)
            axes.set_ylim(len(own) - 0.5, -0.5)
            axes.set_yticks(range(len(own)), [row["label"] for row in own])
            values, margins = (np.array([row[key] or 0.0 for row in own]) for key in ("value", "margin"))
            axes.hlines(range(len(own)), values - margins, values + margins, color=LIGHT["pool"], linewidth=2)
            axes.plot(values, range(len(own)), "o", color=LIGHT["accent"], markersize=6, markeredgewidth=0)
            _unit_axis(axes, "x")
            axes.set_title(panel, loc="left", fontsize=11.5, color=LIGHT["ink"])
            above += height + GAP
        axes.set_xlabel(unit)
        return inline(figure, name, f"published {unit}")


def _draw_lines(name: str, rows: Sequence[Row], *, axis: str, unit: str) -> Markup:
    panels = _panels(rows)
    lines = list(dict.fromkeys(row["line"] for row in rows))
    width = (WIDTH - LEFT - RIGHT - GAP * (len(panels) - 1)) / len(panels)
    with drawing(WIDTH, TOP + BOTTOM + PANEL_HEIGHT) as figure:
        for number, panel in enumerate(panels):
            left = LEFT + number * (width + GAP)
            axes = place(figure, left, TOP, WIDTH - left - width, BOTTOM)
            for line in lines:
                own = [row for row in rows if row["panel"] == panel and row["line"] == line]
                _draw_line(axes, own, CATEGORICAL[lines.index(line) % len(CATEGORICAL)])
            _placed_axis(axes, sorted({row["x"] for row in rows if row["panel"] == panel}))
            axes.set_title(panel, loc="left", fontsize=11.5, color=LIGHT["ink"])
            axes.set_xlabel(axis)
            _unit_axis(axes, "y")
            axes.set_ylabel(unit if not number else "")
        _legend(axes, lines)
        return inline(figure, name, f"published {unit} over {axis}")


def _draw_line(axes: Axes, rows: Sequence[Row], colour: str) -> None:
    rows = sorted(rows, key=lambda row: row["x"])
    at = [row["x"] or NONE_AT for row in rows]
    axes.plot(at, [row["value"] for row in rows], "o-", color=colour, markersize=4, linewidth=1.4, markeredgewidth=0)
    for x, row in zip(at, rows, strict=True):
        if row["margin"] is not None:
            ends = row["value"] - row["margin"], row["value"] + row["margin"]
            axes.vlines(x, *ends, color=colour, linewidth=1.4, alpha=0.45)


def _placed_axis(axes: Axes, places: Sequence[float]) -> None:
    axes.set_xscale("log")
    few = [x for number, x in enumerate(places) if number in (0, len(places) - 1) or x in (4, 14, 400)]
    axes.set_xticks([x or NONE_AT for x in few], [axis_number(x) for x in few])
    axes.xaxis.set_minor_locator(NullLocator())


def _unit_axis(axes: Axes, axis: Literal["x", "y"]) -> None:
    axes.grid(axis=axis, color=LIGHT["grid"], linewidth=1)
    axes.set_axisbelow(True)
    of = axes.xaxis if axis == "x" else axes.yaxis
    of.set_major_locator(MaxNLocator(4))
    of.set_major_formatter(lambda value, _: axis_number(value))


def _legend(axes: Axes, lines: Sequence[str]) -> None:
    for number, line in enumerate(line for line in lines if line):
        colour = CATEGORICAL[number % len(CATEGORICAL)]
        axes.annotate(line, (1, 0.04 + 0.09 * number), xycoords="axes fraction", ha="right", color=colour, fontsize=11)
