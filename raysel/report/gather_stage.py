"""Reads a run's artifacts into what the report shows: shard by shard, only the columns it needs."""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from raysel.report.audit_stage import read_audit
from raysel.report.comparison import Comparison, compare
from raysel.report.curriculum import Curriculum, cut
from raysel.report.diagnostics_stage import read_diagnostics
from raysel.report.diversity_stage import read_diversity
from raysel.report.examples_stage import both_ends, draw_examples
from raysel.report.findings import Findings
from raysel.report.heldout_loss import read_heldout
from raysel.report.language_subset import read_subset
from raysel.report.overlap_stage import read_overlap
from raysel.report.projection import VectorMap, choose_rows, project
from raysel.report.provenance import Published
from raysel.report.result_lines import MODELS, ItemValues, Key
from raysel.report.score_summary import ScoreSummary
from raysel.report.settings import ReportSettings
from raysel.report.training_log import read_log
from raysel.store import Artifact

MAP_NEEDS_SAMPLES = 3
ITEM_COLUMNS = ("lang", "task", "metric", "item", "value")


def gather(inputs: Mapping[str, Artifact], settings: ReportSettings, *, seed: int) -> Findings:
    published = [
        Published(name, artifact.manifest, artifact.store.shown, artifact.manifest_digest())
        for name, artifact in inputs.items()
    ]
    audit = read_audit(inputs, seed=seed)
    # What was dropped has no part in anything that follows.
    inputs = {**inputs, "corpus": inputs["clean"]} if "clean" in inputs else inputs
    corpus, scores, order = inputs.get("corpus"), inputs.get("scores"), inputs.get("order")
    summary, selected = (None, None)
    if scores is not None:
        summary, selected = read_scores(scores, inputs.get("subset"))
    results = {model: inputs[f"results_{model}"] for model in MODELS if f"results_{model}" in inputs}
    chosen = _chosen(inputs)
    return Findings(
        published=published,
        languages=dict(corpus.summary["languages"]) if corpus else {},
        tasks=_tasks(corpus) if corpus else [],
        audit=audit,
        heldout=corpus.summary.get("heldout_rows", 0) if corpus else 0,
        subset=read_subset(inputs["quota"].summary) if "quota" in inputs else None,
        scores=summary,
        selected_scores=selected,
        diagnostics=read_diagnostics(inputs),
        ends=both_ends(scores, corpus) if scores and corpus else [],
        map=read_map(inputs["vectors"], settings.map_samples, seed=seed) if "vectors" in inputs else None,
        chosen=chosen,
        overlap=read_overlap(inputs),
        diversity=read_diversity(inputs),
        quota_binding="quota" in inputs and bool(inputs["quota"].summary.get("binding")),
        curriculum=read_curriculum(order, scores, inputs.get("model")) if order and scores else None,
        log=read_log(_lines(inputs.get("model"), "log")),
        heldout_loss=read_heldout(_lines(inputs.get("model"), "heldout_loss")),
        comparison=_comparison(results, chosen.get("subset"), seed) if results else None,
        examples=draw_examples(results, settings.examples, seed=seed),
    )


def read_scores(scores: Artifact, subset: Artifact | None) -> tuple[ScoreSummary, ScoreSummary | None]:
    """The distribution of all scores, and of the subset's where there is one."""
    languages = list(scores.summary["languages"])
    everything = ScoreSummary(languages)
    selected = ScoreSummary(languages) if subset is not None else None
    wanted = subset.read("subset", ["id"])["id"].combine_chunks() if subset is not None else None
    columns = ["lang", "separability", "nearest_lang"] + (["id"] if wanted is not None else [])
    for shard in scores.shards("scores"):
        table = scores.read_shard(shard, columns)
        everything.add(*_columns(table))
        if selected is not None:
            selected.add(*_columns(table.filter(pc.is_in(table["id"], value_set=wanted))))
    return everything, selected


def _columns(table: pa.Table) -> tuple[list[str], NDArray[np.float64], list[str]]:
    return table["lang"].to_pylist(), table["separability"].to_numpy(), table["nearest_lang"].to_pylist()


def read_map(vectors: Artifact, samples: int, *, seed: int) -> VectorMap | None:
    """The 2-D map of about `samples` vectors; None where there are too few vectors to have one."""
    chosen = choose_rows(vectors.summary["languages"], samples, seed=seed)
    seen = dict.fromkeys(chosen, 0)
    found: list[NDArray[np.float32]] = []
    langs: list[str] = []
    for shard in vectors.shards("vectors"):
        own = np.array(vectors.read_shard(shard, ["lang"])["lang"].to_pylist(), dtype=object)
        picks = []
        for lang in sorted(set(own)):
            rows = np.flatnonzero(own == lang)
            numbers = chosen[lang] - seen[lang]
            picks.append(rows[numbers[(numbers >= 0) & (numbers < len(rows))]])
            seen[lang] += len(rows)
        rows = np.sort(np.concatenate(picks))
        if len(rows):
            column = vectors.read_shard(shard, ["vector"])["vector"].combine_chunks().take(pa.array(rows))
            found.append(column.flatten().to_numpy().reshape(len(rows), -1).astype(np.float32))
            langs += own[rows].tolist()
    if len(langs) < MAP_NEEDS_SAMPLES or found[0].shape[1] < 2:
        return None
    return project(np.concatenate(found), langs, samples=vectors.rows("vectors"))


