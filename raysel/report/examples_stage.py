"""Reads the few samples that the report shows with their texts."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from raysel.report.examples import Answer, EndSample, Example, Item, choose_items
from raysel.store import Artifact, ShardRecord


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
    """The most and the least separable sample of the whole corpus, with their texts."""
    extremes: dict[str, tuple[float, dict[str, Any]]] = {}
    for shard in scores.shards("scores"):
        table = scores.read_shard(shard, ["id", "lang", "separability", "nearest_lang"])
        for end, sign, order in (("highest", -1, "descending"), ("lowest", 1, "ascending")):
            best = pc.select_k_unstable(table, 1, [("separability", order), ("id", "ascending")])
            for row in table.take(best).to_pylist():
                if end not in extremes or sign * row["separability"] < extremes[end][0]:
                    extremes[end] = (sign * row["separability"], row)
    rows = {end: row for end, (_, row) in extremes.items()}
    texts = texts_of(corpus, pa.array([row["id"] for row in rows.values()], pa.string()))
    return [EndSample(end=end, **(row | texts[row["id"]])) for end, row in rows.items() if row["id"] in texts]


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
