"""Shards of token rows: each covers a run of whole optimizer steps and is made from the order and the corpus alone."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raysel.seeding import draw
from raysel.store import Artifact, Attempt, ShardRecord
from raysel.tables import TOKENS
from raysel.training.examples import Example, instruction_example
from raysel.training.packing import first_fit_decreasing
from raysel.training.settings import TokenSettings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SHARD_SAMPLES = 2048
MOST_SHARDS = 64  # every shard's task reads the corpus once
NAMED_IDS = 20


@dataclass(frozen=True)
class Sample:
    position: int
    id: str
    lang: str
    example: Example


def total_steps(samples: int, data: TokenSettings) -> int:
    """Optimizer steps over `samples` samples and all epochs; the last one may be smaller."""
    return math.ceil(samples * data.epochs / data.batch_samples)


def choose_plan(steps: int, data: TokenSettings) -> dict[str, int]:
    """How many steps one shard covers: about `SHARD_SAMPLES` samples, more where that would make too many shards."""
    return {"steps_per_shard": max(1, SHARD_SAMPLES // data.batch_samples, math.ceil(steps / MOST_SHARDS))}


def write_token_shard(
    attempt: Attempt,
    plan: Mapping[str, int],
    index: int,
    order: Artifact,
    corpus: Artifact,
    tokenizer: "PreTrainedTokenizerBase",
    data: TokenSettings,
    *,
    packing: bool,
    learn_prompt: bool = False,
) -> ShardRecord:
    """Join the order's samples of shard `index` with their texts, tokenise, pack and write them.

    The shard's summary counts `tokens`, `samples` and `trained_tokens` (both by language too), `truncated` (the same)
    and `untrained` (samples left out since no token of them would be learned), and names a few of the latter.
    """
    first = index * plan["steps_per_shard"] * data.batch_samples
    last = min(first + plan["steps_per_shard"] * data.batch_samples, order.rows("order") * data.epochs)
    ids = _ids_at(order, np.arange(first, last))
    texts = _texts(corpus, set(ids))
    samples, untrained = [], []
    counts, trained_tokens, truncated = Counter[str](), Counter[str](), Counter[str]()
    for position, name in enumerate(ids, start=first):
        lang, prompt, response = texts[name]
        example = instruction_example(tokenizer, prompt, response, data.max_tokens, learn_prompt=learn_prompt)
        truncated[lang] += example.truncated
        if example.trained_tokens:
            samples.append(Sample(position, name, lang, example))
            counts[lang] += 1
            trained_tokens[lang] += example.trained_tokens
        else:
            untrained.append(name)
    rows = pack(samples, data, packing=packing)
    summary = {
        "first_step": first // data.batch_samples,
        "last_step": (last - 1) // data.batch_samples,
        "samples": len(samples),
        "tokens": sum(len(sample.example.input_ids) for sample in samples),
        "trained_tokens": trained_tokens.total(),
        "samples_by_lang": dict(sorted(counts.items())),
        "trained_tokens_by_lang": dict(sorted(trained_tokens.items())),
        "truncated": {lang: count for lang, count in sorted(truncated.items()) if count},
        "untrained": len(untrained),
        "untrained_ids": untrained[:NAMED_IDS],
    }
    return attempt.write_table("tokens", index, rows, plan=plan, summary=summary)


def write_heldout_shard(
    attempt: Attempt,
    plan: Mapping[str, int],
    corpus: Artifact,
    tokenizer: "PreTrainedTokenizerBase",
    data: TokenSettings,
    *,
    packing: bool,
) -> ShardRecord | None:
    """Up to `data.heldout_samples` held-out samples of each language, as the token rows of one step (`heldout_tokens`).

    Which they are depends on their ids alone. None where nothing is held out, or nothing of it has a token to learn.
    """
    by_lang: dict[str, list[tuple[float, str, str, str]]] = {}
    for shard in corpus.shards("heldout"):
        table = corpus.read_shard(shard, ["id", "lang", "prompt", "response"])
        columns = (table[name].to_pylist() for name in ("id", "lang", "prompt", "response"))
        for name, lang, prompt, response in zip(*columns, strict=True):
            by_lang.setdefault(lang, []).append((draw(0, f"heldout {name}"), name, prompt, response))
        by_lang = {lang: sorted(members)[: data.heldout_samples] for lang, members in by_lang.items()}
    samples: list[Sample] = []
    for lang, members in sorted(by_lang.items()):
        for _, name, prompt, response in members:
            example = instruction_example(tokenizer, prompt, response, data.max_tokens)
            if example.trained_tokens:
                samples.append(Sample(len(samples), name, lang, example))
    if not samples:
        return None
    rows = pack(samples, data.model_copy(update={"batch_samples": len(samples)}), packing=packing)
    summary = {"last_step": 0, "samples": len(samples), "langs": sorted({sample.lang for sample in samples})}
    return attempt.write_table("heldout_tokens", 0, rows, plan=plan, summary=summary)


def pack(samples: list[Sample], data: TokenSettings, *, packing: bool) -> pa.Table:
    """Samples (in order of position) as token rows in order of step; packing permutes within a step only."""
    steps: dict[int, list[Sample]] = {}
    for sample in samples:
        steps.setdefault(sample.position // data.batch_samples, []).append(sample)
    rows: list[dict[str, Any]] = []
    for step, members in steps.items():
        lengths = [len(sample.example.input_ids) for sample in members]
        bins = first_fit_decreasing(lengths, data.max_tokens) if packing else [[i] for i in range(len(members))]
        for chosen in bins:
            row = [members[i] for i in chosen]
            rows.append(
                {
                    "step": step,
                    "input_ids": np.concatenate([sample.example.input_ids for sample in row]),
                    "labels": np.concatenate([sample.example.labels for sample in row]),
                    "segment_lengths": [len(sample.example.input_ids) for sample in row],
                    "positions": [sample.position for sample in row],
                    "ids": [sample.id for sample in row],
                    "langs": [sample.lang for sample in row],
                }
            )
    return pa.Table.from_pylist(rows, schema=TOKENS)


def summarize(records: list[ShardRecord], steps: int, data: TokenSettings) -> dict[str, Any]:
    """The artifact's summary from its shards' ones; `row_fill` is the share of the rows' max_tokens places in use."""
    parts = [record.summary for record in records]
    by_lang = {
        name: sum((Counter(part[name]) for part in parts), Counter[str]())
        for name in ("samples_by_lang", "trained_tokens_by_lang", "truncated")
    }
    rows, tokens = sum(record.rows for record in records), sum(part["tokens"] for part in parts)
    return {
        "steps": steps,
        "rows": rows,
        "samples": sum(part["samples"] for part in parts),
        "tokens": tokens,
        "trained_tokens": sum(part["trained_tokens"] for part in parts),
        "row_fill": round(tokens / (rows * data.max_tokens), 4) if rows else 0.0,
        **{name: dict(sorted(counts.items())) for name, counts in by_lang.items()},
        "untrained": sum(part["untrained"] for part in parts),
        "untrained_ids": [name for part in parts for name in part["untrained_ids"]][:NAMED_IDS],
        "langs": sorted(by_lang["samples_by_lang"]),
    }


