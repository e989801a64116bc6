"""How many replicas of a model a cluster holds, and over how many GPUs each is split."""

import math
from collections.abc import Sequence

from raysel.disk import readable
from raysel.errors import UserError
from raysel.models.size import ModelSize

# Of a GPU's memory, what the driver, its context and the allocator's gaps leave.
USABLE_SHARE = 0.92
CONTEXT_BYTES = 1 << 30
# The smallest batch worth running on a GPU.
LEAST_TOKENS = 4096


class PlacementError(UserError):
    """A model that the machines cannot hold."""


def gpus_per_replica(size: ModelSize, *, gpu_bytes: int, max_tokens: int, dtype: str = "bfloat16") -> int:
    """The fewest GPUs of `gpu_bytes` that hold a replica in `dtype` and a batch of `max_tokens`, split by whole blocks.

    `PlacementError` where no split is enough: a block or the batch is larger than a GPU.
    """
    working = size.working_bytes(dtype, max(max_tokens, LEAST_TOKENS)) + CONTEXT_BYTES
    room = gpu_bytes * USABLE_SHARE - working
    # Embeddings count as blocks of their own: they lie with the first ones.
    block = size.weight_bytes(dtype) / (size.blocks + 1)
    held = max(0, math.floor(room / block))
    if held == 0:
        raise PlacementError(
            f"one block of the embedding model ({readable(block)}) and a batch ({readable(working)}) do not fit "
            f"in a GPU of {gpu_bytes / 1e9:.0f} GB; lower embedding.max_tokens, or use larger GPUs"
        )
    return math.ceil((size.blocks + 1) / held)


def cpu_replicas(size: ModelSize, nodes: Sequence[tuple[int, int]], *, dtype: str = "float32") -> int:
    """How many replicas in `dtype` of one CPU or more the nodes (CPUs, bytes of memory) hold, at least 1."""
    each, batch = size.weight_bytes(dtype) + CONTEXT_BYTES, size.working_bytes(dtype, LEAST_TOKENS)
    # Every CPU has a batch of its own, whichever replica it serves.
    return max(1, sum(max(0, min(cpus, (memory - cpus * batch) // each)) for cpus, memory in nodes))


def placement(size: ModelSize, *, nodes: int, gpus_per_node: int, gpu_memory_gb: float | None, max_tokens: int) -> str:
    """One line for `raysel plan`: how the embedding model lies on such machines. `PlacementError` where it cannot."""
    model = f"{readable_count(size.parameters)} parameters"
    if not gpus_per_node:
        return f"{model}, {readable(size.weight_bytes('float32'))} in float32 for each worker, on CPUs"
    weights = f"{model}, {readable(size.weight_bytes('bfloat16'))} in bfloat16"
    if gpu_memory_gb is None:
        return f"{weights}; cluster.gpu_memory_gb is not set, so what fits on a GPU is found out by the run"
    each = gpus_per_replica(size, gpu_bytes=int(gpu_memory_gb * 1e9), max_tokens=max_tokens)
    if each > gpus_per_node:
        raise PlacementError(
            f"the embedding model ({weights}) needs {each} GPUs of {gpu_memory_gb:g} GB for a replica; a node has "
            f"{gpus_per_node}: take nodes of {each} (cluster.gpus_per_node), GPUs of at least "
            f"{_least_gpu_gb(size, gpus_per_node, max_tokens)} GB (cluster.gpu_memory_gb), or a smaller model"
        )
    replicas = nodes * (gpus_per_node // each)
    one = "1 GPU" if each == 1 else f"{each} GPUs"
    return f"{weights}: {one} of {gpu_memory_gb:g} GB for a replica, {replicas} replicas at once"


def _least_gpu_gb(size: ModelSize, gpus: int, max_tokens: int) -> int:
    """The least memory, in whole GB, with which `gpus` GPUs hold a replica."""
    memory = 1
    while True:
        try:
            if gpus_per_replica(size, gpu_bytes=memory * 10**9, max_tokens=max_tokens) <= gpus:
                return memory
        except PlacementError:
            pass
        memory += 1


def readable_count(number: int) -> str:
    """7.6B, 1.3M, 900."""
    for unit, name in ((10**9, "B"), (10**6, "M")):
        if number >= unit:
            return f"{number / unit:.1f}{name}"
    return str(number)
