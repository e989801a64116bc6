"""Shards of token rows: each covers a run of whole optimizer steps and is made from the order and the corpus alone."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raysel.corpus.heldout import drawn_first
from raysel.store import Artifact, Attempt, ShardRecord
from raysel.tables import SOURCE_IDS, TOKENS
from raysel.training.examples import Example, instruction_example
from raysel.training.packing import first_fit_decreasing
from raysel.training.settings import TokenSettings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SHARD_SAMPLES = 2048
MOST_SHARDS = 64  # every shard's task reads the corpus once
NAMED_IDS = 20
TEXT_COLUMNS = ["id", "lang", "prompt", "response", "history"]


@dataclass(frozen=True)
class Sample:
    position: int
    id: str
    lang: str
    task: str | None
    level: int | None
    example: Example


def even_steps(samples: int, data: TokenSettings) -> np.ndarray:
    """The first position of each optimizer step over `samples` samples and all epochs, and behind the last the end.

    Every step has `data.batch_samples` samples, the last one may have fewer. int64 (steps + 1,).
    """
    end = samples * data.epochs
    return np.append(np.arange(0, end, data.batch_samples), end)


def steps_by_tokens(lengths: np.ndarray, batch_tokens: int, epochs: int) -> np.ndarray:
    """As `even_steps`; each step takes the next samples as long as they have at most `batch_tokens` tokens.

    lengths: the tokens of each sample of one epoch, int (n,), none over `batch_tokens`.
    """
    ends = np.cumsum(np.tile(lengths, epochs), dtype=np.int64)
    starts = [0]
    while starts[-1] < len(ends):
        before = ends[starts[-1] - 1] if starts[-1] else 0
        starts.append(int(np.searchsorted(ends, before + batch_tokens, side="right")))
    return np.array(starts)


def choose_plan(starts: np.ndarray) -> dict[str, int]:
    """How many steps one shard covers: about `SHARD_SAMPLES` samples, more where that would make too many shards."""
    steps, samples = len(starts) - 1, int(starts[-1])
    return {"steps_per_shard": max(1, SHARD_SAMPLES * steps // samples, math.ceil(steps / MOST_SHARDS))}


def shard_starts(starts: np.ndarray, plan: Mapping[str, int], index: int) -> np.ndarray:
    """The part of `starts` that shard `index` covers, and the end of its last step."""
    per = plan["steps_per_shard"]
    return starts[index * per : (index + 1) * per + 1]


def count_tokens(
    order: Artifact,
    corpus: Artifact,
    tokenizer: "PreTrainedTokenizerBase",
    data: TokenSettings,
    first: int,
    last: int,
    *,
    decoder_start: int | None = None,
) -> np.ndarray:
    """Tokens of the samples at positions `first` to `last` - 1, as `data` cuts them; 0 for one that is left out.

    int32 (last - first,).
    """
    planned = _ordered(order, np.arange(first, last))
    texts = read_texts(corpus, {name for name, _, _ in planned})
    counts = []
    for name, _, _ in planned:
        example = make_example(tokenizer, texts[name], data, decoder_start=decoder_start)
        counts.append(example.tokens if example.trained_tokens else 0)
    return np.array(counts, dtype=np.int32)


def write_token_shard(
    attempt: Attempt,
    plan: Mapping[str, int],
    index: int,
    starts: np.ndarray,
    order: Artifact,
    corpus: Artifact,
    tokenizer: "PreTrainedTokenizerBase",
    data: TokenSettings,
    *,
    packing: bool,
    levels_apart: bool = False,
    learn_prompt: bool = False,
    decoder_start: int | None = None,
) -> ShardRecord:
    """Join the order's samples of shard `index` with their texts, tokenise, pack and write them.

    starts: as `shard_starts` gives them. decoder_start: of an encoder-decoder (`instruction_example`).
    The shard's summary counts `tokens`, `samples` and `trained_tokens` (both by language too), `truncated` (the same)
    and `untrained` (samples left out since no token of them would be learned), and names a few of the latter.
    """
    first, first_step = int(starts[0]), index * plan["steps_per_shard"]
    planned = _ordered(order, np.arange(first, starts[-1]))
    texts = read_texts(corpus, {name for name, _, _ in planned})
    samples = []
    for position, (name, task, level) in enumerate(planned, start=first):
        text = texts[name]
        example = make_example(tokenizer, text, data, learn_prompt=learn_prompt, decoder_start=decoder_start)
        samples.append(Sample(position, name, texts[name]["lang"], task, level, example))
    kept, counted = learnable(samples)
    rows = pack(kept, starts, data.max_tokens, packing=packing, levels_apart=levels_apart, first_step=first_step)
    summary = {"first_step": first_step, "last_step": first_step + len(starts) - 2, **counted}
    return attempt.write_table("tokens", index, rows, plan=plan, summary=summary)


def learnable(samples: list[Sample]) -> tuple[list[Sample], dict[str, Any]]:
    """The samples of which a token is learned, and the counts of a shard's summary (see `write_token_shard`)."""
    kept = [sample for sample in samples if sample.example.trained_tokens]
    untrained = [sample.id for sample in samples if not sample.example.trained_tokens]
    trained_tokens = Counter[str]()
    for sample in kept:
        trained_tokens[sample.lang] += sample.example.trained_tokens
    truncated = Counter(sample.lang for sample in samples if sample.example.truncated)
    return kept, {
        "samples": len(kept),
        "tokens": sum(sample.example.tokens for sample in kept),
        "trained_tokens": trained_tokens.total(),
        "samples_by_lang": dict(sorted(Counter(sample.lang for sample in kept).items())),
        "trained_tokens_by_lang": dict(sorted(trained_tokens.items())),
        "truncated": dict(sorted(truncated.items())),
        "untrained": len(untrained),
        "untrained_ids": untrained[:NAMED_IDS],
    }


