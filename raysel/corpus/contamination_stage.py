"""Stage `contamination`: samples that hold part of an item of the experiment's own evaluation tasks.

One task hashes the n-grams of all items; then every shard of the corpus is one task that looks its own up.
"""

import json
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa

from raysel.corpus.contamination import ItemGrams, item_grams, overlaps
from raysel.corpus.plain_text import earlier_texts
from raysel.evaluation.items import ItemSource, read_items
from raysel.stage import StageOutput, StageRun
from raysel.store import Artifact, Attempt, ShardRecord
from raysel.tables import FINDINGS

ARRAYS = ("hashes", "owners", "totals")


def run(run: StageRun) -> StageOutput:
    """Write `findings`. settings: `ngram`, `sources` (the items of every task); inputs: `corpus`."""
    ngram: int = run.settings["ngram"]
    sources: list[ItemSource] = run.settings["sources"]
    corpus, attempt = run.inputs["corpus"], run.attempt
    finished = attempt.finished()
    if ("items", 0) not in finished:
        run.cluster.run_task(write_items, sources, ngram, attempt)
        finished = attempt.finished()
    shards = [*corpus.shards("corpus"), *corpus.shards("heldout")]
    grams = {name: finished[name, 0] for name in ("items", *ARRAYS)}
    todo = [i for i in range(len(shards)) if ("findings", i) not in finished]
    items = [(i, shards[i], grams, corpus, attempt) for i in todo]
    with run.progress.track(len(shards), "shards", done=len(shards) - len(todo)) as tracker:
        for _ in run.cluster.map_tasks(look_up, items):
            tracker.advance(1)
    finished = attempt.finished()
    records = [finished["findings", i] for i in range(len(shards))]
    counts: Counter[str] = Counter()
    for record in records:
        counts.update(record.summary["counts"])
    rows = sum(shard.rows for shard in shards)
    warnings = []
    if counts:
        found = f"{counts.total():,} of {rows:,} rows share text with an evaluated item"
        warnings.append(f"{found} (corpus.audit.drop: [contamination] leaves them out)")
    if fetched := [source.task for source in sources if source.options is None]:
        warnings.append(f"not looked for in the corpus, as lm-eval fetches their items: {', '.join(fetched)}")
    summary = {
        "rows": rows,
        "items": len(json.loads(attempt.read_bytes(grams["items"]))),
        "counts": {"contamination": dict(sorted(counts.items()))},
        "warnings": warnings,
    }
    return StageOutput(records, summary)


def write_items(sources: list[ItemSource], ngram: int, attempt: Attempt) -> None:
    """Ray task: the n-grams of every item, and last of all which items there are."""
    named: list[tuple[str, str]] = []
    texts: list[list[str]] = []
    with tempfile.TemporaryDirectory(prefix="raysel-items-") as scratch:
        for source in sources:
            if source.options is not None:
                for number, item in read_items(source, Path(scratch)):
                    named.append((f"{source.task}:{number}", source.lang))
                    texts.append(item)
    found = item_grams(texts, ngram)
    for name in ARRAYS:
        attempt.write_array(name, 0, getattr(found, name))
    lengths = {"lengths": found.lengths, "letter_lengths": found.letter_lengths}
    attempt.write_file("items", 0, "items.json", json.dumps(named).encode(), summary=lengths)


def look_up(index: int, shard: ShardRecord, grams: dict[str, ShardRecord], corpus: Artifact, attempt: Attempt) -> None:
    """Ray task: the findings of one shard."""
    named = json.loads(attempt.read_bytes(grams["items"]))
    hashes, owners, totals = (attempt.read_array(grams[name]) for name in ARRAYS)
    items = ItemGrams(hashes, owners, totals, **grams["items"].summary)
    rows = corpus.read_shard(shard, ["id", "lang", "prompt", "response", "history"]).to_pylist()
    texts = [[*earlier_texts(row["history"]), row["prompt"], row["response"]] for row in rows]
    found: list[dict[str, Any]] = []
    for row, shared in zip(rows, overlaps(texts, items), strict=True):
        if shared is not None:
            name, lang = named[shared.item]
            task, _, number = name.rpartition(":")
            quoted = ("" if max(map(len, shared.quoted)) == 1 else " ").join(shared.quoted)
            detail = f"{shared.share:.0%} of what item {number} of task {task} is made of, {quoted!r} among it"
            own = {"id": row["id"], "lang": row["lang"], "finding": "contamination", "detail": detail}
            found.append(own | {"other_id": name, "other_lang": lang, "score": shared.share})
    counts = Counter(one["lang"] for one in found)
    table = pa.Table.from_pylist(found, FINDINGS)
    attempt.write_table("findings", index, table, summary={"counts": dict(sorted(counts.items()))})
