"""Stage `pool`: the rows that a selector may choose from, one band of the ranking of each cluster."""

from collections import Counter
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from raysel.mixture.quota import cell_name
from raysel.separability.preselect import PoolError, pool_sizes, preselect, refuse_small_pool
from raysel.separability.settings import PreselectSettings
from raysel.stage import StageOutput, StageRun
from raysel.store import Artifact, Attempt, ShardRecord
from raysel.tables import CHOSEN

# The task, where the quota counts tasks apart; null where it does not.
POOL = CHOSEN.append(pa.field("task", pa.string()))


def preflight(settings: PreselectSettings, quota: Artifact, *, each_language: bool = True) -> None:
    """Raise `PoolError`, before anything is embedded, where the pool is empty or cannot fill the quota: the count of
    each language (and task), or their total only."""
    counts, available = _by_cell(quota)
    sizes = pool_sizes(available, **_how_many(settings, quota))
    if not any(sizes.values()):
        rows = sum(available.values())
        raise PoolError(f"the pool is empty: round({rows:,} rows x rho {settings.rho:g}) = 0; raise preselect.rho")
    if not _must_be_filled(quota):
        return
    if each_language:
        refuse_small_pool(counts, sizes, available, rho=settings.rho, minimum=settings.minimum)
    elif sum(counts.values()) > sum(sizes.values()):
        raise PoolError(
            f"the quota asks for {sum(counts.values()):,} rows in all, and the pool has {sum(sizes.values()):,} of "
            f"{sum(available.values()):,}; raise preselect.rho"
        )


def _by_cell(quota: Artifact) -> tuple[dict[str, int], dict[str, int]]:
    """The quota and what there is, by `sw` or `sw, qa`; of a count that is met by repeating, what there is."""
    cells = [(cell_name(lang, task), count, rows) for lang, task, count, rows in quota.summary["cells"]]
    return {name: min(count, rows) for name, count, rows in cells}, {name: rows for name, _, rows in cells}


def _must_be_filled(quota: Artifact) -> bool:
    return quota.summary["binding"] and quota.summary["shortfall"] == "refuse"


def _how_many(settings: PreselectSettings, quota: Artifact) -> dict[str, Any]:
    if quota.summary["parallel"]:
        # The items are drawn already; a cut by each language's own scores would leave others in each.
        return {"rho": 1.0}
    return {"rho": settings.rho, "size": settings.size, "minimum": settings.minimum}


def run(run: StageRun) -> StageOutput:
    settings: PreselectSettings = run.settings["preselect"]
    quota = run.inputs["quota"]
    each_language = run.settings.get("fills") != "total"
    preflight(settings, quota, each_language=each_language)
    beside = {name: run.inputs[name] for name in ("vectors", "audit", "corpus") if name in run.inputs}
    arguments = (run.inputs["scores"], quota, beside, settings, run.settings["seed"], each_language)
    record = run.cluster.run_task(write_pool, *arguments, run.attempt)
    return StageOutput([record], record.summary)


def write_pool(
    scores: Artifact,
    quota: Artifact,
    beside: dict[str, Artifact],
    settings: PreselectSettings,
    seed: int,
    each_language: bool,
    attempt: Attempt,
) -> ShardRecord:
    """Ray task: rank and cut each cluster; rank counts from 0 within each language.

    Under the label `lang` a cluster is a language; others divide the languages further, and the pool keeps their
    proportions too. Where the quota counts tasks apart, so is each cluster cut. beside: `vectors` or `audit` for
    a band that ranks by lengths or label probabilities, `corpus` for the tasks.
    """
    columns = ["id", "lang", "separability", "cluster"]
    table = scores.read("scores", columns).append_column("task", pa.nulls(scores.rows("scores"), pa.string()))
    if quota.summary["by_task"]:
        table = table.drop_columns("task").join(beside["corpus"].read("corpus", ["id", "task"]), "id")
        table = table.sort_by("id")
    asked = {(lang, task) for lang, task, _, _ in quota.summary["cells"]}
    of_rows = zip(table["lang"].to_pylist(), table["task"].to_pylist(), strict=True)
    table = table.filter(pa.array([cell in asked for cell in of_rows], pa.bool_()))
    if quota.summary["parallel"]:
        table = table.filter(pc.is_in(table["id"], quota.read("parallel", ["id"])["id"].combine_chunks()))
    ids, langs, values, clusters, tasks = (table[name].to_pylist() for name in (*columns, "task"))
    languages = list(quota.summary["counts"])
    row = {identity: i for i, identity in enumerate(ids)}
    ranked_by: dict[str, Any] = {}
    if "vectors" in beside:
        ranked_by["lengths"] = _column(beside["vectors"], "vectors", "n_tokens", ids)
    if "audit" in beside:
        ranked_by["label_probabilities"] = _column(beside["audit"], "identified", "label_probability", ids)
    groups = [cell_name(*cell) for cell in zip(clusters, tasks, strict=True)]
    how_many = _how_many(settings, quota)
    chosen = preselect(ids, groups, values, **how_many, band=settings.band, seed=seed, **ranked_by)
    counts = dict.fromkeys(languages, 0)
    ranks = []
    for identity in chosen:
        lang = langs[row[identity]]
        ranks.append(counts[lang])
        counts[lang] += 1
    in_cells = Counter((langs[row[identity]], tasks[row[identity]]) for identity in chosen)
    if each_language and _must_be_filled(quota):
        in_pool = {cell_name(*cell): count for cell, count in in_cells.items()}
        refuse_small_pool(_by_cell(quota)[0], in_pool, _by_cell(quota)[1], rho=settings.rho, minimum=settings.minimum)
    written = {
        "id": chosen,
        "lang": [langs[row[identity]] for identity in chosen],
        "rank": ranks,
        "score": [values[row[identity]] for identity in chosen],
        "method": [f"separability/{settings.band}"] * len(chosen),
        "task": [tasks[row[identity]] for identity in chosen],
    }
    none = [cell_name(lang, task) for lang, task, _, _ in quota.summary["cells"] if not in_cells[lang, task]]
    if none and quota.summary["shortfall"] == "repeat":
        raise PoolError(f"the pool takes no row of {'; '.join(none)}, so there is none to repeat: raise preselect.rho")
    warnings = [f"languages of which the pool takes no row: {'; '.join(none)}"] if none else []
    judged = zip(langs, ranked_by.get("label_probabilities", ()), strict=False)  # nothing beside another band
    if unknown := sorted({lang for lang, probability in judged if probability is None}):
        warnings.append(
            f"preselect.band lid_clean: drawn at random, as language identification does not know them: "
            f"{', '.join(unknown)}"
        )
    cells = [[lang, task, count] for (lang, task), count in sorted(in_cells.items(), key=str)]
    summary = {"languages": counts, "cells": cells, "warnings": warnings}
    return attempt.write_table("pool", 0, pa.table(written, schema=POOL), summary=summary)


def _column(artifact: Artifact, table: str, name: str, ids: list[str]) -> list[Any]:
    """What a table of the artifact says about these rows."""
    found = artifact.read(table, ["id", name])
    of = dict(zip(found["id"].to_pylist(), found[name].to_pylist(), strict=True))
    return [of[identity] for identity in ids]
