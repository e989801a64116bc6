"""Figures of the points of a sweep: the ranking, and the objective against each parameter."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from raysel.report.figure_data import Row, grouped
from raysel.report.formats import shorten
from raysel.report.palette import LIGHT
from raysel.report.rows_figures import PIXELS_PER_CHARACTER
from raysel.report.svg import drawing, inline, place
from raysel.sweep.dimensions import Dimension
from raysel.sweep.marks import Mark, draw_marks, objective_axis, parameter_axis, with_tooltips
from raysel.sweep.point_table import marks_of
from raysel.sweep.values import UNCHANGED, Measure

WIDTH, HEIGHT = 520, 270
LEFT, TOP, RIGHT, BOTTOM = 68, 10, 16, 42
# Room at the right for a group's mean, and at the left of a number's axis for the points that have none.
MEANS, APART = 58, 96
ROW, LEAST_ROW = 8, 30
# Points with the same whole number lie beside each other, over this share of the axis.
DODGE = 0.03
PANELS_ACROSS, PANEL_HEIGHT, PANELS_WIDTH = 4, 190, 640
TITLE_CHARACTERS = 18


def ranking_rows(name: str, rows: Sequence[Row], *, measures: Sequence[Measure], shown: int) -> Markup:
    """One row for each point, the best on top. shown: the number of the objective."""
    marks, measure = marks_of(rows, measures, shown), measures[shown]
    with drawing(WIDTH, TOP + BOTTOM + 20 * max(len(rows), 3)) as figure:
        axes = _rows(figure, [str(row["rank"]) for row in rows], RIGHT)
        draw_marks(axes, list(range(len(marks))), marks, measure, across=True)
        objective_axis(axes, measure, across=True)
        drawn = inline(figure, name, f"{measure.label} of the points by their rank")
    return with_tooltips(drawn, name, [[mark.tooltip for mark in marks]])


def parameter_rows(dimension: Dimension, points: Sequence[Row]) -> list[Row]:
    """The points with their value of a parameter: a number, empty where the parameter's condition did not hold; or the
    label of a listed value, and its row."""
    if dimension.kind != "listed":
        return [row | {"value": value} for row, value in zip(points, dimension.values, strict=True)]
    names, group = dimension.groups()
    return [row | {"row": k, "value": names[k]} for row, k in zip(points, group.tolist(), strict=True)]


def against(
    name: str,
    rows: Sequence[Row],
    *,
    kind: str,
    label: str,
    limits: tuple[float, float],
    measures: Sequence[Measure],
    shown: int,
) -> Markup:
    """An objective against a parameter: listed values as rows, numbers on an axis between `limits`."""
    if kind == "listed":
        return _by_level(name, rows, label, measures, shown)
    return _by_number(name, rows, label, Axis(limits, kind == "log"), measures, shown)


def _by_level(name: str, rows: Sequence[Row], label: str, measures: Sequence[Measure], shown: int) -> Markup:
    marks, measure = marks_of(rows, measures, shown), measures[shown]
    group = np.array([row["row"] for row in rows])
    name_of = {row["row"]: row["value"] for row in rows}
    names = [name_of[k] for k in sorted(name_of)]
    most = int(np.bincount(group).max())
    height = max(LEAST_ROW, ROW * most)
    with drawing(WIDTH, TOP + BOTTOM + height * max(len(names), 2)) as figure:
        axes = _rows(figure, names, MEANS)
        at = np.zeros(len(marks))
        for k in range(len(names)):
            own = np.flatnonzero(group == k).tolist()
            at[own] = k + (np.linspace(-0.34, 0.34, len(own)) if len(own) > 1 else 0.0)
            mean = float(np.mean([marks[n].shown.value for n in own]))
            if len(own) > 1:
                ends = [k - 0.42, k + 0.42]
                axes.plot([mean * measure.scale] * 2, ends, color=LIGHT["muted"], linewidth=1.2, zorder=2)
            axes.text(1.03, k, measure.write(mean), transform=axes.get_yaxis_transform(), va="center", fontsize=11)
        draw_marks(axes, at.tolist(), marks, measure, across=True)
        objective_axis(axes, measure, across=True)
        drawn = inline(figure, name, f"{measure.label} by {label}")
    return with_tooltips(drawn, name, [[mark.tooltip for mark in marks]])


def _rows(figure: Figure, names: Sequence[str], right: float) -> Axes:
    axes = place(figure, 14 + PIXELS_PER_CHARACTER * max(len(one) for one in names), TOP, right, BOTTOM)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_yticks(range(len(names)), list(names))
    return axes


@dataclass(frozen=True)
class Axis:
    """Of a number between two ends."""

    limits: tuple[float, float]
    is_logarithmic: bool


def _by_number(
    name: str, rows: Sequence[Row], label: str, axis: Axis, measures: Sequence[Measure], shown: int
) -> Markup:
    measure = measures[shown]
    there = [row for row in rows if row["value"] is not None]
    absent = marks_of([row for row in rows if row["value"] is None], measures, shown)
    present = marks_of(there, measures, shown)
    with drawing(WIDTH, HEIGHT) as figure:
        axes = place(figure, LEFT + (APART if absent else 0), TOP, RIGHT, BOTTOM)
        drawn_on = [present]
        _number_axes(axes, axis, [row["value"] for row in there], present, measure, number=0)
        axes.set_xlabel(label)
        if absent:
            beside = place(figure, LEFT, TOP, WIDTH - LEFT - APART + 14, BOTTOM)
            beside.sharey(axes)
            spread = np.linspace(-0.3, 0.3, len(absent)) if len(absent) > 1 else np.zeros(1)
            draw_marks(beside, spread.tolist(), absent, measure, number=1)
            beside.set_xlim(-0.5, 0.5)
            beside.set_xticks([0], [UNCHANGED])
            objective_axis(beside, measure)
            axes.set_ylabel("")
            axes.tick_params(axis="y", labelleft=False)
            drawn_on.append(absent)
        drawn = inline(figure, name, f"{measure.label} against {label}")
    return with_tooltips(drawn, name, [[mark.tooltip for mark in part] for part in drawn_on])


def _number_axes(
    axes: Axes, axis: Axis, at: Sequence[float], marks: Sequence[Mark], measure: Measure, *, number: int
) -> None:
    low, high = axis.limits
    whole = all(isinstance(value, int) for value in at) and high > 1
    if whole:
        at = side_by_side(at, DODGE * (high - low))
    draw_marks(axes, at, marks, measure, number=number)
    parameter_axis(axes, low, high, logarithmic=axis.is_logarithmic, whole=whole)
    objective_axis(axes, measure)


def side_by_side(values: Sequence[float], width: float) -> list[float]:
    """Equal values, moved apart in their order, so that the outermost are `width` from each other."""
    found = np.array(values, dtype=float)
    moved = found.copy()
    for value in np.unique(found):
        own = np.flatnonzero(found == value)
        if len(own) > 1:
            moved[own] = value + np.linspace(-width / 2, width / 2, len(own))
    return [float(value) for value in moved]


def _ends_and_middle(low: float, high: float) -> list[float]:
    return [low, (low + high) / 2, high] if high == 1 or not high % 2 else [low, high]


def simplex_rows(parts: Sequence[Dimension], points: Sequence[Row]) -> list[Row]:
    """The points with their weight of each name of a simplex; empty where the parameter's condition did not hold."""
    return [
        row | {"name": part.part, "weight": value}
        for part in parts
        for row, value in zip(points, part.values, strict=True)
    ]


