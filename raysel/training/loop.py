"""The training loop, the one that every stage which trains runs on each of its workers.

A step trains exactly the rows planned for it. Worker r of w takes rows r, r + w, ...; the gradient is that of the sum
of the token losses divided by the number of tokens learned in the whole step, so neither the number of workers nor
packing changes it.
"""

import hashlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed

from raysel.errors import UserError
from raysel.store import Artifact, Attempt
from raysel.training.batches import Step, collate, empty_row, groups, read_steps
from raysel.training.checkpoints import Checkpoints
from raysel.training.engine import draws_at_random, refuse_unknown_zero_keys, start_engine, trainable_model
from raysel.training.export import gather_weights, save
from raysel.training.loss import logit_parts, token_losses
from raysel.training.schedule import learning_rate
from raysel.training.settings import TrainingSettings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NAMED_IDS = 16
Places = tuple[torch.Tensor, torch.Tensor]


class LossError(UserError):
    """A loss or gradient that is no finite number."""


@dataclass(frozen=True)
class Training:
    """What one run of the loop trains: `tokens` (its table `tokens`, its summary's `steps` and `langs`)."""

    attempt: Attempt
    tokens: Artifact
    settings: TrainingSettings
    seed: int
    trust_remote_code: bool


@dataclass(frozen=True)
class Outcome:
    """log: each step's metrics; heldout: each measured loss of the held-out samples (`steps` done, `loss`,
    `loss_by_lang`), none where nothing is held out."""

    log: list[dict[str, Any]]
    heldout: list[dict[str, Any]]
    resumed_from: int | None


def train(
    training: Training,
    model_folder: Path,
    tokenizer: "PreTrainedTokenizerBase",
    export_folder: Path,
    report: Callable[[dict[str, Any]], None],
    asked_to_checkpoint: Callable[[], bool],
) -> Outcome:
    """Train on every planned step, from the newest whole checkpoint on, and save the model in worker 0's folder.

    The process group must be up. `report` gets each step's metrics on worker 0, where `asked_to_checkpoint` is asked in
    each step whether a checkpoint is to be written after it. Raises `LossError`, on every worker,
    at the first loss or gradient that is not finite.
    """
    settings = training.settings
    refuse_unknown_zero_keys(settings)
    rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
    checkpoints = Checkpoints(training.attempt, rank, world)
    whole = checkpoints.newest()
    seed, trust_remote_code = training.seed, training.trust_remote_code
    with trainable_model(model_folder, settings, seed=seed, trust_remote_code=trust_remote_code) as model:
        if whole is not None:
            checkpoints.restore_weights(model, whole)
        engine = start_engine(model, settings)
        learner = Learner(engine, training, rank, world, asked_to_checkpoint)
        if whole is not None:
            checkpoints.restore_optimizer(engine, whole, learner.unlearned_row())
        log = list(whole["log"]) if whole else []
        heldout = list(whole["heldout"]) if whole else learner.heldout_loss(0)
        steps = training.tokens.summary["steps"]
        started = time.perf_counter()
        for step in read_steps(training.tokens, whole["steps"] if whole else 0):
            log.append(learner.learn(step))
            log[-1]["tokens_per_second"] = round(step.tokens / (time.perf_counter() - started), 1)
            if rank == 0:
                report(log[-1])
            due = learner.checkpoint_due or (step.step + 1) % settings.checkpoint_steps == 0
            if due and step.step + 1 < steps:
                heldout += learner.heldout_loss(step.step + 1)
                checkpoints.write(engine, step.step + 1, log, heldout)
                learner.checkpointed = time.monotonic()
            started = time.perf_counter()
        heldout += learner.heldout_loss(steps)
        weights = gather_weights(engine.module, only_trained=settings.method == "lora", keep=rank == 0)
        if rank == 0:
            save(engine.module, tokenizer, weights, export_folder)
        engine.destroy()
    return Outcome(log, heldout, whole["steps"] if whole else None)


