"""What the share of the machine's rate is made of."""

from pathlib import Path

import torch
import transformers

from raysel.models.loading import load_causal_lm
from raysel.training.throughput import machine_rate, training_operations
from tests.embedding.families import SHAPE


def test_the_operations_are_those_of_the_models_products(tiny_llama: Path) -> None:
    model = load_causal_lm(tiny_llama)
    rows, tokens = 3, 20
    ids = torch.arange(rows * tokens).view(rows, tokens)
    labels = ids.clone()
    labels[:, :12] = -100
    batch = {"input_ids": ids, "labels": labels, "position_ids": torch.arange(tokens).expand(rows, tokens)}
    config = model.config
    weights = sum(p.numel() for p in model.model.layers.parameters() if p.ndim == 2)
    attention = 2 * 2 * rows * tokens**2 * config.hidden_size * config.num_hidden_layers
    head = 2 * rows * 8 * config.hidden_size * config.vocab_size
    forward = 2 * weights * rows * tokens + attention + head
    assert training_operations(model, batch, parts=1, all_weights=True) == 3 * forward
    assert training_operations(model, batch, parts=4, all_weights=False) == 2 * forward
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_machines_rate_is_that_of_a_product() -> None:
    assert 1e8 < machine_rate(torch.device("cpu"), torch.float32) < 1e14


def test_the_experts_count_by_the_tokens_they_get() -> None:
    """The products of all experts in one operation count as those of each alone."""
    torch.manual_seed(0)
    config = transformers.Qwen3MoeConfig(
        **SHAPE, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32, head_dim=8
    )
    ids = torch.arange(24).view(2, 12)
    batch = {"input_ids": ids, "labels": ids, "position_ids": torch.arange(12).expand(2, 12)}
    counts = []
    for implementation in ("grouped_mm", "eager"):
        model = transformers.AutoModelForCausalLM.from_config(config, experts_implementation=implementation)
        counts.append(training_operations(model, batch, parts=1, all_weights=True))
    assert counts[0] == counts[1]
