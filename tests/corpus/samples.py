"""Real samples with planted faults, as corpus tables; what was planted is known, so precision and recall are too."""

import json
import random
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from raysel.languages.codes import normalise
from raysel.languages.scripts import script_of
from raysel.store import Artifact, Store
from raysel.tables import CORPUS
from tests.conftest import REPOSITORY

Row = dict[str, Any]


def demo_rows() -> list[Row]:
    files = sorted((REPOSITORY / "raysel" / "demo" / "corpus").glob("*.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text(encoding="utf-8").splitlines()]


def published_corpus(store: Store, rows: Sequence[Row], *, shard: int, heldout: Sequence[Row] = ()) -> Artifact:
    """Rows with id, lang, prompt and response as a published corpus in shards of `shard` rows."""
    attempt = store.attempt("corpus", f"made-{len(rows)}-{len(heldout)}-{shard}")
    records = []
    for name, some in (("corpus", rows), ("heldout", heldout)):
        table = pa.Table.from_pylist([_row(row) for row in some], schema=CORPUS)
        starts = range(0, len(some), shard)
        records += [attempt.write_table(name, i, table.slice(start, shard)) for i, start in enumerate(starts)]
    langs = [normalise(row["lang"]) for row in rows]
    summary = {"languages": {lang: langs.count(lang) for lang in sorted(set(langs))}}
    return attempt.publish(records, settings={}, inputs={}, version=1, summary=summary)


def _row(row: Row) -> Row:
    given = {"history": None, "task": None, "source": "s", "group": None, "lang_raw": row["lang"]}
    script = script_of(f"{row['prompt']} {row['response']}")
    return {**given, **row, "lang": normalise(row["lang"]), "script": script}


def edited(text: str, share: float, rng: random.Random) -> str:
    """`text` with about a `share` of its words replaced by one that nobody says, at one place: a rewritten phrase."""
    words = text.split(" ")
    count = max(1, round(share * len(words)))
    at = rng.randrange(max(1, len(words) - count))
    return " ".join([*words[:at], *["zzgrmpf"] * count, *words[at + count :]])


def scored(found: set[str], planted: set[str]) -> tuple[float, float]:
    """(precision, recall), printed too."""
    right = len(found & planted)
    precision, recall = right / max(1, len(found)), right / len(planted)
    print(f"{len(planted)} planted, {len(found)} found: precision {precision:.3f}, recall {recall:.3f}")
    return precision, recall
