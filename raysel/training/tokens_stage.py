"""Stage `tokens`: the ordered samples, templated, tokenised, masked and packed, as rows ready to train on."""

import json
import tempfile
from pathlib import Path

from raysel.errors import UserError
from raysel.models.loading import load_tokenizer
from raysel.stage import StageOutput, StageRun
from raysel.store import Artifact, Attempt, ShardRecord
from raysel.training.packing import PACKABLE_MODEL_TYPES
from raysel.training.settings import TokenSettings
from raysel.training.token_shards import choose_plan, summarize, total_steps, write_heldout_shard, write_token_shard


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
    steps = total_steps(order.rows("order"), data)
    plan = run.attempt.plan(lambda: choose_plan(steps, data))
    finished = run.attempt.finished(plan)
    shards = -(-steps // plan["steps_per_shard"])
    done = {index: finished["tokens", index] for index in range(shards) if ("tokens", index) in finished}
    missing = [index for index in range(shards) if index not in done]
    items = [
        (run.attempt, plan, index, order, corpus, model, data, template, packing, run.settings["trust_remote_code"])
        for index in missing
    ]
    heldout = finished.get(("heldout_tokens", 0))
    if heldout is None and data.heldout_samples and corpus.shards("heldout"):
        given = (corpus, model, data, template, packing, run.settings["trust_remote_code"])
        heldout = run.cluster.run_task(_write_heldout, run.attempt, plan, *given)
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


def _write_shard(
    attempt: Attempt,
    plan: dict[str, int],
    index: int,
    order: Artifact,
    corpus: Artifact,
    model: Artifact | str,
    data: TokenSettings,
    template: str,
    packing: bool,
    trust_remote_code: bool,
) -> ShardRecord:
    with tempfile.TemporaryDirectory() as scratch:
        folder = model if isinstance(model, str) else model.local_folder("model", Path(scratch))
        tokenizer = load_tokenizer(folder, template, trust_remote_code=trust_remote_code)
    return write_token_shard(attempt, plan, index, order, corpus, tokenizer, data, packing=packing)


def _write_heldout(
    attempt: Attempt,
    plan: dict[str, int],
    corpus: Artifact,
    model: Artifact | str,
    data: TokenSettings,
    template: str,
    packing: bool,
    trust_remote_code: bool,
) -> ShardRecord | None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = model if isinstance(model, str) else model.local_folder("model", Path(scratch))
        tokenizer = load_tokenizer(folder, template, trust_remote_code=trust_remote_code)
    return write_heldout_shard(attempt, plan, corpus, tokenizer, data, packing=packing)


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