class Learner:
    """Learns one step after another on one worker."""

    def __init__(
        self, engine: Any, training: Training, rank: int, world: int, asked_to_checkpoint: Callable[[], bool]
    ) -> None:
        self.engine, self.training, self.rank, self.world = engine, training, rank, world
        self.asked_to_checkpoint = asked_to_checkpoint
        self.langs: list[str] = training.tokens.summary["langs"]
        self.heldout = next(read_steps(training.tokens, 0, of="heldout_tokens"), None)
        vocabulary = engine.module.config.get_text_config().vocab_size
        settings, longest = training.settings, training.settings.data.max_tokens
        # Dropout belongs to the row, whichever worker has it; flash attention keeps apart the samples of one row only.
        alone = draws_at_random(engine.module) or "flash" in str(engine.module.config._attn_implementation)
        self.rows_at_once = 1 if alone else max(1, settings.micro_batch_tokens // longest)
        self.logit_parts = logit_parts(self.rows_at_once * longest, vocabulary)
        self.checkpointed = time.monotonic()
        self.checkpoint_due = False
        engine.train()

    def learn(self, step: Step) -> dict[str, Any]:
        """Take one optimizer step and give its metrics, the same on every worker."""
        settings, engine = self.training.settings, self.engine
        rate = learning_rate(
            step.step,
            self.training.tokens.summary["steps"],
            peak=settings.learning_rate,
            schedule=settings.schedule,
            warmup_share=settings.warmup_share,
        )
        for group in engine.optimizer.param_groups:
            group["lr"] = rate
        micro_batches = groups(step.share(self.rank, self.world), self.rows_at_once)
        trained_tokens = step.trained_tokens
        # Loss and learned tokens of each language, samples seen, and whether the first worker knows that a checkpoint
        # is due: summed over the workers.
        counts = torch.zeros(2 * len(self.langs) + 2, dtype=torch.float64, device=engine.device)
        sums = counts[:-2]
        for number, rows in enumerate(micro_batches):
            torch.manual_seed(_seed(self.training.seed, step.step, self.rank + number * self.world))
            engine.set_gradient_accumulation_boundary(number == len(micro_batches) - 1)
            batch = collate(rows, self.langs, engine.device)
            losses, places = token_losses(engine, batch, parts=self.logit_parts)
            # DeepSpeed averages over the workers; the sum is wanted.
            engine.backward(losses.sum() * (self.world / trained_tokens), scale_wrt_gas=False)
            _count(sums, batch, losses.detach(), places)
            counts[-2] += sum(len(row["positions"]) for row in rows)
        counts[-1] = self.rank == 0 and (self.asked_to_checkpoint() or self._minutes_have_gone())
        torch.distributed.all_reduce(counts)
        loss = float(sums.view(2, -1)[0].sum()) / trained_tokens
        if not math.isfinite(loss):
            raise LossError(_not_finite(f"the loss is {loss}", step))
        if int(counts[-2]) != len(step.positions):
            raise RuntimeError(f"step {step.step} trained {int(counts[-2])} samples, {len(step.positions)} are planned")
        self.checkpoint_due = bool(counts[-1])
        norm = self._step()
        if not math.isfinite(norm):
            raise LossError(_not_finite(f"the norm of the gradient is {norm}", step))
        return {
            "step": step.step,
            "loss": loss,
            "learning_rate": rate,
            "grad_norm": norm,
            "tokens": step.tokens,
            "trained_tokens": trained_tokens,
            "loss_by_lang": _means(sums, self.langs),
            "positions": step.positions,
        }

    @torch.no_grad()
    def heldout_loss(self, steps: int) -> list[dict[str, Any]]:
        """One entry: the loss of the held-out samples after so many steps, the same on every worker; or none."""
        if self.heldout is None:
            return []
        langs = sorted({lang for row in self.heldout.rows for lang in row["langs"]})
        sums = torch.zeros(2 * len(langs), dtype=torch.float64, device=self.engine.device)
        self.engine.eval()
        for rows in groups(self.heldout.share(self.rank, self.world), self.rows_at_once):
            batch = collate(rows, langs, self.engine.device)
            _count(sums, batch, *token_losses(self.engine, batch, parts=self.logit_parts))
        self.engine.train()
        torch.distributed.all_reduce(sums)
        loss, tokens = sums.view(2, -1).sum(dim=1).tolist()
        return [{"steps": steps, "loss": loss / tokens, "loss_by_lang": _means(sums, langs)}]

    def _minutes_have_gone(self) -> bool:
        minutes = self.training.settings.checkpoint_minutes
        return minutes is not None and time.monotonic() - self.checkpointed >= 60 * minutes

    def _step(self) -> float:
        """Clip, update, and give the norm of the whole gradient before clipping."""
        norm = None
        if self.engine.zero_optimization_stage() == 0:
            grads = [p.grad for p in self.engine.module.parameters() if p.grad is not None]
            norm = torch.nn.utils.get_total_norm(grads)
        self.engine.step()
        return float(self.engine.get_global_grad_norm() if norm is None else norm)

    def unlearned_row(self) -> dict[str, torch.Tensor]:
        step = next(read_steps(self.training.tokens, 0))
        return collate([empty_row(step.rows[0])], self.langs, self.engine.device)


def _count(sums: torch.Tensor, batch: dict[str, torch.Tensor], losses: torch.Tensor, places: Places) -> None:
    """Add to `sums` (2 L) each of L languages' loss and, behind them, learned tokens."""
    langs, is_learned = batch["lang"][places], batch["labels"][places] >= 0
    sums.view(2, -1)[0].index_add_(0, langs, losses.double())
    sums.view(2, -1)[1].index_add_(0, langs, is_learned.double())


def _means(sums: torch.Tensor, langs: list[str]) -> dict[str, float]:
    losses, tokens = sums.view(2, -1).tolist()
    return {lang: loss / count for lang, loss, count in zip(langs, losses, tokens, strict=True) if count}


def _seed(seed: int, step: int, row: int) -> int:
    return int.from_bytes(hashlib.blake2b(f"{seed} {step} {row}".encode(), digest_size=7).digest(), "big")


def _not_finite(what: str, step: Step) -> str:
    more = f" and {len(step.ids) - NAMED_IDS} more" if len(step.ids) > NAMED_IDS else ""
    return (
        f"training stopped at step {step.step}: {what}. Its samples are {', '.join(step.ids[:NAMED_IDS])}{more}. "
        "Look at them, or lower training.learning_rate"
    )