def write_heldout_shard(
    attempt: Attempt,
    corpus: Artifact,
    tokenizer: "PreTrainedTokenizerBase",
    data: TokenSettings,
    *,
    packing: bool,
    decoder_start: int | None = None,
) -> ShardRecord | None:
    """Up to `data.heldout_samples` held-out samples of each language, as the token rows of one step (`heldout_tokens`).

    Which they are depends on their ids alone. None where nothing is held out, or nothing of it has a token to learn.
    """
    by_lang: dict[str, list[dict[str, Any]]] = {}
    for shard in corpus.shards("heldout"):
        for row in corpus.read_shard(shard, [*TEXT_COLUMNS, "task"]).to_pylist():
            by_lang.setdefault(row["lang"], []).append(row)
        for lang, members in by_lang.items():
            by_lang[lang] = drawn_first(members, data.heldout_samples)
    samples: list[Sample] = []
    for lang, members in sorted(by_lang.items()):
        for row in members:
            example = make_example(tokenizer, row, data, decoder_start=decoder_start)
            if example.trained_tokens:
                samples.append(Sample(len(samples), row["id"], lang, row["task"], None, example))
    if not samples:
        return None
    rows = pack(samples, np.array([0, len(samples)]), data.max_tokens, packing=packing)
    summary = {"last_step": 0, "samples": len(samples), "langs": sorted({sample.lang for sample in samples})}
    return attempt.write_table("heldout_tokens", 0, rows, summary=summary)


def pack(
    samples: list[Sample],
    starts: np.ndarray,
    max_tokens: int,
    *,
    packing: bool,
    levels_apart: bool = False,
    first_step: int = 0,
) -> pa.Table:
    """Samples (in order of position) as token rows in order of step; packing permutes within a step only.

    The steps, numbered from `first_step` on, begin at the positions `starts` (and the last ends at the last of them).
    """
    steps: dict[int, list[Sample]] = {}
    for sample in samples:
        step = first_step + int(np.searchsorted(starts, sample.position, side="right")) - 1
        steps.setdefault(step, []).append(sample)
    rows = [
        row
        for step, members in steps.items()
        for row in token_rows(step, members, max_tokens, packing=packing, levels_apart=levels_apart)
    ]
    has_encoder = any(SOURCE_IDS.name in row for row in rows)
    return pa.Table.from_pylist(rows, schema=TOKENS.append(SOURCE_IDS) if has_encoder else TOKENS)


