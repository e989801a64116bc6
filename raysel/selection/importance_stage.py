"""Stage `importance`: DSIR's log importance weight of every row of the pool.

A first pass hashes each shard's n-grams, keeps them and counts them; the counts are added up and compared with the
target's; a second pass adds the log ratios over each row's n-grams.
"""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raysel.corpus.plain_text import earlier_texts
from raysel.selection import dsir
from raysel.selection.selector import SelectorError
from raysel.selection.settings import DsirSettings
from raysel.stage import StageOutput, StageRun
from raysel.store import Artifact, Attempt, ShardRecord
from raysel.tables import ROW_SCORES

EVERY = ""  # the name of the one target that all languages share


def run(run: StageRun) -> StageOutput:
    """Write table `importance`, and the arrays `raw` and `target`: counts of every bucket, int64 (buckets,).

    inputs: `corpus`, `pool`, `target`. The summary has effective_samples: (sum w)^2 / sum w^2 of the weights w, by
    language.
    """
    settings: DsirSettings = run.settings["dsir"]
    corpus, attempt = run.inputs["corpus"], run.attempt
    inputs = {name: run.inputs[name] for name in ("corpus", "pool", "target")}
    targets = _targets(settings, inputs["pool"], inputs["target"])
    shards = corpus.shards("corpus")
    finished = attempt.finished()
    with run.progress.track(2 * len(shards), "shards") as tracker:
        for table, task in (("counts", hash_shard), ("importance", weigh_shard)):
            todo = [index for index in range(len(shards)) if (table, index) not in finished]
            tracker.advance(len(shards) - len(todo))
            if table == "importance" and ("log_ratio", 0) not in finished:
                run.cluster.run_task(compare_counts, len(shards), targets, settings, inputs, attempt)
            for _ in run.cluster.map_tasks(task, [(i, targets, settings, inputs, attempt) for i in todo]):
                tracker.advance(1)
            finished = attempt.finished()
    records = [finished["importance", i] for i in range(len(shards))]
    summary = run.cluster.run_task(summarise, records, attempt)
    return StageOutput([*records, finished["raw", 0], finished["target", 0]], summary)


def said(row: dict[str, Any]) -> str:
    """All that is said in a sample, one turn after the other."""
    return " ".join([*earlier_texts(row["history"]), row["prompt"], row["response"]])


def _targets(settings: DsirSettings, pool: Artifact, target: Artifact) -> list[str]:
    """The targets by the language whose rows go by them; just `EVERY` where all share one."""
    if settings.target == "all":
        return [EVERY]
    languages = sorted(lang for lang, count in pool.summary["languages"].items() if count)
    without = [lang for lang in languages if lang not in target.summary["languages"]]
    if without:
        raise SelectorError(
            f"selection.dsir.target lang: the target has no sample in {', '.join(without)} (it has "
            f"{', '.join(target.summary['languages'])}); give it some, or let all languages share one (target: all)"
        )
    return languages


def hash_shard(
    index: int, targets: list[str], settings: DsirSettings, inputs: dict[str, Artifact], attempt: Attempt
) -> None:
    """Ray task: the n-grams of the pool's rows in one shard, and their counts by target, int64 (G, buckets)."""
    corpus = inputs["corpus"]
    rows = corpus.read_shard(corpus.shards("corpus")[index], ["id", "lang", "prompt", "response", "history"])
    rows = rows.filter(pc.is_in(rows["id"], value_set=inputs["pool"].read("pool", ["id"])["id"].combine_chunks()))
    hashed, offsets = _hashed(rows, settings)
    ngrams = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(hashed, pa.uint32()))
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"id": rows["id"], "lang": rows["lang"], "ngrams": ngrams}), sink, compression="zstd")
    attempt.write_file("hashed", index, f"{index:05d}.parquet", sink.getvalue())
    attempt.write_array("counts", index, _counts(rows, hashed, offsets, targets, settings))


