"""Stage `audit`: what is wrong with the rows of the corpus, found shard by shard over Ray, and which of them repeat
others.

Every shard is one task, which leaves findings about single rows and, for the comparison, digests, signatures and the
hashes of their bands. Digests meet in one task, each band in one of its own, and the pairs that they find in one more:
texts are read once, and rows are numbers from then on.
"""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from raysel.corpus.degenerate import degenerate
from raysel.corpus.duplicates import (
    PLACES,
    RESPONSE_PLACES,
    alike,
    band_keys,
    candidates,
    equal_groups,
    near_groups,
    rows_per_band,
    signatures,
)
from raysel.corpus.label_scripts import script_mismatch
from raysel.corpus.plain_text import digest_of, earlier_texts, normalised, whole_text
from raysel.corpus.settings import AuditSettings
from raysel.languages.identification import identify
from raysel.stage import StageOutput, StageRun
from raysel.store import Artifact, Attempt, ShardRecord
from raysel.tables import FINDINGS, IDENTIFIED

DUPLICATES = ("exact_duplicate", "near_duplicate")
WRITTEN_ROWS = 50_000
PAIRS_AT_ONCE = 100_000
Found = dict[str, Any]


def run(run: StageRun) -> StageOutput:
    """Write `findings`, and `identified` where languages are identified. settings: `audit`; inputs: `corpus`."""
    settings: AuditSettings = run.settings["audit"]
    corpus, attempt = run.inputs["corpus"], run.attempt
    shards = _shards(corpus)
    finished = attempt.finished()
    examined = {i: json.loads(attempt.read_bytes(r)) for (table, i), r in finished.items() if table == "examined"}
    todo = [i for i in range(len(shards)) if i not in examined]
    items = [(i, shards[i], settings, corpus, attempt) for i in todo]
    with run.progress.track(len(shards), "shards", done=len(examined)) as tracker:
        for index, outcome in run.cluster.map_tasks(examine, items):
            examined[todo[index]] = outcome
            tracker.advance(1)
    records = [ShardRecord(**entry) for _, outcome in sorted(examined.items()) for entry in outcome["records"]]
    if any(name in settings.checks for name in DUPLICATES):
        records += _duplicates(run, settings, records)
    records = [record for record in records if record.table in ("findings", "identified")]
    counts: dict[str, Counter[str]] = {name: Counter() for name in settings.of_rows()}
    for record in records:
        for finding, lang, count in record.summary.get("counts", []):
            counts[finding][lang] += count
    return StageOutput(records, _summary(counts, corpus))


def _duplicates(run: StageRun, settings: AuditSettings, sketches: list[ShardRecord]) -> list[ShardRecord]:
    """The shards of `findings` about rows that repeat others, from the sketches among what the shards left."""
    corpus, attempt = run.inputs["corpus"], run.attempt
    of = {name: [record for record in sketches if record.table == name] for name in ("digests", "signatures", "bands")}
    finished = attempt.finished()
    if not {("equal", 0), ("rank", 0)} <= finished.keys():
        run.cluster.run_task(match_equal, corpus, of["digests"], attempt)
        finished = attempt.finished()
    pairs: list[ShardRecord] = []
    if "near_duplicate" in settings.checks:
        bands = PLACES // rows_per_band(settings.jaccard)
        todo = [band for band in range(bands) if ("pairs", band) not in finished]
        items = [(band, settings.jaccard, finished["rank", 0], of["bands"], of["signatures"], attempt) for band in todo]
        with run.progress.track(bands, "bands", done=bands - len(todo)) as tracker:
            for _ in run.cluster.map_tasks(match_band, items):
                tracker.advance(1)
        finished = attempt.finished()
        pairs = [finished["pairs", band] for band in range(bands)]
    if ("grouped", 0) not in finished:
        run.cluster.run_task(
            write_duplicates, settings, corpus, finished["equal", 0], finished["rank", 0], pairs, attempt
        )
        finished = attempt.finished()
    return [ShardRecord(**entry) for entry in json.loads(attempt.read_bytes(finished["grouped", 0]))]


def _shards(corpus: Artifact) -> list[ShardRecord]:
    """What is held out is audited too. A row's number is its place in these shards, one after another."""
    return [*corpus.shards("corpus"), *corpus.shards("heldout")]


