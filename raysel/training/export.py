"""A trained model as files that load with `from_pretrained`: safetensors, tokenizer with chat template, configs."""

import errno
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError

from raysel.models.loading import load_causal_lm
from raysel.training.engine import trained_parameters

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LARGEST_FILE = "4GB"


def gather_weights(model: Any, *, only_trained: bool, keep: bool) -> dict[str, torch.Tensor]:
    """Weights by name on the CPU, one at a time gathered from all workers where ZeRO-3 shards them.

    Every worker calls it; those without `keep` get an empty dict.
    """
    import deepspeed

    named: Iterable[tuple[str, torch.Tensor]] = (
        trained_parameters(model).items() if only_trained else [*model.named_parameters(), *model.named_buffers()]
    )
    saved = set(model.state_dict())
    weights = {}
    for name, tensor in named:
        with deepspeed.zero.GatheredParameters([tensor], enabled=hasattr(tensor, "ds_id")):
            if keep and name in saved:
                weights[name] = tensor.detach().to("cpu", copy=True)
    return weights


def merge(base: Path, folder: Path, tokenizer: "PreTrainedTokenizerBase", *, trust_remote_code: bool) -> None:
    """Put the model in `base`, with the adapters in `folder` added to its weights, in their place.

    The sum is made in float32 and saved in the base model's own type.
    """
    model = load_causal_lm(base, adapter=folder, trust_remote_code=trust_remote_code)
    dtype = model.dtype
    merged = model.float().merge_and_unload().to(dtype)
    for file in folder.iterdir():
        file.unlink()
    save(merged, tokenizer, merged.state_dict(), folder)


def save(model: Any, tokenizer: "PreTrainedTokenizerBase", weights: dict[str, torch.Tensor], folder: Path) -> None:
    """Save a model, or the adapters of a PEFT model, and its tokenizer in `folder`. OSError on a full disk."""
    try:
        if hasattr(model, "peft_config"):
            model.save_pretrained(str(folder), state_dict=weights, save_embedding_layers=False)
        else:
            model.save_pretrained(str(folder), state_dict=weights, max_shard_size=LARGEST_FILE)
    except SafetensorError as error:
        if f"os error {errno.ENOSPC}" not in str(error):
            raise
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder)) from error
    tokenizer.save_pretrained(str(folder))
