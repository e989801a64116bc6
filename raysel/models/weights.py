"""The weights of a saved model, read piece by piece: what a worker does not keep, it does not read."""

import json
import math
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO, Self

import torch

from raysel.models.loading import ModelError

INDEX, ONLY_FILE = "model.safetensors.index.json", "model.safetensors"
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
# The numbers of a tensor laid out row by row, from one to before another; all where neither is given.
ReadRange = Callable[..., torch.Tensor]


class SafetensorsFile:
    """A safetensors file, open for reading, of which any range of a tensor can be read.

    The library reads from local files alone, and of a tensor whole rows; the format is a length (8 bytes, little
    endian), a header in JSON and the tensors' bytes.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        length = int.from_bytes(file.read(8), "little")
        self.header: dict[str, dict[str, Any]] = json.loads(file.read(length))
        self.header.pop("__metadata__", None)
        self.data = 8 + length

    def shape(self, key: str) -> tuple[int, ...]:
        return tuple(self.header[key]["shape"])

    def read(self, key: str, start: int = 0, stop: int | None = None) -> torch.Tensor:
        """The numbers from `start` to before `stop` of a tensor laid out row by row: (stop - start,), its own dtype.

        Raises OSError where the file ends before.
        """
        entry = self.header[key]
        numbers = torch.empty(
            (math.prod(entry["shape"]) if stop is None else stop) - start, dtype=DTYPES[entry["dtype"]]
        )
        self.file.seek(self.data + entry["data_offsets"][0] + start * numbers.itemsize)
        place = memoryview(numbers.view(torch.uint8).numpy())  # type: ignore[arg-type]
        while len(place):
            read = self.file.readinto(place)  # type: ignore[attr-defined]
            if not read:
                raise OSError(f"{getattr(self.file, 'name', 'a safetensors file')} ends within tensor {key}")
            place = place[read:]
        return numbers


class SavedWeights:
    """The weights in `folder` under the names that `model`, of the same kind and without weights, has for them."""

    def __init__(self, folder: Path, model: Any) -> None:
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import rename_source_key

        self.folder = folder
        shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
        renamings = get_model_conversion_mapping(model)
        self._found: dict[str, tuple[SafetensorsFile, str]] = {}
        with ExitStack() as opened:
            for name in weight_files(folder):
                if not (folder / name).exists():
                    raise ModelError(f"model folder {folder}: {name}, which has weights, is missing")
                file = SafetensorsFile(opened.enter_context((folder / name).open("rb", buffering=0)))
                for key, entry in file.header.items():
                    own, _ = rename_source_key(key, renamings, [], model.base_model_prefix, shapes)
                    if own in shapes:
                        self._refuse_other(name, key, entry, shapes[own])
                        self._found[own] = file, key
            self._open = opened.pop_all()
        for one, other in model.all_tied_weights_keys.items():
            if one in self._found:  # files may have a tied weight under either name
                self._found.setdefault(other, self._found[one])

    def _refuse_other(self, file: str, key: str, entry: dict[str, Any], shape: tuple[int, ...]) -> None:
        found = tuple(entry["shape"])
        if found != shape:
            raise ModelError(
                f"model folder {self.folder}: {key} in {file} is {found}, but config.json makes it {shape}"
            )
        if entry["dtype"] not in DTYPES:
            raise ModelError(
                f"model folder {self.folder}: {key} in {file} is of type {entry['dtype']}, not {', '.join(DTYPES)}"
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    @property
    def names(self) -> frozenset[str]:
        return frozenset(self._found)

    def read(self, name: str, start: int = 0, stop: int | None = None) -> torch.Tensor:
        """As `SafetensorsFile.read`."""
        file, key = self._found[name]
        return file.read(key, start, stop)

    def refuse_missing(self, names: set[str]) -> None:
        """`ModelError` where one of `names` is not there."""
        missing = sorted(names - self.names)
        if missing:
            more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
            raise ModelError(f"model folder {self.folder}: no weights for {', '.join(missing[:3])}{more}")


def weight_files(folder: Path) -> list[str]:
    """The files in `folder` that hold the weights: the only one, or those that its index names."""
    if not (folder / ONLY_FILE).exists() and (folder / INDEX).exists():
        return sorted(set(json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values()))
    return [ONLY_FILE]


def are_saved_as_they_are(model: Any) -> bool:
    """Whether each weight of `model` is a tensor of its files: not quantised, nor joined from several (experts)."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter

    if getattr(model.config, "quantization_config", None) is not None:
        return False
    return not any(isinstance(step, WeightConverter) for step in get_model_conversion_mapping(model))