def _ids_at(order: Artifact, positions: np.ndarray) -> list[str]:
    """The sample ids at global `positions`; the order begins anew when it ends (the next epoch)."""
    wanted = positions % order.rows("order")
    first, last = (0, order.rows("order") - 1) if wanted[0] > wanted[-1] else (int(wanted[0]), int(wanted[-1]))
    if len(positions) >= order.rows("order"):
        first, last = 0, order.rows("order") - 1
    found = order.read("order", ["id", "position"], [("position", ">=", first), ("position", "<=", last)])
    names = dict(zip(found["position"].to_pylist(), found["id"].to_pylist(), strict=True))
    return [names[int(position)] for position in wanted]


def _texts(corpus: Artifact, ids: set[str]) -> dict[str, tuple[str, str, str]]:
    """(lang, prompt, response) of each id, read shard by shard."""
    texts: dict[str, tuple[str, str, str]] = {}
    wanted = pa.array(sorted(ids), pa.string())
    for shard in corpus.shards("corpus"):
        table = corpus.read_shard(shard, ["id", "lang", "prompt", "response"])
        table = table.filter(pc.is_in(table["id"], value_set=wanted))
        columns = (table[name].to_pylist() for name in ("id", "lang", "prompt", "response"))
        for name, lang, prompt, response in zip(*columns, strict=True):
            texts[name] = (lang, prompt, response)
    return texts
