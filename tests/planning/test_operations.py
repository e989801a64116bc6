"""Operations against torch's own counter, and GPU-hours by hand."""

import pytest
import torch
import transformers

from raysel.models.shape import known_shape, read_shape
from raysel.planning.operations import (
    RATES,
    Work,
    distance_work,
    gpu_of,
    training_work,
    vector_work,
)
from raysel.training.settings import TrainingSettings
from raysel.training.throughput import training_operations
from tests.planning.test_activations import config_of


@pytest.mark.parametrize("family", ["llama", "qwen3", "cohere", "gpt2", "bloom"])
@pytest.mark.parametrize("method", ["full", "lora"])
def test_torch_counts_as_many(family: str, method: str) -> None:
    config = config_of(family, 64, 256, 3)
    model, shape = transformers.AutoModelForCausalLM.from_config(config), read_shape(config.to_dict())
    rows, tokens = 2, 48
    ids = torch.arange(rows * tokens).view(rows, tokens) % config.vocab_size
    batch = {"input_ids": ids, "labels": ids, "position_ids": torch.arange(tokens).expand(rows, tokens)}
    counted = training_operations(model, batch, parts=1, all_weights=method == "full")
    settings = TrainingSettings(method=method, lora={"rank": 1})
    assert training_work(shape, settings, rows, tokens).operations == pytest.approx(counted, rel=0.1)


def test_six_operations_for_each_weight_and_token() -> None:
    shape = known_shape("meta-llama/Llama-3.1-8B")
    assert shape is not None
    rows, tokens = 97_696, 250
    full = training_work(shape, TrainingSettings(method="full"), rows, tokens)
    assert full.operations == pytest.approx(6 * (8.03e9 - 128_256 * 4096) * rows * tokens, rel=0.02)
    twice = training_work(shape, TrainingSettings(method="full", data={"epochs": 2}), rows, tokens)
    assert twice.operations == 2 * full.operations
    again = training_work(shape, TrainingSettings(method="full", activation_checkpointing=True), rows, tokens)
    assert again.operations == pytest.approx(full.operations * 4 / 3)
    vectors = vector_work(shape, rows, tokens)
    assert vectors.operations == pytest.approx(2 * 6.98e9 * rows * tokens, rel=0.02)
    # 97,696 ** 2 x 4,096 x 2
    assert distance_work(rows, 4096).operations == pytest.approx(7.819e13, rel=1e-3)


def test_gpu_hours_by_hand() -> None:
    assert Work(3.6e3 * 989e12, 0.4).gpu_hours("h100") == pytest.approx(2.5)
    assert gpu_of("h100", 141) == "h100"
    assert gpu_of(None, 141) == "h200"
    assert gpu_of(None, 17) is None
    assert RATES["h200"] == RATES["h100"]
    assert all(of["bfloat16"] > of["float32"] for of in RATES.values())


def test_float32_is_as_slow_as_the_data_sheets_say() -> None:
    shape = known_shape("meta-llama/Llama-3.1-8B")
    assert shape is not None
    slow, fast = (training_work(shape, TrainingSettings(dtype=of, zero=2), 100, 100) for of in ("float32", "bfloat16"))
    assert slow.operations == fast.operations
    assert slow.gpu_hours("a100") / fast.gpu_hours("a100") == pytest.approx(312 / 19.5)
    exact, rough, split = (distance_work(1000, 64, precision=of) for of in ("float32", "tf32", "bf16x3"))
    assert exact.gpu_hours("h100") > split.gpu_hours("h100") == pytest.approx(3 * rough.gpu_hours("h100"))


def test_only_the_blocks_that_are_run_are_counted() -> None:
    shape = known_shape("CohereLabs/aya-23-35B")
    assert shape is not None
    whole, first, half = (vector_work(shape, 10, 100, layer=layer).operations for layer in (-1, 1, -21))
    assert (whole / first, whole / half) == (pytest.approx(40), pytest.approx(2))
