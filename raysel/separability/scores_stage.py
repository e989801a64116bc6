"""Stage `scores`: silhouette scores from the distance sums, one Ray task per shard of sums."""

import numpy as np
import pyarrow as pa

from raysel.separability.silhouette import silhouette_from_sums
from raysel.stage import StageOutput, StageRun
from raysel.store import Artifact, Attempt
from raysel.tables import SCORES


def run(run: StageRun) -> StageOutput:
    sums = run.inputs["sums"]
    shards = range(len(sums.shards("sums")))
    finished = run.attempt.finished()
    todo = [i for i in shards if ("scores", i) not in finished]
    for _ in run.cluster.map_tasks(write_scores, [(i, sums, run.attempt) for i in todo]):
        pass
    finished = run.attempt.finished()
    records = [finished["scores", i] for i in shards]
    sizes = sums.summary["languages"]
    totals = {lang: sum(record.summary["totals"].get(lang, 0.0) for record in records) for lang in sizes}
    means = {lang: totals[lang] / size for lang, size in sizes.items()}
    mean = sum(totals.values()) / sum(sizes.values())
    return StageOutput(records, {"languages": sizes, "mean_by_language": means, "mean": mean})


def write_scores(index: int, sums: Artifact, attempt: Attempt) -> None:
    """Ray task: the scores of one shard of sums."""
    table = sums.read_shard(sums.shards("sums")[index])
    languages = list(sums.summary["languages"])
    sizes = np.array([sums.summary["languages"][lang] for lang in languages], dtype=np.int64)
    number = {lang: k for k, lang in enumerate(languages)}
    langs = table["lang"].to_pylist()
    own = np.array([number[lang] for lang in langs], dtype=np.int64)
    flat = np.concatenate([chunk.flatten().to_numpy() for chunk in table["sums"].chunks])
    result = silhouette_from_sums(flat.reshape(len(own), len(languages)), own, sizes)
    names = np.array(languages, dtype=object)
    columns = [
        table["id"],
        table["lang"],
        result.score,
        result.a,
        result.b,
        pa.array(names[result.nearest], pa.string()),
    ]
    by_language = np.bincount(own, weights=result.score, minlength=len(languages))
    totals = {lang: float(total) for lang, total in zip(languages, by_language, strict=True)}
    attempt.write_table("scores", index, pa.table(columns, schema=SCORES), summary={"totals": totals})
