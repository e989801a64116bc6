"""Stage `tokens`: the ordered samples, templated, tokenised, masked and packed, as rows ready to train on."""

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from raysel.errors import UserError
from raysel.models.loading import load_tokenizer
from raysel.stage import StageOutput, StageRun
from raysel.store import Artifact, Attempt, ShardRecord
from raysel.training.packing import PACKABLE_MODEL_TYPES
from raysel.training.settings import TokenSettings
from raysel.training.token_shards import (
    MOST_SHARDS,
    SHARD_SAMPLES,
    choose_plan,
    count_tokens,
    even_steps,
    shard_starts,
    steps_by_tokens,
    summarize,
    write_heldout_shard,
    write_token_shard,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class TokenError(UserError):
    """Samples that cannot be made into token rows as asked."""


def run(run: StageRun) -> StageOutput:
    """Write table `tokens` (`tables.TOKENS`), one Ray task per shard; and `heldout_tokens`, where any are held out."""
    data: TokenSettings = run.settings["data"]
    template: str = run.settings["template"]
    order, corpus = run.inputs["order"], run.inputs["corpus"]
    model: Artifact | str = run.inputs.get("model") or str(Path(run.leaves["model"]).absolute())
    if not order.rows("order"):
        raise TokenError("no sample is left to train on: the order of training is empty")
    config = read_config(model)
    longest = config.get("max_position_embeddings")
    if longest is not None and data.max_tokens > longest:
        raise TokenError(
            f"training.data.max_tokens {data.max_tokens} is more than the model's {longest} positions; "
            f"set it to at most {longest}"
        )
    packing = data.packing and config.get("model_type") in PACKABLE_MODEL_TYPES
    source = TokenizerSource(model, template, run.settings["trust_remote_code"])
    if data.batch_tokens is None:
        starts = even_steps(order.rows("order"), data)
    else:
        starts = _starts_by_tokens(run, order, corpus, source, data)
    steps = len(starts) - 1
    plan = run.attempt.plan(lambda: choose_plan(starts))
    finished = run.attempt.finished(plan)
    shards = -(-steps // plan["steps_per_shard"])
    done = {index: finished["tokens", index] for index in range(shards) if ("tokens", index) in finished}
    missing = [index for index in range(shards) if index not in done]
    items = [
        (run.attempt, plan, index, shard_starts(starts, plan, index), order, corpus, source, data, packing)
        for index in missing
    ]
    heldout = finished.get(("heldout_tokens", 0))
    if heldout is None and data.heldout_samples and corpus.shards("heldout"):
        heldout = run.cluster.run_task(_write_heldout, run.attempt, plan, corpus, source, data, packing)
    with run.progress.track(shards, "shards", done=len(done)) as tracker:
        for at, record in run.cluster.map_tasks(_write_shard, items):
            done[missing[at]] = record
            tracker.advance(1)
    records = [done[index] for index in range(shards)]
    summary = summarize(records, steps, data) | {"packing": packing, "template": template}
    summary["warnings"] = _warnings(summary, data, packing, config.get("model_type", "unknown"))
    if not summary["samples"]:
        raise TokenError(
            f"no sample has a token to learn within training.data.max_tokens {data.max_tokens}: "
            "the prompts alone fill it"
        )
    return StageOutput([*records, heldout] if heldout else records, summary)


def read_config(model: Artifact | str) -> dict:
    """The `config.json` of a model artifact or of a local folder."""
    if isinstance(model, str):
        return json.loads((Path(model) / "config.json").read_text())
    [shard] = [shard for shard in model.shards("model") if shard.path.endswith("/config.json")]
    return json.loads(model.store.read_bytes(f"{model.address}/{shard.path}"))


@dataclass(frozen=True)
class TokenizerSource:
    """The tokenizer of a model artifact or of a local folder, with a chat template."""

    model: Artifact | str
    template: str
    trust_remote_code: bool

    def tokenizer(self) -> "PreTrainedTokenizerBase":
        with tempfile.TemporaryDirectory() as scratch:
            folder = self.model if isinstance(self.model, str) else self.model.local_folder("model", Path(scratch))
            return load_tokenizer(folder, self.template, trust_remote_code=self.trust_remote_code)


def _starts_by_tokens(
    run: StageRun, order: Artifact, corpus: Artifact, source: TokenizerSource, data: TokenSettings
) -> np.ndarray:
    """Where the steps begin, from the tokens of every sample, which Ray tasks count first."""
    samples = order.rows("order")
    size = max(SHARD_SAMPLES, -(-samples // MOST_SHARDS))
    finished = run.attempt.finished()
    if ("step_starts", 0) not in finished:
        ranges = {index: (first, min(first + size, samples)) for index, first in enumerate(range(0, samples, size))}
        counted = {index: finished["counts", index] for index in ranges if ("counts", index) in finished}
        missing = [index for index in ranges if index not in counted]
        items = [(run.attempt, index, order, corpus, source, data, *ranges[index]) for index in missing]
        with run.progress.track(len(ranges), "ranges counted", done=len(counted)) as tracker:
            for at, record in run.cluster.map_tasks(_count, items):
                counted[missing[at]] = record
                tracker.advance(1)
        records = [counted[index] for index in ranges]
        how = (data.batch_tokens, data.epochs)
        finished["step_starts", 0] = run.cluster.run_task(_write_starts, run.attempt, records, *how)
    return run.attempt.read_array(finished["step_starts", 0])


def _count(
    attempt: Attempt,
    index: int,
    order: Artifact,
    corpus: Artifact,
    source: TokenizerSource,
    data: TokenSettings,
    first: int,
    last: int,
) -> ShardRecord:
    return attempt.write_array("counts", index, count_tokens(order, corpus, source.tokenizer(), data, first, last))


def _write_starts(attempt: Attempt, counts: list[ShardRecord], batch_tokens: int, epochs: int) -> ShardRecord:
    lengths = np.concatenate([attempt.read_array(record) for record in counts])
    return attempt.write_array("step_starts", 0, steps_by_tokens(lengths, batch_tokens, epochs))


def _write_shard(
    attempt: Attempt,
    plan: dict[str, int],
    index: int,
    starts: np.ndarray,
    order: Artifact,
    corpus: Artifact,
    source: TokenizerSource,
    data: TokenSettings,
    packing: bool,
) -> ShardRecord:
    return write_token_shard(attempt, plan, index, starts, order, corpus, source.tokenizer(), data, packing=packing)


def _write_heldout(
    attempt: Attempt,
    plan: dict[str, int],
    corpus: Artifact,
    source: TokenizerSource,
    data: TokenSettings,
    packing: bool,
) -> ShardRecord | None:
    return write_heldout_shard(attempt, plan, corpus, source.tokenizer(), data, packing=packing)


def _warnings(summary: dict, data: TokenSettings, packing: bool, model_type: str) -> list[str]:
    warnings = []
    if summary["truncated"]:
        counts = ", ".join(f"{lang} {count}" for lang, count in summary["truncated"].items())
        warnings.append(f"samples cut at training.data.max_tokens {data.max_tokens}: {counts}")
    if summary["untrained"]:
        named = ", ".join(summary["untrained_ids"][:5])
        warnings.append(
            f"{summary['untrained']} samples have no token to learn within training.data.max_tokens "
            f"{data.max_tokens} and are left out, e.g. {named}"
        )
    if data.packing and not packing:
        warnings.append(
            f"training.data.packing has no effect: the attention of {model_type} cannot keep packed samples apart"
        )
    return warnings
