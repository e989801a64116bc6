"""Reads the few samples that the report shows with their texts."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raysel.report.examples import Answer, EndSample, Example, Item, choose_items
from raysel.store import Artifact, ShardRecord

# (name, what it is multiplied by so that the first is the least, how a table is sorted so that it is first)
ENDS = (("highest", -1, "descending"), ("lowest", 1, "ascending"))


def draw_examples(results: Mapping[str, Artifact], each: int, *, seed: int) -> list[Example]:
    """Items of every task at random with every model's answers; the same items for every model."""
    if not results or not each:
        return []
    items: set[Item] = set()
    first = next(iter(results.values()))
    for shard in first.shards("items"):
        table = first.read_shard(shard, ["lang", "task", "item"])
        items.update(zip(*(table[name].to_pylist() for name in ("lang", "task", "item")), strict=True))
    chosen = choose_items(items, each, seed=seed)
    rows = {model: _rows_of(artifact, chosen) for model, artifact in results.items()}
    return [_example(key, {model: found[key] for model, found in rows.items() if key in found}) for key in chosen]


def _rows_of(artifact: Artifact, keys: list[Item]) -> dict[Item, dict[str, Any]]:
    """The first metric's row of each item."""
    wanted: Any = (pc.field("item").isin([item for _, _, item in keys])) & (
        pc.field("task").isin([task for _, task, _ in keys])
    )
    found: dict[Item, dict[str, Any]] = {}
    for row in artifact.read("items", filters=wanted).to_pylist():
        found.setdefault((row["lang"], row["task"], row["item"]), row)
    return found


def _example(key: Item, rows: Mapping[str, dict[str, Any]]) -> Example:
    lang, task, item = key
    one = next(iter(rows.values()))
    answers = [_answer(model, row) for model, row in rows.items()]
    return Example(task, lang, item, one["prompt"], one.get("target") or "", answers)


def _answer(model: str, row: Mapping[str, Any]) -> Answer:
    said = row["answer"] if row.get("generated") is None else row["generated"]
    taken = None if row["answer"] == said else row["answer"]
    return Answer(model, said, taken, row["metric"], row["value"])


def both_ends(scores: Artifact, corpus: Artifact) -> list[EndSample]:
    """The most and the least separable sample of every language, with their texts: the highest first, then the lowest
    from below."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for shard in scores.shards("scores"):
        table = scores.read_shard(shard, ["id", "lang", "separability", "nearest_lang"])
        for end, sign, order in ENDS:
            ordered = table.sort_by([("separability", order), ("id", "ascending")])
            _, first = np.unique(ordered["lang"].to_numpy(), return_index=True)
            for row in ordered.take(pa.array(first)).to_pylist():
                so_far = found.get((end, row["lang"]))
                if so_far is None or sign * row["separability"] < sign * so_far["separability"]:
                    found[end, row["lang"]] = row
    texts = texts_of(corpus, pa.array([row["id"] for row in found.values()], pa.string()))
    return [
        EndSample(end=end, **(row | texts[row["id"]]))
        for end, sign, _ in ENDS
        for row in sorted(_of_end(found, end), key=lambda row: (sign * row["separability"], row["lang"]))
        if row["id"] in texts
    ]


def _of_end(found: Mapping[tuple[str, str], dict[str, Any]], end: str) -> list[dict[str, Any]]:
    return [row for (of, _), row in found.items() if of == end]


def texts_of(corpus: Artifact, ids: pa.Array, *, tables: Sequence[str] = ("corpus",)) -> dict[str, dict[str, Any]]:
    """The conversations of a few ids; the texts of a shard are read only where its ids have one of them."""
    found: dict[str, dict[str, Any]] = {}
    for shard in (shard for table in tables for shard in corpus.shards(table)):
        for row in _rows_with(corpus, shard, ids):
            found[row["id"]] = row | {"history": json.loads(row["history"] or "[]")}
    return found


def _rows_with(corpus: Artifact, shard: ShardRecord, ids: pa.Array) -> list[dict[str, Any]]:
    places = pc.indices_nonzero(pc.is_in(corpus.read_shard(shard, ["id"])["id"], value_set=ids))
    if not len(places):
        return []
    table = corpus.read_shard(shard, ["id", "prompt", "response", "history"])
    rows: list[dict[str, Any]] = table.take(places).to_pylist()
    return rows
