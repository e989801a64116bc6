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

Gpu = Literal["v100", "a10", "l4", "l40s", "a100", "h100", "h200", "b200"]
# Dense operations per second in bfloat16 (V100: float16), as the makers' data sheets say, without sparsity.
RATES: dict[str, float] = {
    "v100": 125e12,
    "a10": 125e12,
    "l4": 121e12,
    "l40s": 362e12,
    "a100": 312e12,
    "h100": 989e12,
    "h200": 989e12,
    "b200": 2250e12,
}
# GB of memory that say which GPU it is, where that is not told.
BY_MEMORY: dict[int, Gpu] = {40: "a100", 80: "h100", 141: "h200", 180: "b200", 192: "b200"}
# Assumed, not measured: which share of the rate a stage reaches.
TRAINING_SHARE = 0.4
FORWARD_SHARE = 0.4
# Tokens are made one after another, and the weights are read for each: memory bounds it.
GENERATION_SHARE = 0.02
# float32 products at the rate of the double pass that they take.
DISTANCES_SHARE = 0.1


@dataclass(frozen=True)
class Work:
    """Operations of a step, and the share of the rate that it is assumed to reach."""

    operations: float
    share: float

    def gpu_hours(self, rate: float) -> float:
        """At `rate` operations per second of one GPU."""
        return self.operations / (rate * self.share) / 3600


def gpu_of(name: str | None, memory_gb: float | None) -> str | None:
    """The kind of GPU: as named, else what has so much memory; None where that says nothing."""
    if name is not None:
        return name
    return BY_MEMORY.get(round(memory_gb)) if memory_gb is not None else None


def forward_operations(shape: Shape, tokens: float, row_tokens: float, *, head_tokens: float = 0.0) -> float:
    """Of `tokens` tokens in texts of `row_tokens`, for `head_tokens` of which logits are made."""
    attended = sum(stack.blocks * stack.attentions for stack in shape.stacks) * shape.heads * shape.head_width
    products = 2 * shape.matrices * tokens + 2 * row_tokens * attended * tokens
    return products + 2 * shape.embeddings * head_tokens


def vector_work(shape: Shape, rows: int, tokens_per_row: float) -> Work:
    """Hidden states of every row: the head is not needed."""
    return Work(forward_operations(shape, rows * tokens_per_row, tokens_per_row), FORWARD_SHARE)


def distance_work(rows: int, width: int) -> Work:
    """The distances of all pairs of rows: a product of rows x width with its transpose."""
    return Work(2.0 * rows**2 * width, DISTANCES_SHARE)


def training_work(shape: Shape, settings: TrainingSettings, rows: int, tokens_per_row: float) -> Work:
    """All epochs over `rows` samples. Logits are counted for every token: how many are learned is not known."""
    tokens = settings.data.epochs * rows * tokens_per_row
    forward = forward_operations(shape, tokens, tokens_per_row, head_tokens=tokens)
    if settings.method == "full":
        passes = 3 * forward
    else:
        adapters = 2 * trained_parameters(shape, settings) * tokens
        passes = 2 * forward + 3 * adapters
    return Work(passes + (forward if settings.activation_checkpointing else 0), TRAINING_SHARE)


def gradient_work(
    shape: Shape, rows: int, tokens_per_row: float, *, checkpoints: int, matrices: int, dimensions: int
) -> Work:
    """LESS: forward and backward of every row at each checkpoint, the gradients of the adapters' `matrices` numbers
    from each row's tokens, and their projection to `dimensions`."""
    tokens = rows * tokens_per_row
    passes = 2 * forward_operations(shape, tokens, tokens_per_row, head_tokens=tokens)
    own = 2 * matrices * tokens + 2.0 * matrices * dimensions * rows
    return Work(checkpoints * (passes + own), FORWARD_SHARE)


def evaluation_work(shape: Shape, items: int, tokens_per_item: float, *, generated: int = 0) -> Work:
    """Reading `items` prompts and writing `generated` tokens after each."""
    read = forward_operations(shape, items * tokens_per_item, tokens_per_item, head_tokens=items)
    if not generated:
        return Work(read, FORWARD_SHARE)
    written = forward_operations(shape, items * generated, tokens_per_item, head_tokens=items * generated)
    # Both in one sum: what is written costs as much more as its share is less.
    return Work(read + written * FORWARD_SHARE / GENERATION_SHARE, FORWARD_SHARE)
