"""The figures of a sweep's page, each with its table."""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from markupsafe import Markup

from raysel.report.figure_data import DataFigure, Row
from raysel.sweep.course_figures import curve_rows, loss_curves, pareto_scatter
from raysel.sweep.dimensions import Dimension, dimensions, interactions
from raysel.sweep.heat_figure import cell_rows, heat_map
from raysel.sweep.point_figures import against, parameter_rows, ranking_rows, simplex_panels, simplex_rows
from raysel.sweep.point_table import point_rows
from raysel.sweep.records import Ranked, Sweep, TrialRecord
from raysel.sweep.settings import Space
from raysel.sweep.values import Measure

# With so many points the figure of the ranking shows the best.
DRAWN_RANKS = 40
CURVE_LEGEND = {
    "best": ("the best point", "var(--accent)"),
    "finished": ("finished", "var(--before)"),
    "stopped": ("stopped early", "var(--c1)"),
    "failed": ("failed", "var(--c3)"),
}


@dataclass(frozen=True)
class Panel:
    """Figures of one parameter: one for each objective. is_simplex: a panel for each name."""

    key: str
    is_simplex: bool
    drawn: list[DataFigure]


@dataclass(frozen=True)
class SweepFigures:
    """ranks: one for each objective; front: of two objectives; panels: of each parameter; pairs: of parameters, some of
    of_pairs; curves: of the trials that have a held-out loss; absent: whether a parameter's condition did not hold."""

    ranks: list[DataFigure]
    front: DataFigure | None
    panels: list[Panel]
    pairs: list[DataFigure]
    of_pairs: int
    curves: DataFigure | None
    curve_legend: list[tuple[str, str]]
    absent: bool

    @property
    def all(self) -> list[DataFigure]:
        of_parameters = [figure for panel in self.panels for figure in panel.drawn]
        single = [figure for figure in (self.front, self.curves) if figure is not None]
        return [*self.ranks, *of_parameters, *self.pairs, *single]


def sweep_figures(sweep: Sweep, space: Space, measures: Sequence[Measure], keys: Sequence[str]) -> SweepFigures:
    """measures: of the objectives; keys: the parameters that vary."""
    ranking = [ranked for ranked in sweep.ranking if all(math.isfinite(of.value) for of in ranked.objectives)]
    if len(ranking) < 2:
        ranking = []
    axes = dimensions(space, ranking) if ranking else []
    points = point_rows(ranking, measures, keys)
    pairs, of_pairs = _pairs(axes, ranking, measures[0])
    best = set(sweep.ranking[0].trials) if sweep.ranking else set()
    curves = sorted((trial for trial in sweep.trials if trial.curve), key=lambda trial: trial.number)
    ranks = [
        DataFigure.of(f"ranks-{k}", points[:DRAWN_RANKS], partial(ranking_rows, measures=measures, shown=k))
        for k in range(len(measures))
        if points
    ]
    front = [row | {"on_front": ranked.on_front} for row, ranked in zip(points, ranking, strict=True)]
    two = bool(front) and len(measures) == 2
    there = {"best" if trial.number in best else trial.status for trial in curves}
    return SweepFigures(
        ranks=ranks,
        front=DataFigure.of("front", front, partial(pareto_scatter, measures=measures)) if two else None,
        panels=_panels(axes, points, measures),
        pairs=pairs,
        of_pairs=of_pairs,
        curves=_curves(curves, best, keys) if curves else None,
        curve_legend=[entry for of, entry in CURVE_LEGEND.items() if of in there],
        absent=any(not all(of.present) for of in axes),
    )


def _panels(axes: Sequence[Dimension], points: Sequence[Row], measures: Sequence[Measure]) -> list[Panel]:
    panels = []
    for number, (key, parts) in enumerate(itertools.groupby(axes, key=lambda of: of.key)):
        of = list(parts)
        is_simplex = of[0].part is not None
        rows = simplex_rows(of, points) if is_simplex else parameter_rows(of[0], points)
        drawn = [DataFigure.of(f"p{number}-{k}", rows, _draw(of[0], measures, k)) for k in range(len(measures))]
        panels.append(Panel(key, is_simplex, drawn))
    return panels


def _draw(of: Dimension, measures: Sequence[Measure], shown: int) -> Callable[[str, list[Row]], Markup]:
    if of.part is not None:
        label = of.name.partition(":")[0]
        return partial(simplex_panels, label=label, limits=of.limits, measures=measures, shown=shown)
    return partial(against, kind=of.kind, label=of.name, limits=of.limits, measures=measures, shown=shown)


def _pairs(axes: Sequence[Dimension], ranking: Sequence[Ranked], measure: Measure) -> tuple[list[DataFigure], int]:
    objective = np.array([ranked.objectives[0].value for ranked in ranking])
    trials = np.array([len(ranked.trials) for ranked in ranking], dtype=np.int64)
    shown, of_pairs = interactions(axes, objective, trials)
    drawn = [
        DataFigure.of(
            f"pair-{number}", cell_rows(pair), partial(heat_map, down=pair.rows, across=pair.columns, measure=measure)
        )
        for number, pair in enumerate(shown)
    ]
    return drawn, of_pairs


def _curves(trials: Sequence[TrialRecord], best: set[int], keys: Sequence[str]) -> DataFigure:
    return DataFigure.of("curves", curve_rows(trials, best, keys), loss_curves)
