"""Stage `base_model`: a small language model made from nothing but the corpus."""

import json
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa

from raysel.models.loading import load_tokenizer
from raysel.models.settings import BaseModelSettings
from raysel.stage import StageOutput, StageRun
from raysel.store import Artifact, Attempt, ShardRecord
from raysel.tables import ORDER
from raysel.training.base_model import save_random_llama, train_tokenizer
from raysel.training.loop import Training
from raysel.training.settings import TokenSettings, TrainingSettings
from raysel.training.token_shards import choose_plan, even_steps, shard_starts, summarize, write_token_shard
from raysel.training.worker_group_stage import train


def run(run: StageRun) -> StageOutput:
    """Write table `model` (a Hugging Face folder) and table `log`."""
    base: BaseModelSettings = run.settings["base"]
    seed, corpus = run.settings["seed"], run.inputs["corpus"]
    data = TokenSettings(max_tokens=base.context, batch_samples=base.batch_samples)
    earlier = run.attempt.finished().get(("prepared", 0))
    made = earlier or run.cluster.run_task(prepare, run.attempt, corpus, base, data, seed)
    records = [ShardRecord(**record) for record in made.summary["records"]]
    prepared = run.attempt.unpublished(records)
    tokens = [record for record in records if record.table == "tokens"]
    summary = summarize(tokens, base.steps, data)
    training = Training(
        run.attempt,
        run.attempt.unpublished(tokens, summary),
        TrainingSettings(
            data=data,
            method="full",
            learning_rate=base.learning_rate,
            warmup_share=0.1,
            weight_decay=0.1,
            zero=0,
            workers=run.settings["workers"],
            cpus_per_worker=run.settings["cpus_per_worker"],
        ),
        seed,
        trust_remote_code=False,
        section="model.base",
    )
    output = train(run, training, prepared, model_table="start", template="auto", table="model")
    sizes = {key: summary[key] for key in ("samples", "tokens")}
    return StageOutput(output.records, {**output.summary, **sizes})


def prepare(attempt: Attempt, corpus: Artifact, base: BaseModelSettings, data: TokenSettings, seed: int) -> ShardRecord:
    """Ray task: the tokenizer and random model (table `start`), the order, and the token rows of all steps.

    The last file written, `prepared.json`, names the others: a later attempt starts from them.
    """
    with tempfile.TemporaryDirectory() as folder:
        made = train_tokenizer(_texts(corpus), base.vocabulary, base.context)
        save_random_llama(made, base, seed, Path(folder))
        start = attempt.write_folder("start", Path(folder))
        tokenizer = load_tokenizer(folder)
    samples = base.steps * base.batch_samples
    order = attempt.write_table("order", 0, _order(corpus, samples, seed))
    starts = even_steps(samples, data)
    plan = choose_plan(starts)
    shards = [
        write_token_shard(
            attempt,
            plan,
            index,
            shard_starts(starts, plan, index),
            attempt.unpublished([order]),
            corpus,
            tokenizer,
            data,
            packing=True,
            learn_prompt=True,
        )
        for index in range(-(-base.steps // plan["steps_per_shard"]))
    ]
    records = [asdict(record) for record in (*start, *shards)]
    return attempt.write_file("prepared", 0, "prepared.json", b"{}", summary={"records": records})


def _texts(corpus: Artifact) -> Iterator[str]:
    for shard in corpus.shards("corpus"):
        table = corpus.read_shard(shard, ["prompt", "response", "history"])
        for name in ("prompt", "response"):
            yield from table[name].to_pylist()
        for history in table["history"].drop_null().to_pylist():
            yield from (message["content"] for message in json.loads(history))


def _order(corpus: Artifact, samples: int, seed: int) -> pa.Table:
    """The corpus shuffled anew as often as it takes, the first `samples` of it."""
    rows = corpus.read("corpus", ["id", "lang", "task"])
    draw = np.random.default_rng(seed)
    shuffles = [draw.permutation(len(rows)) for _ in range(-(-samples // len(rows)))]
    chosen = rows.take(pa.array(np.concatenate(shuffles)[:samples]))
    columns = [chosen["id"], np.arange(samples), chosen["lang"], chosen["task"], pa.nulls(samples, pa.int64())]
    return pa.table(dict(zip(ORDER.names, columns, strict=True)), schema=ORDER)
