"""A sweep as one HTML page: what was searched, what came of it, and how the parameters bear on it."""

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from raysel.report.formats import decimal, duration
from raysel.report.html import environment
from raysel.report.provenance import experiment_file
from raysel.sweep.answer import STATUSES, against_next, answer, searched, verdict_word
from raysel.sweep.course_figures import loss_curves, pareto_scatter
from raysel.sweep.dimensions import Dimension, Interaction, dimensions, interactions
from raysel.sweep.heat_figure import heat_map
from raysel.sweep.marks import Mark
from raysel.sweep.point_figures import against, ranking_rows, simplex_panels
from raysel.sweep.records import Ranked, Sweep, TestScore, TrialRecord
from raysel.sweep.settings import Parameter, Space
from raysel.sweep.space import varied
from raysel.sweep.values import Measure, measures, metric_measure, parameters_text, short_names, value_text

# Longer tables stand in a box that scrolls.
OPEN_ROWS = 15
# With so many points the figure of the ranking shows the best.
DRAWN_RANKS = 40


@dataclass(frozen=True)
class Panel:
    """Figures of one parameter: one for each objective. is_simplex: a panel for each name."""

    key: str
    is_simplex: bool
    drawn: list[Markup]


def sweep_page(sweep: Sweep) -> str:
    """The page; the same text for the same sweep.

    `sweep.space` is a space file's data (of a `Space`: `model_dump(mode="json", by_alias=True, exclude_unset=True)`).
    """
    space = Space.model_validate(sweep.space)
    found = measures(space, [trial.objectives for trial in sweep.trials if trial.objectives])
    differing = set(varied([trial.parameters for trial in sweep.trials]))
    keys = [key for key in space.parameters if key in differing] or list(space.parameters)
    context: dict[str, Any] = {
        "sweep": sweep,
        "space": space,
        "space_file": experiment_file(sweep.space),
        "open_rows": OPEN_ROWS,
        "drawn_ranks": DRAWN_RANKS,
        "measures": found,
        "keys": keys,
        "names": short_names(keys),
        "searched": searched(sweep, space, found),
        "answer": answer(sweep, found, keys),
        "counts": Counter(trial.status for trial in sweep.trials),
        "statuses": STATUSES,
        "trial_of": {trial.number: trial for trial in sweep.trials},
        "unranked": unranked(sweep),
        "without_interval": [
            of.label for k, of in enumerate(found) if any(ranked.objectives[k].low is None for ranked in sweep.ranking)
        ],
        "test_measures": _test_measures(sweep.tests),
        "parameter_rows": [(key, *_parameter_words(of)) for key, of in space.parameters.items()],
        "verdict_word": verdict_word,
        "against_next": against_next,
        **_figures(sweep, space, found, keys),
    }
    context["sections"] = _sections(sweep, context)
    pages = environment("raysel.sweep")
    pages.filters["value"] = value_text
    return pages.get_template("sweep.html.jinja").render(context)


def _sections(sweep: Sweep, context: dict[str, Any]) -> list[tuple[str, str]]:
    unfinished = [trial for trial in sweep.trials if trial.status != "finished"]
    shown = {
        "ranking": ("Ranking", sweep.ranking),
        "front": ("Two objectives", context["front"]),
        "parameters": ("Parameters", context["panels"]),
        "pairs": ("Pairs of parameters", context["pairs"]),
        "tests": ("Test items", sweep.tests),
        "curves": ("Held-out loss", context["curves"]),
        "unfinished": ("Not finished", unfinished or sweep.unstarted or context["unranked"]),
        "trials": ("Trials", sweep.trials),
        "settings": ("Settings", True),
    }
    return [(key, title) for key, (title, there) in shown.items() if there]


def unranked(sweep: Sweep) -> list[TrialRecord]:
    """The finished trials of points that have no rank, as another seed did not finish."""
    ranked = {number for point in sweep.ranking for number in point.trials}
    return [trial for trial in sweep.trials if trial.status == "finished" and trial.number not in ranked]


