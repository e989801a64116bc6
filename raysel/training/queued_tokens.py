"""Tokens without steps, for a loss-aware curriculum: the samples of each level in a queue, and the steps made of them
while training goes on."""

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raysel.mixture.loss_aware import RecentLosses, next_block
from raysel.store import Artifact, Attempt, ShardRecord
from raysel.tables import QUEUED_TOKENS, SOURCE_IDS, TRAINED_ORDER
from raysel.training.batches import Step
from raysel.training.examples import Example
from raysel.training.settings import TokenSettings
from raysel.training.token_shards import Sample, learnable, make_example, read_texts, token_rows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def write_queued_shard(
    attempt: Attempt,
    index: int,
    places: tuple[int, int],
    order: Artifact,
    corpus: Artifact,
    tokenizer: "PreTrainedTokenizerBase",
    data: TokenSettings,
    *,
    decoder_start: int | None = None,
) -> ShardRecord:
    """Tokenise the samples from the first of `places` to before the second, a row each (table `queued_tokens`).

    The shard's summary counts as that of `write_token_shard` does, and `samples_by_level`.
    """
    columns = ["place", "id", "task", "level"]
    queued = order.read("queues", columns, [("place", ">=", places[0]), ("place", "<", places[1])]).sort_by("place")
    rows = list(zip(*(queued[name].to_pylist() for name in columns), strict=True))
    texts = read_texts(corpus, {name for _, name, _, _ in rows})
    samples, counted = learnable(
        [
            Sample(
                place,
                name,
                texts[name]["lang"],
                task,
                level,
                make_example(tokenizer, texts[name], data, decoder_start=decoder_start),
            )
            for place, name, task, level in rows
        ]
    )
    levels, counts = np.unique([sample.level for sample in samples], return_counts=True)
    summary = {**counted, "samples_by_level": dict(zip(map(str, levels.tolist()), counts.tolist(), strict=True))}
    written = {
        "place": [sample.position for sample in samples],
        "id": [sample.id for sample in samples],
        "lang": [sample.lang for sample in samples],
        "task": [sample.task for sample in samples],
        "level": [sample.level for sample in samples],
        "input_ids": [sample.example.input_ids for sample in samples],
        "labels": [sample.example.labels for sample in samples],
    }
    schema = QUEUED_TOKENS
    if decoder_start is not None:
        schema = schema.append(SOURCE_IDS)
        written[SOURCE_IDS.name] = [sample.example.source_ids for sample in samples]
    return attempt.write_table("queued_tokens", index, pa.table(written, schema=schema), summary=summary)


def steps_by_loss(tokens: Artifact, log: list[dict[str, Any]]) -> Iterator[Step]:
    """The steps that follow those in `log`, to which each step's line must be added before the next one is asked for.

    The samples of an epoch are those of all queues; a level's next ones are the next in its queue. The steps have
    batch_samples each, the very last one may have fewer, and their positions count on.
    """
    how = tokens.summary
    batch, chooser, begun = how["batch_samples"], how["loss_aware"], len(log)
    sizes = {int(level): count for level, count in how["samples_by_level"].items()}
    recent, taken = RecentLosses(chooser["memory"]), dict.fromkeys(sizes, 0)
    queues: dict[int, Iterator[Sample]] = {}
    unplanned = sum(sizes.values()) * how["epochs"]
    left, position, step = dict(sizes), 0, 0
    while unplanned:
        levels: list[int] = []
        size = min(chooser["block_steps"] * batch, unplanned)
        while len(levels) < size:
            left = left if any(left.values()) else dict(sizes)
            part = next_block(left, recent, size - len(levels), strength=chooser["strength"])
            for level in part:
                left[level] -= 1
            levels += part
        unplanned -= size
        first = step
        for start in range(0, size, batch):
            chosen = levels[start : start + batch]
            if step >= begun:
                for level in set(chosen) - queues.keys():
                    queues[level] = _queue(tokens, level, taken[level] % sizes[level])
                members = [_placed(next(queues[level]), position + i) for i, level in enumerate(chosen)]
                shape = {"packing": how["packing"], "levels_apart": True}
                yield Step(step, token_rows(step, members, how["max_tokens"], **shape))
            for level in chosen:
                taken[level] += 1
            position += len(chosen)
            step += 1
        recent.add_block(_losses(line) for line in log[first:step])


def _losses(line: Mapping[str, Any]) -> dict[int, float]:
    return {int(level): loss for level, loss in line["loss_by_level"].items() if loss is not None}


def _placed(sample: Sample, position: int) -> Sample:
    return Sample(position, sample.id, sample.lang, sample.task, sample.level, sample.example)


def _queue(tokens: Artifact, level: int, start: int) -> Iterator[Sample]:
    """The samples of a level from number `start` on; at the end they begin anew. A shard is in memory at a time."""
    while True:
        for shard in tokens.shards("queued_tokens"):
            here = shard.summary["samples_by_level"].get(str(level), 0)
            if start >= here:
                start -= here
                continue
            table = tokens.read_shard(shard)
            yield from islice(_samples(table.filter(pc.equal(table["level"], level))), start, None)
            start = 0


def _samples(table: pa.Table) -> Iterator[Sample]:
    arrays = [table[name].to_numpy(zero_copy_only=False) for name in ("input_ids", "labels")]
    has_encoder = SOURCE_IDS.name in table.column_names
    sources = table[SOURCE_IDS.name].to_numpy(zero_copy_only=False) if has_encoder else [None] * table.num_rows
    names = ("place", "id", "lang", "task", "level")
    for input_ids, labels, source_ids, place, name, lang, task, level in zip(
        *arrays, sources, *(table[name].to_pylist() for name in names), strict=True
    ):
        yield Sample(place, name, lang, task, level, Example(input_ids, labels, False, source_ids))


def trained_order(tokens: Artifact, log: list[dict[str, Any]]) -> pa.Table:
    """What was trained on at each position (`tables.TRAINED_ORDER`), from the `ids` and `levels` of the log's lines."""
    names = ["id", "lang", "task"]
    tables = [tokens.read_shard(shard, names) for shard in tokens.shards("queued_tokens")]
    facts = {row["id"]: row for table in tables for row in table.to_pylist()}
    rows = [
        {**facts[identity], "level": level, "position": position, "step": line["step"]}
        for line in log
        for position, identity, level in zip(line["positions"], line["ids"], line["levels"], strict=True)
    ]
    return pa.Table.from_pylist(rows, schema=TRAINED_ORDER)
