"""The base model beside the tuned one: every task and language, their averages, which differences are clear."""

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from raysel.evaluation.heldout import METRIC
from raysel.evaluation.intervals import is_share
from raysel.report.result_lines import (
    MODELS,
    Compared,
    ItemValues,
    Key,
    MetricLines,
    Ratio,
    lower_is_better,
)

# Of metrics that equally many tasks have, the one that the report's figure and first line show.
PREFERRED = (
    *("acc", "exact_match", "acc_norm", "rating", "qa_f1", "f1", "rouge_l"),
    *("chrf_pp", "chrf", "spbleu", "bleu"),
)
# Shown only where there is nothing else: they say that there is an answer, not that it is any good.
LAST = {"right_language", "answered"}


@dataclass(frozen=True)
class Comparison:
    """cells: every task of every language and metric.

    overall, by_family, by_training (languages trained on, and others) and by_language are averages: the mean over
    languages of the mean over a language's tasks. overall and by_family also have the mean over all items, where that
    is another one. Where two models have no cell in common there is no average. by_training, by_language (highest
    first) and ratios are of shown_metric, the one that most tasks have (bits per byte only where there is no other).
    partial: how many cells have an item with a value in one model only; they are of the other items.
    """

    cells: list[Compared]
    overall: list[Compared]
    by_family: list[Compared]
    by_training: list[Compared]
    by_language: list[Compared]
    ratios: list[Ratio]
    shown_metric: str
    models: list[str]
    splits: list[str]
    conditions: dict[str, list[str]] = field(default_factory=dict)
    partial: int = 0

    @property
    def headline(self) -> Compared | None:
        """The average of the shown metric; None where the models have no result of it in common."""
        return next((line for line in self.overall if line.metric == self.shown_metric), None)

    def families_of(self, metric: str) -> list[Compared]:
        """The averages of each family of tasks, where there are several."""
        lines = [line for line in self.by_family if line.metric == metric]
        return lines if len({line.label for line in lines}) > 1 else []

    @property
    def less_is_better(self) -> list[str]:
        """The metrics, sorted, of which a lower value is the better one."""
        return sorted({line.metric for line in self.cells if lower_is_better(line.metric)})

    @property
    def shares(self) -> set[str]:
        """The metrics that can be shares and whose values all lie in [0, 1]: they are written as percentages."""
        outside = set()
        for line in self.cells:
            for shown in (line.base, line.tuned):
                if shown is not None and not 0 <= shown.value <= 1:
                    outside.add(line.metric)
        return {line.metric for line in self.cells if is_share(line.metric)} - outside


def compare(
    results: Mapping[str, list[dict[str, Any]]],
    items: Mapping[str, Mapping[Key, ItemValues]],
    *,
    seed: int,
    trained: Collection[str] | None = None,
) -> Comparison:
    """Put the models' tables side by side.

    results: model -> rows of its `results` table; items: model -> (lang, task, metric) -> its items; trained: the
    languages that were trained on, where that is known. At least one row is needed. A metric whose value is no mean of
    its items' (BLEU, chrF++) gets no test, no interval of the difference and none of the averages.
    """
    rows: dict[Key, dict[str, dict[str, Any]]] = defaultdict(dict)
    for model in MODELS:
        for row in results.get(model, []):
            rows[row["lang"], row["task"], row["metric"]][model] = row
    metrics = sorted({metric for _, _, metric in rows}, key=lambda metric: _rank(metric, rows))
    of = [
        MetricLines(metric, {key: rows[key] for key in sorted(rows) if key[2] == metric}, items, seed=seed)
        for metric in metrics
    ]
    conditions: dict[str, set[str]] = defaultdict(set)
    for found in rows.values():
        for row in found.values():
            for name in ("harness", "shots", "template"):
                if name in row:
                    conditions[name].add(str(row[name]))
    cells = [line for lines in of for line in lines.cells()]
    averages = [lines.overall() for lines in of]
    # The first that both models have results of.
    shown = next((lines for lines, found in zip(of, averages, strict=True) if found), of[0])
    return Comparison(
        cells=sorted(cells, key=lambda line: (line.lang, line.label, line.metric)),
        overall=[line for found in averages for line in found],
        by_family=[line for lines in of for line in lines.families()],
        by_training=shown.by_training(trained) if trained is not None else [],
        by_language=sorted(shown.languages(), key=_highest_first),
        ratios=shown.ratios(),
        shown_metric=shown.metric,
        models=[model for model in MODELS if results.get(model)],
        splits=sorted({row["split"] for found in rows.values() for row in found.values()}),
        partial=sum(len(lines.partial) for lines in of),
        conditions={name: sorted(values) for name, values in conditions.items()},
    )


def _highest_first(line: Compared) -> tuple[float, str]:
    return -max(shown.value for shown in (line.base, line.tuned) if shown is not None), line.lang


def _rank(metric: str, keys: Collection[Key]) -> tuple[bool, bool, int, int, str]:
    # What is held out says least of what a model can do.
    name = metric.partition(",")[0]
    preferred = PREFERRED.index(name) if name in PREFERRED else len(PREFERRED)
    return name in LAST, name == METRIC, -sum(key[2] == metric for key in keys), preferred, metric
