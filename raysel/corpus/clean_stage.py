"""Stage `clean`: the tables `corpus` and `heldout` again, without the rows that have a finding named to be dropped."""

from collections import Counter
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from raysel.corpus.cleaning import dropped_rows
from raysel.corpus.counts import corpus_counts, counted_rows, single_samples
from raysel.corpus.files import CorpusError
from raysel.stage import StageOutput, StageRun
from raysel.store import Artifact, Attempt, ShardRecord


def run(run: StageRun) -> StageOutput:
    """settings: `drop`; inputs: `corpus`, and `audit` and `contamination` where a finding of theirs is dropped."""
    drop: list[str] = run.settings["drop"]
    corpus, attempt = run.inputs["corpus"], run.attempt
    audits = [artifact for name, artifact in run.inputs.items() if name != "corpus"]
    finished = attempt.finished()
    if ("dropped", 0) not in finished:
        run.cluster.run_task(write_dropped, drop, audits, attempt)
        finished = attempt.finished()
    shards = [*corpus.shards("corpus"), *corpus.shards("heldout")]
    todo = [shard for shard in shards if (shard.table, shard.index) not in finished]
    items = [(shard, corpus, finished["dropped", 0], attempt) for shard in todo]
    with run.progress.track(len(shards), "shards", done=len(shards) - len(todo)) as tracker:
        for _ in run.cluster.map_tasks(write_rest, items):
            tracker.advance(1)
    finished = attempt.finished()
    records = [finished[shard.table, shard.index] for shard in shards]
    return StageOutput([record for record in records if record.rows], _summary(corpus, records))


def write_dropped(drop: list[str], audits: list[Artifact], attempt: Attempt) -> None:
    """Ray task: the ids to leave out, each with the finding that it goes for."""
    names = ["id", "finding", "other_id"]
    wanted: Any = pc.field("finding").isin(drop)
    found = [audit.read("findings", names, filters=wanted) for audit in audits if audit.shards("findings")]
    rows = [row for table in found for row in zip(*(table[name].to_pylist() for name in names), strict=True)]
    dropped = dropped_rows(rows, drop)
    sink = pa.BufferOutputStream()
    table = pa.table(
        {"id": pa.array(list(dropped), pa.string()), "finding": pa.array(list(dropped.values()), pa.string())}
    )
    with pa.ipc.new_file(sink, table.schema) as file:
        file.write_table(table)
    attempt.write_file("dropped", 0, "dropped.arrow", sink.getvalue())


def write_rest(shard: ShardRecord, corpus: Artifact, dropped: ShardRecord, attempt: Attempt) -> None:
    """Ray task: one shard less the rows to leave out; an empty shard is marked as done too."""
    gone = pa.ipc.open_file(attempt.read_bytes(dropped)).read_all()
    rows = corpus.read_shard(shard)
    places = pc.index_in(rows["id"], value_set=gone["id"].combine_chunks())
    left = rows.filter(pc.is_null(places))
    why = gone["finding"].take(places.drop_null()).to_pylist()
    langs = rows["lang"].filter(pc.is_valid(places)).to_pylist()
    counts = Counter(zip(why, langs, strict=True))
    summary = counted_rows(left) | {"dropped": [[*key, count] for key, count in sorted(counts.items())]}
    attempt.write_table(shard.table, shard.index, left, summary=summary)


def _summary(corpus: Artifact, records: list[ShardRecord]) -> dict[str, Any]:
    counts = corpus_counts(record.summary for record in records if record.table == "corpus")
    before, after = corpus.summary["languages"], counts["languages"]
    if len(after) < 2:
        raise CorpusError(
            f"corpus.audit.drop leaves rows of only one language ({next(iter(after), 'none')}) of {len(before)}: "
            "separability compares languages; drop fewer kinds of findings"
        )
    dropped: dict[str, Counter[str]] = {}
    for record in records:
        for finding, lang, count in record.summary["dropped"]:
            dropped.setdefault(finding, Counter())[lang] += count
    rows = sum(of.total() for of in dropped.values())
    listed = ", ".join(f"{of.total():,} for {name}" for name, of in sorted(dropped.items()))
    warnings = [f"{rows:,} rows were left out (corpus.audit.drop): {listed}"] if rows else []
    if gone := sorted(before.keys() - after.keys()):
        warnings.append(f"languages of which no row is left: {', '.join(gone)}")
    return {
        **counts,
        "heldout_rows": sum(record.rows for record in records if record.table == "heldout"),
        "dropped": rows,
        "dropped_by_finding": {name: dict(sorted(of.items())) for name, of in sorted(dropped.items())},
        "bytes": sum(record.bytes for record in records if record.rows),
        "warnings": warnings + single_samples(after),
    }