def read_curriculum(order: Artifact, scores: Artifact, model: Artifact | None) -> Curriculum | None:
    """The scores, languages, tasks and levels in the order of training, summed up; None where there is no order yet."""
    columns = ["id", "position", "lang", "task", "level"]
    trained = model is not None and bool(model.shards("trained_order"))
    if trained:
        assert model is not None
        table = model.read("trained_order", columns)
    elif order.shards("order"):
        table = order.read("order", columns)
    else:
        return None
    table = table.sort_by("position")
    ids = table["id"].combine_chunks()
    separability = np.full(len(ids), np.nan)
    for shard in scores.shards("scores"):
        part = scores.read_shard(shard, ["id", "separability"])
        # A row may be trained on several times.
        places = pc.index_in(ids, value_set=part["id"].combine_chunks())
        found = places.is_valid().to_numpy(zero_copy_only=False)
        separability[found] = part["separability"].to_numpy()[places.drop_null().to_numpy()]
    labels = {"language": "lang", "task": "task", "level": "level"}
    return cut(separability, {by: table[name].to_pylist() for by, name in labels.items()}, trained=trained)


def _tasks(corpus: Artifact) -> list[tuple[str | None, int, int]]:
    """(task, rows, languages that have it), most rows first."""
    rows: dict[str | None, int] = {}
    langs: dict[str | None, set[str]] = {}
    for lang, task, count in corpus.summary.get("cells", []):
        rows[task] = rows.get(task, 0) + count
        langs.setdefault(task, set()).add(lang)
    return sorted(((task, rows[task], len(langs[task])) for task in rows), key=lambda row: (-row[1], row[0] or ""))


def _chosen(inputs: Mapping[str, Artifact]) -> dict[str, dict[str, int]]:
    found = {}
    if "quota" in inputs:
        found["quota"] = _sum_by_language(inputs["quota"], "quota", "count")
    for name in ("pool", "subset"):
        if name in inputs:
            found[name] = _sum_by_language(inputs[name], name)
    return found


def _sum_by_language(artifact: Artifact, table: str, column: str | None = None) -> dict[str, int]:
    """Rows by language, or the sum of a column."""
    totals: dict[str, int] = {}
    for shard in artifact.shards(table):
        rows = artifact.read_shard(shard, ["lang", *([column] if column else [])])
        counted = rows.group_by("lang").aggregate([(column or "lang", "sum" if column else "count")])
        values = counted[f"{column}_sum" if column else "lang_count"].to_pylist()
        for lang, value in zip(counted["lang"].to_pylist(), values, strict=True):
            totals[lang] = totals.get(lang, 0) + value
    return dict(sorted(totals.items()))


def _lines(model: Artifact | None, table: str) -> str:
    """The JSON lines of a table of the model; empty where there is none."""
    if model is None:
        return ""
    return "".join(model.store.read_bytes(f"{model.address}/{shard.path}").decode() for shard in model.shards(table))


def _comparison(results: Mapping[str, Artifact], selected: Mapping[str, int] | None, seed: int) -> Comparison | None:
    rows = {model: artifact.read("results").to_pylist() for model, artifact in results.items()}
    items = {model: read_items(artifact) for model, artifact in results.items()}
    trained = None if selected is None else {lang for lang, count in selected.items() if count}
    return compare(rows, items, seed=seed, trained=trained) if any(rows.values()) else None


def read_items(artifact: Artifact) -> dict[Key, ItemValues]:
    """The values of the evaluated items of `results`, by (lang, task, metric)."""
    parts: dict[Key, list[tuple[int, float, str | None]]] = {}
    for shard in artifact.shards("items"):
        path = artifact.store.full(f"{artifact.address}/{shard.path}")
        known = pq.read_schema(path, filesystem=artifact.store.filesystem).names
        table = artifact.read_shard(shard, [*ITEM_COLUMNS, *(["group"] if "group" in known else [])])
        columns = [table[name].to_pylist() for name in ITEM_COLUMNS]
        # Results of earlier versions do not say which items are the same in other languages.
        groups = table["group"].to_pylist() if "group" in known else [None] * len(table)
        for lang, task, metric, item, value, group in zip(*columns, groups, strict=True):
            parts.setdefault((lang, task, metric), []).append((item, value, group))
    found = {}
    for key, of in parts.items():
        numbers, values, groups = zip(*sorted(of, key=lambda entry: entry[0]), strict=True)
        found[key] = ItemValues(np.array(numbers), np.array(values, dtype=np.float64), groups)
    return found
