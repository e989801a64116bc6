"""Copies of a model for CPU threads: they share the weights, and multiply through oneDNN."""

import copy
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class OneDnnLinear(torch.nn.Linear):
    """A linear layer whose float32 product is oneDNN's.

    torch takes MKL's, which does not use AVX-512 on AMD processors: measured on one core of a Zen 5, 90 to 97
    GFLOP/s, and oneDNN's 137 to 217 for the products of a model of width 256.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if input.dtype != torch.float32 or torch.is_autocast_enabled("cpu"):
            return super().forward(input)
        try:
            product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(input, self.weight, self.bias, "none", [], "")
        except RuntimeError:
            # Short of memory for buffers of its own it "could not create a primitive": torch's own needs none.
            return super().forward(input)
        return product


def copy_for_thread(body: "PreTrainedModel") -> "PreTrainedModel":
    """A copy of a model on the CPU for inference in a thread of its own, with the same weights in memory.

    What a forward attaches to a module, and what a module keeps between forwards, is not shared.
    """
    weights: dict[int, Any] = {id(weight): weight for weight in body.parameters()}
    copied = copy.deepcopy(body, weights)
    if torch.backends.mkldnn.is_available():
        for module in copied.modules():
            if type(module) is torch.nn.Linear and module.weight.dtype == torch.float32:
                module.__class__ = OneDnnLinear
    return copied
