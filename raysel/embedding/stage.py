"""Stage `vectors`: a pool of Ray Data actors, each with the model loaded once, embeds the corpus shard by shard.

An actor reads the rows it needs, writes its shard itself and returns counts only, so the memory of the stage does not
grow with the corpus. Two shards are under way in an actor at a time, in threads: while one is computed, the other is
read, templated and tokenised, or written.
"""

import hashlib
import math
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from raysel.cluster import ItemsFailedError
from raysel.embedding.placement import cpu_replicas, gpus_per_replica
from raysel.embedding.quality import concerns, describe, duplicates_by_language, merged
from raysel.embedding.settings import EmbeddingSettings
from raysel.embedding.token_budget import BUDGETS, DEFAULT_TOKEN_BUDGET
from raysel.errors import IncompleteError, UserError
from raysel.models.loading import load_encoder, load_tokenizer
from raysel.models.size import model_size
from raysel.models.templates import end_of_turn, sample_text
from raysel.stage import StageOutput, StageRun
from raysel.store import Artifact, Attempt, ShardRecord, overlapping
from raysel.tables import vectors_schema

if TYPE_CHECKING:
    from raysel.embedding.encoder import Encoded, Tokens

AT_ONCE = 2
FAILURES_SHOWN = 5
SHARD_ROWS = 512
# Ray Data takes some 50 KB of the driver's memory for each shard: more rows must not mean more shards without end.
MOST_SHARDS = 4096
# Measuring the token budget takes as long as a shard or two: a corpus of fewer shards than this has the usual one.
WORTH_MEASURING = 8


class EmbeddingError(UserError):
    """A model that gives no usable vectors."""


def run(run: StageRun) -> StageOutput:
    settings: EmbeddingSettings = run.settings["embedding"]
    corpus = run.inputs["corpus"]
    model = run.inputs.get("model") or run.leaves["model"]
    device = "cuda" if run.cluster.gpus() else "cpu"
    given = {"token_budget": settings.token_budget, "shard_rows": settings.shard_rows}
    total = corpus.rows("corpus")
    shard_rows = settings.shard_rows or max(SHARD_ROWS, math.ceil(total / MOST_SHARDS))
    few = total < WORTH_MEASURING * shard_rows
    plan = run.attempt.plan(
        lambda: {
            "shard_rows": shard_rows,
            # None: the workers measure it.
            "token_budget": settings.token_budget or (DEFAULT_TOKEN_BUDGET[device] if few else None),
            # A run begun on GPUs and continued without must not mix the two.
            "compute_dtype": "bfloat16" if device == "cuda" else "float32",
        },
        given=given,
    )
    fitting, gpus = _replicas(run, model, plan["compute_dtype"])
    pieces = [
        {"index": index, "start": start, "stop": min(start + plan["shard_rows"], total)}
        for index, start in enumerate(range(0, total, plan["shard_rows"]))
    ]
    finished = run.attempt.finished(plan)
    todo = [piece for piece in pieces if ("vectors", piece["index"]) not in finished]
    workers = max(1, min(settings.workers or fitting, len(todo)))
    cpus = 1 if gpus else run.cluster.cpus_each(workers)
    arguments = {
        "settings": settings,
        "template": run.settings["template"],
        "legacy_bos": run.settings["legacy_bos"],
        "trust_remote_code": run.settings["trust_remote_code"],
        "model": model,
        "corpus": corpus,
        "attempt": run.attempt,
        "plan": plan,
        "given": given,
        "device": device,
        "gpus": gpus,
        "threads": cpus,
    }
    done = sum(record.rows for record in finished.values())
    try:
        with run.progress.track(total, "rows", done=done) as tracker:
            for counts in run.cluster.map_actors(
                Embedder,
                arguments,
                todo,
                workers=workers,
                num_cpus=cpus,
                num_gpus=gpus,
                at_once=AT_ONCE,
            ):
                tracker.advance(counts["rows"], f"{counts['tokens']:,} tokens in a shard")
    except ItemsFailedError as failed:
        raise _set_aside(failed, [todo[i] for i in failed.reasons], corpus, len(pieces)) from failed
    finished = run.attempt.finished(plan)
    records = [finished["vectors", piece["index"]] for piece in pieces]
    return StageOutput(records, _summary(run, records, settings.max_tokens))


