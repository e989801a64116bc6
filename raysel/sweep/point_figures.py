"""Figures of the points of a sweep: the ranking, and the objective against each parameter."""

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from raysel.report.formats import shorten
from raysel.report.palette import LIGHT
from raysel.report.rows_figures import PIXELS_PER_CHARACTER
from raysel.report.svg import drawing, inline, place
from raysel.sweep.dimensions import Dimension
from raysel.sweep.marks import Mark, draw_marks, objective_axis, parameter_axis, with_tooltips
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


def ranking_rows(name: str, marks: Sequence[Mark], ranks: Sequence[int], measure: Measure) -> Markup:
    """One row for each point, the best on top."""
    with drawing(WIDTH, TOP + BOTTOM + 20 * max(len(marks), 3)) as figure:
        axes = _rows(figure, [str(rank) for rank in ranks], RIGHT)
        draw_marks(axes, list(range(len(marks))), marks, measure, across=True)
        objective_axis(axes, measure, across=True)
        drawn = inline(figure, name, f"{measure.label} of the points by their rank")
    return with_tooltips(drawn, name, [[mark.tooltip for mark in marks]])


def against(name: str, dimension: Dimension, marks: Sequence[Mark], measure: Measure) -> Markup:
    """The objective of (n,) points against a parameter: listed values as rows, numbers on an axis."""
    draw = _by_level if dimension.kind == "listed" else _by_number
    return draw(name, dimension, marks, measure)


def _by_level(name: str, dimension: Dimension, marks: Sequence[Mark], measure: Measure) -> Markup:
    names, group = dimension.groups()
    most = int(np.bincount(group).max())
    row = max(LEAST_ROW, ROW * most)
    with drawing(WIDTH, TOP + BOTTOM + row * max(len(names), 2)) as figure:
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
        drawn = inline(figure, name, f"{measure.label} by {dimension.name}")
    return with_tooltips(drawn, name, [[mark.tooltip for mark in marks]])


def _rows(figure: Figure, names: Sequence[str], right: float) -> Axes:
    axes = place(figure, 14 + PIXELS_PER_CHARACTER * max(len(one) for one in names), TOP, right, BOTTOM)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_yticks(range(len(names)), list(names))
    return axes


def _by_number(name: str, dimension: Dimension, marks: Sequence[Mark], measure: Measure) -> Markup:
    there = [(value, mark) for value, mark in zip(dimension.values, marks, strict=True) if value is not None]
    absent = [mark for value, mark in zip(dimension.values, marks, strict=True) if value is None]
    with drawing(WIDTH, HEIGHT) as figure:
        axes = place(figure, LEFT + (APART if absent else 0), TOP, RIGHT, BOTTOM)
        drawn_on = [[mark for _, mark in there]]
        _number_axes(axes, dimension, there, measure, number=0)
        axes.set_xlabel(dimension.name)
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
        drawn = inline(figure, name, f"{measure.label} against {dimension.name}")
    return with_tooltips(drawn, name, [[mark.tooltip for mark in part] for part in drawn_on])


def _number_axes(
    axes: Axes,
    dimension: Dimension,
    there: Sequence[tuple[float, Mark]],
    measure: Measure,
    *,
    number: int,
) -> None:
    at = [value for value, _ in there]
    whole = all(isinstance(value, int) for value in at) and dimension.limits[1] > 1
    if whole:
        at = side_by_side(at, DODGE * (dimension.limits[1] - dimension.limits[0]))
    draw_marks(axes, at, [mark for _, mark in there], measure, number=number)
    parameter_axis(axes, *dimension.limits, logarithmic=dimension.kind == "log", whole=whole)
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


def _ends_and_middle(part: Dimension) -> list[float]:
    low, high = part.limits
    return [low, (low + high) / 2, high] if high == 1 or not high % 2 else [low, high]


def simplex_panels(name: str, parts: Sequence[Dimension], marks: Sequence[Mark], measure: Measure) -> Markup:
    """The objective against the weight of each name of a simplex, one small panel each, on one scale."""
    across = min(PANELS_ACROSS, len(parts))
    down = -(-len(parts) // across)
    width = (PANELS_WIDTH - LEFT) / across
    height = PANEL_HEIGHT * down
    with drawing(PANELS_WIDTH, height) as figure:
        first: Axes | None = None
        for number, part in enumerate(parts):
            row, column = divmod(number, across)
            left, top = LEFT + width * column, PANEL_HEIGHT * row + 26
            axes = place(figure, left, top, PANELS_WIDTH - left - width + 14, height - top - PANEL_HEIGHT + 26 + 32)
            if first is not None:
                axes.sharey(first)
            there = [(value, mark) for value, mark in zip(part.values, marks, strict=True) if value is not None]
            _number_axes(axes, part, there, measure, number=number)
            axes.set_xticks(_ends_and_middle(part))
            axes.set_ylabel(measure.heading if column == 0 else "")
            axes.set_title(shorten(part.part or "", TITLE_CHARACTERS), fontsize=11.5, loc="left", color=LIGHT["ink"])
            axes.tick_params(axis="y", labelleft=column == 0)
            first = first or axes
        drawn = inline(figure, name, f"{measure.label} against the weights of {parts[0].name.partition(':')[0]}")
    titles = [
        [mark.tooltip for value, mark in zip(part.values, marks, strict=True) if value is not None] for part in parts
    ]
    return with_tooltips(drawn, name, titles)
