"""Figures of a course: the curriculum along the order of training, the loss along the steps."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from raysel.report.curriculum import Curriculum
from raysel.report.figure_data import Row, finite, grouped, numbers
from raysel.report.formats import language_name, scientific, shorten
from raysel.report.heldout_loss import HeldoutLoss
from raysel.report.palette import CATEGORICAL, LIGHT
from raysel.report.svg import drawing, inline, place
from raysel.report.training_log import TrainingLog

WIDTH = 520
LEFT, RIGHT = 52, 14
# With more languages than this, the smaller ones are drawn as one area.
NAMED_SHARES = 7
# Of more languages than this, as many lines are named, half of them the highest, half the lowest.
NAMED_LINES = 8
ORDER_HEIGHT, COURSE_HEIGHT, TOP, BOTTOM = 230, 330, 10, 42
# Room for the names at the right: of one name across, from one to the next down.
NAMES, NAME_PIXELS, NAME_CHARACTERS = 128, 15, 18


def separability_rows(curriculum: Curriculum) -> list[Row]:
    """Mean, 10% and 90% quantile of the separability of each stretch of the order."""
    columns = zip(_percent_of_order(curriculum), curriculum.mean, curriculum.low, curriculum.high, strict=True)
    names = ("percent_of_order", "mean", "low", "high")
    return [dict(zip(names, map(float, values), strict=True)) for values in columns]


def separability_course(name: str, rows: Sequence[Row]) -> Markup:
    """Mean separability along the order of training, with the range of the middle 80%."""
    at, mean, low, high = (numbers(rows, column) for column in ("percent_of_order", "mean", "low", "high"))
    with drawing(WIDTH, ORDER_HEIGHT) as figure:
        axes = place(figure, LEFT, TOP, RIGHT, BOTTOM)
        axes.grid(axis="y", color=LIGHT["grid"])
        axes.fill_between(at, low, high, color=LIGHT["pool"], alpha=0.4, linewidth=0)
        for edge in (low, high):
            axes.plot(at, edge, color=LIGHT["pool"], linewidth=1)
        axes.plot(at, mean, color=LIGHT["accent"], linewidth=2)
        axes.set_xlim(0, 100)
        axes.set_xlabel("% of the order of training")
        axes.set_ylabel("separability")
        axes.yaxis.set_major_locator(MaxNLocator(4))
        return inline(figure, name, "Mean separability from the first to the last sample trained on")


def share_rows(curriculum: Curriculum, by: str) -> list[Row]:
    """The share of each language, task or level in each stretch of the order."""
    composition = curriculum.of[by]
    return [
        {by: part, "percent_of_order": at, "share": share}
        for part, shares in zip(composition.parts, composition.shares.T.tolist(), strict=True)
        for at, share in zip(_percent_of_order(curriculum), shares, strict=True)
    ]


def composition_course(name: str, rows: Sequence[Row], *, by: str, colours: Mapping[str, int]) -> Markup:
    """The shares along the order as stacked areas, named at the right. Levels are in their order, the others from the
    largest share to the smallest. colours: the numbers of the languages' colours."""
    shares = {part: numbers(own, "share") for part, own in grouped(rows, by).items()}
    ranked = list(shares) if by == "level" else sorted(shares, key=lambda part: -shares[part].mean())
    named = ranked if len(ranked) <= NAMED_SHARES + 1 else ranked[:NAMED_SHARES]
    layers = [shares[part] for part in named]
    names = [_part_name(by, part) for part in named]
    numbered = [colours[part] if by == "language" else number for number, part in enumerate(named)]
    shades = [CATEGORICAL[number] for number in numbered]
    if len(named) < len(ranked):
        layers.append(np.sum([shares[part] for part in ranked[NAMED_SHARES:]], axis=0))
        names.append(f"{len(ranked) - NAMED_SHARES} others")
        shades.append(LIGHT["before"])
    at = sorted({row["percent_of_order"] for row in rows})
    with drawing(WIDTH, ORDER_HEIGHT) as figure:
        axes = place(figure, LEFT, TOP, NAMES, BOTTOM)
        axes.stackplot(at, 100 * np.stack(layers), colors=shades, linewidth=0.8, edgecolor=LIGHT["paper"])
        axes.set_xlim(0, 100)
        axes.set_ylim(0, 100)
        axes.set_xlabel("% of the order of training")
        axes.set_ylabel("% of the samples")
        axes.yaxis.set_major_locator(MaxNLocator(4))
        ends = 100 * np.array([layer[-1] for layer in layers])
        middles = (np.cumsum(ends) - ends / 2).tolist()
        texts = [LIGHT["muted"] if shade == LIGHT["before"] else shade for shade in shades]
        _name_ends(axes, list(zip(middles, names, texts, strict=True)), ORDER_HEIGHT)
        return inline(figure, name, f"Share of each {by} from the first to the last sample trained on")


def _part_name(by: str, part: Any) -> str:
    if part is None:
        return f"no {by}"
    return language_name(part) if by == "language" else f"level {part}" if by == "level" else " ".join(part.split())


def loss_rows(log: TrainingLog) -> list[Row]:
    """Every step's loss, as it was and smoothed, and learning rate."""
    columns = zip(log.steps, log.loss, log.smoothed, log.learning_rate, strict=True)
    return [
        {"step": int(step), "loss": finite(loss), "smoothed": finite(smoothed), "learning_rate": finite(rate)}
        for step, loss, smoothed, rate in columns
    ]


