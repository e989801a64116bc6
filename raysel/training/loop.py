"""The training loop, the one that every stage which trains runs on each of its workers.

It goes through the planned steps one after another, from the newest whole checkpoint on; what one step does is in
`learner`.
"""

import gc
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch.distributed

from raysel.memory_errors import told_shortage
from raysel.store import Artifact, Attempt
from raysel.training.batches import Step, collate, empty_row, read_steps
from raysel.training.checkpoints import Checkpoints, best_steps
from raysel.training.engine import refuse_wrong_keys, start_engine, trainable_model
from raysel.training.export import merge, save
from raysel.training.learner import Learner
from raysel.training.memory_trials import micro_batch
from raysel.training.micro_batch import MicroBatch
from raysel.training.queued_tokens import steps_by_loss
from raysel.training.settings import TrainingSettings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Training:
    """What one run of the loop trains: `tokens` (its tables `tokens` and `heldout_tokens`, its summary's `steps`).

    section: of the experiment file, where the user sets what messages tell to change.
    """

    attempt: Attempt
    tokens: Artifact
    settings: TrainingSettings
    seed: int
    trust_remote_code: bool
    section: str = "training"


@dataclass(frozen=True)
class Outcome:
    """log: each step's metrics; heldout: each measured loss of the held-out samples (`steps` done, `loss`,
    `loss_by_lang`), none where nothing is held out; exported: after how many steps the weights that were saved are;
    micro_batch: what went through the model at once, in rows of at most `row_tokens` tokens."""

    log: list[dict[str, Any]]
    heldout: list[dict[str, Any]]
    resumed_from: int | None
    exported: int
    micro_batch: MicroBatch
    row_tokens: int


def train(
    training: Training,
    model_folder: Path,
    tokenizer: "PreTrainedTokenizerBase",
    export_folder: Path,
    report: Callable[[dict[str, Any]], None],
    asked_to_checkpoint: Callable[[], bool],
) -> Outcome:
    """Train on every planned step, from the newest whole checkpoint on, and save the model in worker 0's folder.

    The process group must be up. `report` gets each step's metrics on worker 0, and what is measured of the held-out
    samples after it (`heldout_loss`, `heldout_loss_by_lang`; before the first step as step -1). There,
    `asked_to_checkpoint` is asked in each step whether a checkpoint is to be written after it. Raises `LossError`, on
    every worker, at a loss or gradient that is not finite, unless `settings.skipped_steps` allows for it.
    """
    outcome = _train(training, model_folder, tokenizer, export_folder, report, asked_to_checkpoint)
    lora = training.settings.method == "lora"
    if lora and training.settings.lora.merge and torch.distributed.get_rank() == 0:
        # It takes room for a model of its own: the trained one is gone with the call above.
        gc.collect()
        merge(model_folder, export_folder, tokenizer, trust_remote_code=training.trust_remote_code)
    return outcome


def _train(
    training: Training,
    model_folder: Path,
    tokenizer: "PreTrainedTokenizerBase",
    export_folder: Path,
    report: Callable[[dict[str, Any]], None],
    asked_to_checkpoint: Callable[[], bool],
) -> Outcome:
    settings = training.settings
    refuse_wrong_keys(settings)
    rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
    checkpoints = Checkpoints(training.attempt, rank, world, kept=settings.checkpoints_kept)
    whole = checkpoints.newest()
    seed, section = training.seed, training.section
    trusted = training.trust_remote_code
    with trainable_model(model_folder, settings, seed=seed, trust_remote_code=trusted, section=section) as model:
        if whole is not None:
            checkpoints.restore_weights(model, whole)
        engine = start_engine(model, settings)
        micro = micro_batch(
            engine, settings, partial(training.attempt.plan, name="micro-batch"), lambda: _a_row(training.tokens)
        )
        log = list(whole["log"]) if whole else []
        learner = Learner(
            engine,
            settings,
            seed,
            steps=training.tokens.summary["steps"],
            rows_at_once=micro.rows,
            heldout=next(read_steps(training.tokens, 0, of="heldout_tokens"), None),
            skipped=sum("skipped" in line for line in log),
            asked_to_checkpoint=asked_to_checkpoint,
            section=section,
        )
        if whole is not None:
            unlearned = empty_row(_a_row(training.tokens))
            checkpoints.restore_optimizer(engine, whole, collate([unlearned], [], engine.device))
        heldout = list(whole["heldout"]) if whole else []
        done = saved = whole["steps"] if whole else 0

        row_tokens = settings.data.row_tokens(has_encoder=bool(engine.module.config.is_encoder_decoder))
        at_once = {"batch": micro.rows * row_tokens, "checkpointing": micro.checkpointing}

        def measure(steps: int) -> None:
            with told_shortage(**at_once):
                measured = learner.heldout_loss(steps)
            for entry in measured:
                heldout.append(entry)
                if rank == 0:
                    report({"step": steps - 1, **{f"heldout_{name}": entry[name] for name in ("loss", "loss_by_lang")}})

        def checkpoint() -> int:
            checkpoints.write(engine, done, log, heldout)
            learner.checkpointed = time.monotonic()
            return done

        if whole is None:
            measure(0)
        started = time.perf_counter()
        for step in _steps(training.tokens, done, log):
            with told_shortage(**at_once):
                log.append(learner.learn(step) | _what_was_chosen(training.tokens, step))
            log[-1] |= learner.rates(step, time.perf_counter() - started)
            if rank == 0:
                report(log[-1])
            done = step.step + 1
            scheduled = done % settings.checkpoint_steps == 0
            # What a clock or a notice asks for is urgent, and no candidate for the best: the next run has another.
            if scheduled:
                measure(done)
            if scheduled or learner.checkpoint_due:
                saved = checkpoint()
            started = time.perf_counter()
        if heldout and heldout[-1]["steps"] != done:
            measure(done)
            saved = -1
        if saved != done:
            checkpoint()
        exported = (best_steps(heldout) if settings.export == "best" else None) or done
        if exported != done:
            checkpoints.restore_weights(engine.module, checkpoints.of_steps(exported))
        save(engine.module, tokenizer, export_folder, keep=rank == 0)
        engine.destroy()
    return Outcome(log, heldout, whole["steps"] if whole else None, exported, micro, row_tokens)


def _a_row(tokens: Artifact) -> dict[str, Any]:
    """Of the first step."""
    return next(_steps(tokens, 0, [])).rows[0]


def _steps(tokens: Artifact, done: int, log: list[dict[str, Any]]) -> Iterator[Step]:
    """The steps from number `done` on: planned ones, or those that the log so far leads to."""
    if "loss_aware" in tokens.summary:
        return steps_by_loss(tokens, log)
    return read_steps(tokens, done)


def _what_was_chosen(tokens: Artifact, step: Step) -> dict[str, Any]:
    """For the log, where its positions do not tell: the ids and levels, in order of position."""
    if "loss_aware" not in tokens.summary:
        return {}
    return {"ids": [sample["id"] for sample in step.samples], "levels": [sample["level"] for sample in step.samples]}
