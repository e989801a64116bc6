"""One step of training on one worker, and the loss of what is held out.

A step trains exactly the rows planned for it. Worker r of w takes rows r, r + w, ...; the gradient is that of the sum
of the token losses divided by the number of tokens learned in the whole step, so neither the number of workers nor
packing changes it.

Shapes: S samples in a step.
"""

import hashlib
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed

from raysel.errors import UserError
from raysel.training.batches import Step, collate, groups
from raysel.training.logits import logit_parts
from raysel.training.loss import token_losses
from raysel.training.schedule import learning_rate
from raysel.training.settings import TrainingSettings
from raysel.training.throughput import machine_rate, peak_memory_gb, training_operations

NAMED_IDS = 16
GROUPED_BY = ("lang", "task", "level")
Places = tuple[torch.Tensor, torch.Tensor]


class LossError(UserError):
    """A loss or gradient that is no finite number."""


class Learner:
    """Learns one step of `steps` after another, and measures the loss of the samples in `heldout`.

    rows_at_once: that go through the model together.
    skipped: how many steps were passed over so far since their loss or gradient was not finite.
    section: of the experiment file, where the user has set the learning rate.
    """

    def __init__(
        self,
        engine: Any,
        settings: TrainingSettings,
        seed: int,
        *,
        steps: int,
        rows_at_once: int,
        heldout: Step | None,
        skipped: int,
        asked_to_checkpoint: Callable[[], bool],
        section: str = "training",
    ) -> None:
        self.engine, self.settings, self.seed, self.section = engine, settings, seed, section
        self.steps, self.heldout, self.skipped = steps, heldout, skipped
        self.rank, self.world = torch.distributed.get_rank(), torch.distributed.get_world_size()
        self.rows_at_once = rows_at_once
        vocabulary = engine.module.config.get_text_config().vocab_size
        self.logit_parts = logit_parts(rows_at_once * settings.data.max_tokens, vocabulary)
        self.checkpointed = time.monotonic()
        self.checkpoint_due = False
        self.asked_to_checkpoint = asked_to_checkpoint
        self.operations_per_token: float | None = None
        self.machine_rate = machine_rate(engine.device, getattr(torch, settings.dtype))
        engine.train()

    def learn(self, step: Step) -> dict[str, Any]:
        """Take one optimizer step and give its metrics, the same on every worker.

        A loss that is no number makes the whole gradient so, and then no weight is changed.
        """
        engine, samples, trained_tokens = self.engine, step.samples, step.trained_tokens
        positions = [sample["position"] for sample in samples]
        rate = learning_rate(
            step.step,
            self.steps,
            peak=self.settings.learning_rate,
            schedule=self.settings.schedule,
            warmup_share=self.settings.warmup_share,
        )
        for group in engine.optimizer.param_groups:
            group["lr"] = rate
        micro_batches = groups(step.share(self.rank, self.world), self.rows_at_once)
        sums, own = self._no_sums(len(samples)), 0
        for number, rows in enumerate(micro_batches):
            batch = collate(rows, positions, engine.device)
            if self.operations_per_token is None:
                self.operations_per_token = self._count_operations(batch)
            torch.manual_seed(_seed(self.seed, step.step, self.rank + number * self.world))
            engine.set_gradient_accumulation_boundary(number == len(micro_batches) - 1)
            losses, places = token_losses(engine, batch, parts=self.logit_parts)
            # DeepSpeed averages over the workers; the sum is wanted. 0 times what is no finite number is none either.
            share = self.world / trained_tokens + 0 * losses.detach().sum()
            engine.backward(losses.sum() * share, scale_wrt_gas=False)
            _count(sums, batch, losses.detach(), places)
            own += sum(len(row["positions"]) for row in rows)
        seen, due, *memory = self._over_all_workers(sums, own)
        if seen != len(samples):
            raise RuntimeError(f"step {step.step} trained {seen} samples, {len(samples)} are planned")
        self.checkpoint_due = bool(due)
        loss = float(sums[0].sum()) / trained_tokens
        norm = self._step()
        metrics = {
            "step": step.step,
            "loss": loss,
            "learning_rate": rate,
            "grad_norm": norm,
            "tokens": step.tokens,
            "trained_tokens": trained_tokens,
            **{f"loss_by_{by}": _means(sums, [sample[by] for sample in samples]) for by in GROUPED_BY},
            "memory_gb": round(max(memory), 3),
            "positions": positions,
        }
        return metrics if math.isfinite(loss) and math.isfinite(norm) else self._skip(step, metrics)

    def rates(self, step: Step, seconds: float) -> dict[str, float]:
        """Tokens per second of all workers, and the share of the machine's rate that this is (from one worker's)."""
        assert self.operations_per_token is not None
        a_worker = step.tokens * self.operations_per_token / seconds / self.world
        return {
            "tokens_per_second": round(step.tokens / seconds, 1),
            "share_of_machine_rate": round(a_worker / self.machine_rate, 4),
        }

    @torch.no_grad()
    def heldout_loss(self, steps: int) -> list[dict[str, Any]]:
        """One entry: the loss of the held-out samples after so many steps, the same on every worker; or none."""
        if self.heldout is None:
            return []
        samples = self.heldout.samples
        positions = [sample["position"] for sample in samples]
        sums = self._no_sums(len(samples))
        self.engine.eval()
        for rows in groups(self.heldout.share(self.rank, self.world), self.rows_at_once):
            batch = collate(rows, positions, self.engine.device)
            _count(sums, batch, *token_losses(self.engine, batch, parts=self.logit_parts))
        self.engine.train()
        torch.distributed.all_reduce(sums)
        loss, tokens = sums.sum(dim=1).tolist()
        return [
            {
                "steps": steps,
                "loss": _number(loss / tokens),
                "loss_by_lang": _means(sums, [sample["lang"] for sample in samples]),
            }
        ]

    def _no_sums(self, samples: int) -> torch.Tensor:
        """Each sample's loss and learned tokens: float64 (2, S)."""
        return torch.zeros(2, samples, dtype=torch.float64, device=self.engine.device)

    def _over_all_workers(self, sums: torch.Tensor, seen: int) -> list[float]:
        """Sum `sums` in place; samples seen, whether the first worker knows that a checkpoint is due, and the peak
        memory of each worker in GB."""
        memory = [0.0] * self.world
        memory[self.rank] = peak_memory_gb(self.engine.device)
        due = self.rank == 0 and (self.asked_to_checkpoint() or self._minutes_have_gone())
        more = torch.tensor([seen, due, *memory], dtype=torch.float64, device=sums.device)
        both = torch.cat([sums.flatten(), more])
        torch.distributed.all_reduce(both)
        sums.copy_(both[: sums.numel()].view_as(sums))
        return both[sums.numel() :].tolist()

    def _minutes_have_gone(self) -> bool:
        minutes = self.settings.checkpoint_minutes
        return minutes is not None and time.monotonic() - self.checkpointed >= 60 * minutes

    def _step(self) -> float:
        """Clip, update, and give the norm of the whole gradient before clipping; no update where it is not finite."""
        if self.engine.zero_optimization_stage() > 0:
            self.engine.step()
            forget_gradients_of_a_skipped_step(self.engine.optimizer)
            return float(self.engine.get_global_grad_norm())
        grads = [p.grad for p in self.engine.module.parameters() if p.grad is not None]
        norm = float(torch.nn.utils.get_total_norm(grads))
        if math.isfinite(norm):
            self.engine.step()
        else:  # as the sharded optimizers of ZeRO do by themselves
            self.engine.zero_grad()
        return norm

    def _skip(self, step: Step, metrics: dict[str, Any]) -> dict[str, Any]:
        loss, norm = metrics["loss"], metrics["grad_norm"]
        what = f"the norm of the gradient is {norm}" if math.isfinite(loss) else f"the loss is {loss}"
        self.skipped += 1
        if self.skipped > self.settings.skipped_steps:
            raise LossError(_not_finite(what, step, self.settings.skipped_steps, self.section))
        return metrics | {"loss": _number(loss), "grad_norm": _number(norm), "skipped": what}

    def _count_operations(self, batch: dict[str, torch.Tensor]) -> float:
        all_weights = self.settings.method == "full"
        operations = training_operations(self.engine, batch, parts=self.logit_parts, all_weights=all_weights)
        return operations / sum(batch[name].numel() for name in ("input_ids", "source_ids") if name in batch)