def _figures(sweep: Sweep, space: Space, found: list[Measure], keys: list[str]) -> dict[str, Any]:
    ranking = [ranked for ranked in sweep.ranking if all(math.isfinite(of.value) for of in ranked.objectives)]
    tooltips = [_point_tooltip(ranked, found, keys) for ranked in ranking]
    marks = [
        [Mark(r.objectives[k], tip, best=r.rank == 1) for r, tip in zip(ranking, tooltips, strict=True)]
        for k in range(len(found))
    ]
    several = len(ranking) > 1
    axes = dimensions(space, ranking) if several else []
    pairs, of_pairs = _pairs(axes, ranking, found[0]) if several else ([], 0)
    best = set(sweep.ranking[0].trials) if sweep.ranking else set()
    curves = sorted((trial for trial in sweep.trials if trial.curve), key=lambda trial: trial.number)
    rows = slice(DRAWN_RANKS)
    return {
        "ranks": [
            ranking_rows(f"ranks-{k}", marks[k][rows], [ranked.rank for ranked in ranking[rows]], of)
            for k, of in enumerate(found)
            if several
        ],
        "front": pareto_scatter("front", ranking, found, tooltips) if several and len(found) == 2 else None,
        "panels": _panels(axes, marks, found),
        "pairs": pairs,
        "of_pairs": of_pairs,
        "curves": loss_curves("curves", curves, best, [_trial_tooltip(trial, keys) for trial in curves])
        if curves
        else None,
        "curve_legend": _curve_legend(curves, best),
        "absent": any(not all(of.present) for of in axes),
    }


def _panels(axes: Sequence[Dimension], marks: Sequence[Sequence[Mark]], found: Sequence[Measure]) -> list[Panel]:
    panels = []
    for number, (key, parts) in enumerate(itertools.groupby(axes, key=lambda of: of.key)):
        of = list(parts)
        is_simplex = of[0].part is not None
        drawn = [
            simplex_panels(f"p{number}-{k}", of, marks[k], measure)
            if is_simplex
            else against(f"p{number}-{k}", of[0], marks[k], measure)
            for k, measure in enumerate(found)
        ]
        panels.append(Panel(key, is_simplex, drawn))
    return panels


def _pairs(
    axes: Sequence[Dimension], ranking: Sequence[Ranked], measure: Measure
) -> tuple[list[tuple[Interaction, Markup]], int]:
    objective = np.array([ranked.objectives[0].value for ranked in ranking])
    trials = np.array([len(ranked.trials) for ranked in ranking])
    shown, of_pairs = interactions(axes, objective, trials)
    return [(pair, heat_map(f"pair-{number}", pair, measure)) for number, pair in enumerate(shown)], of_pairs


def _curve_legend(trials: Sequence[TrialRecord], best: set[int]) -> list[tuple[str, str]]:
    there = {"best" if trial.number in best else trial.status for trial in trials}
    legend = {
        "best": ("the best point", "var(--accent)"),
        "finished": ("finished", "var(--before)"),
        "stopped": ("stopped early", "var(--c1)"),
        "failed": ("failed", "var(--c6)"),
    }
    return [entry for of, entry in legend.items() if of in there]


def _point_tooltip(ranked: Ranked, found: Sequence[Measure], keys: Sequence[str]) -> str:
    reached = [of.said(shown) for of, shown in zip(found, ranked.objectives, strict=True)]
    trials = f"trial {ranked.trials[0]}" if len(ranked.trials) == 1 else f"{len(ranked.trials)} trials"
    return "\n".join([f"rank {ranked.rank}, {trials}", parameters_text(ranked.parameters, keys), *reached])


def _trial_tooltip(trial: TrialRecord, keys: Sequence[str]) -> str:
    percent, loss = max(trial.curve)
    head = f"trial {trial.number}, seed {trial.seed}: {STATUSES[trial.status]} after {duration(trial.seconds)}"
    return "\n".join([head, parameters_text(trial.parameters, keys), f"loss {decimal(loss)} at {percent}%"])


def _test_measures(tests: Sequence[TestScore]) -> dict[str, Measure]:
    values: dict[str, list[float]] = {}
    for score in tests:
        values.setdefault(score.metric, []).extend(of.value for of in (score.tuned, score.base) if of is not None)
    return {metric: metric_measure(metric, of, label=metric, is_maximized=True) for metric, of in values.items()}


def _parameter_words(of: Parameter) -> tuple[str, str, str]:
    """The kind of a parameter, its values and its condition."""
    when = ", ".join(f"{key} is {_either(wanted)}" for key, wanted in of.when.items())
    if of.kind in ("grid", "choice"):
        return of.kind, " · ".join(value_text(value) for value in of.values), when
    if of.kind == "simplex":
        total = f", whole numbers that sum to {of.total:,}" if of.total else ", shares that sum to 1"
        return "simplex", ", ".join(of.simplex or []) + total, when
    low, high = of.ends
    return "int" if of.kind == "integer" else of.kind, f"{value_text(low)} to {value_text(high)}", when


def _either(wanted: Any) -> str:
    return " or ".join(value_text(value) for value in wanted) if isinstance(wanted, list) else value_text(wanted)
