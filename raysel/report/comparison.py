"""The base model beside the tuned one: every task and language, their averages, which differences are clear."""

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raysel.evaluation.tasks import LANGUAGE_SUFFIX
from raysel.report.differences import Interval, average, interval, resampled_means

MODELS = ("base", "tuned")
LOWER_IS_BETTER = {"perplexity", "word_perplexity", "byte_perplexity", "bits_per_byte", "ter", "brier_score"}
# Of metrics that equally many tasks have, the one that the report's figure and first line show.
PREFERRED = ("acc", "exact_match", "acc_norm", "f1", "chrf", "bleu")
Cell = tuple[str, str]


@dataclass(frozen=True)
class Compared:
    """One line: base and tuned (either may be missing), and tuned less base. n items."""

    label: str
    lang: str
    metric: str
    n: int
    base: Interval | None
    tuned: Interval | None
    difference: Interval | None

    @property
    def verdict(self) -> str:
        """`higher`, `lower`, `no clear difference`, `no item changed`, `no interval`; empty with one model alone.

        By the paired interval of the difference; without one, by whether the two intervals overlap.
        """
        if self.base is None or self.tuned is None or self.difference is None:
            return ""
        if self.difference.low == self.difference.high == 0:
            return "no item changed"
        if self.difference.low is not None:
            apart = self.difference.excludes_zero()
        elif None in (self.base.low, self.base.high, self.tuned.low, self.tuned.high):
            return "no interval"
        else:
            apart = self.base.high < self.tuned.low or self.tuned.high < self.base.low  # type: ignore[operator]
        if not apart:
            return "no clear difference"
        return "higher" if self.difference.value > 0 else "lower"

    @property
    def better(self) -> bool | None:
        """Whether a clear difference is for the better; None where it is not clear."""
        if self.verdict not in ("higher", "lower"):
            return None
        return (self.verdict == "higher") != lower_is_better(self.metric)


@dataclass(frozen=True)
class Comparison:
    """cells: every task of every language and metric.

    overall, by_family and by_language are averages of one metric: the mean over languages of the mean over a
    language's tasks. shown_metric is the one that most tasks have; by_language is of it, highest first.
    """

    cells: list[Compared]
    overall: list[Compared]
    by_family: list[Compared]
    by_language: list[Compared]
    shown_metric: str
    models: list[str]
    splits: list[str]
    conditions: dict[str, list[str]] = field(default_factory=dict)

    @property
    def headline(self) -> Compared:
        return next(line for line in self.overall if line.metric == self.shown_metric)

    def families_of(self, metric: str) -> list[Compared]:
        """The averages of each family of tasks, where there are several."""
        lines = [line for line in self.by_family if line.metric == metric]
        return lines if len(lines) > 1 else []

    @property
    def shares(self) -> set[str]:
        """The metrics whose values all lie in [0, 1]: they are written as percentages."""
        outside = set()
        for line in self.cells:
            for shown in (line.base, line.tuned):
                if shown is not None and not 0 <= shown.value <= 1:
                    outside.add(line.metric)
        lower = {line.metric for line in self.cells if lower_is_better(line.metric)}
        return {line.metric for line in self.cells} - outside - lower


def lower_is_better(metric: str) -> bool:
    return metric.partition(",")[0] in LOWER_IS_BETTER


def family(task: str) -> str:
    """`xcopa_sw` and `xcopa_zh-Hans` are both `xcopa`."""
    return LANGUAGE_SUFFIX.sub("", task) or task


