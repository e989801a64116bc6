"""Stage `corpus`: the user's files become the `corpus` and `heldout` tables, read and checked by Ray tasks."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from raysel.corpus.counts import corpus_counts, counted_rows, single_samples
from raysel.corpus.files import (
    CorpusError,
    RowBatch,
    SourcePart,
    corpus_name,
    find_files,
    read_batches,
    split_into_parts,
)
from raysel.corpus.presets import Layout, layout_of, says_where_the_text_is
from raysel.corpus.rows import EXAMPLES_KEPT, Problems, heldout_mask, standardise
from raysel.corpus.settings import CorpusSettings
from raysel.stage import StageOutput, StageRun
from raysel.store import Attempt, ShardRecord

SHARDS_PER_PART = 10_000_000


def leaf_files(settings: CorpusSettings) -> list[str]:
    """The user's files, whose contents the corpus's fingerprint hashes. Raises `CorpusError` where there are none."""
    if settings.path is None:
        raise CorpusError(
            "corpus.path is not set: give the file, folder or dataset to read, e.g. --set corpus.path=FILE"
        )
    return find_files(settings.path, split=settings.dataset_split)


def find_layout(settings: CorpusSettings, files: list[str]) -> Layout:
    """How the rows of the user's files are read; their first row is looked at where the settings do not say it."""
    if says_where_the_text_is(settings):
        return layout_of(settings, set())
    try:
        parts = split_into_parts(files[:1])[:1]
        first = next((batch.rows[0] for part in parts for batch in read_batches(part, 1) if batch.rows), {})
    except (OSError, EOFError, pa.ArrowInvalid):
        first = {}  # reading the corpus says what is wrong with it
    return layout_of(settings, set(first))


def run(run: StageRun) -> StageOutput:
    """settings: `corpus`, `layout`, `seed`."""
    settings: CorpusSettings = run.settings["corpus"]
    layout: Layout = run.settings["layout"]
    seed: int = run.settings["seed"]
    plan = run.attempt.plan(lambda: {"shard_rows": settings.shard_rows}, given={"shard_rows": settings.shard_rows})
    parts = split_into_parts(leaf_files(settings))
    finished = run.attempt.finished(plan)
    outcomes = {i: json.loads(run.attempt.read_bytes(r)) for (table, i), r in finished.items() if table == "read"}
    todo = [i for i in range(len(parts)) if i not in outcomes]
    items = [(parts[i], i, settings, layout, seed, plan, run.attempt) for i in todo]
    with run.progress.track(len(parts), "parts", done=len(outcomes)) as tracker:
        for index, outcome in run.cluster.map_tasks(read_part, items):
            outcomes[todo[index]] = outcome
            tracker.advance(1)

    problems = Problems()
    for _, outcome in sorted(outcomes.items()):
        found = outcome["problems"]
        problems.merge(Problems(Counter(found["counts"]), found["examples"]))
    if problems.counts:
        raise CorpusError("the corpus cannot be used as it is:\n  " + "\n  ".join(problems.lines()))
    records = [ShardRecord(**entry) for _, outcome in sorted(outcomes.items()) for entry in outcome["records"]]
    if not records:
        raise CorpusError(f"corpus.path {settings.path!r}: there is not one row in it")
    duplicates = run.cluster.run_task(find_duplicates, run.attempt, records)
    if duplicates:
        raise CorpusError(f"the corpus has duplicate ids: {'; '.join(duplicates)}")
    return StageOutput(records, {"preset": layout.preset, **_summary(outcomes, records)})


def read_part(
    part: SourcePart,
    index: int,
    settings: CorpusSettings,
    layout: Layout,
    seed: int,
    plan: dict[str, Any],
    attempt: Attempt,
) -> dict[str, Any]:
    """Ray task: read one part, write its shards, and last of all what was found in it."""
    problems, dropped, records = Problems(), 0, []
    counts: list[dict[str, Any]] = []
    for number, batch in enumerate(_readable(part, plan["shard_rows"])):
        for unreadable in batch.unreadable:
            problems.add("unreadable line", unreadable)
        table, wrong, empty = standardise(
            batch.rows,
            batch.numbers,
            layout=layout,
            location=part.location,
            name=part.name,
            source=corpus_name(settings.path or ""),
            drop_empty=settings.empty == "drop",
        )
        problems.merge(wrong)
        dropped += empty
        mask = pa.array(heldout_mask(table, share=settings.heldout, seed=seed), pa.bool_())
        for name, rows in (("heldout", table.filter(mask)), ("corpus", table.filter(pc.invert(mask)))):
            if rows.num_rows:
                shard = index * SHARDS_PER_PART + number
                records.append(attempt.write_table(name, shard, rows, plan=plan))
            if name == "corpus":
                counts.append(counted_rows(rows))
    outcome = {
        "records": [asdict(record) for record in records],
        "problems": {"counts": dict(problems.counts), "examples": problems.examples},
        "dropped": dropped,
        "counts": counts,
    }
    attempt.write_file("read", index, f"{index:05d}.json", json.dumps(outcome).encode(), plan=plan)
    return outcome


def _readable(part: SourcePart, batch_rows: int) -> Iterator[RowBatch]:
    try:
        yield from read_batches(part, batch_rows)
    except (OSError, EOFError, pa.ArrowInvalid) as error:
        raise CorpusError(f"corpus file {part.location} is damaged: {error}") from error


def find_duplicates(attempt: Attempt, records: list[ShardRecord]) -> list[str]:
    """Ray task: the first few ids that occur more than once, each with its count."""
    import pyarrow.parquet as pq

    store = attempt.store
    columns = [
        pq.read_table(store.full(f"{attempt.address}/{r.path}"), columns=["id"], filesystem=store.filesystem)["id"]
        for r in records
    ]
    counted = pa.chunked_array([chunk for column in columns for chunk in column.chunks], pa.string()).value_counts()
    repeated = counted.filter(pc.greater(counted.field("counts"), 1))
    named = [f"{entry['values'].as_py()!r} x {entry['counts'].as_py()}" for entry in repeated[:EXAMPLES_KEPT]]
    return named + ([f"and {len(repeated) - len(named):,} more"] if len(repeated) > len(named) else [])


def _summary(outcomes: dict[int, Any], records: list[ShardRecord]) -> dict[str, Any]:
    counts = corpus_counts(batch for outcome in outcomes.values() for batch in outcome["counts"])
    languages = counts["languages"]
    if len(languages) < 2:
        raise CorpusError(
            f"the corpus has only one language ({next(iter(languages), 'none')}): separability compares languages"
        )
    dropped = sum(outcome["dropped"] for outcome in outcomes.values())
    warnings = []
    if dropped:
        warnings.append(
            f"{dropped:,} rows with an empty prompt or response, or earlier message, were left out (corpus.empty: drop)"
        )
    return {
        **counts,
        "heldout_rows": sum(record.rows for record in records if record.table == "heldout"),
        "dropped": dropped,
        "bytes": sum(record.bytes for record in records),
        "warnings": warnings + single_samples(languages),
    }