def loss_course(name: str, rows: Sequence[Row]) -> Markup:
    """The loss of every step, smoothed, over the learning rate."""
    steps = numbers(rows, "step")
    with drawing(WIDTH, COURSE_HEIGHT) as figure:
        axes = place(figure, LEFT, TOP, RIGHT, 118)
        axes.grid(axis="y", color=LIGHT["grid"])
        axes.plot(steps, numbers(rows, "loss"), color=LIGHT["before"], linewidth=1)
        axes.plot(steps, numbers(rows, "smoothed"), color=LIGHT["accent"], linewidth=2)
        axes.set_ylabel("training loss")
        axes.set_xticklabels([])
        axes.yaxis.set_major_locator(MaxNLocator(5))
        rate = place(figure, LEFT, 228, RIGHT, BOTTOM)
        rate.grid(axis="y", color=LIGHT["grid"])
        rate.plot(steps, numbers(rows, "learning_rate"), color=LIGHT["muted"], linewidth=1.5)
        rate.set_ylabel("rate")
        rate.set_ylim(bottom=0)
        rate.yaxis.set_major_locator(MaxNLocator(2))
        rate.yaxis.set_major_formatter(lambda value, _: scientific(value))
        rate.set_xlabel("step")
        for panel in (axes, rate):
            panel.xaxis.set_major_locator(MaxNLocator(6, integer=True))
            if len(steps) > 1:
                panel.set_xlim(steps[0], steps[-1])
        return inline(figure, name, "Training loss and learning rate of every step")


def heldout_rows(heldout: HeldoutLoss) -> list[Row]:
    """The loss of each language, and of all together (no language), after so many steps."""
    courses: list[tuple[str | None, np.ndarray]] = [(None, heldout.loss), *heldout.by_lang.items()]
    return [
        {"lang": lang, "steps": int(steps), "loss": finite(loss)}
        for lang, losses in courses
        for steps, loss in zip(heldout.steps, losses, strict=True)
    ]


def heldout_course(name: str, rows: Sequence[Row], *, colours: Mapping[str, int]) -> Markup:
    """The held-out loss of each language and, strong, of all; those that end highest and lowest are named.

    colours: the numbers of the languages' colours.
    """
    by_lang = grouped(rows, "lang")
    of_all = by_lang.pop(None)
    steps = numbers(of_all, "steps")
    end = {lang: own[-1]["loss"] for lang, own in by_lang.items() if own[-1]["loss"] is not None}
    ranked = sorted(end, key=lambda lang: (end[lang], lang))
    named = ranked if len(ranked) <= NAMED_LINES else [*ranked[: NAMED_LINES // 2], *ranked[-NAMED_LINES // 2 :]]
    colour = {lang: CATEGORICAL[colours[lang]] for lang in named}
    with drawing(WIDTH, COURSE_HEIGHT) as figure:
        axes = place(figure, LEFT, TOP, NAMES, BOTTOM)
        axes.grid(axis="y", color=LIGHT["grid"])
        for lang, own in by_lang.items():
            axes.plot(steps, numbers(own, "loss"), color=colour.get(lang, LIGHT["before"]),
                      linewidth=1.2 if lang in colour else 0.8, zorder=3 if lang in colour else 2)  # fmt: skip
        axes.plot(steps, numbers(of_all, "loss"), "o-", color=LIGHT["ink"], linewidth=2.6, markersize=4, zorder=4)
        axes.set_xlim(steps[0], steps[-1])
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.set_xlabel("steps done")
        axes.set_ylabel("held-out loss")
        ends = [(end[lang], language_name(lang), colour[lang]) for lang in named]
        if of_all[-1]["loss"] is not None:
            ends.append((of_all[-1]["loss"], "all languages", LIGHT["ink"]))
        _name_ends(axes, ends, COURSE_HEIGHT)
        return inline(figure, name, "Loss of the held-out samples of each language over the steps")


def _name_ends(axes: Axes, ends: Sequence[tuple[float, str, str]], height: float) -> None:
    """Names at the right of lines or areas that end at (value, name, colour), in a figure of `height` pixels."""
    low, high = axes.get_ylim()
    pixel = (high - low) / (height - TOP - BOTTOM)
    across = axes.get_yaxis_transform()
    lines = sorted(ends)
    places = stacked([value for value, _, _ in lines], NAME_PIXELS * pixel, low, high)
    for at, (value, name, shade) in zip(places, lines, strict=True):
        axes.plot([1.005, 1.03], [value, at], color=shade, linewidth=0.8, transform=across, clip_on=False)
        weight = "bold" if shade == LIGHT["ink"] else "normal"
        axes.text(1.04, at, shorten(name, NAME_CHARACTERS), color=shade, va="center", fontsize=11, weight=weight,
                  transform=across)  # fmt: skip


def stacked(values: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Rising `values`, pushed up until they are `gap` apart, and back down where they would pass `high`."""
    places: list[float] = []
    for value in values:
        places.append(max(value, places[-1] + gap) if places else max(value, low))
    ceiling = max(high, low + gap * (len(places) - 1))
    for at in range(len(places) - 1, -1, -1):
        places[at] = min(places[at], ceiling)
        ceiling = places[at] - gap
    return places


def _percent_of_order(curriculum: Curriculum) -> list[float]:
    return [float(at) for at in np.linspace(0, 100, len(curriculum.mean))]