def _replicas(run: StageRun, model: Artifact | str, dtype: str) -> tuple[int, int]:
    """How many replicas of the model the cluster holds at once, and how many GPUs each has (0: it runs on CPUs)."""
    settings: EmbeddingSettings = run.settings["embedding"]
    with tempfile.TemporaryDirectory() as scratch:
        size = model_size(model.local_folder("model", Path(scratch)) if isinstance(model, Artifact) else Path(model))
    if not run.cluster.gpus():
        return cpu_replicas(size, run.cluster.cpus_and_memory(), dtype=dtype), 0
    gpus = settings.gpus_per_worker
    if gpus is None:
        memory = run.settings["cluster"].gpu_memory_gb
        gpu_bytes = int(memory * 1e9) if memory else run.cluster.run_task(_gpu_bytes, num_gpus=1)
        gpus = gpus_per_replica(size, gpu_bytes=gpu_bytes, max_tokens=settings.max_tokens, dtype=dtype)
    return max(1, run.cluster.places(num_cpus=1, num_gpus=gpus)), gpus


def _gpu_bytes() -> int:
    """Ray task: the memory of its GPU."""
    import torch

    return int(torch.cuda.get_device_properties(0).total_memory)


def _set_aside(
    failed: ItemsFailedError, pieces: Sequence[dict[str, Any]], corpus: Artifact, total: int
) -> IncompleteError:
    lines = []
    for piece, reason in list(zip(pieces, failed.reasons.values(), strict=True))[:FAILURES_SHOWN]:
        last = reason.strip().splitlines()[-1]
        record, first, _ = next(overlapping(corpus.shards("corpus"), piece["start"], piece["stop"]))
        rows = f"{piece['stop'] - piece['start']:,} rows from row {first:,} of {record.path}"
        lines.append(f"  shard {piece['index']} ({rows}): {last}")
    if len(pieces) > FAILURES_SHOWN:
        numbers = ", ".join(str(piece["index"]) for piece in pieces[FAILURES_SHOWN:])
        lines.append(f"  and shards {numbers}")
    times = "once" if failed.tries == 1 else f"{failed.tries} times"
    if failed.untried:
        head = f"vectors: the first {len(pieces)} shards all failed, the other {failed.untried} were not tried"
    else:
        head = (
            f"vectors: {len(pieces)} of {total} shards failed {times} and were set aside; the other "
            f"{total - len(pieces)} are stored. The same command tries just those again"
        )
    return IncompleteError(head + "\n" + "\n".join(lines))


def _summary(run: StageRun, records: list[ShardRecord], max_tokens: int) -> dict[str, Any]:
    quality = merged(record.summary["quality"] for record in records)
    duplicates = run.cluster.run_task(count_duplicates, run.attempt, records)
    budgets = sorted({record.summary["token_budget"] for record in records})
    warnings = concerns(quality, duplicates, max_tokens)
    if len(budgets) > 1:
        halved = sum(record.summary["token_budget"] < budgets[-1] for record in records)
        warnings.append(
            f"{halved} of {len(records)} shards did not fit in memory under {budgets[-1]:,} tokens a batch and were "
            f"done under as few as {budgets[0]:,}: set embedding.token_budget to that for the same bits in every run"
        )
    return {
        "languages": {lang: own["rows"] for lang, own in quality.items()},
        "width": records[0].summary["width"],
        "tokens": sum(own["tokens"] for own in quality.values()),
        "truncated": {lang: own["truncated"] for lang, own in quality.items() if own["truncated"]},
        "quality": quality,
        "duplicates": duplicates,
        "token_budget": budgets[0],
        "way": "; ".join(sorted({record.summary["way"] for record in records})),
        "warnings": warnings,
    }


def count_duplicates(attempt: Attempt, records: list[ShardRecord]) -> dict[str, int]:
    """Ray task: by language, how many samples are fed the same tokens as another one."""
    import pyarrow.parquet as pq

    store = attempt.store
    paths = [store.full(f"{attempt.address}/{record.path}") for record in records]
    parts = [pq.read_table(path, columns=["lang", "fed_hash"], filesystem=store.filesystem) for path in paths]
    table = pa.concat_tables(parts)
    return duplicates_by_language(table["fed_hash"].to_numpy(), table["lang"].to_numpy(zero_copy_only=False))


