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

# Narrow enough to be read beside a text, and on a phone.
WIDTH, HEIGHT = 480, 300
LEFT, TOP, RIGHT, BOTTOM = 62, 12, 20, 44
# A row has its name above its marks.
ROW, ROW_LEFT, NAME_ABOVE = 40, 16, 0.25
LABEL_CHARACTERS = 60
# Panels: between them, over them for a line of text, and how high each is where there are two rows of them.
GAP, TITLE, PANEL_HEIGHT = 46, 22, 170
# The names of lines, at their right ends, have so many characters; ticks are so many pixels apart at least.
LINE_CHARACTERS, TICK_ROOM = 27, 26


def conditions_figure(name: str, findings: Findings, axis: str) -> DataFigure:
    """Every condition: its seeds, their mean and its interval; over `axis` where the conditions have places on it, with
    a panel for each group of languages, all of which show the same range at heights of their own."""
    rows: list[Row] = [
        {
            "condition": line.label,
            "line": line.kind,
            "panel": line.panel,
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
        axes = place(figure, LEFT, TOP + TITLE, RIGHT, BOTTOM)
        for number, group in enumerate(groups):
            _front_line(axes, [row for row in rows if row["line"] == group], CATEGORICAL[number % len(CATEGORICAL)])
        _measure_up(axes, measure)
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
    groups = {row["condition"]: (row["line"], row["panel"]) for row in rows}
    with drawing(WIDTH, TOP + BOTTOM + ROW * max(len(names), 2)) as figure:
        axes = place(figure, ROW_LEFT, TOP, ROW_LEFT, BOTTOM)
        axes.set_ylim(len(names) - 0.3, -0.7)
        axes.set_yticks([])
        for at, condition in enumerate(names):
            own = [row for row in rows if row["condition"] == condition]
            _mark(axes, [row["value"] for row in own], at, own[0])
            said = axes.text(
                0,
                at - NAME_ABOVE,
                shorten(condition, LABEL_CHARACTERS),
                transform=axes.get_yaxis_transform(),
                zorder=1.5,
            )
            said.set_gid(f"halo-{at}")
            if own[0]["compared_with"]:
                alike = [k for k, other in enumerate(names) if groups[other] == groups[condition]]
                axes.vlines(own[0]["mean"], alike[0] - 0.5, alike[-1] + 0.4, color=LIGHT["before"], linewidth=1.2,
                            linestyle=(0, (4, 3)), zorder=1)  # fmt: skip
        _measure_across(axes, measure)
        return inline(figure, name, f"{unit} of every condition")


def _mark(axes: Axes, values: Sequence[float], at: float, row: Row) -> None:
    """The seeds as small points, their mean with its interval; hollow where the difference is no more than noise."""
    if row["low"] is not None:
        axes.hlines(at, row["low"], row["high"], color=LIGHT["pool"], linewidth=2, zorder=2)
    axes.plot(values, np.full(len(values), at + 0.16), "o", color=LIGHT["before"], markersize=3.5, markeredgewidth=0)
    colour = LIGHT["ink"] if row["compared_with"] else LIGHT["accent"]
    filled = row["clear"] or row["compared_with"]
    axes.plot(row["mean"], at, "D" if row["compared_with"] else "o", markersize=7, zorder=4, color=colour,
              markerfacecolor=colour if filled else LIGHT["paper"], markeredgewidth=1.6)  # fmt: skip


def _over(name: str, rows: Sequence[Row], *, axis: str, unit: str, measure: str) -> Markup:
    panels, lines = (list(dict.fromkeys(row[key] for row in rows)) for key in ("panel", "line"))
    named = max(len(line) for line in lines) if len(lines) > 1 else 0
    right = RIGHT + round(PIXELS_PER_CHARACTER * min(named, LINE_CHARACTERS))
    columns = len(panels) if len(panels) < 4 else 2
    width = (WIDTH - LEFT - right - GAP * (columns - 1)) / columns
    deep = -(-len(panels) // columns)
    title = TITLE if panels != [""] else 0
    top = TOP + TITLE
    height = PANEL_HEIGHT if deep > 1 else HEIGHT - top - BOTTOM - title
    total = top + deep * (height + BOTTOM + title)
    with drawing(WIDTH, total) as figure:
        drawn = []
        for number, panel in enumerate(panels):
            down, along = divmod(number, columns)
            left, over = LEFT + along * (width + GAP), top + title + down * (height + BOTTOM + title)
            axes = place(figure, left, over, WIDTH - left - width, total - over - height)
            own = [row for row in rows if row["panel"] == panel]
            _panel(axes, own, lines, width)
            axes.set_title(panel, loc="left", fontsize=11.5, color=LIGHT["ink"])
            _measure_up(axes, measure if not number else "", title)
            axes.set_xlabel(axis if number == columns * (deep - 1) else "")
            drawn.append((axes, own))
        _same_range([axes for axes, _ in drawn])
        _name_lines(*drawn[-1], lines)
        return inline(figure, name, f"{unit} over {axis}")


def _panel(axes: Axes, rows: Sequence[Row], lines: Sequence[str], width: float) -> None:
    places = sorted({row["across"] for row in rows})
    first = next(place for place in places if place > 0)
    if places[-1] / first > 20:
        axes.set_xscale("symlog", linthresh=first) if places[0] <= 0 else axes.set_xscale("log")
        axes.minorticks_off()
    for number, line in enumerate(lines):
        _line(axes, [row for row in rows if row["line"] == line], CATEGORICAL[number % len(CATEGORICAL)])
    few = _apart(axes, places, width)
    axes.set_xticks(few, [axis_number(at) for at in few])


def _apart(axes: Axes, places: Sequence[float], width: float) -> list[float]:
    """The ends, and the places between them whose numbers have room."""
    axes.autoscale_view()
    at = axes.transAxes.inverted().transform(axes.transData.transform([(place, 0.0) for place in places]))[:, 0] * width
    kept = {0, len(places) - 1}
    for number in range(len(places) - 2, 0, -1):
        if all(abs(at[number] - at[other]) >= TICK_ROOM for other in kept):
            kept.add(number)
    return [places[number] for number in sorted(kept)]


def _same_range(panels: Sequence[Axes]) -> None:
    """The same distance is as large in all panels, whose levels differ."""
    ends = [axes.get_ylim() for axes in panels]
    widest = max(high - low for low, high in ends)
    for axes, (low, high) in zip(panels, ends, strict=True):
        axes.set_ylim((low + high - widest) / 2, (low + high + widest) / 2)


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


def _name_lines(axes: Axes, rows: Sequence[Row], lines: Sequence[str]) -> None:
    """The lines' names at their right ends, apart from each other."""
    if len(lines) == 1:
        return
    last = max(row["across"] for row in rows)
    ends = {
        line: next((r["mean"] for r in rows if r["line"] == line and r["across"] == last), math.nan) for line in lines
    }
    low, high = axes.get_ylim()
    apart, taken = 0.06 * (high - low), -math.inf
    for line, value in sorted(ends.items(), key=lambda end: end[1]):
        taken = max(value, taken + apart)
        number = list(lines).index(line)
        axes.annotate(shorten(line, LINE_CHARACTERS), (last, taken), (10, 0), textcoords="offset points", va="center",
                      color=CATEGORICAL[number % len(CATEGORICAL)], annotation_clip=False)  # fmt: skip


def _measure_across(axes: Axes, measure: str) -> None:
    axes.grid(axis="x", color=LIGHT["grid"], linewidth=1)
    axes.set_axisbelow(True)
    axes.set_xmargin(0.08)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(lambda value, _: axis_number(value))
    axes.set_xlabel(measure)


def _measure_up(axes: Axes, measure: str = "", above: float = 0) -> None:
    """Its name lies over the axis, where a long one has room: so many pixels above."""
    axes.grid(axis="y", color=LIGHT["grid"], linewidth=1)
    axes.set_axisbelow(True)
    axes.set_ymargin(0.08)
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_formatter(lambda value, _: axis_number(value))
    axes.annotate(measure, (0, 1), (8 - LEFT, above + 10), xycoords="axes fraction", textcoords="offset points",
                  color=LIGHT["muted"])  # fmt: skip
