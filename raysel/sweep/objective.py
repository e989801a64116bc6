"""What a trial is worth, from what its artifacts say. Values of single items in, intervals out; no store, no Ray."""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
from scipy.stats import t as student

from raysel.evaluation.intervals import Interval, freedom
from raysel.evaluation.significance import LEVEL
from raysel.report.result_lines import ItemValues, Key, MetricLines
from raysel.sweep.records import Contrast
from raysel.sweep.settings import Objective, SpaceError

Rows = Mapping[Key, dict[str, Any]]


def chosen_rows(objective: Objective, rows: Sequence[dict[str, Any]]) -> dict[Key, dict[str, Any]]:
    """The results that an objective is made of. Raises `SpaceError` where there are none, and where one is of a test
    item."""
    metrics = sorted({row["metric"] for row in rows})
    # A metric may be written without the filter that lm-eval adds to its name.
    named = [metric for metric in metrics if objective.metric in (metric, metric.partition(",")[0])]
    found = {
        (row["lang"], row["task"], row["metric"]): row
        for row in rows
        if row["metric"] in named[:1]
        and any(fnmatchcase(row["task"], glob) for glob in objective.tasks)
        and row["lang"] in (objective.languages or [row["lang"]])
    }
    if len(named) > 1:
        raise SpaceError(f"objective {objective.label}: say which of {', '.join(named)}")
    if not found:
        raise SpaceError(
            f"objective {objective.label}: there is no such result; metrics {', '.join(metrics)}; tasks "
            f"{', '.join(sorted({row['task'] for row in rows}))}; languages "
            f"{', '.join(sorted({row['lang'] for row in rows}))}"
        )
    if any(row["split"] != "dev" for row in found.values()):
        raise RuntimeError("a trial was scored on test items")
    return found


def of_results(rows: Rows, items: Mapping[Key, ItemValues], *, seed: int) -> Interval:
    """The mean over languages of the mean over each one's tasks, with its 95% interval over items."""
    metric = next(iter(rows))[2]
    lines = MetricLines(metric, {key: {"tuned": row} for key, row in rows.items()}, {"tuned": items}, seed=seed)
    average = lines.overall()[0].tuned
    assert average is not None
    return average


def of_heldout(entries: Sequence[Mapping[str, Any]], exported: int, languages: Sequence[str]) -> Interval:
    """The held-out loss of the exported weights: of all samples, or the mean over languages."""
    if not entries:
        raise SpaceError("objective: no sample was held out in any language that is trained on")
    # Last steps without anything to learn are passed over: the weights are those that were measured last.
    entry = next((entry for entry in entries if entry["steps"] == exported), entries[-1])
    if not languages:
        return Interval(_finite(entry["loss"]))
    if missing := sorted(set(languages) - entry["loss_by_lang"].keys()):
        raise SpaceError(
            f"objective: no sample is held out in {', '.join(missing)}; there are "
            f"{', '.join(sorted(entry['loss_by_lang']))}"
        )
    return Interval(float(np.mean([_finite(entry["loss_by_lang"][lang]) for lang in languages])))


def _finite(loss: float | None) -> float:
    if loss is None:
        raise SpaceError("the held-out loss is not a finite number: the training diverged")
    return float(loss)


def over_seeds(trials: Sequence[Interval], *, items: int | None = None) -> Interval:
    """The mean over seeds. Its interval is of seeds and items together: their variances add up, with the degrees of
    freedom of such a sum (Satterthwaite 1946). With one seed that of the items alone; without intervals of the items
    that of the seeds."""
    if len(trials) == 1:
        return trials[0]
    values = np.array([trial.value for trial in trials])
    errors = [trial.error for trial in trials if trial.error]
    # The items are the same for every seed, so that averaging over seeds takes nothing off their part.
    by_items = float(np.mean(np.square(errors))) if len(errors) == len(trials) else 0.0
    return _with_seeds(values, by_items, items or 100)


def _with_seeds(values: np.ndarray, by_items: float, items: int) -> Interval:
    parts = np.array([by_items, values.var(ddof=1) / len(values)])
    value, error = float(values.mean()), float(np.sqrt(parts.sum()))
    if not error:
        return Interval(value, value, value, 0.0)
    margin = float(student.ppf(0.975, freedom(parts, np.array([items, len(values)])))) * error
    return Interval(value, value - margin, value + margin, error)


def contrast_of_results(first: Sequence[tuple[Rows, Mapping[Key, ItemValues]]], second: Any, *, seed: int) -> Contrast:
    """The first point less the second on the same items, seed by seed (rows and items of each)."""
    pairs = [_paired(one, other, seed=seed) for one, other in zip(first, second, strict=True)]
    if len(pairs) == 1:
        line = pairs[0]
        assert line.difference is not None
        return Contrast(line.difference, line.p, None if line.p is None else line.p <= LEVEL)
    differences = [line.difference for line in pairs if line.difference is not None]
    difference = over_seeds(differences, items=pairs[0].n)
    return Contrast(difference, None, _is_off_zero(difference))


def _paired(one: tuple[Rows, Mapping[Key, ItemValues]], other: Any, *, seed: int) -> Any:
    metric = next(iter(one[0]))[2]
    rows = {key: {"tuned": row, "base": other[0][key]} for key, row in one[0].items() if key in other[0]}
    return MetricLines(metric, rows, {"tuned": one[1], "base": other[1]}, seed=seed).overall()[0]


def contrast_of_values(first: Sequence[float], second: Sequence[float]) -> Contrast:
    """The first point less the second, seed by seed, where there are no items. One seed says nothing of noise."""
    differences = np.subtract(first, second)
    if len(differences) == 1:
        return Contrast(Interval(float(differences[0])), None, None)
    difference = _with_seeds(differences, 0.0, 100)
    return Contrast(difference, None, _is_off_zero(difference))


def _is_off_zero(difference: Interval) -> bool:
    return (difference.low or 0.0) > 0 or (difference.high or 0.0) < 0