class Embedder:
    """Ray Data actor: loads the model once, then turns pieces of the corpus into published shards."""

    def __init__(
        self,
        settings: EmbeddingSettings,
        template: str,
        legacy_bos: bool,
        trust_remote_code: bool,
        model: Artifact | str,
        corpus: Artifact,
        attempt: Attempt,
        plan: dict[str, Any],
        given: dict[str, Any],
        device: str,
        gpus: int,
        threads: int,
    ) -> None:
        # Here and not above: the driver needs no torch.
        from raysel.embedding.encoder import LastTokenEncoder

        self.settings, self.corpus, self.attempt, self.plan, self.given = settings, corpus, attempt, plan, given
        self.reading, self.computing = threading.Lock(), threading.Lock()
        self.measured = plan["token_budget"] is not None
        with tempfile.TemporaryDirectory() as scratch:
            folder = model.local_folder("model", Path(scratch)) if isinstance(model, Artifact) else model
            self.tokenizer = load_tokenizer(folder, template, trust_remote_code=trust_remote_code)
            encoder = load_encoder(
                folder,
                dtype=plan["compute_dtype"],
                trust_remote_code=trust_remote_code,
                device_map="balanced" if gpus > 1 else None,
            )
            try:
                self.encoder = LastTokenEncoder(
                    encoder,
                    self.tokenizer,
                    max_tokens=settings.max_tokens,
                    layer=settings.layer,
                    token_budget=self._budget(device),
                    device=device,
                    add_special_tokens=legacy_bos,
                    threads=threads,
                )
            except ValueError as error:
                raise EmbeddingError(f"embedding: {error}") from error
            if {"cpu", "disk"} & set(map(str, getattr(encoder, "hf_device_map", {}).values())) and gpus:
                raise EmbeddingError(
                    f"the model does not fit on {gpus} GPUs beside what is on them already; raise "
                    "embedding.gpus_per_worker, or free their memory"
                )
        self.closing = end_of_turn(self.tokenizer) if settings.token == "end_of_turn" else ""

    def _budget(self, device: str) -> int | None:
        """The plan's, but on CPUs never one that a GPU measured before the run was continued on CPUs."""
        planned: int | None = self.plan["token_budget"]
        if planned is None or self.settings.token_budget or device != "cpu":
            return planned
        return min(planned, max(BUDGETS["cpu"]))

    def process(self, piece: dict[str, Any]) -> dict[str, Any]:
        columns = ["id", "lang", "prompt", "response", "history", "lang_raw", "task", "script"]
        rows = self.corpus.read_rows("corpus", piece["start"], piece["stop"], columns)
        with self.reading:
            tokens = self._tokens(rows)
        with self.computing:
            if not self.measured:
                self.encoder.token_budget = self._measured_budget(tokens)
                self.measured = True
            encoded = self.encoder.encode_tokens(tokens)
            budget = self.encoder.token_budget
        vectors = self._stored(encoded, rows["id"])
        langs = rows["lang"].to_pylist()
        summary = {
            "quality": describe(vectors, langs, encoded.n_tokens, encoded.truncated),
            "width": vectors.shape[1],
            "token_budget": budget,
            "way": self.encoder.forward.way,
        }
        table = self._table(rows, vectors, encoded, [_hash(ids) for ids in tokens.ids])
        self.attempt.write_table("vectors", piece["index"], table, plan=self.plan, summary=summary)
        return {"rows": len(langs), "tokens": int(encoded.n_tokens.sum())}

    def _tokens(self, rows: pa.Table) -> "Tokens":
        samples = zip(*(rows[name].to_pylist() for name in ("prompt", "response", "history")), strict=True)
        texts = [sample_text(self.tokenizer, *sample) + self.closing for sample in samples]
        try:
            return self.encoder.tokenise(texts)
        except ValueError as error:
            ids = f"samples {rows['id'][0].as_py()!r} to {rows['id'][rows.num_rows - 1].as_py()!r}"
            raise EmbeddingError(f"embedding: {error} ({ids})") from error

    def _measured_budget(self, tokens: "Tokens") -> int:
        """The plan's measured budget; the first actor to measure decides it for all."""
        measured = self.attempt.plan(
            lambda: {"token_budget": self.encoder.measure_token_budget(tokens)}, given=self.given, name="token-budget"
        )
        return int(measured["token_budget"])

    def _stored(self, encoded: "Encoded", ids: pa.ChunkedArray) -> np.ndarray:
        """The vectors in the type they are stored in. `EmbeddingError` for what is not finite in it."""
        with np.errstate(over="ignore"):
            vectors = encoded.vectors.astype(self.settings.dtype)
        broken = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
        if len(broken):
            named = ", ".join(repr(ids[int(i)].as_py()) for i in broken[:5])
            raise EmbeddingError(
                f"the hidden states of {len(broken):,} samples are NaN or too large for embedding.dtype "
                f"{self.settings.dtype}: {named}"
            )
        return vectors

    def _table(self, rows: pa.Table, vectors: np.ndarray, encoded: "Encoded", hashes: list[int]) -> pa.Table:
        width = vectors.shape[1]
        columns = [
            rows["id"].combine_chunks(),
            rows["lang"].combine_chunks(),
            pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), width),
            pa.array(encoded.n_tokens),
            pa.array(encoded.truncated),
            *(rows[name].combine_chunks() for name in ("lang_raw", "task", "script")),
            pa.array(hashes, pa.uint64()),
        ]
        return pa.table(columns, schema=vectors_schema(width, self.settings.dtype))


def _hash(ids: np.ndarray) -> int:
    return int.from_bytes(hashlib.blake2b(ids.tobytes(), digest_size=8).digest())