def token_rows(
    step: int, samples: list[Sample], max_tokens: int, *, packing: bool, levels_apart: bool
) -> list[dict[str, Any]]:
    """The rows of one step, as `tables.TOKENS` says. levels_apart: no row has samples of two curriculum levels."""
    groups: dict[int | None, list[Sample]] = {}
    for sample in samples:
        groups.setdefault(sample.level if levels_apart else None, []).append(sample)
    rows = []
    for _, members in sorted(groups.items(), key=lambda item: item[0] or 0):
        lengths = [len(sample.example.input_ids) for sample in members]
        bins = first_fit_decreasing(lengths, max_tokens) if packing else [[i] for i in range(len(members))]
        rows += [_token_row(step, [members[i] for i in chosen]) for chosen in bins]
    return rows


def _token_row(step: int, samples: list[Sample]) -> dict[str, Any]:
    source = {} if samples[0].example.source_ids is None else {SOURCE_IDS.name: samples[0].example.source_ids}
    return source | {
        "step": step,
        "input_ids": np.concatenate([sample.example.input_ids for sample in samples]),
        "labels": np.concatenate([sample.example.labels for sample in samples]),
        "segment_lengths": [len(sample.example.input_ids) for sample in samples],
        "positions": [sample.position for sample in samples],
        "ids": [sample.id for sample in samples],
        "langs": [sample.lang for sample in samples],
        "tasks": [sample.task for sample in samples],
        "levels": [sample.level for sample in samples],
    }


def summarize(
    records: list[ShardRecord], steps: int, data: TokenSettings, *, has_encoder: bool = False
) -> dict[str, Any]:
    """The artifact's summary from its shards' ones; `row_fill` is the share of the rows' places in use."""
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
        "row_fill": round(tokens / (rows * data.row_tokens(has_encoder=has_encoder)), 4) if rows else 0.0,
        **{name: dict(sorted(counts.items())) for name, counts in by_lang.items()},
        "untrained": sum(part["untrained"] for part in parts),
        "untrained_ids": [name for part in parts for name in part["untrained_ids"]][:NAMED_IDS],
        "langs": sorted(by_lang["samples_by_lang"]),
    }


def _ordered(order: Artifact, positions: np.ndarray) -> list[tuple[str, str | None, int | None]]:
    """(id, task, level) at global `positions`; the order begins anew when it ends (the next epoch)."""
    wanted = positions % order.rows("order")
    first, last = (0, order.rows("order") - 1) if wanted[0] > wanted[-1] else (int(wanted[0]), int(wanted[-1]))
    if len(positions) >= order.rows("order"):
        first, last = 0, order.rows("order") - 1
    columns = ["position", "id", "task", "level"]
    found = order.read("order", columns, [("position", ">=", first), ("position", "<=", last)])
    at = {position: sample for position, *sample in zip(*(found[name].to_pylist() for name in columns), strict=True)}
    return [tuple(at[int(position)]) for position in wanted]


def read_texts(corpus: Artifact, ids: set[str]) -> dict[str, dict[str, Any]]:
    """`TEXT_COLUMNS` of each id, read shard by shard."""
    texts: dict[str, dict[str, Any]] = {}
    wanted = pa.array(sorted(ids), pa.string())
    for shard in corpus.shards("corpus"):
        table = corpus.read_shard(shard, TEXT_COLUMNS)
        for row in table.filter(pc.is_in(table["id"], value_set=wanted)).to_pylist():
            texts[row["id"]] = row
    return texts


def make_example(
    tokenizer: "PreTrainedTokenizerBase",
    row: Mapping[str, Any],
    data: TokenSettings,
    *,
    learn_prompt: bool = False,
    decoder_start: int | None = None,
) -> Example:
    return instruction_example(
        tokenizer,
        row["prompt"],
        row["response"],
        data.max_tokens,
        history=row["history"],
        learn_prompt=learn_prompt,
        decoder_start=decoder_start,
        max_source_tokens=data.max_source_tokens,
    )
