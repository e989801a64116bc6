"""Reads what the compared selectors chose."""

from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc

from raysel.report.overlap import TRAINED, Choice, OverlapLine, selector_name, side_by_side
from raysel.store import Artifact


def read_overlap(inputs: Mapping[str, Artifact]) -> list[OverlapLine]:
    """The table of overlaps; empty where nothing is compared (selection.compare)."""
    compared = {_name(step): artifact for step, artifact in inputs.items() if step.startswith("subset_")}
    needed = ("subset", "vectors", "scores")
    if not compared or any(name not in inputs for name in needed):
        return []
    own = inputs["subset"]
    trained = next((name for name, subset in compared.items() if subset.fingerprint == own.fingerprint), None)
    if trained is None:
        trained = TRAINED
        compared[trained] = own
    chosen = {name: subset.read("subset", ["id", "lang"]) for name, subset in compared.items()}
    ids = pc.unique(pa.chunked_array([chunk for table in chosen.values() for chunk in table["id"].chunks]))
    tokens = _column(inputs["vectors"], "vectors", "n_tokens", ids)
    scores = _column(inputs["scores"], "scores", "separability", ids)
    choices = {}
    for name, table in chosen.items():
        rows = pc.index_in(table["id"].combine_chunks(), value_set=ids)
        facts = (column.take(rows).to_numpy(zero_copy_only=False) for column in (tokens, scores))
        choices[name] = Choice(table["id"].to_pylist(), table["lang"].to_pylist(), *facts)
    return side_by_side(choices, trained)


def _name(step: str) -> str:
    method, _, candidates = step.removeprefix("subset_").partition("_")
    return selector_name(method, candidates or "pool")


def _column(artifact: Artifact, table: str, name: str, ids: pa.Array) -> pa.Array:
    """One number of each of these rows, read shard by shard."""
    parts = []
    for shard in artifact.shards(table):
        rows = artifact.read_shard(shard, ["id", name])
        parts.append(rows.filter(pc.is_in(rows["id"], value_set=ids)))
    found = pa.concat_tables(parts).combine_chunks()
    return found[name].combine_chunks().take(pc.index_in(ids, value_set=found["id"].combine_chunks()))
