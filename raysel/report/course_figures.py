"""Figures of a course: the curriculum along the order of training, the loss along the steps."""

from collections.abc import Hashable, Sequence

import numpy as np
from markupsafe import Markup
from matplotlib.ticker import MaxNLocator

from raysel.report.curriculum import Curriculum
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
COURSE_HEIGHT, COURSE_TOP, COURSE_BOTTOM = 330, 10, 42
# Room for the names at the right: of one name across, from one to the next down.
NAMES, NAME_PIXELS, NAME_CHARACTERS = 128, 15, 18


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


def composition_course(curriculum: Curriculum, by: str) -> tuple[Markup, list[tuple[str, str]]]:
    """The shares of the languages, tasks or levels along the order, as stacked areas, and their legend: (name, CSS
    colour). Levels are in their order, the others from the largest share to the smallest."""
    composition = curriculum.of[by]
    total = composition.shares.mean(axis=0)
    ranked = list(range(len(total)))
    if by != "level":
        ranked.sort(key=lambda k: -total[k])
    named = ranked if len(ranked) <= NAMED_SHARES + 1 else ranked[:NAMED_SHARES]
    layers = [composition.shares[:, k] for k in named]
    names = [_part_name(by, composition.parts[k]) for k in named]
    legend = [(name, f"var(--c{number})") for number, name in enumerate(names)]
    colours = [*CATEGORICAL[: len(named)]]
    if len(named) < len(ranked):
        layers.append(composition.shares[:, ranked[NAMED_SHARES:]].sum(axis=1))
        legend.append((f"the other {len(ranked) - NAMED_SHARES} {by}s", "var(--all)"))
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
        description = f"Share of each {by} from the first to the last sample trained on"
        return inline(figure, f"{by}-shares", description), legend


def _part_name(by: str, part: Hashable) -> str:
    if part is None:
        return f"no {by}"
    return language_name(str(part)) if by == "language" else f"level {part}" if by == "level" else str(part)


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


def heldout_course(heldout: HeldoutLoss) -> Markup:
    """The held-out loss of each language and, strong, of all; those that end highest and lowest are named."""
    end = {lang: float(of[-1]) for lang, of in heldout.by_lang.items() if np.isfinite(of[-1])}
    ranked = sorted(end, key=lambda lang: (end[lang], lang))
    named = ranked if len(ranked) <= NAMED_LINES else [*ranked[: NAMED_LINES // 2], *ranked[-NAMED_LINES // 2 :]]
    colour = dict(zip(named, CATEGORICAL, strict=False))
    with drawing(WIDTH, COURSE_HEIGHT) as figure:
        axes = place(figure, LEFT, COURSE_TOP, NAMES, COURSE_BOTTOM)
        axes.grid(axis="y", color=LIGHT["grid"])
        for lang, losses in heldout.by_lang.items():
            line = axes.plot(heldout.steps, losses, color=colour.get(lang, LIGHT["all"]), linewidth=1)[0]
            line.set_zorder(3 if lang in colour else 2)
        axes.plot(heldout.steps, heldout.loss, "o-", color=LIGHT["ink"], linewidth=2.6, markersize=4, zorder=4)
        axes.set_xlim(heldout.steps[0], heldout.steps[-1])
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.set_xlabel("steps done")
        axes.set_ylabel("held-out loss")
        low, high = axes.get_ylim()
        pixels = (high - low) / (COURSE_HEIGHT - COURSE_TOP - COURSE_BOTTOM)
        lines = [(float(heldout.loss[-1]), "all languages", LIGHT["ink"])]
        lines += [(end[lang], shorten(language_name(lang), NAME_CHARACTERS), colour[lang]) for lang in named]
        lines.sort()
        places = stacked([value for value, _, _ in lines], NAME_PIXELS * pixels, low, high)
        across = axes.get_yaxis_transform()
        for at, (value, name, shade) in zip(places, lines, strict=True):
            axes.plot([1.005, 1.03], [value, at], color=shade, linewidth=0.8, transform=across, clip_on=False)
            weight = "bold" if shade == LIGHT["ink"] else "normal"
            axes.text(1.04, at, name, color=shade, va="center", fontsize=11, weight=weight, transform=across)
        return inline(figure, "heldout", "Loss of the held-out samples of each language over the steps")


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


def _percent_of_order(curriculum: Curriculum) -> np.ndarray:
    stretches = len(curriculum.mean)
    return np.linspace(0, 100, stretches)
