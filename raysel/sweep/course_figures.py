"""Figures of whole trials: the held-out loss along the training, and two objectives with their Pareto front."""

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from raysel.evaluation.intervals import Interval
from raysel.report.figure_data import Row, finite, grouped, numbers
from raysel.report.formats import decimal, duration
from raysel.report.palette import LIGHT
from raysel.report.projection import place_labels
from raysel.report.svg import drawing, inline, place
from raysel.sweep.answer import STATUSES
from raysel.sweep.marks import MARK, axis_number, with_tooltips
from raysel.sweep.point_table import shown_objective, tooltip
from raysel.sweep.records import TrialRecord
from raysel.sweep.values import Measure, parameters_text

WIDTH, HEIGHT = 640, 380
LEFT, TOP, RIGHT, BOTTOM = 68, 12, 18, 44
LABEL_WIDTH, LABEL_HEIGHT = 9, 14
COLOURS = {"finished": LIGHT["before"], "stopped": LIGHT["c1"], "failed": LIGHT["c3"]}
BEST = LIGHT["accent"]


def curve_rows(trials: Sequence[TrialRecord], best: set[int], keys: Sequence[str]) -> list[Row]:
    """The held-out loss of every trial that has one, along the training.

    best: the numbers of the trials of the best point; keys: the parameters that vary.
    """
    return [
        {
            "trial": trial.number,
            "seed": trial.seed,
            "status": trial.status,
            "is_best": trial.number in best,
            "seconds": finite(trial.seconds),
            "parameters": parameters_text(trial.parameters, keys),
            "percent_of_steps": percent,
            "loss": finite(loss),
        }
        for trial in trials
        for percent, loss in sorted(trial.curve)
    ]


def loss_curves(name: str, rows: Sequence[Row]) -> Markup:
    """The held-out loss of every trial; a cross ends those that were stopped or failed."""
    curves = list(grouped(rows, "trial").values())
    with drawing(WIDTH, HEIGHT) as figure:
        axes = place(figure, LEFT, TOP, RIGHT, BOTTOM)
        axes.grid(axis="y", color=LIGHT["grid"])
        axes.set_axisbelow(True)
        for number, own in enumerate(curves):
            percent, loss = numbers(own, "percent_of_steps"), numbers(own, "loss")
            is_best, status = own[0]["is_best"], own[0]["status"]
            colour = BEST if is_best else COLOURS[status]
            axes.plot(percent, loss, "o-", color=colour, linewidth=2.4 if is_best else 1.3, markeredgewidth=0,
                      markersize=5 if is_best else 3.5, zorder=4 if is_best else 3, gid=f"curve-{number}-")  # fmt: skip
            if status != "finished":
                axes.plot(percent[-1:], loss[-1:], "x", color=colour, markersize=8, markeredgewidth=2, zorder=5)
        axes.set_xlim(0, 102)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(6))
        axes.yaxis.set_major_formatter(lambda value, _: axis_number(value))
        axes.set_xlabel("% of the steps of training")
        axes.set_ylabel("held-out loss")
        drawn = str(inline(figure, name, "Held-out loss of every trial along its training"))
    for number, own in enumerate(curves):
        group = f'<g id="{name}-curve-{number}-">'
        drawn = drawn.replace(group, f"{group}<title>{escape(_curve_tooltip(own[-1]))}</title>")
    return Markup(drawn)


def _curve_tooltip(last: Row) -> str:
    status = STATUSES[last["status"]]
    head = f"trial {last['trial']}, seed {last['seed']}: {status} after {duration(last['seconds'])}"
    return "\n".join([head, last["parameters"], f"loss {decimal(last['loss'])} at {last['percent_of_steps']}%"])


def pareto_scatter(name: str, rows: Sequence[Row], *, measures: Sequence[Measure]) -> Markup:
    """Every point by its two objectives, with intervals; those on the Pareto front joined and named by rank."""
    across, up = measures
    shown = [[shown_objective(row, k, of) for k, of in enumerate(measures)] for row in rows]
    values = np.array([[one.value * of.scale for one, of in zip(both, measures, strict=True)] for both in shown])
    front = np.array([row["on_front"] for row in rows])
    with drawing(WIDTH, HEIGHT) as figure:
        axes = place(figure, LEFT, TOP, RIGHT, BOTTOM)
        axes.grid(color=LIGHT["grid"], linewidth=1)
        axes.set_axisbelow(True)
        for both, centre, on_front in zip(shown, values.tolist(), front.tolist(), strict=True):
            _bars(axes, both, centre, measures, 1.8 if on_front else 0.9)
        corners = values[front][np.argsort(values[front][:, 0])]
        # The line bounds what the points dominate.
        axes.step(corners[:, 0], corners[:, 1], where="pre" if across.is_maximized else "post", color=LIGHT["ink"],
                  linewidth=1.2, alpha=0.5, zorder=3)  # fmt: skip
        axes.plot(values[front][:, 0], values[front][:, 1], "o", markersize=11, markerfacecolor=LIGHT["paper"],
                  markeredgecolor=LIGHT["ink"], markeredgewidth=1.6, zorder=4)  # fmt: skip
        axes.plot(values[:, 0], values[:, 1], "o", color=LIGHT["accent"], markersize=6.5, markeredgewidth=0, zorder=5,
                  gid=f"{MARK}-0")  # fmt: skip
        axes.margins(0.09)
        for axis, measure in ((axes.xaxis, across), (axes.yaxis, up)):
            axis.set_major_locator(MaxNLocator(6))
            axis.set_major_formatter(lambda value, _: axis_number(value))
            axis.set_label_text(f"{measure.heading} ({measure.better})")
        _ranks(axes, values, front, [row["rank"] for row in rows])
        drawn = inline(figure, name, f"{across.label} and {up.label} of every point, with the Pareto front")
    return with_tooltips(drawn, name, [[tooltip(row, measures) for row in rows]])


def _bars(
    axes: Axes, both: Sequence[Interval], centre: Sequence[float], measures: Sequence[Measure], thickness: float
) -> None:
    """The intervals of a point around its place."""
    for side, (shown, of) in enumerate(zip(both, measures, strict=True)):
        if shown.low is None or shown.high is None:
            continue
        ends = [shown.low * of.scale, shown.high * of.scale]
        bar = (ends, [centre[1]] * 2) if side == 0 else ([centre[0]] * 2, ends)
        axes.plot(*bar, color=LIGHT["pool"], linewidth=thickness, zorder=2)


def _ranks(axes: Axes, values: np.ndarray, front: np.ndarray, ranks: Sequence[int]) -> None:
    """The ranks of the points on the front beside them, where they cover no other."""
    size = np.array([WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM], dtype=float)
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    dots = (values - [left, low]) / [right - left, high - low] * size
    widths = [LABEL_WIDTH * len(str(rank)) for rank in ranks]
    width, height = float(size[0]), float(size[1])
    order = np.flatnonzero(front).tolist()
    for row, centre in place_labels(dots, dots, widths, LABEL_HEIGHT, (width, height), order).items():
        x, y = centre / size
        axes.text(x, y, str(ranks[row]), transform=axes.transAxes, ha="center", va="center", weight="bold",
                  fontsize=12, gid=f"halo-{row}", zorder=6)  # fmt: skip
