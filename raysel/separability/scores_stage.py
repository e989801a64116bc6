"""Stage `scores`: silhouette scores from the distance sums, one Ray task per shard of sums.

The labels may be merged and the clusters restricted to the chosen languages here, from the same sums.
"""

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raysel.errors import UserError
from raysel.separability.rescoring import Merging, merging
from raysel.separability.silhouette import Silhouette
from raysel.stage import StageOutput, StageRun
from raysel.store import Artifact, Attempt
from raysel.tables import SCORES


class ScoresError(UserError):
    """Clusters that cannot be compared."""


def run(run: StageRun) -> StageOutput:
    sums = run.inputs["sums"]
    settings = run.settings["separability"]
    chosen = set(run.inputs["quota"].summary["counts"]) if settings["clusters"] == "chosen" else None
    clusters = sums.summary["clusters"]
    kept = [chosen is None or lang in chosen for lang, _, _ in clusters]
    labels = [_label(settings["label"], *cluster) for cluster in clusters]
    merged = merging([label if keep else None for label, keep in zip(labels, kept, strict=True)])
    if len(merged.labels) < 2:
        raise ScoresError(
            f"separability.clusters: chosen leaves one cluster ({', '.join(merged.labels)}): separability compares at "
            "least two; choose more languages, or clusters: corpus"
        )
    shards = range(len(sums.shards("sums")))
    finished = run.attempt.finished()
    todo = [i for i in shards if ("scores", i) not in finished]
    for _ in run.cluster.map_tasks(write_scores, [(i, merged, sums, run.attempt) for i in todo]):
        pass
    finished = run.attempt.finished()
    records = [finished["scores", i] for i in shards]
    sizes = np.array(sums.summary["sizes"], dtype=np.int64).sum(1)
    languages: dict[str, int] = {}
    for cluster, label, size in zip(clusters, merged.of_cluster, sizes, strict=True):
        if label >= 0:
            languages[cluster[0]] = languages.get(cluster[0], 0) + int(size)
    totals = {lang: sum(record.summary["totals"].get(lang, 0.0) for record in records) for lang in sorted(languages)}
    label_sizes = dict(zip(merged.labels, merged.sizes(sizes).tolist(), strict=True))
    single = [label for label, size in label_sizes.items() if size == 1 and label not in languages]
    warnings = [f"clusters of a single sample, which scores 0: {', '.join(single)}"] if single else []
    return StageOutput(
        records,
        {
            "languages": languages,
            "clusters": label_sizes,
            "mean_by_language": {lang: total / languages[lang] for lang, total in totals.items()},
            "mean": sum(totals.values()) / sum(languages.values()),
            "warnings": warnings,
        },
    )


def _label(kind: str, lang: str, raw: str, script: str) -> str:
    return {"lang": lang, "lang_raw": raw, "lang_script": f"{lang}_{script}"}[kind]


def write_scores(index: int, merged: Merging, sums: Artifact, attempt: Attempt) -> None:
    """Ray task: the scores of one shard of sums."""
    table = sums.read_shard(sums.shards("sums")[index])
    table = table.filter(pa.array(merged.of_cluster[table["cluster"].to_numpy()] >= 0))
    own = table["cluster"].to_numpy().astype(np.int64)
    by_task = np.array(sums.summary["sizes"], dtype=np.int64)
    result = merged.score(_matrix(table["sums"]), own, by_task.sum(1))
    within = np.full(len(own), np.nan)
    if "task_sums" in table.column_names:
        task_sums, tasks = _matrix(table["task_sums"]), np.array(table["task"].to_pylist(), dtype=object)
        for number, task in enumerate(sums.summary["tasks"]):
            rows = np.flatnonzero(tasks == task)
            within[rows] = _where_compared(merged.score(task_sums[rows], own[rows], by_task[:, number]))
    names = np.array(merged.labels, dtype=object)
    langs = table["lang"].to_pylist()
    columns = {
        "id": table["id"],
        "lang": table["lang"],
        "separability": result.score,
        "a": result.a,
        "b": result.b,
        "nearest_lang": pa.array(names[result.nearest], pa.string()),
        "cluster": pa.array(names[merged.of_cluster[own]], pa.string()),
        # Among the samples of the same task only; null where the task has one cluster.
        "separability_in_task": pa.array(within, pa.float64(), mask=np.isnan(within)),
    }
    schema = pa.schema([*SCORES, pa.field("cluster", pa.string()), pa.field("separability_in_task", pa.float64())])
    totals: dict[str, float] = {}
    for lang, score in zip(langs, result.score.tolist(), strict=True):
        totals[lang] = totals.get(lang, 0.0) + score
    attempt.write_table("scores", index, pa.table(columns, schema=schema), summary={"totals": totals})


def _where_compared(result: Silhouette) -> NDArray[np.float64]:
    return np.where(np.isfinite(result.b), result.score, np.nan)


def _matrix(column: pa.ChunkedArray) -> NDArray[np.float64]:
    flat = [chunk.flatten().to_numpy() for chunk in column.chunks]
    return np.concatenate([np.zeros(0), *flat]).reshape(-1, column.type.list_size)