def forget_gradients_of_a_skipped_step(optimizer: Any) -> None:
    """DeepSpeed 0.19 keeps them under ZeRO-1 and 2 in bfloat16 with the optimizer offloaded, and adds the next ones."""
    if getattr(optimizer, "overflow", False) and hasattr(optimizer, "averaged_gradients"):
        for group in optimizer.averaged_gradients:
            optimizer.averaged_gradients[group] = None


def _count(sums: torch.Tensor, batch: dict[str, torch.Tensor], losses: torch.Tensor, places: Places) -> None:
    """Add to `sums` (2, S) each sample's loss and learned tokens."""
    samples, is_learned = batch["sample"][places], batch["labels"][places] >= 0
    sums[0].index_add_(0, samples, losses.double())
    sums[1].index_add_(0, samples, is_learned.double())


def _means(sums: torch.Tensor, groups: Sequence[Any]) -> dict[str, float | None]:
    """The mean loss of each group's learned tokens, by the group's name; samples of no group (None) are left out."""
    totals: dict[str, list[float]] = {}
    for group, loss, tokens in zip(groups, *sums.tolist(), strict=True):
        if group is not None:
            total = totals.setdefault(str(group), [0.0, 0.0])
            total[0] += loss
            total[1] += tokens
    return {group: _number(loss / tokens) for group, (loss, tokens) in sorted(totals.items()) if tokens}


def _number(value: float) -> float | None:
    """JSON knows finite numbers only."""
    return value if math.isfinite(value) else None


def _seed(seed: int, step: int, row: int) -> int:
    return int.from_bytes(hashlib.blake2b(f"{seed} {step} {row}".encode(), digest_size=7).digest(), "big")


def _not_finite(what: str, step: Step, allowed: int, section: str) -> str:
    more = f" and {len(step.ids) - NAMED_IDS} more" if len(step.ids) > NAMED_IDS else ""
    before = f", and {allowed} before it were skipped (training.skipped_steps)" if allowed else ""
    head = (
        f"training stopped at step {step.step}: {what}{before}. Its samples are {', '.join(step.ids[:NAMED_IDS])}"
        f"{more}. Look at them, "
    )
    if section != "training":  # no other section has skipped_steps
        return f"{head}or lower {section}.learning_rate"
    return f"{head}lower training.learning_rate, or let training.skipped_steps pass over a few"
