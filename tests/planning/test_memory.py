"""What a worker holds, against what torch's allocator gives out in real steps of DeepSpeed with one worker."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from raysel.errors import UserError
from raysel.models.loading import load_causal_lm
from raysel.models.shape import known_shape, read_shape
from raysel.planning.memory import state_bytes, trained_parameters, training_memory
from raysel.training.engine import add_adapters
from raysel.training.settings import TrainingSettings
from tests.planning.measured import most_bytes

FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"num_key_value_heads": 2, "intermediate_size": 3},
    "qwen3": {"num_key_value_heads": 2, "head_dim": 64, "intermediate_size": 3},
    "cohere": {"num_key_value_heads": 4, "intermediate_size": 3},
    "bloom": {},
    "gpt2": {"n_positions": 64},
}
SETTINGS = [
    (zero, dtype, method)
    for zero in (0, 1, 2, 3)
    for dtype in ("float32", "bfloat16")
    for method in ("full", "lora")
    if zero or dtype == "float32"
]
FAST = [(2, "bfloat16", "full"), (3, "float32", "full")]


def saved_model(folder: Path, family: str, width: int, blocks: int, vocabulary: int = 1500, tied: bool = False) -> Path:
    more = {key: size * width if key == "intermediate_size" else size for key, size in FAMILIES[family].items()}
    if family == "llama":
        more["tie_word_embeddings"] = tied
    config = transformers.AutoConfig.for_model(
        family, hidden_size=width, num_hidden_layers=blocks, num_attention_heads=4, vocab_size=vocabulary,
        bos_token_id=0, eos_token_id=1, **more,
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


def assert_is_planned(expected: int, most: int) -> None:
    """Within a tenth, but for a copy of a gradient that a reduction, in another thread, lets go sooner in some runs."""
    assert 0.9 * most <= expected <= 1.2 * most


@pytest.mark.parametrize(
    ("zero", "dtype", "method"),
    [pytest.param(*given, marks=[] if given in FAST else pytest.mark.slow) for given in SETTINGS],
)
def test_llama_in_every_form(tmp_path: Path, zero: Any, dtype: Any, method: Any) -> None:
    settings = TrainingSettings(zero=zero, dtype=dtype, method=method, lora={"rank": 16})
    folder = saved_model(tmp_path / "m", "llama", 512, 3)
    shape = read_shape(transformers.AutoConfig.from_pretrained(folder).to_dict())
    expected, most = state_bytes(shape, settings, workers=1).device_bytes, most_bytes(folder, settings)
    if zero == 3 and method == "lora":
        # Frozen weights are let go sooner than DeepSpeed's own bound says: measured are 59 to 66 MB of 101.
        assert most <= expected <= 1.8 * most
    else:
        assert_is_planned(expected, most)


@pytest.mark.parametrize(
    ("zero", "dtype", "tied", "told"),
    [
        (2, "bfloat16", True, {"reduce_bucket_size": 50_000}),
        pytest.param(2, "bfloat16", True, {}, marks=pytest.mark.slow),
        pytest.param(0, "float32", True, {"reduce_bucket_size": 50_000}, marks=pytest.mark.slow),
        pytest.param(1, "float32", True, {}, marks=pytest.mark.slow),
        pytest.param(1, "float32", False, {"reduce_bucket_size": 50_000}, marks=pytest.mark.slow),
        pytest.param(3, "float32", False, {"reduce_bucket_size": 50_000}, marks=pytest.mark.slow),
    ],
)
def test_the_gradient_of_a_large_vocabulary(
    tmp_path: Path, zero: Any, dtype: Any, tied: bool, told: dict[str, Any]
) -> None:
    """Embeddings and head are nearly all of the model, and larger than a bucket that is made small. Measured are 97 or
    108 MB of ZeRO-1, tied, and 128 or 148 of ZeRO-3."""
    settings = TrainingSettings(zero=zero, dtype=dtype, method="full", deepspeed={"zero_optimization": told})
    folder = saved_model(tmp_path / "m", "llama", 128, 1, vocabulary=20_000, tied=tied)
    shape = read_shape(transformers.AutoConfig.from_pretrained(folder).to_dict())
    expected = state_bytes(shape, settings, workers=1).device_bytes
    assert_is_planned(expected, most_bytes(folder, settings))


@pytest.mark.parametrize(("zero", "dtype"), [(2, "bfloat16"), pytest.param(1, "float32", marks=pytest.mark.slow)])
def test_a_bucket_is_filled_while_another_is_reduced(tmp_path: Path, zero: Any, dtype: Any) -> None:
    told = {"zero_optimization": {"overlap_comm": True}}
    settings = TrainingSettings(zero=zero, dtype=dtype, method="full", deepspeed=told)
    folder = saved_model(tmp_path / "m", "llama", 256, 2)
    shape = read_shape(transformers.AutoConfig.from_pretrained(folder).to_dict())
    expected = state_bytes(shape, settings, workers=1).device_bytes
    assert_is_planned(expected, most_bytes(folder, settings))


@pytest.mark.slow
@pytest.mark.parametrize(("width", "blocks"), [(320, 2), (448, 4), (640, 3)])
@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "llama"])
def test_every_family_at_three_sizes(tmp_path: Path, family: str, width: int, blocks: int) -> None:
    settings = TrainingSettings(zero=2, dtype="bfloat16", method="full")
    folder = saved_model(tmp_path / "m", family, width, blocks)
    shape = read_shape(transformers.AutoConfig.from_pretrained(folder).to_dict())
    expected = state_bytes(shape, settings, workers=1).device_bytes
    assert_is_planned(expected, most_bytes(folder, settings))


def test_adapters_are_counted_as_they_are_made(tmp_path: Path) -> None:
    folder = saved_model(tmp_path / "m", "gpt2", 64, 2)
    settings = TrainingSettings(lora={"rank": 3})
    model = add_adapters(load_causal_lm(folder), settings.lora, "training")
    made = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    shape = read_shape(transformers.AutoConfig.from_pretrained(folder).to_dict())
    assert trained_parameters(shape, settings) == made


def test_llama_8b_by_hand() -> None:
    """8.03e9 parameters over 8 workers in bfloat16: 2 bytes of weights each, and 12 / 8 of the optimizer's."""
    shape = known_shape("meta-llama/Llama-3.1-8B")
    assert shape is not None
    count, tokens = 8_030_261_248, 2048
    settings = TrainingSettings(
        method="full", dtype="bfloat16", zero=2, micro_batch_tokens=tokens, data={"max_tokens": 2048}
    )
    memory = training_memory(shape, settings, workers=8)
    assert memory.device["weights"] == 2 * count
    assert memory.device["optimizer"] == 12 * count // 8
    assert memory.device["gradients"] == 4 * count // 8
    assert memory.device["buckets"] == 2 * 500_000_000
    # Embeddings and head are larger than a bucket: one waits while the other comes, and a float32 copy is added up.
    assert memory.device["arriving gradients"] == 2 * 500_000_000 + (4 + 2 * 2) * 128_256 * 4096
    # Of a token, in a block: norms 32 and 16 kB, linear inputs 16 kB, attention 32 kB, 128 B and 4 kB, MLP 112 kB.
    block = 2 * 4 * 4096 + 4 * 2 * 4096 + 4 * 2 * 4096 + 4 * 32 + 4 * 2 * 14336 + 2 * tokens
    shared = tokens + 2 * (2 * 128 + 4096)
    assert memory.device["activations"] == tokens * (32 * block + shared)
    assert 45e9 < memory.device_bytes < 60e9
    sharded = training_memory(shape, settings.model_copy(update={"zero": 3}), workers=8)
    assert sharded.device["weights"] == 2 * count // 8
    assert sharded.device_bytes < memory.device_bytes


