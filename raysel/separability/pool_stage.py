"""Stage `pool`: the rows that a selector may choose from, the best-ranked rho of each language that has a quota."""

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
    sizes = pool_sizes(available, settings.rho)
    if not any(sizes.values()):
        rows = sum(available.values())
        raise PoolError(f"the pool is empty: round({rows:,} rows x rho {settings.rho:g}) = 0; raise preselect.rho")
    if quota.summary["binding"]:
        refuse_small_pool(quota.summary["counts"], sizes, available, settings.rho)


def run(run: StageRun) -> StageOutput:
    settings: PreselectSettings = run.settings["preselect"]
    preflight(settings, run.inputs["quota"])
    arguments = (run.inputs["scores"], list(run.inputs["quota"].summary["counts"]), settings, run.settings["seed"])
    record = run.cluster.run_task(write_pool, *arguments, run.attempt)
    return StageOutput([record], record.summary)


def write_pool(
    scores: Artifact, languages: list[str], settings: PreselectSettings, seed: int, attempt: Attempt
) -> ShardRecord:
    """Ray task: rank and cut; rank counts from 0 within each language."""
    table = scores.read("scores", ["id", "lang", "separability"])
    table = table.filter(pc.is_in(table["lang"], pa.array(languages)))
    ids, langs, values = (table[name].to_pylist() for name in ("id", "lang", "separability"))
    row = {identity: i for i, identity in enumerate(ids)}
    chosen = preselect(ids, langs, values, rho=settings.rho, band=settings.band, seed=seed)
    counts = dict.fromkeys(languages, 0)
    ranks = []
    for identity in chosen:
        lang = langs[row[identity]]
        ranks.append(counts[lang])
        counts[lang] += 1
    columns = {
        "id": chosen,
        "lang": [langs[row[identity]] for identity in chosen],
        "rank": ranks,
        "score": [values[row[identity]] for identity in chosen],
        "method": [f"separability/{settings.band}"] * len(chosen),
    }
    none = [lang for lang, count in counts.items() if not count]
    warnings = [f"languages of which rho {settings.rho:g} takes no row: {', '.join(none)}"] if none else []
    summary = {"languages": counts, "warnings": warnings}
    return attempt.write_table("pool", 0, pa.table(columns, schema=CHOSEN), summary=summary)
