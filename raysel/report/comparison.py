"""The base model beside the tuned one: every task and language, their averages, which differences are clear."""

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

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
PREFERRED = ("acc", "exact_match", "acc_norm", "f1", "chrf", "bleu")


@dataclass(frozen=True)
class Comparison:
    """cells: every task of every language and metric.

    overall, by_family, by_training (languages trained on, and others) and by_language are averages: the mean over
    languages of the mean over a language's tasks. overall and by_family also have the mean over all items, where that
    is another one. by_training, by_language (highest first) and ratios are of shown_metric, the one that most tasks
    have.
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

    @property
    def headline(self) -> Compared:
        return next(line for line in self.overall if line.metric == self.shown_metric)

    def families_of(self, metric: str) -> list[Compared]:
        """The averages of each family of tasks, where there are several."""
        lines = [line for line in self.by_family if line.metric == metric]
        return lines if len({line.label for line in lines}) > 1 else []

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


def compare(
    results: Mapping[str, list[dict[str, Any]]],
    items: Mapping[str, Mapping[Key, ItemValues]],
    *,
    seed: int,
    trained: Collection[str] | None = None,
) -> Comparison:
    """Put the models' tables side by side.

    results: model -> rows of its `results` table; items: model -> (lang, task, metric) -> its items; trained: the
    languages that were trained on, where that is known. At least one row is needed. A metric without values of single
    items (F1, BLEU) gets no test, no interval of the difference and none of the averages.
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
    return Comparison(
        cells=sorted(cells, key=lambda line: (line.lang, line.label, line.metric)),
        overall=[line for lines in of for line in lines.overall()],
        by_family=[line for lines in of for line in lines.families()],
        by_training=of[0].by_training(trained) if trained is not None else [],
        by_language=sorted(of[0].languages(), key=_highest_first),
        ratios=of[0].ratios(),
        shown_metric=metrics[0],
        models=[model for model in MODELS if results.get(model)],
        splits=sorted({row["split"] for found in rows.values() for row in found.values()}),
        conditions={name: sorted(values) for name, values in conditions.items()},
    )


def _highest_first(line: Compared) -> tuple[float, str]:
    return -max(shown.value for shown in (line.base, line.tuned) if shown is not None), line.lang


def _rank(metric: str, keys: Collection[Key]) -> tuple[int, int, str]:
    name = metric.partition(",")[0]
    preferred = PREFERRED.index(name) if name in PREFERRED else len(PREFERRED)
    return -sum(key[2] == metric for key in keys), preferred, metric
