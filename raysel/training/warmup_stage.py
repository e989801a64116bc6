"""Stage `warmup`: adapters trained on a random part of the corpus, kept with their moments after every epoch (LESS)."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raysel.errors import UserError
from raysel.languages.codes import normalise
from raysel.models.loading import decoder_start
from raysel.stage import StageOutput, StageRun
from raysel.store import Artifact, Attempt, ShardRecord
from raysel.training.loop import Training
from raysel.training.settings import TokenSettings, TrainingSettings, WarmupSettings, warmup_training
from raysel.training.token_shards import (
    TEXT_COLUMNS,
    Sample,
    choose_plan,
    learnable,
    make_example,
    pack,
    shard_starts,
    summarize,
)
from raysel.training.tokenizer_source import TokenizerSource, read_config, refuse_beyond_positions
from raysel.training.worker_group_stage import train

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SECTION = "selection.less.warmup"


class WarmupError(UserError):
    """A warm-up that has nothing to learn."""


def run(run: StageRun) -> StageOutput:
    """Write the checkpoint of each epoch (tables `checkpoint-<steps>`: safetensors with `weight/`, `exp_avg/` and
    `exp_avg_sq/` before each parameter's name), tables `adapter` and `log`.

    The setting `training` says how the workers run. The summary has samples (drawn), untrained (of them, left out: no
    token to learn) and checkpoints: of each epoch its `table`, and the mean `learning_rate` of its steps.
    """
    settings: WarmupSettings = run.settings["warmup"]
    workers: TrainingSettings = run.settings["training"]
    seed, trusted = run.settings["seed"], run.settings["trust_remote_code"]
    unseen = sorted(normalise(name) for name in run.settings["unseen"])
    model = run.inputs.get("model") or str(Path(run.leaves["model"]).absolute())
    config = read_config(model)
    refuse_beyond_positions(config, settings.max_tokens, f"{SECTION}.max_tokens")
    start = decoder_start(config)
    as_training = warmup_training(settings, workers)
    data = as_training.data
    source = TokenizerSource(model, run.settings["template"], trusted)
    made = run.attempt.finished().get(("prepared", 0))
    if made is None:
        given = (run.inputs["corpus"], source, settings, data, unseen, seed, start)
        made = run.cluster.run_task(prepare, run.attempt, *given)
    tokens = [ShardRecord(**record) for record in made.summary["records"]]
    if not tokens:
        apart = f" without the languages of mixture.unseen ({', '.join(unseen)})" if unseen else ""
        raise WarmupError(
            f"{SECTION}: none of the {made.summary['samples']:,} samples drawn from the corpus{apart} has a token to "
            f"learn within max_tokens {settings.max_tokens}; raise it, or share"
        )
    steps = made.summary["steps"]
    per_epoch = steps // settings.epochs
    training = Training(
        run.attempt,
        run.attempt.unpublished(tokens, summarize(tokens, steps, data, has_encoder=start is not None)),
        # Of every epoch, whatever else asks for a checkpoint.
        as_training.model_copy(update={"checkpoint_steps": per_epoch, "checkpoints_kept": steps}),
        seed,
        trust_remote_code=trusted,
        section=SECTION,
    )
    output = train(run, training, model, model_table="model", template=run.settings["template"], table="adapter")
    records = list(output.records)
    log = next(record for record in records if record.table == "log")
    rates = [line["learning_rate"] for line in map(json.loads, run.attempt.read_bytes(log).splitlines())]
    checkpoints = list(_of_each_epoch(run.attempt, rates, per_epoch))
    untrained = made.summary["untrained"]
    summary = {
        **output.summary,
        "samples": made.summary["samples"],
        "untrained": untrained,
        "checkpoints": [{"table": epoch.parts[0].table, "learning_rate": epoch.learning_rate} for epoch in checkpoints],
        "warnings": [f"{untrained:,} samples have no token to learn within {SECTION}.max_tokens and are left out"]
        if untrained
        else [],
    }
    return StageOutput([*records, *(part for epoch in checkpoints for part in epoch.parts)], summary)


@dataclass(frozen=True)
class _Epoch:
    parts: list[ShardRecord]
    learning_rate: float


def _of_each_epoch(attempt: Attempt, rates: list[float], per_epoch: int) -> Iterator[_Epoch]:
    """rates: of every step."""
    whole = {
        found["steps"]: [ShardRecord(**part) for part in found["parts"]]
        for (table, _), record in attempt.finished().items()
        if table.startswith("checkpoint-") and record.path.endswith("/whole.json")
        for found in [json.loads(attempt.read_bytes(record))]
    }
    for end in range(per_epoch, len(rates) + 1, per_epoch):
        yield _Epoch(whole[end], float(np.mean(rates[end - per_epoch : end])))


def prepare(
    attempt: Attempt,
    corpus: Artifact,
    source: TokenizerSource,
    settings: WarmupSettings,
    data: TokenSettings,
    unseen: list[str],
    seed: int,
    start: int | None = None,
) -> ShardRecord:
    """Ray task: draw the samples, none of the languages `unseen`, and write the token rows of all epochs.

    Each epoch goes through all that have a token to learn, in an order of its own, and its last step may be smaller.
    The last file written, `prepared.json`, names the others. The tokens of all samples drawn are in memory.
    """
    langs = corpus.read("corpus", ["lang"])["lang"]
    seen = np.flatnonzero(~pc.is_in(langs, value_set=pa.array(unseen, pa.string())).to_numpy())
    count = min(len(seen), max(1, round(settings.share * len(seen))))
    drawn = np.sort(np.random.default_rng([seed, 5]).permutation(seen)[:count])
    kept, counted = learnable(list(_samples(corpus, drawn, source.tokenizer(), data, start)))
    shards = _write_epochs(attempt, kept, settings.epochs, data, seed) if kept else []
    summary = {
        "records": [asdict(shard) for shard in shards],
        "steps": settings.epochs * -(-len(kept) // data.batch_samples),
        "samples": count,
        "untrained": counted["untrained"],
    }
    return attempt.write_file("prepared", 0, "prepared.json", b"{}", summary=summary)


def _samples(
    corpus: Artifact, drawn: np.ndarray, tokenizer: "PreTrainedTokenizerBase", data: TokenSettings, start: int | None
) -> Iterator[Sample]:
    """The rows numbered `drawn`, in order, read shard by shard."""
    first = 0
    for shard in corpus.shards("corpus"):
        own = drawn[(drawn >= first) & (drawn < first + shard.rows)] - first
        first += shard.rows
        if len(own):
            for row in corpus.read_shard(shard, [*TEXT_COLUMNS, "task"]).take(pa.array(own)).to_pylist():
                example = make_example(tokenizer, row, data, decoder_start=start)
                yield Sample(0, row["id"], row["lang"], row["task"], None, example)


def _write_epochs(
    attempt: Attempt, samples: list[Sample], epochs: int, data: TokenSettings, seed: int
) -> list[ShardRecord]:
    count = len(samples)
    order = np.concatenate([np.random.default_rng([seed, 5, epoch]).permutation(count) for epoch in range(epochs)])
    firsts = np.concatenate([epoch * count + np.arange(0, count, data.batch_samples) for epoch in range(epochs)])
    starts = np.append(firsts, epochs * count)
    plan, records = choose_plan(starts), []
    for index in range(-(-len(firsts) // plan["steps_per_shard"])):
        own, first_step = shard_starts(starts, plan, index), index * plan["steps_per_shard"]
        placed = [replace(samples[order[position]], position=position) for position in range(own[0], own[-1])]
        rows = pack(placed, own, data.max_tokens, packing=False, first_step=first_step)
        summary = {"first_step": first_step, "last_step": first_step + len(own) - 2, **learnable(placed)[1]}
        records.append(attempt.write_table("tokens", index, rows, plan=plan, summary=summary))
    return records
