"""Rows of several samples: how they are filled, and that samples do not see each other."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForCausalLM

from raysel.training.batches import collate
from raysel.training.examples import Example
from raysel.training.packing import PACKABLE_MODEL_TYPES, first_fit_decreasing
from raysel.training.settings import TokenSettings
from raysel.training.token_shards import Sample, even_steps, pack, steps_by_tokens

SMALL = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "max_position_embeddings": 128,
    "sliding_window": 6,
    "moe_intermediate_size": 16,
    "num_experts": 4,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "shared_expert_intermediate_size": 16,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


@given(st.lists(st.integers(1, 50), max_size=60), st.integers(50, 120))
def test_every_sample_is_in_one_row_and_no_row_is_over_full(lengths: list[int], capacity: int) -> None:
    bins = first_fit_decreasing(lengths, capacity)
    assert sorted(i for chosen in bins for i in chosen) == list(range(len(lengths)))
    assert all(0 < sum(lengths[i] for i in chosen) <= capacity for chosen in bins)
    # No two rows could be one: the sum of any two is over the capacity.
    sums = sorted(sum(lengths[i] for i in chosen) for chosen in bins)
    assert len(sums) < 2 or sums[0] + sums[1] > capacity


def test_a_sample_that_is_too_long_is_refused() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        first_fit_decreasing([5, 11], 10)


@given(st.lists(st.integers(1, 10), min_size=1, max_size=40), st.booleans())
def test_packing_permutes_within_a_step_only(lengths: list[int], packing: bool) -> None:
    samples = [
        Sample(at, f"s{at}", "en", None, None, Example(np.full(n, at, np.int32), np.full(n, at, np.int32), False))
        for at, n in enumerate(lengths)
    ]
    starts = even_steps(len(lengths), TokenSettings(batch_samples=4))
    rows = pack(samples, starts, 16, packing=packing).to_pylist()
    assert [row["step"] for row in rows] == sorted(row["step"] for row in rows)
    assert sorted(p for row in rows for p in row["positions"]) == list(range(len(lengths)))
    for row in rows:
        assert {p // 4 for p in row["positions"]} == {row["step"]}
        assert row["ids"] == [f"s{p}" for p in row["positions"]]
        assert row["segment_lengths"] == [lengths[p] for p in row["positions"]]
        assert row["input_ids"] == list(np.repeat(row["positions"], row["segment_lengths"]))
        assert packing or len(row["ids"]) == 1


@pytest.mark.parametrize("model_type", sorted(PACKABLE_MODEL_TYPES))
def test_samples_do_not_see_each_other_in_a_row_or_beside_a_shorter_one(model_type: str) -> None:
    default = AutoConfig.for_model(model_type)
    config = AutoConfig.for_model(model_type, **{key: value for key, value in SMALL.items() if hasattr(default, key)})
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    rows = [
        {
            "input_ids": np.random.default_rng(0).integers(3, 64, sum(lengths)),
            "labels": np.zeros(sum(lengths), dtype=np.int64),
            "segment_lengths": lengths,
            "positions": [],
        }
        for lengths in ([9, 4, 12], [5, 11])
    ]
    batch = collate(rows, range(9), torch.device("cpu"))
    with torch.no_grad():
        packed = model(batch["input_ids"], position_ids=batch["position_ids"], use_cache=False).logits
        for row, found in zip(rows, packed, strict=True):
            parts = torch.from_numpy(row["input_ids"]).split(row["segment_lengths"])
            apart = torch.cat([model(part[None], use_cache=False).logits[0] for part in parts])
            torch.testing.assert_close(found[: len(apart)], apart, atol=1e-5, rtol=1e-4)


@given(st.lists(st.integers(0, 16), min_size=1, max_size=60), st.integers(16, 50), st.integers(1, 3))
def test_steps_of_at_most_so_many_tokens_are_as_large_as_they_can_be(
    lengths: list[int], batch_tokens: int, epochs: int
) -> None:
    starts = steps_by_tokens(np.array(lengths, dtype=np.int32), batch_tokens, epochs).tolist()
    every = lengths * epochs
    assert starts[0] == 0
    assert starts[-1] == len(every)
    for first, end in itertools.pairwise(starts):
        assert first < end
        assert sum(every[first:end]) <= batch_tokens
        assert end == len(every) or sum(every[first : end + 1]) > batch_tokens