def examine(
    index: int, shard: ShardRecord, settings: AuditSettings, corpus: Artifact, attempt: Attempt
) -> dict[str, Any]:
    """Ray task: what one shard shows by itself, and what the comparison with the others needs of it."""
    checks = settings.checks
    columns = ["id", "lang", "lang_raw", "prompt", "response", "history"]
    rows = corpus.read_shard(shard, columns).to_pylist()
    found: list[Found] = []
    identified: list[dict[str, Any]] = []
    for row in rows:
        own = {"id": row["id"], "lang": row["lang"]}
        prompt, response = row["prompt"], row["response"]
        if "language_mismatch" in checks:
            language = identify(prompt, response, row["lang"])
            identified.append(own | {"found_lang": language.found, "label_probability": language.label_probability})
            if language.instead is not None and language.instead >= settings.language_probability:
                detail = f"labelled {row['lang']}, reads as {language.found} (probability {language.instead:.2f})"
                found.append(own | {"finding": "language_mismatch", "detail": detail, "score": language.instead})
        if "script_mismatch" in checks and (other := script_mismatch(f"{prompt}\n{response}", row["lang_raw"])):
            found.append(own | {"finding": "script_mismatch", "detail": other[0], "score": other[1]})
        if "degenerate" in checks and (wrong := degenerate(prompt, response, "".join(earlier_texts(row["history"])))):
            found.append(own | {"finding": "degenerate", "detail": wrong[0], "score": wrong[1]})
    records = []
    if found:
        records.append(write_findings(attempt, index, found))
    if identified:
        records.append(attempt.write_table("identified", index, pa.Table.from_pylist(identified, IDENTIFIED)))
    if any(name in checks for name in DUPLICATES):
        texts = [whole_text(row["prompt"], row["response"], row["history"]) for row in rows]
        records.append(attempt.write_array("digests", index, np.array(list(map(digest_of, texts)), np.uint64)))
        if "near_duplicate" in checks:
            sketch = signatures(texts, PLACES)
            answers = signatures([normalised(row["response"]) for row in rows], RESPONSE_PLACES)
            both = np.hstack([sketch, answers])
            records.append(attempt.write_array("signatures", index, both, rows=len(rows)))
            keys = band_keys(sketch, rows_per_band(settings.jaccard))
            records.append(attempt.write_array("bands", index, keys))
    outcome = {"records": [asdict(record) for record in records]}
    attempt.write_file("examined", index, f"{index:05d}.json", json.dumps(outcome).encode())
    return outcome


def write_findings(attempt: Attempt, index: int, found: list[Found]) -> ShardRecord:
    """One shard of `findings`, whose summary counts them by kind and language."""
    counts = Counter((one["finding"], one["lang"]) for one in found)
    summary = {"counts": [[finding, lang, count] for (finding, lang), count in sorted(counts.items())]}
    return attempt.write_table("findings", index, pa.Table.from_pylist(found, FINDINGS), summary=summary)


def match_equal(corpus: Artifact, digests: list[ShardRecord], attempt: Attempt) -> None:
    """Ray task: rows whose whole text another row has (`equal`), and the order of all ids (`rank`, -1 for such rows).

    The order of the ids, not of the rows, says which one stays: the files' order changes nothing.
    """
    ids = _column(corpus, "id")
    rank = np.empty(len(ids), np.int64)
    rank[pc.sort_indices(ids).to_numpy()] = np.arange(len(ids))
    equal = equal_groups(np.concatenate([attempt.read_array(record) for record in digests]), rank)
    attempt.write_array("equal", 0, equal)
    rank[equal[:, 0]] = -1
    attempt.write_array("rank", 0, rank)


def _column(corpus: Artifact, name: str) -> pa.ChunkedArray:
    columns = [corpus.read_shard(shard, [name])[name] for shard in _shards(corpus)]
    return pa.chunked_array([chunk for column in columns for chunk in column.chunks], pa.string())


