"""Floating-point operations of the stages, and the GPU-hours that they take at an assumed share of a GPU's rate.

A multiplication with its addition is two operations. A token takes two for each weight that it is multiplied with, and
4 x T x width / 2 for attention in a block to the T tokens before it. The backward pass takes the same for what lies
between the layers, and once more for the weights (Kaplan et al. 2020, arXiv 2001.08361, section 2.1); for adapters the
latter is small. Activation checkpointing takes one forward pass more.
"""

from dataclasses import dataclass
from typing import Literal

from raysel.models.shape import Shape
from raysel.planning.memory import trained_parameters
from raysel.training.settings import TrainingSettings

Gpu = Literal["a10", "l4", "a6000", "l40s", "a100", "h100", "h200", "b200"]
Dtype = Literal["bfloat16", "float32"]
# Dense operations per second of products in each type, as the makers' data sheets say, without sparsity; float32
# without TF32, which rounds to a thousandth.
RATES: dict[str, dict[Dtype, float]] = {
    "a10": {"bfloat16": 125e12, "float32": 31e12},
    "l4": {"bfloat16": 121e12, "float32": 30e12},
    "a6000": {"bfloat16": 155e12, "float32": 39e12},
    "l40s": {"bfloat16": 362e12, "float32": 91e12},
    "a100": {"bfloat16": 312e12, "float32": 19.5e12},
    "h100": {"bfloat16": 989e12, "float32": 67e12},
    "h200": {"bfloat16": 989e12, "float32": 67e12},
    "b200": {"bfloat16": 2250e12, "float32": 80e12},
}
# GB of memory that say which GPU it is, where that is not told.
BY_MEMORY: dict[int, Gpu] = {40: "a100", 80: "h100", 141: "h200", 180: "b200", 192: "b200"}
# Assumed, not measured: which share of the rate a stage reaches.
TRAINING_SHARE = 0.4
FORWARD_SHARE = 0.4
# Beside the products every distance needs its root, and a sum in float64.
DISTANCES_SHARE = 0.2


@dataclass(frozen=True)
class Work:
    """Operations of a step in `dtype`, and the share of the rate that it is assumed to reach."""

    operations: float
    share: float
    dtype: Dtype = "bfloat16"

    def gpu_hours(self, gpu: str) -> float:
        """On one GPU of this kind."""
        return self.operations / (RATES[gpu][self.dtype] * self.share) / 3600


def gpu_of(name: str | None, memory_gb: float | None) -> str | None:
    """The kind of GPU: as named, else what has so much memory; None where that says nothing."""
    if name is not None:
        return name
    return BY_MEMORY.get(round(memory_gb)) if memory_gb is not None else None


def forward_operations(shape: Shape, tokens: float, row_tokens: float, *, head_tokens: float = 0.0) -> float:
    """Of `tokens` tokens in texts of `row_tokens`, for `head_tokens` of which logits are made.

    Of an encoder-decoder at most: a token is counted in both, though it is in one of them.
    """
    attended = sum(stack.blocks * stack.attentions for stack in shape.stacks) * shape.heads * shape.head_width
    products = 2 * shape.matrices * tokens + 2 * row_tokens * attended * tokens
    return products + 2 * shape.embeddings * head_tokens


def vector_work(shape: Shape, rows: int, tokens_per_row: float, *, layer: int = -1) -> Work:
    """Hidden states of every row after so many blocks (from the end, where negative: -1 is the last); an encoder's,
    where there is one."""
    shape = shape.encoder
    blocks = layer if layer >= 0 else shape.blocks + 1 + layer
    whole = forward_operations(shape, rows * tokens_per_row, tokens_per_row)
    return Work(whole * blocks / shape.blocks, FORWARD_SHARE)


def distance_work(rows: int, width: int, *, precision: str = "float32") -> Work:
    """The distances of all pairs of rows: a product of rows x width with its transpose. Other precisions than float32
    are the tensor cores', those that split numbers in three products."""
    products = 3 if precision.endswith("x3") else 1
    return Work(2.0 * rows**2 * width * products, DISTANCES_SHARE, "float32" if precision == "float32" else "bfloat16")


def training_work(shape: Shape, settings: TrainingSettings, rows: int, tokens_per_row: float) -> Work:
    """All epochs over `rows` samples. Logits are counted for every token: how many are learned is not known."""
    tokens = settings.data.epochs * rows * tokens_per_row
    forward = forward_operations(shape, tokens, tokens_per_row, head_tokens=tokens)
    if settings.method == "full":
        passes = 3 * forward
    else:
        adapters = 2 * trained_parameters(shape, settings) * tokens
        passes = 2 * forward + 3 * adapters
    again = forward if settings.activation_checkpointing is True else 0
    return Work(passes + again, TRAINING_SHARE, settings.dtype)


def gradient_work(
    shape: Shape,
    rows: int,
    tokens_per_row: float,
    *,
    checkpoints: int,
    matrices: int,
    dimensions: int,
    dtype: Dtype = "bfloat16",
) -> Work:
    """LESS: forward and backward of every row at each checkpoint, the gradients of the adapters' `matrices` numbers
    from each row's tokens, and their projection to `dimensions`."""
    tokens = rows * tokens_per_row
    passes = 2 * forward_operations(shape, tokens, tokens_per_row, head_tokens=tokens)
    own = 2 * matrices * tokens + 2.0 * matrices * dimensions * rows
    return Work(checkpoints * (passes + own), FORWARD_SHARE, dtype)
