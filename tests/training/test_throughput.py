"""What the share of the machine's rate is made of."""

from pathlib import Path

import torch

from raysel.models.loading import load_causal_lm
from raysel.training.throughput import machine_rate, training_operations


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
