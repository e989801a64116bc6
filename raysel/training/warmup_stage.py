"""Stage `warmup`: adapters trained on a random part of the corpus, kept with their moments after every epoch (LESS)."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from raysel.errors import UserError
from raysel.stage import StageOutput, StageRun
from raysel.store import Artifact, Attempt, ShardRecord
from raysel.tables import ORDER
from raysel.training.base_model_stage import unpublished
from raysel.training.loop import Training
from raysel.training.settings import TokenSettings, TrainingSettings, WarmupSettings
from raysel.training.token_shards import choose_plan, shard_starts, summarize, write_token_shard
from raysel.training.tokens_stage import TokenizerSource, read_config, refuse_beyond_positions
from raysel.training.worker_group_stage import train


class WarmupError(UserError):
    """A warm-up that leaves an epoch without anything to go by."""


def run(run: StageRun) -> StageOutput:
    """Write the checkpoint of each epoch (tables `checkpoint-<steps>`: safetensors with `weight/`, `exp_avg/` and
    `exp_avg_sq/` before each parameter's name), tables `adapter` and `log`.

    The summary has checkpoints: of each epoch its `table`, and the mean `learning_rate` of its steps.
    """
    settings: WarmupSettings = run.settings["warmup"]
    seed, trusted = run.settings["seed"], run.settings["trust_remote_code"]
    model = run.inputs.get("model") or str(Path(run.leaves["model"]).absolute())
    refuse_beyond_positions(read_config(model), settings.max_tokens, "selection.less.warmup.max_tokens")
    data = TokenSettings(max_tokens=settings.max_tokens, batch_samples=settings.batch_samples, heldout_samples=0)
    source = TokenizerSource(model, run.settings["template"], trusted)
    earlier = run.attempt.finished().get(("prepared", 0))
    made = earlier or run.cluster.run_task(prepare, run.attempt, run.inputs["corpus"], source, settings, data, seed)
    tokens = [ShardRecord(**record) for record in made.summary["records"]]
    steps = made.summary["steps"]
    per_epoch = steps // settings.epochs
    tokens_summary = summarize(tokens, steps, data)
    if not tokens_summary["samples"]:
        raise WarmupError(
            f"selection.less.warmup: none of the {made.summary['samples']:,} samples drawn has a token to learn within "
            f"max_tokens {settings.max_tokens}; raise it, or share"
        )
    training = Training(
        run.attempt,
        unpublished(run.attempt, tokens, tokens_summary),
        TrainingSettings(
            data=data,
            lora=settings.lora,
            learning_rate=settings.learning_rate,
            schedule="linear",
            dtype=settings.dtype,
            checkpoint_steps=per_epoch,
            # Of every epoch, whatever else asks for a checkpoint.
            checkpoints_kept=steps,
            workers=run.settings["workers"],
        ),
        seed,
        trust_remote_code=trusted,
    )
    output = train(run, training, model, model_table="model", template=run.settings["template"], table="adapter")
    records = list(output.records)
    log = next(record for record in records if record.table == "log")
    rates = {line["step"]: line["learning_rate"] for line in map(json.loads, run.attempt.read_bytes(log).splitlines())}
    checkpoints = list(_of_each_epoch(run.attempt, settings.epochs, per_epoch, rates))
    summary = {
        **output.summary,
        "samples": made.summary["samples"],
        "checkpoints": [{"table": epoch.parts[0].table, "learning_rate": epoch.learning_rate} for epoch in checkpoints],
    }
    return StageOutput([*records, *(part for epoch in checkpoints for part in epoch.parts)], summary)


@dataclass(frozen=True)
class _Epoch:
    parts: list[ShardRecord]
    learning_rate: float


def _of_each_epoch(attempt: Attempt, epochs: int, per_epoch: int, rates: dict[int, float]) -> Iterator[_Epoch]:
    whole = {
        found["steps"]: [ShardRecord(**part) for part in found["parts"]]
        for (table, _), record in attempt.finished().items()
        if table.startswith("checkpoint-") and record.path.endswith("/whole.json")
        for found in [json.loads(attempt.read_bytes(record))]
    }
    for epoch in range(epochs):
        own = [rates[step] for step in range(epoch * per_epoch, (epoch + 1) * per_epoch) if step in rates]
        parts = whole.get((epoch + 1) * per_epoch)
        if parts is None or not own:
            raise WarmupError(
                f"selection.less.warmup: the last step of epoch {epoch + 1} has no token to learn within max_tokens; "
                "raise max_tokens, share or batch_samples"
            )
        yield _Epoch(parts, float(np.mean(own)))


def prepare(
    attempt: Attempt,
    corpus: Artifact,
    source: TokenizerSource,
    settings: WarmupSettings,
    data: TokenSettings,
    seed: int,
) -> ShardRecord:
    """Ray task: draw the samples and write the token rows of all epochs; each epoch has an order of its own, and its
    last step may be smaller. The last file written, `prepared.json`, names the others."""
    rows = corpus.read("corpus", ["id", "lang", "task"])
    drawn = np.random.default_rng([seed, 5]).permutation(len(rows))[: max(1, round(settings.share * len(rows)))]
    order = attempt.write_table("order", 0, _order(rows, drawn, settings.epochs, seed))
    count = len(drawn)
    firsts = np.concatenate(
        [epoch * count + np.arange(0, count, data.batch_samples) for epoch in range(settings.epochs)]
    )
    starts = np.append(firsts, settings.epochs * count)
    plan, steps = choose_plan(starts), len(firsts)
    tokenizer = source.tokenizer()
    shards = [
        write_token_shard(
            attempt,
            plan,
            index,
            shard_starts(starts, plan, index),
            unpublished(attempt, [order]),
            corpus,
            tokenizer,
            data,
            packing=False,
        )
        for index in range(-(-steps // plan["steps_per_shard"]))
    ]
    summary = {"records": [asdict(shard) for shard in shards], "steps": steps, "samples": count}
    return attempt.write_file("prepared", 0, "prepared.json", b"{}", summary=summary)


def _order(rows: pa.Table, drawn: np.ndarray, epochs: int, seed: int) -> pa.Table:
    shuffles = [np.random.default_rng([seed, 5, epoch]).permutation(drawn) for epoch in range(epochs)]
    chosen = rows.take(pa.array(np.concatenate(shuffles)))
    samples = chosen.num_rows
    columns = [chosen["id"], np.arange(samples), chosen["lang"], chosen["task"], pa.nulls(samples, pa.int64())]
    return pa.table(dict(zip(ORDER.names, columns, strict=True)), schema=ORDER)
