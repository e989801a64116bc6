"""Figures of a course: the curriculum along the order of training, the loss along the steps."""

import numpy as np
from markupsafe import Markup
from matplotlib.ticker import MaxNLocator

from raysel.report.curriculum import Curriculum
from raysel.report.formats import language_name, scientific
from raysel.report.palette import CATEGORICAL, LIGHT
from raysel.report.svg import drawing, inline, place
from raysel.report.training_log import TrainingLog

WIDTH = 520
LEFT, RIGHT = 52, 14
# With more languages than this, the smaller ones are drawn as one area.
NAMED_SHARES = 7


def separability_course(curriculum: Curriculum) -> Markup:
    """Mean separability along the order of training, with the range of the middle 80%."""
    at = _percent_of_order(curriculum)
    with drawing(WIDTH, 230) as figure:
        axes = place(figure, LEFT, 10, RIGHT, 42)
        axes.grid(axis="y", color=LIGHT["grid"])
        axes.fill_between(at, curriculum.low, curriculum.high, color=LIGHT["pool"], alpha=0.4, linewidth=0)
        axes.plot(at, curriculum.mean, color=LIGHT["accent"], linewidth=2)
        axes.set_xlim(0, 100)
        axes.set_xlabel("% of the order of training")
        axes.set_ylabel("separability")
        axes.yaxis.set_major_locator(MaxNLocator(4))
        return inline(figure, "course", "Mean separability from the first to the last sample trained on")


def language_course(curriculum: Curriculum) -> tuple[Markup, list[tuple[str, str]]]:
    """The languages' shares along the order, as stacked areas, and their legend: (name, CSS colour)."""
    total = curriculum.shares.mean(axis=0)
    ranked = sorted(range(len(total)), key=lambda k: (-total[k], curriculum.languages[k]))
    named = ranked if len(ranked) <= NAMED_SHARES + 1 else ranked[:NAMED_SHARES]
    layers = [curriculum.shares[:, k] for k in named]
    legend = [(language_name(curriculum.languages[k]), f"var(--c{number})") for number, k in enumerate(named)]
    colours = [*CATEGORICAL[: len(named)]]
    if len(named) < len(ranked):
        layers.append(curriculum.shares[:, ranked[NAMED_SHARES:]].sum(axis=1))
        legend.append((f"the other {len(ranked) - NAMED_SHARES} languages", "var(--all)"))
        colours.append(LIGHT["all"])
    at = _percent_of_order(curriculum)
    with drawing(WIDTH, 230) as figure:
        axes = place(figure, LEFT, 10, RIGHT, 42)
        axes.stackplot(at, 100 * np.stack(layers), colors=colours, linewidth=0.8, edgecolor=LIGHT["paper"], alpha=0.9)
        axes.set_xlim(0, 100)
        axes.set_ylim(0, 100)
        axes.set_xlabel("% of the order of training")
        axes.set_ylabel("% of the samples")
        axes.yaxis.set_major_locator(MaxNLocator(4))
        return inline(figure, "shares", "Share of each language from the first to the last sample trained on"), legend


def loss_course(log: TrainingLog) -> Markup:
    """The loss of every step, smoothed, over the learning rate."""
    with drawing(WIDTH, 330) as figure:
        axes = place(figure, LEFT, 10, RIGHT, 118)
        axes.grid(axis="y", color=LIGHT["grid"])
        axes.plot(log.steps, log.loss, color=LIGHT["all"], linewidth=1)
        axes.plot(log.steps, log.smoothed, color=LIGHT["accent"], linewidth=2)
        axes.set_ylabel("training loss")
        axes.set_xticklabels([])
        axes.yaxis.set_major_locator(MaxNLocator(5))
        rate = place(figure, LEFT, 228, RIGHT, 42)
        rate.grid(axis="y", color=LIGHT["grid"])
        rate.plot(log.steps, log.learning_rate, color=LIGHT["muted"], linewidth=1.5)
        rate.set_ylabel("rate")
        rate.set_ylim(bottom=0)
        rate.yaxis.set_major_locator(MaxNLocator(2))
        rate.yaxis.set_major_formatter(lambda value, _: scientific(value))
        rate.set_xlabel("step")
        for panel in (axes, rate):
            panel.xaxis.set_major_locator(MaxNLocator(6, integer=True))
            if len(log.steps) > 1:
                panel.set_xlim(log.steps[0], log.steps[-1])
        return inline(figure, "loss", "Training loss and learning rate of every step")


def _percent_of_order(curriculum: Curriculum) -> np.ndarray:
    stretches = len(curriculum.mean)
    return np.linspace(0, 100, stretches)
