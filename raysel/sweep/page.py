"""A sweep as one HTML page: what was searched, what came of it, and how the parameters bear on it."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from raysel.report.html import environment
from raysel.report.provenance import experiment_file
from raysel.sweep.answer import STATUSES, against_next, answer, searched, verdict_word
from raysel.sweep.figures import DRAWN_RANKS, sweep_figures
from raysel.sweep.records import Sweep, TestScore, TrialRecord
from raysel.sweep.settings import Parameter, Space
from raysel.sweep.space import varied
from raysel.sweep.values import Measure, measures, metric_measure, short_names, value_text

# Longer tables stand in a box that scrolls.
OPEN_ROWS = 15


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
        **vars(sweep_figures(sweep, space, found, keys)),
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
