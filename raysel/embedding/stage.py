"""Stage `vectors`: a pool of Ray Data actors, each with the model loaded once, embeds the corpus shard by shard.

An actor reads the rows it needs, writes its shard itself and returns counts only, so the memory of the stage does not
grow with the corpus.
"""

import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from raysel.embedding.encoder import DEFAULT_TOKEN_BUDGET, LastTokenEncoder
from raysel.embedding.settings import EmbeddingSettings
from raysel.errors import UserError
from raysel.models.loading import load_encoder, load_tokenizer
from raysel.models.settings import ModelSettings
from raysel.models.templates import sample_text
from raysel.stage import StageOutput, StageRun
from raysel.store import Artifact, Attempt
from raysel.tables import vectors_schema


class EmbeddingError(UserError):
    """A model that gives no usable vectors."""


def run(run: StageRun) -> StageOutput:
    settings: EmbeddingSettings = run.settings["embedding"]
    model: ModelSettings = run.settings["model"]
    corpus = run.inputs["corpus"]
    device = "cuda" if run.cluster.gpus() else "cpu"
    plan = run.attempt.plan(
        lambda: {
            "token_budget": settings.token_budget or DEFAULT_TOKEN_BUDGET[device],
            "shard_rows": settings.shard_rows,
            # A run begun on GPUs and continued without must not mix the two.
            "compute_dtype": "bfloat16" if device == "cuda" else "float32",
        },
        given={"token_budget": settings.token_budget, "shard_rows": settings.shard_rows},
    )
    pieces = [
        {"index": index, "shard": shard, "start": start}
        for index, (shard, start) in enumerate(
            (shard, start)
            for shard, record in enumerate(corpus.shards("corpus"))
            for start in range(0, record.rows, plan["shard_rows"])
        )
    ]
    finished = run.attempt.finished(plan)
    todo = [piece for piece in pieces if ("vectors", piece["index"]) not in finished]
    if todo:
        workers = min(settings.workers or max(1, run.cluster.gpus() or run.cluster.cpus()), len(todo))
        arguments = {
            "settings": settings,
            "model_settings": model,
            "model": run.inputs.get("model") or run.leaves["model"],
            "corpus": corpus,
            "attempt": run.attempt,
            "plan": plan,
            "device": device,
        }
        rows = corpus.rows("corpus")
        done = sum(record.rows for record in finished.values())
        with run.progress.track(rows, "rows", done=done) as tracker:
            for counts in run.cluster.map_actors(
                Embedder, arguments, todo, workers=workers, num_cpus=1, num_gpus=1 if device == "cuda" else 0
            ):
                tracker.advance(counts["rows"], f"{counts['tokens']:,} tokens in a shard")
        finished = run.attempt.finished(plan)
    records = [finished["vectors", piece["index"]] for piece in pieces]
    languages, tokens, truncated = Counter[str](), 0, Counter[str]()
    for record in records:
        languages.update(record.summary["languages"])
        truncated.update(record.summary["truncated"])
        tokens += record.summary["tokens"]
    warnings = []
    if truncated:
        share = ", ".join(f"{lang} {count / languages[lang]:.1%}" for lang, count in truncated.most_common(8))
        warnings.append(f"samples cut at {settings.max_tokens} tokens, by language: {share}")
    return StageOutput(
        records,
        {
            "languages": dict(sorted(languages.items())),
            "width": records[0].summary["width"],
            "tokens": tokens,
            "truncated": dict(sorted(truncated.items())),
            "token_budget": plan["token_budget"],
            "warnings": warnings,
        },
    )


class Embedder:
    """Ray Data actor: loads the model once, then turns pieces of the corpus into published shards."""

    def __init__(
        self,
        settings: EmbeddingSettings,
        model_settings: ModelSettings,
        model: Artifact | str,
        corpus: Artifact,
        attempt: Attempt,
        plan: dict[str, Any],
        device: str,
    ) -> None:
        import torch

        # One thread each: the same bits whatever the number of actors or cores.
        torch.set_num_threads(1)
        self.settings, self.corpus, self.attempt, self.plan = settings, corpus, attempt, plan
        with tempfile.TemporaryDirectory() as scratch:
            folder = model.local_folder("model", Path(scratch)) if isinstance(model, Artifact) else model
            trusted = model_settings.trust_remote_code
            self.tokenizer = load_tokenizer(folder, model_settings.template, trust_remote_code=trusted)
            encoder = load_encoder(folder, dtype=plan["compute_dtype"], trust_remote_code=trusted)
            try:
                self.encoder = LastTokenEncoder(
                    encoder,
                    self.tokenizer,
                    max_tokens=settings.max_tokens,
                    layer=settings.layer,
                    token_budget=plan["token_budget"],
                    device=device,
                )
            except ValueError as error:
                raise EmbeddingError(f"embedding.{error}") from error

    def process(self, piece: dict[str, Any]) -> dict[str, Any]:
        shard = self.corpus.shards("corpus")[piece["shard"]]
        rows = self.corpus.read_shard(shard, ["id", "lang", "prompt", "response", "lang_raw", "task", "script"])
        rows = rows.slice(piece["start"], self.plan["shard_rows"])
        pairs = zip(rows["prompt"].to_pylist(), rows["response"].to_pylist(), strict=True)
        encoded = self.encoder.encode_with_lengths([sample_text(self.tokenizer, *pair) for pair in pairs])
        with np.errstate(over="ignore"):
            vectors = encoded.vectors.astype(self.settings.dtype)
        broken = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
        if len(broken):
            ids = ", ".join(repr(rows["id"][int(i)].as_py()) for i in broken[:5])
            raise EmbeddingError(
                f"the hidden states of {len(broken):,} samples are NaN or too large for embedding.dtype "
                f"{self.settings.dtype}: {ids}"
            )
        width = vectors.shape[1]
        schema = vectors_schema(width, self.settings.dtype)
        flat = pa.array(vectors.reshape(-1))
        columns = [
            rows["id"].combine_chunks(),
            rows["lang"].combine_chunks(),
            pa.FixedSizeListArray.from_arrays(flat, width),
            pa.array(encoded.n_tokens),
            pa.array(encoded.truncated),
            *(rows[name].combine_chunks() for name in ("lang_raw", "task", "script")),
        ]
        langs = rows["lang"].to_pylist()
        summary = {
            "languages": dict(Counter(langs)),
            "truncated": dict(Counter(lang for lang, cut in zip(langs, encoded.truncated, strict=True) if cut)),
            "tokens": int(encoded.n_tokens.sum()),
            "width": width,
        }
        table = pa.table(columns, schema=schema)
        self.attempt.write_table("vectors", piece["index"], table, plan=self.plan, summary=summary)
        return {"rows": len(langs), "tokens": summary["tokens"]}
