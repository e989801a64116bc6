"""A trained model as files that load with `from_pretrained`: safetensors, tokenizer with chat template, configs.

Weights are gathered, added to and written one after another: no worker ever holds the model.
"""

import errno
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from raysel.models.loading import load_causal_lm, make_causal_lm, read_config
from raysel.models.weights import INDEX, ONLY_FILE, SavedWeights, are_saved_as_they_are
from raysel.training.engine import trained_parameters

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LARGEST_FILE = 4 * 10**9


def save(model: Any, tokenizer: "PreTrainedTokenizerBase", folder: Path, *, keep: bool) -> None:
    """Save a model, or the adapters of a PEFT model, and its tokenizer in `folder`. OSError on a full disk.

    Every worker calls it, since ZeRO-3 shards the weights over all of them; the one with `keep` writes.
    """
    if hasattr(model, "peft_config"):
        adapters = dict(_gathered(trained_parameters(model).items(), keep=keep))
        if keep:
            with _full_disk_as_oserror(folder):
                model.save_pretrained(str(folder), state_dict=adapters, save_embedding_layers=False)
    else:
        saved = set(model.state_dict())
        named = [*model.named_parameters(), *model.named_buffers()]
        weights = _gathered([(name, value) for name, value in named if name in saved], keep=keep)
        _save_model(model, weights, folder, keep=keep)
    if keep:
        tokenizer.save_pretrained(str(folder))


def merge(base: Path, folder: Path, tokenizer: "PreTrainedTokenizerBase", *, trust_remote_code: bool) -> None:
    """Put the model in `base`, with the adapters in `folder` added to its weights, in their place.

    The sum is made in float32 and saved in the base model's own type.
    """

    config = read_config(base, dtype="auto", trust_remote_code=trust_remote_code)
    model = make_causal_lm(base, config, trust_remote_code=trust_remote_code, device="meta")
    if are_saved_as_they_are(model):
        with SavedWeights(base, model) as weights:
            weights.refuse_missing({name for name, _ in model.named_parameters()})
            read = {name: partial(weights.read, name) for name in weights.names}
            _save_merged(model, read, folder)
    else:
        whole = load_causal_lm(base, trust_remote_code=trust_remote_code)
        _save_merged(model, {name: value.flatten for name, value in whole.state_dict().items()}, folder)
    tokenizer.save_pretrained(str(folder))


def _save_merged(model: Any, read: Mapping[str, Callable[[], torch.Tensor]], folder: Path) -> None:
    """Replace the adapters in `folder` by `model`, which has no weights: `read` has them, flat."""
    from peft import PeftModel

    saved = model.state_dict()
    shapes = {name: weight.shape for name, weight in model.named_parameters()}
    buffers = {name: buffer.shape for name, buffer in model.named_buffers() if name in saved and name in read}
    for name, shape in shapes.items():
        # One zero that stands for all: PEFT puts adapters on the device of what they adapt.
        nothing = torch.nn.Parameter(torch.zeros(()).expand(shape), requires_grad=False)
        setattr(model.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2], nothing)
    model.tie_weights()
    adapted = PeftModel.from_pretrained(model, str(folder))
    start = "base_model.model."
    layers = {
        f"{name.removeprefix(start)}.weight": layer
        for name, layer in adapted.named_modules()
        if hasattr(layer, "get_delta_weight")
    }

    def merged() -> Iterator[tuple[str, torch.Tensor]]:
        for name, shape in (shapes | buffers).items():
            weight = read[name]().view(shape)
            if name in layers:
                base = layers[name].get_base_layer()
                nothing = base.weight.data
                base.weight.data = weight.float()
                layers[name].merge()
                weight, base.weight.data = base.weight.data.to(weight.dtype), nothing
            yield name, weight

    with tempfile.TemporaryDirectory(dir=folder) as merging:
        _save_model(model, merged(), Path(merging), keep=True)
        for file in folder.iterdir():
            if file.is_file():
                file.unlink()
        for file in Path(merging).iterdir():
            file.rename(folder / file.name)


def _gathered(named: Iterable[tuple[str, torch.Tensor]], *, keep: bool) -> Iterator[tuple[str, torch.Tensor]]:
    """Each of `named`, one at a time gathered from all workers where ZeRO-3 shards it; for those with `keep`, on the
    CPU."""
    import deepspeed

    for name, tensor in named:
        with deepspeed.zero.GatheredParameters([tensor], enabled=hasattr(tensor, "ds_id")):
            if keep:
                copy = tensor.detach().to("cpu", copy=True)
        if keep:
            yield name, copy


def _save_model(model: Any, weights: Iterable[tuple[str, torch.Tensor]], folder: Path, *, keep: bool) -> None:
    """`weights` and the configs of `model`, as its own `save_pretrained` does it, which wants them all at once."""
    from transformers.core_model_loading import revert_weight_conversion
    from transformers.dynamic_module_utils import custom_object_save

    files, weights = _WeightFiles(folder), iter(weights)
    # What is joined from several weights of the files is taken apart all together.
    parts: Iterable[dict[str, torch.Tensor]] = ({name: weight} for name, weight in weights)
    if not are_saved_as_they_are(model):
        parts = [dict(weights)]
    try:
        with _full_disk_as_oserror(folder):
            for part in parts:
                for name, weight in revert_weight_conversion(model, part).items():
                    files.add(name, weight)
            if keep:
                files.close()
    except (OSError, SafetensorError):
        # The others still give their parts of what is left.
        for _ in weights:
            pass
        raise
    if keep:
        model.config.architectures = [type(model).__name__]
        if model.is_remote_code():
            custom_object_save(model, str(folder), config=model.config)
        model.config.save_pretrained(str(folder))
        if model.can_generate():
            model.generation_config.save_pretrained(str(folder))


class _WeightFiles:
    """Safetensors files of at most `LARGEST_FILE` bytes each, and an index where it takes more than one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.held: dict[str, torch.Tensor] = {}
        self.files: list[list[str]] = []
        self.bytes = self.held_bytes = 0

    def add(self, name: str, weight: torch.Tensor) -> None:
        if self.held and self.held_bytes + weight.nbytes > LARGEST_FILE:
            self._write()
        self.held[name] = weight.contiguous()
        self.held_bytes += weight.nbytes
        self.bytes += weight.nbytes

    def close(self) -> None:
        self._write()
        if len(self.files) == 1:
            os.replace(self._unfinished(0), self.folder / ONLY_FILE)
            return
        weight_map = {}
        for number, names in enumerate(self.files):
            name = f"model-{number + 1:05d}-of-{len(self.files):05d}.safetensors"
            os.replace(self._unfinished(number), self.folder / name)
            weight_map.update(dict.fromkeys(names, name))
        index = {"metadata": {"total_size": self.bytes}, "weight_map": weight_map}
        (self.folder / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")

    def _write(self) -> None:
        save_file(self.held, self._unfinished(len(self.files)), metadata={"format": "pt"})
        self.files.append([*self.held])
        self.held, self.held_bytes = {}, 0

    def _unfinished(self, number: int) -> Path:
        return self.folder / f"model-{number + 1:05d}.safetensors"


@contextmanager
def _full_disk_as_oserror(folder: Path) -> Iterator[None]:
    try:
        yield
    except SafetensorError as error:
        if f"os error {errno.ENOSPC}" not in str(error):
            raise
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder)) from error
