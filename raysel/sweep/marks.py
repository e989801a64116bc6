"""What the figures of a sweep share: points with bars and tooltips, axes of an objective or a parameter."""

import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

from raysel.evaluation.intervals import Interval
from raysel.report.formats import MINUS, integer
from raysel.report.palette import LIGHT
from raysel.sweep.values import Measure, value_text

MARK, USE = "marks", re.compile(r"<use ([^>]*)/>")
MOST_TICKS = 7


@dataclass(frozen=True)
class Mark:
    """A point of a sweep. shown: its objective; tooltip: its rank, parameters and values; best: of rank 1."""

    shown: Interval
    tooltip: str
    best: bool


def draw_marks(
    axes: Axes, at: Sequence[float], marks: Sequence[Mark], measure: Measure, *, number: int = 0, across: bool = False
) -> None:
    """Points at `at`, with their intervals where there are any; the best ringed. across: the objective runs from left
    to right. number: of these axes among the figure's, for `with_tooltips`."""
    scaled = [mark.shown.value * measure.scale for mark in marks]
    bars = [
        (place, mark.shown.low * measure.scale, mark.shown.high * measure.scale)
        for place, mark in zip(at, marks, strict=True)
        if mark.shown.low is not None and mark.shown.high is not None
    ]
    if bars:
        lines = axes.hlines if across else axes.vlines
        lines(*zip(*bars, strict=True), color=LIGHT["pool"], linewidth=1.6, zorder=3)
    for place, mark in zip(at, marks, strict=True):
        if mark.best:
            ring = [mark.shown.value * measure.scale], [place]
            axes.plot(*(ring if across else ring[::-1]), "o", markersize=11, markerfacecolor=LIGHT["paper"],
                      markeredgecolor=LIGHT["ink"], markeredgewidth=1.6, zorder=4)  # fmt: skip
    points = (scaled, at) if across else (at, scaled)
    axes.plot(*points, "o", color=LIGHT["accent"], markersize=6, markeredgewidth=0, zorder=5, gid=f"{MARK}-{number}")


def with_tooltips(figure: Markup, name: str, tooltips: Sequence[Sequence[str]]) -> Markup:
    """The inlined figure `name` with a title in every mark: a list for each axes that `draw_marks` drew on."""
    text = str(figure)
    for number, titles in enumerate(tooltips):
        before, group, after = text.partition(f'<g id="{name}-{MARK}-{number}"')
        text = before + group + _titled(after, titles)
    return Markup(text)


def _titled(text: str, titles: Sequence[str]) -> str:
    """The first marks of an SVG text with these titles."""
    left = iter(titles)
    return USE.sub(lambda use: f"<use {use[1]}><title>{escape(next(left))}</title></use>", text, count=len(titles))


def objective_axis(axes: Axes, measure: Measure, *, across: bool = False) -> None:
    axis = axes.xaxis if across else axes.yaxis
    axes.grid(axis="x" if across else "y", color=LIGHT["grid"], linewidth=1)
    axes.set_axisbelow(True)
    (axes.set_xmargin if across else axes.set_ymargin)(0.06)
    axis.set_major_locator(MaxNLocator(5, integer=not measure.digits))
    axis.set_major_formatter(lambda value, _: axis_number(value))
    axis.set_label_text(f"{measure.heading} ({measure.better})")


def axis_number(value: float) -> str:
    """A tick: no offset, no power of ten."""
    return integer(value) if abs(value) >= 1000 else f"{value:.6g}".replace("-", MINUS)


def parameter_axis(axes: Axes, low: float, high: float, *, logarithmic: bool, whole: bool) -> None:
    """The axis of a number between two ends, with a little room on both sides. whole: only whole numbers are ticks."""
    if logarithmic:
        room = (high / low) ** 0.03
        axes.set_xscale("log")
        axes.set_xlim(low / room, high * room)
        axes.xaxis.set_major_locator(FixedLocator(decades(low, high)))
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        room = 0.03 * (high - low)
        axes.set_xlim(low - room, high + room)
        axes.xaxis.set_major_locator(MaxNLocator(MOST_TICKS - 1, integer=whole))
    axes.xaxis.set_major_formatter(lambda value, _: value_text(float(value)))


def decades(low: float, high: float) -> list[float]:
    """Round numbers from `low` to `high`: 1, 2 and 5 of every power of ten, or the powers where those are too many."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    every = [[k * 10.0**p for p, k in itertools.product(powers, steps)] for steps in ((1, 2, 5), (1, 3), (1,))]
    inside = [[tick for tick in ticks if low * 0.999 <= tick <= high * 1.001] for ticks in every]
    few = next((ticks for ticks in inside if len(ticks) <= MOST_TICKS), inside[-1])
    few = few[:: math.ceil(len(few) / MOST_TICKS) or 1]
    return few if len(few) > 1 else [low, high]
