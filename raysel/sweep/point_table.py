"""The points of a sweep as the rows of a figure's table, and as the marks that are drawn of them."""

from collections.abc import Sequence

from raysel.evaluation.intervals import Interval
from raysel.report.figure_data import Row, finite
from raysel.sweep.marks import Mark
from raysel.sweep.records import Ranked
from raysel.sweep.values import Measure, parameters_text


def point_rows(ranking: Sequence[Ranked], measures: Sequence[Measure], keys: Sequence[str]) -> list[Row]:
    """One row for each point: its rank, trials, parameters (as words) and objectives with their intervals."""
    rows: list[Row] = []
    for ranked in ranking:
        trials = ranked.trials[0] if len(ranked.trials) == 1 else ", ".join(map(str, ranked.trials))
        row: Row = {"rank": ranked.rank, "trials": trials, "parameters": parameters_text(ranked.parameters, keys)}
        for number, (shown, of) in enumerate(zip(ranked.objectives, measures, strict=True)):
            ends = (shown.value, shown.low, shown.high)
            row |= dict(zip(objective_columns(number, of), map(finite, ends), strict=True))
        rows.append(row)
    return rows


def objective_columns(number: int, measure: Measure) -> tuple[str, str, str]:
    """The columns of an objective's value and the ends of its interval. number: of the objective, from 0."""
    name = f"objective {number + 1}: {measure.label}"
    return name, f"{name}, low", f"{name}, high"


def shown_objective(row: Row, number: int, measure: Measure) -> Interval:
    value, low, high = (row[column] for column in objective_columns(number, measure))
    return Interval(value, low, high)


def marks_of(rows: Sequence[Row], measures: Sequence[Measure], number: int) -> list[Mark]:
    """The points by one of their objectives."""
    return [
        Mark(shown_objective(row, number, measures[number]), tooltip(row, measures), best=row["rank"] == 1)
        for row in rows
    ]


def tooltip(row: Row, measures: Sequence[Measure]) -> str:
    """The rank of a point, its parameters and what it reached."""
    trials = str(row["trials"]).split(", ")
    said = f"trial {trials[0]}" if len(trials) == 1 else f"{len(trials)} trials"
    reached = [of.said(shown_objective(row, number, of)) for number, of in enumerate(measures)]
    return "\n".join([f"rank {row['rank']}, {said}", row["parameters"], *reached])
