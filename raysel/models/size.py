"""How large a model is, read from its files without loading it."""

import json
from dataclasses import dataclass
from math import prod
from pathlib import Path

BYTES = {"bfloat16": 2, "float32": 4}
HEADS = ("lm_head.", "embed_out.", "output.")


@dataclass(frozen=True)
class ModelSize:
    """parameters: without the language-model head; width: hidden units; inner: units of an MLP; blocks: how many."""

    parameters: int
    width: int
    inner: int
    blocks: int

    def weight_bytes(self, dtype: str) -> int:
        return self.parameters * BYTES[dtype]

    def working_bytes(self, dtype: str, tokens: int) -> int:
        """Of one batch inside one block: residual, normed, query, key, value, attention; gate, up, product."""
        return tokens * (6 * self.width + 3 * self.inner) * BYTES[dtype]


def model_size(folder: Path) -> ModelSize:
    """The size of the model in `folder`, from its config and the headers of its safetensors files."""
    from safetensors import safe_open

    parameters = 0
    for file in _weight_files(folder):
        with safe_open(file, framework="np") as tensors:
            names = [name for name in tensors.keys() if not name.startswith(HEADS)]  # noqa: SIM118 - not a dict
            parameters += sum(prod(tensors.get_slice(name).get_shape()) for name in names)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config = config.get("text_config", config)

    def first(*names: str, default: int) -> int:
        return next((int(config[name]) for name in names if config.get(name)), default)

    width = first("hidden_size", "n_embd", "d_model", default=4096)
    return ModelSize(
        parameters=parameters,
        width=width,
        inner=first("intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size", "d_ff", default=4 * width),
        blocks=first("num_hidden_layers", "n_layer", "n_layers", "num_layers", default=32),
    )


def _weight_files(folder: Path) -> list[Path]:
    """The files that transformers loads: some repositories hold the same weights in another format beside them."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        return [folder / name for name in sorted(set(json.loads(index.read_text())["weight_map"].values()))]
    single = folder / "model.safetensors"
    return [single] if single.is_file() else sorted(folder.glob("*.safetensors"))
