"""Reads what the audit found: its counts, and a few rows of each finding with their texts."""

import heapq
from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc

from raysel.report.audit import Audit, FoundRow
from raysel.report.examples_stage import texts_of
from raysel.seeding import draw
from raysel.store import Artifact

EXAMPLES_OF_FINDING = 2
TABLES = ("corpus", "heldout")


def read_audit(inputs: Mapping[str, Artifact], *, seed: int) -> Audit | None:
    """None where nothing was audited. The texts are those of the corpus before anything was dropped."""
    audits = [inputs[name] for name in ("audit", "contamination") if name in inputs]
    if not audits:
        return None
    counts = {finding: dict(of) for audit in audits for finding, of in audit.summary["counts"].items()}
    dropped = inputs["clean"].summary["dropped_by_finding"] if "clean" in inputs else {}
    examples = [found for audit in audits for found in _examples(audit, inputs.get("corpus"), seed)]
    return Audit(max(audit.summary["rows"] for audit in audits), counts, dropped, examples)


def _examples(audit: Artifact, corpus: Artifact | None, seed: int) -> list[FoundRow]:
    """A few rows of each finding at random, the same ones however the findings are cut into shards."""
    if corpus is None or not audit.shards("findings"):
        return []
    drawn: dict[str, list[tuple[float, str]]] = {}
    for shard in audit.shards("findings"):
        table = audit.read_shard(shard, ["finding", "id"])
        for finding, identity in zip(*(table[name].to_pylist() for name in ("finding", "id")), strict=True):
            drawn.setdefault(finding, []).append((draw(seed, f"{finding}\0{identity}"), identity))
    chosen = {finding: [i for _, i in heapq.nsmallest(EXAMPLES_OF_FINDING, ids)] for finding, ids in drawn.items()}
    wanted = pa.array(sorted({identity for ids in chosen.values() for identity in ids}), pa.string())
    rows = audit.read("findings", filters=pc.field("id").isin(wanted)).to_pylist()
    rows = sorted((row for row in rows if row["id"] in chosen[row["finding"]]), key=lambda row: row["id"])
    named = {row[column] for row in rows for column in ("id", "other_id")} - {None}
    texts = texts_of(corpus, pa.array(sorted(named), pa.string()), tables=TABLES)
    found = []
    for finding in audit.summary["counts"]:
        for row in rows:
            if row["finding"] == finding and row["id"] in texts:
                own, other = texts[row["id"]], texts.get(row["other_id"], {})
                both = (own["prompt"], own["response"], row["other_id"], row["other_lang"])
                repeated = (other.get("prompt"), other.get("response"))
                found.append(FoundRow(finding, row["id"], row["lang"], row["detail"], *both, *repeated))
    return found
