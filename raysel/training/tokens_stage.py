"""Stage `tokens`: the ordered samples, templated, tokenised, masked and packed, as rows ready to train on."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from raysel.models.loading import decoder_start
from raysel.stage import StageOutput, StageRun
from raysel.store import Artifact, Attempt, ShardRecord
from raysel.training.packing import PACKABLE_MODEL_TYPES
from raysel.training.queued_tokens import write_queued_shard
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
from raysel.training.tokenizer_source import TokenError, TokenizerSource, read_config, refuse_beyond_positions


def run(run: StageRun) -> StageOutput:
    """Write table `tokens` (`tables.TOKENS`), one Ray task per shard; and `heldout_tokens`, where any are held out.

    For a loss-aware curriculum, `queued_tokens` in place of `tokens`.
    """
    order, corpus = run.inputs["order"], run.inputs["corpus"]
    data: TokenSettings = run.settings["data"]
    if order.summary["epochs"] != 1:
        data = data.model_copy(update={"epochs": 1})  # the order goes through all of them
    template: str = run.settings["template"]
    model: Artifact | str = run.inputs.get("model") or str(Path(run.leaves["model"]).absolute())
    if not order.summary["rows"]:
        raise TokenError("no sample is left to train on: the order of training is empty")
    config = read_config(model)
    refuse_beyond_positions(config, data.max_tokens, "training.data.max_tokens")
    packing = data.packing and config.get("model_type") in PACKABLE_MODEL_TYPES
    start = decoder_start(config)
    _refuse_steps_too_small(data, has_encoder=start is not None)
    source = TokenizerSource(model, template, run.settings["trust_remote_code"])
    if order.summary["loss_aware"] is not None:
        records, summary = _write_queues(run, source, data, start)
    else:
        records, summary = _write_steps(run, source, data, packing, start)
    summary |= {"packing": packing, "template": template, "max_tokens": data.max_tokens}
    summary |= {"has_encoder": start is not None}
    heldout = run.attempt.finished().get(("heldout_tokens", 0))
    if heldout is None and data.heldout_samples and corpus.shards("heldout"):
        heldout = run.cluster.run_task(_write_heldout, run.attempt, corpus, source, data, packing, start)
    summary["warnings"] = summary.get("warnings", []) + _warnings(
        summary, data, packing, config.get("model_type", "unknown")
    )
    if not summary["samples"]:
        raise TokenError(
            f"no sample has a token to learn within training.data.max_tokens {data.max_tokens}: "
            "the prompts alone fill it"
        )
    return StageOutput([*records, heldout] if heldout else records, summary)


def _refuse_steps_too_small(data: TokenSettings, *, has_encoder: bool) -> None:
    longest = data.row_tokens(has_encoder=has_encoder)
    if data.batch_tokens is not None and data.batch_tokens < longest:
        raise TokenError(
            f"training.data.batch_tokens {data.batch_tokens} is less than the {longest} of an encoder-decoder's prompt "
            "(training.data.max_source_tokens) and response (training.data.max_tokens): a step would have no room for "
            "the longest sample"
        )


def _write_steps(
    run: StageRun, source: TokenizerSource, data: TokenSettings, packing: bool, start: int | None
) -> tuple[list[ShardRecord], dict[str, Any]]:
    order, corpus = run.inputs["order"], run.inputs["corpus"]
    if data.batch_tokens is None:
        starts = even_steps(order.rows("order"), data)
    else:
        starts = _starts_by_tokens(run, order, corpus, source, data, start)
    steps = len(starts) - 1
    plan = run.attempt.plan(lambda: choose_plan(starts))
    shards = -(-steps // plan["steps_per_shard"])
    given = (order, corpus, source, data, packing, order.summary["levels_apart"], start)
    items = {index: (plan, index, shard_starts(starts, plan, index), *given) for index in range(shards)}
    records = _write_shards(run, "tokens", plan, _write_shard, items)
    summary = summarize(records, steps, data, has_encoder=start is not None)
    recorded = order.summary.get("steps", steps)
    if recorded != steps:
        summary["warnings"] = [
            f"the order that is replayed was trained on in {recorded:,} steps, here it makes {steps:,}: with other "
            "training settings (training.data.batch_samples) another model comes out"
        ]
    return records, summary


def _write_queues(
    run: StageRun, source: TokenizerSource, data: TokenSettings, start: int | None
) -> tuple[list[ShardRecord], dict[str, Any]]:
    order, corpus = run.inputs["order"], run.inputs["corpus"]
    rows = order.rows("queues")
    size = max(SHARD_SAMPLES, -(-rows // MOST_SHARDS))
    given = (order, corpus, source, data, start)
    firsts = range(0, rows, size)
    items = {index: (index, (first, min(first + size, rows)), *given) for index, first in enumerate(firsts)}
    records = _write_shards(run, "queued_tokens", None, _write_queued_shard, items)
    by_level = sum((Counter(record.summary["samples_by_level"]) for record in records), Counter[str]())
    steps = -(-by_level.total() * data.epochs // data.batch_samples)
    summary = _in_all_epochs(summarize(records, steps, data), data.epochs) | {
        "row_fill": None,  # rows are filled when it is known what they hold
        "loss_aware": order.summary["loss_aware"],
        "samples_by_level": dict(sorted(by_level.items())),
        "batch_samples": data.batch_samples,
        "epochs": data.epochs,
    }
    return records, summary


def _in_all_epochs(summary: dict[str, Any], epochs: int) -> dict[str, Any]:
    """The counts of `summarize` over one epoch as those of all."""
    totals = {name: summary[name] * epochs for name in ("samples", "tokens", "trained_tokens", "untrained")}
    by_lang = {
        name: {lang: count * epochs for lang, count in summary[name].items()}
        for name in ("samples_by_lang", "trained_tokens_by_lang", "truncated")
    }
    return summary | totals | by_lang


def _write_shards(
    run: StageRun, table: str, plan: dict[str, int] | None, write: Callable[..., ShardRecord], items: dict[int, tuple]
) -> list[ShardRecord]:
    """The shards of `table`, by index: those finished before, and the rest written by Ray tasks."""
    finished = run.attempt.finished(plan)
    done = {index: finished[table, index] for index in items if (table, index) in finished}
    missing = [index for index in items if index not in done]
    with run.progress.track(len(items), "shards", done=len(done)) as tracker:
        for at, record in run.cluster.map_tasks(write, [(run.attempt, *items[index]) for index in missing]):
            done[missing[at]] = record
            tracker.advance(1)
    return [done[index] for index in items]


def _starts_by_tokens(
    run: StageRun,
    order: Artifact,
    corpus: Artifact,
    source: TokenizerSource,
    data: TokenSettings,
    start: int | None,
) -> np.ndarray:
    """Where the steps begin, from the tokens of every sample, which Ray tasks count first."""
    samples = order.rows("order")
    size = max(SHARD_SAMPLES, -(-samples // MOST_SHARDS))
    finished = run.attempt.finished()
    if ("step_starts", 0) not in finished:
        ranges = {index: (first, min(first + size, samples)) for index, first in enumerate(range(0, samples, size))}
        counted = {index: finished["counts", index] for index in ranges if ("counts", index) in finished}
        missing = [index for index in ranges if index not in counted]
        items = [(run.attempt, index, order, corpus, source, data, *ranges[index], start) for index in missing]
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
    start: int | None,
) -> ShardRecord:
    counts = count_tokens(order, corpus, source.tokenizer(), data, first, last, decoder_start=start)
    return attempt.write_array("counts", index, counts)


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
    levels_apart: bool,
    start: int | None,
) -> ShardRecord:
    return write_token_shard(
        attempt,
        plan,
        index,
        starts,
        order,
        corpus,
        source.tokenizer(),
        data,
        packing=packing,
        levels_apart=levels_apart,
        decoder_start=start,
    )


def _write_queued_shard(
    attempt: Attempt,
    index: int,
    places: tuple[int, int],
    order: Artifact,
    corpus: Artifact,
    source: TokenizerSource,
    data: TokenSettings,
    start: int | None,
) -> ShardRecord:
    return write_queued_shard(attempt, index, places, order, corpus, source.tokenizer(), data, decoder_start=start)


def _write_heldout(
    attempt: Attempt,
    corpus: Artifact,
    source: TokenizerSource,
    data: TokenSettings,
    packing: bool,
    start: int | None,
) -> ShardRecord | None:
    return write_heldout_shard(attempt, corpus, source.tokenizer(), data, packing=packing, decoder_start=start)


def _warnings(summary: dict, data: TokenSettings, packing: bool, model_type: str) -> list[str]:
    warnings = []
    if summary["truncated"]:
        counts = ", ".join(f"{lang} {count}" for lang, count in summary["truncated"].items())
        at = f"training.data.max_tokens {data.max_tokens}"
        if summary["has_encoder"] and data.max_source_tokens is not None:
            at += f", or at max_source_tokens {data.max_source_tokens}"
        warnings.append(f"samples cut at {at}: {counts}")
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
    if data.max_source_tokens is not None and not summary["has_encoder"]:
        warnings.append(f"training.data.max_source_tokens has no effect: {model_type} has no encoder")
    return warnings