def match_band(
    band: int,
    jaccard: float,
    rank: ShardRecord,
    bands: list[ShardRecord],
    signed: list[ShardRecord],
    attempt: Attempt,
) -> None:
    """Ray task: the pairs that share one band and whose signatures agree in enough places, with how many."""
    keys = np.concatenate([attempt.read_array(record)[band] for record in bands])
    pairs = candidates(keys, attempt.read_array(rank))
    rows, places = np.unique(pairs, return_inverse=True)
    sketch, places = _signatures_of(rows, signed, attempt), places.reshape(-1, 2)
    parts = np.split(places, range(PAIRS_AT_ONCE, len(places), PAIRS_AT_ONCE))
    found = [alike(sketch[part[:, 0]], sketch[part[:, 1]], jaccard) for part in parts]
    agree, kept = (np.concatenate(column) for column in zip(*found, strict=True))
    attempt.write_array("pairs", band, np.column_stack([pairs, agree])[kept])


def _signatures_of(rows: NDArray[np.int64], signed: list[ShardRecord], attempt: Attempt) -> NDArray[np.uint32]:
    """uint32 (len(rows), P + R): the signatures of these rows (sorted); only files that have one of them are read."""
    found, first = [np.empty((0, PLACES + RESPONSE_PLACES), np.uint32)], 0
    for record in signed:
        own = rows[(rows >= first) & (rows < first + record.rows)] - first
        if len(own):
            found.append(attempt.read_array(record)[own])
        first += record.rows
    return np.concatenate(found)


def write_duplicates(
    settings: AuditSettings,
    corpus: Artifact,
    equal: ShardRecord,
    rank: ShardRecord,
    pairs: list[ShardRecord],
    attempt: Attempt,
) -> None:
    """Ray task: the findings about rows that repeat others, in shards after those of single rows."""
    ids, langs = _column(corpus, "id"), _column(corpus, "lang")
    trained = corpus.rows("corpus")

    def part(row: int, other: int) -> str:
        if (row < trained) == (other < trained):
            return ""
        return ", which is held out" if row < trained else ", which is not held out as this one is"

    def findings() -> Iterator[Found]:
        for finding, matched in _matched(settings, attempt, equal, rank, pairs):
            for row, kept, like, agree in matched.tolist():
                own, other = {"id": ids[row].as_py(), "lang": langs[row].as_py()}, ids[kept].as_py()
                if finding == "exact_duplicate":
                    detail = f"the same text as {other}{part(row, kept)}"
                else:
                    detail = f"{agree / PLACES:.2f} like {ids[like].as_py()}{part(row, like)}; {other} stays"
                if langs[kept].as_py() != own["lang"]:
                    detail += f"; that one is labelled {langs[kept].as_py()}"
                named = {"other_id": other, "other_lang": langs[kept].as_py(), "score": agree / PLACES}
                yield own | named | {"finding": finding, "detail": detail}

    records: list[ShardRecord] = []
    batch: list[Found] = []
    first = len(_shards(corpus))
    for found in findings():
        batch.append(found)
        if len(batch) == WRITTEN_ROWS:
            records.append(write_findings(attempt, first + len(records), batch))
            batch = []
    if batch:
        records.append(write_findings(attempt, first + len(records), batch))
    attempt.write_file("grouped", 0, "grouped.json", json.dumps([asdict(record) for record in records]).encode())


def _matched(
    settings: AuditSettings, attempt: Attempt, equal: ShardRecord, rank: ShardRecord, pairs: list[ShardRecord]
) -> Iterator[tuple[str, NDArray[np.int64]]]:
    """(finding, int64 (found, 4): the row, the one that stays, the one it is most like, the places that agree)."""
    if "exact_duplicate" in settings.checks:
        same = attempt.read_array(equal)
        yield "exact_duplicate", np.column_stack([same, same[:, 1], np.full(len(same), PLACES)])
    if "near_duplicate" in settings.checks:
        paired = np.concatenate([attempt.read_array(record) for record in pairs])
        yield "near_duplicate", near_groups(paired, attempt.read_array(rank))


def _summary(counts: dict[str, Counter[str]], corpus: Artifact) -> dict[str, Any]:
    rows = sum(shard.rows for shard in _shards(corpus))
    found = ", ".join(f"{of.total():,} {name}" for name, of in counts.items() if of)
    return {
        "rows": rows,
        "counts": {name: dict(sorted(of.items())) for name, of in counts.items()},
        "warnings": [f"findings in {rows:,} rows: {found} (corpus.audit.drop leaves such rows out)"] if found else [],
    }
