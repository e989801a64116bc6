"""How much of a machine's rate training reaches: the model's own operations against a large product of matrices."""

import math
import resource
import sys
import time
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from raysel.training.loss import token_losses

# Products that keep a device busy for some milliseconds.
CPU_SIDE, GPU_SIDE = 1024, 8192
PRODUCTS = 10
# By the operands' shapes; what torch's own counter does not know: attention on CPUs, and the products of all experts.
MORE_OPERATIONS = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v),
    torch.ops.aten._grouped_mm: lambda a, b, *_, **__: 2 * math.prod(a) * b[-1],
}


@torch.no_grad()
def training_operations(model: Any, batch: dict[str, torch.Tensor], *, parts: int, all_weights: bool) -> int:
    """Floating-point operations that training on `batch` takes (`batch` and `parts` as `token_losses` has them).

    Those of the forward are counted; the backward takes as many for the gradient of what lies between the layers, and
    as many again for that of the weights, which adapters (`all_weights` False) all but save. What activation
    checkpointing computes again is not counted.
    """
    with FlopCounterMode(display=False, custom_mapping=MORE_OPERATIONS) as counter:
        token_losses(model, batch, parts=parts)
    return counter.get_total_flops() * (3 if all_weights else 2)


def machine_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Operations per second of a product of two square matrices: the fastest of `PRODUCTS`."""
    side = CPU_SIDE if device.type == "cpu" else GPU_SIDE
    matrix = torch.ones(side, side, device=device, dtype=dtype)
    seconds = []
    for _ in range(PRODUCTS):
        started = time.perf_counter()
        torch.mm(matrix, matrix)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - started)
    return 2 * side**3 / min(seconds)


def peak_memory_gb(device: torch.device) -> float:
    """The most that this process has held so far, in GB (1e9 bytes): on its GPU, or on a machine without, at all."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