@pytest.mark.parametrize(
    ("name", "lora", "rows"),
    [("ai-forever/mGPT", {}, 1), ("bigscience/bloom-1b7", {}, 8), ("bigscience/bloom-1b7", {"dropout": 0.05}, 1)],
)
def test_what_is_drawn_at_random_is_of_one_row(name: str, lora: dict[str, Any], rows: int) -> None:
    shape = known_shape(name)
    assert shape is not None

    def activations(tokens: int) -> int:
        settings = TrainingSettings(lora=lora, micro_batch_tokens=tokens, data={"max_tokens": 64})
        return training_memory(shape, settings, workers=1).device["activations"]

    assert activations(8 * 64) == rows * activations(64)


@hypothesis_settings(max_examples=40, deadline=None)
@given(
    zero=st.sampled_from([1, 2, 3]),
    workers=st.integers(1, 64),
    tokens=st.sampled_from([512, 2048, 8192]),
    method=st.sampled_from(["full", "lora"]),
)
def test_what_spares_memory_spares_it(zero: Any, workers: int, tokens: int, method: Any) -> None:
    shape = known_shape("Qwen/Qwen2.5-7B")
    assert shape is not None

    def bytes_of(*, on: int = workers, **changed: Any) -> int:
        given = {"zero": zero, "dtype": "bfloat16", "method": method, "micro_batch_tokens": tokens} | changed
        return training_memory(shape, TrainingSettings(**given), workers=on).device_bytes

    now = bytes_of()
    assert bytes_of(on=2 * workers) <= now
    assert bytes_of(activation_checkpointing=True) < now
    assert bytes_of(offload="optimizer") < now
    assert bytes_of(micro_batch_tokens=tokens // 2) <= now
    assert bytes_of(method="lora") <= now


def test_what_the_user_tells_deepspeed_counts() -> None:
    shape = known_shape("Qwen/Qwen2.5-7B")
    assert shape is not None
    small = {"zero_optimization": {"reduce_bucket_size": 1000}}
    settings = TrainingSettings(zero=2, dtype="bfloat16", method="full", deepspeed=small)
    assert state_bytes(shape, settings, workers=4).device["buckets"] == 2000
    for told, taken in ((1000.0, 2000), ("1000", 2000)):  # as DeepSpeed reads them
        settings = settings.model_copy(update={"deepspeed": {"zero_optimization": {"reduce_bucket_size": told}}})
        assert state_bytes(shape, settings, workers=4).device["buckets"] == taken


@pytest.mark.parametrize("told", ["5e8", 1.5, None, -1])
def test_what_is_no_number_is_refused(told: Any) -> None:
    shape = known_shape("Qwen/Qwen2.5-7B")
    assert shape is not None
    settings = TrainingSettings(deepspeed={"zero_optimization": {"reduce_bucket_size": told}})
    with pytest.raises(UserError, match=rf"zero_optimization\.reduce_bucket_size is a whole number, found {told!r}"):
        state_bytes(shape, settings, workers=4)


def test_the_host_holds_what_is_offloaded() -> None:
    shape = known_shape("Qwen/Qwen2.5-7B")
    assert shape is not None
    settings = TrainingSettings(zero=2, dtype="bfloat16", method="full", offload="optimizer")
    memory = state_bytes(shape, settings, workers=2)
    assert "optimizer" not in memory.device
    assert memory.host == 22 * -(-shape.parameters // 2)
