"""Stage `pool`: the rows that a selector may choose from, one band of the ranking of each cluster."""

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from raysel.separability.preselect import PoolError, pool_sizes, preselect, refuse_small_pool
from raysel.separability.settings import PreselectSettings
from raysel.stage import StageOutput, StageRun
from raysel.store import Artifact, Attempt, ShardRecord
from raysel.tables import CHOSEN


def preflight(settings: PreselectSettings, quota: Artifact) -> None:
    """Raise `PoolError`, before anything is embedded, where the pool is empty or cannot fill the quota."""
    available = quota.summary["available"]
    sizes = pool_sizes(available, **_how_many(settings))
    if not any(sizes.values()):
        rows = sum(available.values())
        raise PoolError(f"the pool is empty: round({rows:,} rows x rho {settings.rho:g}) = 0; raise preselect.rho")
    if quota.summary["binding"]:
        refuse_small_pool(quota.summary["counts"], sizes, available, rho=settings.rho, minimum=settings.minimum)


def _how_many(settings: PreselectSettings) -> dict[str, Any]:
    return {"rho": settings.rho, "size": settings.size, "minimum": settings.minimum}


def run(run: StageRun) -> StageOutput:
    settings: PreselectSettings = run.settings["preselect"]
    preflight(settings, run.inputs["quota"])
    beside = {name: run.inputs[name] for name in ("vectors", "audit") if name in run.inputs}
    arguments = (run.inputs["scores"], run.inputs["quota"], beside, settings, run.settings["seed"])
    record = run.cluster.run_task(write_pool, *arguments, run.attempt)
    return StageOutput([record], record.summary)


def write_pool(
    scores: Artifact,
    quota: Artifact,
    beside: dict[str, Artifact],
    settings: PreselectSettings,
    seed: int,
    attempt: Attempt,
) -> ShardRecord:
    """Ray task: rank and cut each cluster; rank counts from 0 within each language.

    Under the label `lang` a cluster is a language; others divide the languages further, and the pool keeps their
    proportions too.
    """
    languages = list(quota.summary["counts"])
    table = scores.read("scores", ["id", "lang", "separability", "cluster"])
    table = table.filter(pc.is_in(table["lang"], pa.array(languages)))
    ids, langs, values, clusters = (table[name].to_pylist() for name in table.column_names)
    row = {identity: i for i, identity in enumerate(ids)}
    ranked_by: dict[str, Any] = {}
    if "vectors" in beside:
        ranked_by["lengths"] = _column(beside["vectors"], "vectors", "n_tokens", ids)
    if "audit" in beside:
        ranked_by["label_probabilities"] = _column(beside["audit"], "identified", "label_probability", ids)
    chosen = preselect(ids, clusters, values, **_how_many(settings), band=settings.band, seed=seed, **ranked_by)
    counts = dict.fromkeys(languages, 0)
    ranks = []
    for identity in chosen:
        lang = langs[row[identity]]
        ranks.append(counts[lang])
        counts[lang] += 1
    if quota.summary["binding"]:
        available = quota.summary["available"]
        refuse_small_pool(quota.summary["counts"], counts, available, rho=settings.rho, minimum=settings.minimum)
    columns = {
        "id": chosen,
        "lang": [langs[row[identity]] for identity in chosen],
        "rank": ranks,
        "score": [values[row[identity]] for identity in chosen],
        "method": [f"separability/{settings.band}"] * len(chosen),
    }
    none = [lang for lang, count in counts.items() if not count]
    warnings = [f"languages of which the pool takes no row: {', '.join(none)}"] if none else []
    judged = zip(langs, ranked_by.get("label_probabilities", ()), strict=False)
    if unknown := sorted({lang for lang, probability in judged if probability is None}):
        warnings.append(
            f"preselect.band lid_clean: drawn at random, as language identification does not know them: "
            f"{', '.join(unknown)}"
        )
    summary = {"languages": counts, "warnings": warnings}
    return attempt.write_table("pool", 0, pa.table(columns, schema=CHOSEN), summary=summary)


def _column(artifact: Artifact, table: str, name: str, ids: list[str]) -> list[Any]:
    """What a table of the artifact says about these rows."""
    found = artifact.read(table, ["id", name])
    of = dict(zip(found["id"].to_pylist(), found[name].to_pylist(), strict=True))
    return [of[identity] for identity in ids]
