"""Stage `importance`: DSIR's log importance weight of every row of the pool.

A first pass hashes each shard's n-grams, keeps them and counts them; the counts are added up and compared with the
target's; a second pass adds the log ratios over each row's n-grams.
"""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raysel.corpus.plain_text import said
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
    shards = range(len(corpus.shards("corpus")))
    finished = attempt.finished()
    with run.progress.track(2 * len(shards), "shards") as tracker:

        def each(task: Any, items: list[tuple[Any, ...]]) -> dict[tuple[str, int], ShardRecord]:
            tracker.advance(len(shards) - len(items))
            for _ in run.cluster.map_tasks(task, items):
                tracker.advance(1)
            return attempt.finished()

        todo = [(i, targets, settings, inputs, attempt) for i in shards if ("counts", i) not in finished]
        finished = each(hash_shard, todo)
        if ("log_ratio", 0) not in finished:
            counts = [finished["counts", i] for i in shards]
            run.cluster.run_task(compare_counts, counts, targets, settings, inputs["target"], attempt)
            finished = attempt.finished()
        ratios = finished["log_ratio", 0]
        left = [i for i in shards if ("importance", i) not in finished]
        weighed = [(i, targets, settings, finished["hashed", i], ratios, attempt) for i in left]
        finished = each(weigh_shard, weighed)
    records = [finished["importance", i] for i in shards]
    summary = run.cluster.run_task(summarise, records, attempt)
    return StageOutput([*records, finished["raw", 0], finished["target", 0]], summary)


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
    counts: list[ShardRecord], targets: list[str], settings: DsirSettings, target: Artifact, attempt: Attempt
) -> None:
    """Ray task: log target share less log raw share of every bucket, by target, float64 (G, buckets)."""
    raw = np.zeros((len(targets), settings.buckets), dtype=np.int64)
    for record in counts:
        raw += attempt.read_array(record)
    rows = target.read("target", ["id", "lang", "prompt", "response", "history"])
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
    index: int,
    targets: list[str],
    settings: DsirSettings,
    hashed: ShardRecord,
    log_ratio: ShardRecord,
    attempt: Attempt,
) -> None:
    """Ray task: the log weights of one shard's rows, but for those with fewer than min_tokens tokens."""
    table = attempt.read_table(hashed)
    ngrams = table["ngrams"].combine_chunks()
    offsets = ngrams.offsets.to_numpy()
    own = _own_buckets(table, ngrams.values.to_numpy(), offsets, targets, settings)
    scores = dsir.weights(own, offsets, attempt.read_array(log_ratio).ravel())
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
    texts = [said(**row) for row in rows.select(["prompt", "response", "history"]).to_pylist()]
    return dsir.hashed_ngrams(texts, tokenizer=settings.tokenizer, buckets=settings.buckets)


def _counts(
    rows: pa.Table, hashed: np.ndarray, offsets: np.ndarray, targets: list[str], settings: DsirSettings
) -> np.ndarray:
    own = _own_buckets(rows, hashed, offsets, targets, settings)
    return dsir.count(own, len(targets) * settings.buckets).reshape(len(targets), settings.buckets)


def _own_buckets(
    rows: pa.Table, hashed: np.ndarray, offsets: np.ndarray, targets: list[str], settings: DsirSettings
) -> np.ndarray:
    """The buckets of n-grams, int64 (M,), where each target has buckets of its own, one target's after another's.

    N-grams of a language that has no target are left out; only a target's own texts can be in one.
    """
    if targets == [EVERY]:
        return hashed.astype(np.int64)
    number = {lang: group for group, lang in enumerate(targets)}
    group_of = np.array([number.get(lang, -1) for lang in rows["lang"].to_pylist()], dtype=np.int64)
    groups = np.repeat(group_of, np.diff(offsets))
    return (groups * settings.buckets + hashed)[groups >= 0]
