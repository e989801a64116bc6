"""How many replicas of a model a cluster holds, and over how many GPUs each is split."""

import math

from raysel.models.size import ModelSize

# Of a GPU's memory, what the driver, its context and the allocator's gaps leave.
USABLE_SHARE = 0.92
CONTEXT_BYTES = 1 << 30
# The smallest batch worth running on a GPU.
LEAST_TOKENS = 4096


def gpus_per_replica(size: ModelSize, *, gpu_bytes: int, max_tokens: int) -> int:
    """The fewest GPUs of `gpu_bytes` that hold one bfloat16 replica and a batch of `max_tokens`, split by whole blocks.

    ValueError where no split is enough: a block or the batch is larger than a GPU.
    """
    working = size.working_bytes("bfloat16", max(max_tokens, LEAST_TOKENS)) + CONTEXT_BYTES
    room = gpu_bytes * USABLE_SHARE - working
    # Embeddings count as blocks of their own: they lie with the first ones.
    block = size.weight_bytes("bfloat16") / (size.blocks + 1)
    held = max(0, math.floor(room / block))
    if held == 0:
        raise ValueError(
            f"one block of {block / 1e9:.1f} GB and {working / 1e9:.1f} GB for a batch do not fit in a GPU of "
            f"{gpu_bytes / 1e9:.0f} GB"
        )
    return math.ceil((size.blocks + 1) / held)


def cpu_replicas(size: ModelSize, *, cpus: int, memory_bytes: int) -> int:
    """How many float32 replicas of one CPU or more fit in `memory_bytes`, at least 1."""
    each = size.weight_bytes("float32") + size.working_bytes("float32", LEAST_TOKENS) + CONTEXT_BYTES
    return max(1, min(cpus, memory_bytes // each))