def compare(
    results: Mapping[str, list[dict[str, Any]]],
    items: Mapping[str, Mapping[tuple[str, str, str], tuple[NDArray[np.int64], NDArray[np.float64]]]],
    *,
    seed: int,
) -> Comparison:
    """Put the models' tables side by side.

    results: model -> rows of its `results` table; items: model -> (lang, task, metric) -> (item numbers sorted, their
    values (n,)). At least one row is needed. A metric without values of single items (F1, BLEU) gets no interval of
    the difference and none of the averages.
    """
    rows: dict[tuple[str, str, str], dict[str, dict[str, Any]]] = defaultdict(dict)
    for model in MODELS:
        for row in results.get(model, []):
            rows[row["lang"], row["task"], row["metric"]][model] = row
    draws = {key: _draws(key, found, items, seed) for key, found in rows.items()}
    cells = [_cell(key, found, draws[key]) for key, found in sorted(rows.items())]
    metrics = sorted({line.metric for line in cells}, key=lambda metric: _rank(metric, cells))

    def averages(label: Callable[[str, str], tuple[str, str]], wanted: list[str]) -> list[Compared]:
        lines = []
        for metric in wanted:
            groups: dict[tuple[str, str], list[Cell]] = defaultdict(list)
            for lang, task, of in rows:
                if of == metric:
                    groups[label(lang, task)].append((lang, task))
            lines += [_average(name, lang, metric, of, rows, draws) for (name, lang), of in sorted(groups.items())]
        return lines

    conditions: dict[str, set[str]] = defaultdict(set)
    for found in rows.values():
        for row in found.values():
            for name in ("harness", "shots", "template"):
                if name in row:
                    conditions[name].add(str(row[name]))
    return Comparison(
        cells=cells,
        overall=averages(lambda lang, task: ("average", ""), metrics),
        by_family=averages(lambda lang, task: (family(task), ""), metrics),
        by_language=sorted(averages(lambda lang, task: (lang, lang), metrics[:1]), key=_highest_first),
        shown_metric=metrics[0],
        models=[model for model in MODELS if results.get(model)],
        splits=sorted({row["split"] for found in rows.values() for row in found.values()}),
        conditions={name: sorted(values) for name, values in conditions.items()},
    )


def _highest_first(line: Compared) -> tuple[float, str]:
    return -max(shown.value for shown in (line.base, line.tuned) if shown is not None), line.lang


def _rank(metric: str, cells: list[Compared]) -> tuple[int, int, str]:
    name = metric.partition(",")[0]
    preferred = PREFERRED.index(name) if name in PREFERRED else len(PREFERRED)
    return -sum(line.metric == metric for line in cells), preferred, metric


def _draws(
    key: tuple[str, str, str],
    found: Mapping[str, Any],
    items: Mapping[str, Mapping[tuple[str, str, str], tuple[NDArray[np.int64], NDArray[np.float64]]]],
    seed: int,
) -> dict[str, NDArray[np.float64]]:
    """(RESAMPLES,) means of each model; nothing where an item has no value or the models had different items."""
    scored = [items.get(model, {}).get(key) for model in found]
    whole = [pair for pair in scored if pair is not None and len(pair[1]) and np.isfinite(pair[1]).all()]
    if len(whole) < len(found) or any(not np.array_equal(pair[0], whole[0][0]) for pair in whole):
        return {}
    means = resampled_means(np.stack([values for _, values in whole]), name="\0".join(key), seed=seed)
    return dict(zip(found, means, strict=True))


def _cell(
    key: tuple[str, str, str], found: Mapping[str, dict[str, Any]], draws: Mapping[str, NDArray[np.float64]]
) -> Compared:
    lang, task, metric = key
    base, tuned = (
        Interval(found[model]["value"], found[model]["ci_low"], found[model]["ci_high"]) if model in found else None
        for model in MODELS
    )
    return Compared(task, lang, metric, max(row["n"] for row in found.values()), base, tuned, _less(base, tuned, draws))


def _average(
    label: str,
    lang: str,
    metric: str,
    of: list[Cell],
    rows: Mapping[tuple[str, str, str], Mapping[str, dict[str, Any]]],
    draws: Mapping[tuple[str, str, str], Mapping[str, NDArray[np.float64]]],
) -> Compared:
    """Averages over the cells that every model has, so that like is compared with like."""
    models = {model for cell in of for model in rows[(*cell, metric)]}
    common = [cell for cell in of if models == set(rows[(*cell, metric)])] or of
    shown: dict[str, Interval | None] = dict.fromkeys(MODELS)
    drawn: dict[str, NDArray[np.float64]] = {}
    for model in models:
        values = {
            cell: float(rows[(*cell, metric)][model]["value"]) for cell in common if model in rows[(*cell, metric)]
        }
        shown[model] = Interval(average(values))
        if all(model in draws[(*cell, metric)] for cell in values):
            drawn[model] = average({cell: draws[(*cell, metric)][model] for cell in values})
            shown[model] = interval(average(values), drawn[model])
    n = sum(max(row["n"] for row in rows[(*cell, metric)].values()) for cell in common)
    base, tuned = shown["base"], shown["tuned"]
    return Compared(label, lang, metric, n, base, tuned, _less(base, tuned, drawn))


def _less(base: Interval | None, tuned: Interval | None, draws: Mapping[str, NDArray[np.float64]]) -> Interval | None:
    if base is None or tuned is None:
        return None
    difference = tuned.value - base.value
    if len(draws) < len(MODELS):
        return Interval(difference)
    return interval(difference, draws["tuned"] - draws["base"])