def compare_counts(
    shards: int, targets: list[str], settings: DsirSettings, inputs: dict[str, Artifact], attempt: Attempt
) -> None:
    """Ray task: log target share less log raw share of every bucket, by target, float64 (G, buckets)."""
    finished = attempt.finished()
    raw = np.sum([attempt.read_array(finished["counts", index]) for index in range(shards)], axis=0)
    rows = inputs["target"].read("target", ["id", "lang", "prompt", "response", "history"])
    wanted = _counts(rows, *_hashed(rows, settings), targets, settings)
    ratios = []
    for lang, own_raw, own_target in zip(targets, raw, wanted, strict=True):
        try:
            ratios.append(dsir.log_ratio(own_raw, own_target, smoothing=settings.smoothing))
        except ValueError as error:
            raise SelectorError(f"selection.dsir{', ' + lang if lang else ''}: {error}") from error
    attempt.write_array("raw", 0, raw.sum(axis=0))
    attempt.write_array("target", 0, wanted.sum(axis=0))
    attempt.write_array("log_ratio", 0, np.array(ratios))


def weigh_shard(
    index: int, targets: list[str], settings: DsirSettings, inputs: dict[str, Artifact], attempt: Attempt
) -> None:
    """Ray task: the log weights of one shard's rows, but for those with fewer than min_tokens tokens."""
    finished = attempt.finished()
    table = attempt.read_table(finished["hashed", index])
    log_ratio = attempt.read_array(finished["log_ratio", 0])
    ngrams = table["ngrams"].combine_chunks()
    offsets, hashed = ngrams.offsets.to_numpy(), ngrams.values.to_numpy()
    scores = np.zeros(table.num_rows)
    for group, rows in _rows_by_target(table, targets):
        scores[rows] = dsir.weights(hashed, offsets, log_ratio[group])[rows]
    long_enough = dsir.tokens_of(offsets) >= settings.min_tokens
    columns = [table["id"], table["lang"], pa.array(scores)]
    weighed = pa.table(columns, schema=ROW_SCORES).filter(pa.array(long_enough))
    attempt.write_table("importance", index, weighed, summary={"too_short": int((~long_enough).sum())})


def summarise(records: list[ShardRecord], attempt: Attempt) -> dict[str, Any]:
    """Ray task: the effective sample size of each language's weights, and what had no part in them."""
    rows = pa.concat_tables(attempt.read_table(record, ["lang", "score"]) for record in records)
    langs, scores = np.array(rows["lang"].to_pylist(), dtype=object), rows["score"].to_numpy()
    effective = {lang: round(dsir.effective_sample_size(scores[langs == lang]), 1) for lang in sorted(set(langs))}
    too_short = sum(record.summary["too_short"] for record in records)
    warnings = [f"{too_short:,} rows have fewer tokens than selection.dsir.min_tokens"] if too_short else []
    return {"effective_samples": effective, "too_short": too_short, "warnings": warnings}


def _hashed(rows: pa.Table, settings: DsirSettings) -> tuple[np.ndarray, np.ndarray]:
    texts = [said(row) for row in rows.select(["prompt", "response", "history"]).to_pylist()]
    return dsir.hashed_ngrams(texts, tokenizer=settings.tokenizer, buckets=settings.buckets)


def _counts(
    rows: pa.Table, hashed: np.ndarray, offsets: np.ndarray, targets: list[str], settings: DsirSettings
) -> np.ndarray:
    counts = np.zeros((len(targets), settings.buckets), dtype=np.int64)
    for group, chosen in _rows_by_target(rows, targets):
        lengths = np.diff(offsets)
        own = np.repeat(chosen, lengths)
        counts[group] = dsir.count(hashed[own], settings.buckets)
    return counts


def _rows_by_target(rows: pa.Table, targets: list[str]) -> list[tuple[int, np.ndarray]]:
    """(number of the target, mask of the rows that go by it)."""
    if targets == [EVERY]:
        return [(0, np.ones(rows.num_rows, dtype=bool))]
    langs = np.array(rows["lang"].to_pylist(), dtype=object)
    return [(group, langs == lang) for group, lang in enumerate(targets)]
