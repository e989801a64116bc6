"""Micro-batches that are tried on the engine before the first step, and leave no trace in it.

Each trial is a forward and a backward pass, as of a step, whose loss is multiplied by 0, and an update with a learning
rate of 0: that is how DeepSpeed lets go of gradients. No weight changes, and Adam's moments stay 0.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed

from raysel.embedding.placement import USABLE_SHARE
from raysel.memory_errors import available_bytes
from raysel.training.batches import collate
from raysel.training.engine import draws_at_random
from raysel.training.learner import forget_gradients_of_a_skipped_step
from raysel.training.logits import logit_parts
from raysel.training.loss import token_losses
from raysel.training.micro_batch import MOST_TOKENS, MicroBatch, Trials, choose
from raysel.training.settings import TrainingSettings

# Of what is available on a machine without GPUs: its memory serves everything that runs there.
SHARE_OF_AVAILABLE = 0.5


def one_row_at_a_time(module: Any) -> bool:
    """Dropout belongs to the row, whichever worker has it; flash attention keeps apart the samples of one row only."""
    return draws_at_random(module) or "flash" in str(module.config._attn_implementation)


def micro_batch(
    engine: Any, settings: TrainingSettings, keep: Callable[..., dict[str, Any]], a_row: Callable[[], Any]
) -> MicroBatch:
    """What goes through the model at once: as the settings say, or found by trial and kept beside the attempts.

    keep: as `Attempt.plan`: gives what was stored under the same wishes, or stores what it is to call.
    a_row: gives a row of tokens (as `tables.TOKENS` says) of which those that are tried are made. A resumed run on
    the same number of workers and GPUs of the same size takes what was found before.
    """
    row = settings.data.row_tokens(has_encoder=bool(engine.module.config.is_encoder_decoder))
    # None: left open, `auto`.
    tokens = settings.micro_batch_tokens if isinstance(settings.micro_batch_tokens, int) else None
    told = settings.activation_checkpointing
    checkpointing = told if isinstance(told, bool) else None
    if one_row_at_a_time(engine.module):
        tokens = row
    if checkpointing is None and not getattr(engine.module, "supports_gradient_checkpointing", False):
        checkpointing = False
    if tokens is not None and checkpointing is not None:
        return MicroBatch(max(1, tokens // row), checkpointing)
    world = torch.distributed.get_world_size()

    def search() -> MicroBatch:
        tried = _EngineTrials(engine, a_row(), row, learned=settings.data.max_tokens / row)
        most = _rows_of_use(settings, world, row, engine.device)
        found = choose(tokens=tokens, checkpointing=checkpointing, row=row, most=most, trials=tried.begin)
        tried.end()
        return found

    given = {
        "micro_batch_tokens": settings.micro_batch_tokens,
        "activation_checkpointing": settings.activation_checkpointing,
        "offload": settings.offload,
        "workers": world,
        "gpu_bytes": torch.cuda.mem_get_info()[1] if engine.device.type == "cuda" else 0,
    }
    found = _once(keep, given, search)
    _checkpoint_activations(engine.module, found.checkpointing)
    return found


def _once(keep: Callable[..., dict[str, Any]], given: dict[str, Any], search: Callable[[], MicroBatch]) -> MicroBatch:
    """What was found before; else what `search` finds, which all workers run together, and the first one stores."""
    first = torch.distributed.get_rank() == 0

    def told(what: Any) -> Any:
        """What the first worker says."""
        said = [what]
        torch.distributed.broadcast_object_list(said, src=0)
        return said[0]

    def search_together() -> dict[str, Any]:
        told(None)
        found = search()
        return {"rows": found.rows, "checkpointing": found.checkpointing}

    if first:
        return MicroBatch(**told(keep(search_together, given)))
    found = told(None)
    if found is None:
        search()
        found = told(None)
    return MicroBatch(**found)


def _rows_of_use(settings: TrainingSettings, world: int, row: int, device: torch.device) -> int:
    """Rows of at most `row` tokens that a worker can have in a step, and that pay."""
    data = settings.data
    most = MOST_TOKENS[device.type] // row
    return max(1, most if data.batch_tokens is not None else min(most, -(-data.batch_samples // world)))


def _checkpoint_activations(module: Any, wanted: bool) -> None:
    if wanted:
        module.gradient_checkpointing_enable({"use_reentrant": False})
    elif module.is_gradient_checkpointing:
        module.gradient_checkpointing_disable()


class _EngineTrials:
    """Trials of rows of at most `row` tokens, made of those of `a_row`.

    learned: the share of them that goes through the decoder; the rest is for an encoder before it.
    """

    def __init__(self, engine: Any, a_row: dict[str, Any], row: int, *, learned: float) -> None:
        self.engine, self.a_row, self.row, self.learned = engine, a_row, row, learned
        self.on_gpu = engine.device.type == "cuda"
        self.base = 0
        for group in engine.optimizer.param_groups:
            group["lr"] = 0.0
        engine.train()

    def begin(self, checkpointing: bool) -> Trials:
        """Trials with activations checkpointed or not."""
        _checkpoint_activations(self.engine.module, checkpointing)
        self._run(1, 2)  # what the first pass and update make and keep
        self.base = self._held()
        return Trials(self._peak, self._room(), self.row, self._agreed)

    def end(self) -> None:
        for entry in self.engine.basic_optimizer.state.values():
            if "step" in entry:
                entry["step"].zero_()
        if self.on_gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def _run(self, rows: int, tokens: int) -> None:
        engine, device = self.engine, self.engine.device
        own = max(2, round(self.learned * tokens))
        ids = np.resize(self.a_row["input_ids"], own)
        # Two samples, so that attention is given a mask; behind an encoder there is one in a row.
        lengths = [own] if "source_ids" in self.a_row else [own // 2, own - own // 2]
        made = {**self.a_row, "input_ids": ids, "labels": ids, "segment_lengths": lengths, "positions": []}
        if "source_ids" in self.a_row:
            made["source_ids"] = np.resize(self.a_row["source_ids"], max(2, tokens - own))
        vocabulary = engine.module.config.get_text_config().vocab_size
        with torch.random.fork_rng([device] if self.on_gpu else []):
            engine.set_gradient_accumulation_boundary(True)
            batch = collate([made] * rows, [], device)
            losses, _ = token_losses(engine, batch, parts=logit_parts(rows * own, vocabulary))
            engine.backward(losses.sum() * 0, scale_wrt_gas=False)
            if engine.zero_optimization_stage() == 0:
                # 0 times what is not finite is NaN, and so the weights would be; ZeRO passes over such a step itself.
                for parameter in engine.module.parameters():
                    if parameter.grad is not None:
                        parameter.grad.zero_()
            engine.step()
            forget_gradients_of_a_skipped_step(engine.optimizer)

    def _peak(self, tokens: int) -> int:
        """Bytes that so many tokens, in whole rows or a part of one, take beyond what is held."""
        if self.on_gpu:
            torch.cuda.reset_peak_memory_stats()
        else:
            Path("/proc/self/clear_refs").write_text("5")  # the peak of what is resident begins anew
        self._run(max(1, tokens // self.row), min(tokens, self.row))
        return (torch.cuda.max_memory_allocated() if self.on_gpu else _resident("VmHWM")) - self.base

    def _held(self) -> int:
        return torch.cuda.memory_allocated() if self.on_gpu else _resident("VmRSS")

    def _room(self) -> int:
        """Bytes that a micro-batch may take here beyond what is held."""
        if self.on_gpu:
            free, total = torch.cuda.mem_get_info()
            return int(free + torch.cuda.memory_reserved() - self._held() - (1 - USABLE_SHARE) * total)
        workers = int(os.environ.get("LOCAL_WORLD_SIZE", torch.distributed.get_world_size()))
        return int(SHARE_OF_AVAILABLE * available_bytes() / workers)

    def _agreed(self, fits: bool) -> bool:
        """Whether it fits on every worker."""
        least = torch.tensor(int(fits), device=self.engine.device)
        torch.distributed.all_reduce(least, torch.distributed.ReduceOp.MIN)
        return bool(least)


def _resident(what: str) -> int:
    """Bytes of this process that are in memory: VmRSS now, VmHWM at the most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{what}:"))
