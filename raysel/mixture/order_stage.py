"""Stage `order`: the subset in its order of training."""

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from raysel.mixture.curriculum import order, quantile_levels
from raysel.mixture.settings import CurriculumSettings
from raysel.stage import StageOutput, StageRun
from raysel.store import Artifact, Attempt, ShardRecord
from raysel.tables import ORDER


def run(run: StageRun) -> StageOutput:
    inputs = (run.inputs["subset"], run.inputs["scores"], run.inputs["corpus"])
    record = run.cluster.run_task(write_order, run.settings["curriculum"], run.settings["seed"], *inputs, run.attempt)
    return StageOutput([record], record.summary)


def write_order(
    settings: CurriculumSettings, seed: int, subset: Artifact, scores: Artifact, corpus: Artifact, attempt: Attempt
) -> ShardRecord:
    """Ray task: position, language, task and curriculum level of every selected row."""
    chosen = subset.read("subset", ["id"])["id"]
    wanted = pc.field("id").isin(chosen)
    score = _by_id(scores.read("scores", ["id", "separability"], filters=wanted), "separability")
    facts = corpus.read("corpus", ["id", "lang", "task"], filters=wanted)
    lang, task = _by_id(facts, "lang"), _by_id(facts, "task")
    ids = chosen.to_pylist()
    values, langs = [score[i] for i in ids], [lang[i] for i in ids]
    ordered = order(ids, values, langs, kind=settings.kind, levels=settings.levels, seed=seed)
    level: dict[str, int] = {}
    if settings.kind == "balanced":
        level = dict(zip(ids, quantile_levels(ids, values, langs, levels=settings.levels), strict=True))
    columns = {
        "id": ordered,
        "position": range(len(ordered)),
        "lang": [lang[i] for i in ordered],
        "task": [task[i] for i in ordered],
        "level": [level.get(i) for i in ordered],
    }
    return attempt.write_table("order", 0, pa.table(columns, schema=ORDER), summary={"rows": len(ordered)})


def _by_id(table: pa.Table, column: str) -> dict[str, Any]:
    return dict(zip(table["id"].to_pylist(), table[column].to_pylist(), strict=True))