def simplex_panels(
    name: str,
    rows: Sequence[Row],
    *,
    label: str,
    limits: tuple[float, float],
    measures: Sequence[Measure],
    shown: int,
) -> Markup:
    """An objective against the weight of each name of a simplex, one small panel each, on one scale."""
    measure = measures[shown]
    parts = {part: [row for row in own if row["weight"] is not None] for part, own in grouped(rows, "name").items()}
    marks = [marks_of(own, measures, shown) for own in parts.values()]
    across = min(PANELS_ACROSS, len(parts))
    down = -(-len(parts) // across)
    width = (PANELS_WIDTH - LEFT) / across
    height = PANEL_HEIGHT * down
    with drawing(PANELS_WIDTH, height) as figure:
        first: Axes | None = None
        for number, (part, own) in enumerate(parts.items()):
            row, column = divmod(number, across)
            left, top = LEFT + width * column, PANEL_HEIGHT * row + 26
            axes = place(figure, left, top, PANELS_WIDTH - left - width + 14, height - top - PANEL_HEIGHT + 26 + 32)
            if first is not None:
                axes.sharey(first)
            at = [one["weight"] for one in own]
            _number_axes(axes, Axis(limits, False), at, marks[number], measure, number=number)
            axes.set_xticks(_ends_and_middle(*limits))
            axes.set_ylabel(measure.heading if column == 0 else "")
            axes.set_title(shorten(part, TITLE_CHARACTERS), fontsize=11.5, loc="left", color=LIGHT["ink"])
            axes.tick_params(axis="y", labelleft=column == 0)
            first = first or axes
        drawn = inline(figure, name, f"{measure.label} against the weights of {label}")
    return with_tooltips(drawn, name, [[mark.tooltip for mark in own] for own in marks])
