"""Reads what the diagnostics of separability need: shard by shard, joined by id."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raysel.report.diagnostics import Diagnostics, LanguageSimilarity, WithinTask
from raysel.separability.explained import VarianceTable
from raysel.separability.similarity import PairwiseSimilarity
from raysel.store import Artifact

LENGTH_CLASSES = 10
# Values beyond the most frequent ones count as one: the table's size is the square of their number.
MOST_VALUES = 100
OTHER = "\0other"


def read_diagnostics(inputs: Mapping[str, Artifact]) -> Diagnostics | None:
    """None where the run has not come to scores."""
    if not {"corpus", "vectors", "scores"} <= inputs.keys():
        return None
    corpus, vectors, scores = inputs["corpus"], inputs["vectors"], inputs["scores"]
    properties = corpus.read("corpus", ["id", "source", "task"])
    ids = properties["id"].combine_chunks()
    frequent = {
        name: {value for value, _ in Counter(properties[name].to_pylist()).most_common(MOST_VALUES)}
        for name in ("source", "task")
    }
    lengths = vectors.read("vectors", ["id", "n_tokens"])
    n_tokens = lengths["n_tokens"].to_numpy()
    edges = np.unique(np.quantile(n_tokens, np.linspace(0, 1, LENGTH_CLASSES + 1)[1:-1]))
    length_ids = lengths["id"].combine_chunks()
    tasks = sorted(set(properties["task"].to_pylist()), key=lambda task: (task is None, task or ""))
    variance = VarianceTable(
        {
            "language": list(scores.summary["languages"]),
            "source": [*frequent["source"], OTHER],
            "task": [*frequent["task"], OTHER],
            "length": range(len(edges) + 1),
        }
    )
    totals: dict[str | None, list[float]] = {task: [0, 0.0, 0, 0.0] for task in tasks}
    for shard in scores.shards("scores"):
        table = scores.read_shard(shard)
        rows = properties.take(pc.index_in(table["id"].combine_chunks(), value_set=ids))
        of_length = pc.index_in(table["id"].combine_chunks(), value_set=length_ids).to_numpy()
        values = table["separability"].to_numpy()
        task = rows["task"].to_pylist()
        variance.add(
            {
                "language": table["lang"].to_pylist(),
                **{
                    name: [value if value in known else OTHER for value in rows[name].to_pylist()]
                    for name, known in frequent.items()
                },
                "length": np.digitize(n_tokens[of_length], edges).tolist(),
            },
            values,
        )
        if "separability_in_task" in table.column_names:
            _add_tasks(totals, task, values, table["separability_in_task"].to_numpy())
    return Diagnostics(
        shares=variance.shares(),
        explained=variance.explained(),
        tasks=[
            WithinTask(task, int(rows), total / rows, within / compared if compared else None)
            for task, (rows, total, compared, within) in totals.items()
            if rows and len(tasks) > 1
        ],
        similarity=_similarity(vectors, inputs["subset"]) if "subset" in inputs else [],
    )


def _add_tasks(totals: dict[str | None, list[float]], tasks: list[Any], values: np.ndarray, within: np.ndarray) -> None:
    of = np.array(tasks, dtype=object)
    for task, sums in totals.items():
        rows = of == task
        compared = rows & np.isfinite(within)
        for place, amount in enumerate((rows.sum(), values[rows].sum(), compared.sum(), within[compared].sum())):
            sums[place] += float(amount)


def _similarity(vectors: Artifact, subset: Artifact) -> list[LanguageSimilarity]:
    chosen = subset.read("subset", ["id"])["id"].combine_chunks()
    langs = list(vectors.summary["languages"])
    groups = [(lang, picked) for lang in langs for picked in (True, False)]
    similarity = PairwiseSimilarity(groups, int(vectors.summary["width"]))
    for shard in vectors.shards("vectors"):
        table = vectors.read_shard(shard, ["id", "lang", "vector"])
        picked = pc.is_in(table["id"], value_set=chosen).to_pylist()
        column: pa.ChunkedArray = table["vector"]
        rows = np.concatenate([chunk.flatten().to_numpy() for chunk in column.chunks]).reshape(len(table), -1)
        similarity.add(list(zip(table["lang"].to_pylist(), picked, strict=True)), rows)
    found = [LanguageSimilarity(lang, similarity.mean((lang, True)), similarity.mean((lang, False))) for lang in langs]
    return [line for line in found if line.selected is not None and line.rest is not None]
