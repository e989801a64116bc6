"""The cheap forward of every family, in every way, against the plain one of one text at a time."""

import numpy as np
import pytest
import torch
from accelerate import dispatch_model
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, MambaConfig, PreTrainedModel

from raysel.embedding.last_tokens import LastTokenForward, exact_forward, packed_attention
from tests.embedding.families import FAMILIES, NOT_PACKED, VOCABULARY, family

# Longer than the sliding windows of the families that have one.
LENGTHS = (1, 2, 5, 30, 30, 17, 60, 3)


def texts(lengths: tuple[int, ...] = LENGTHS) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(3, VOCABULARY, length) for length in lengths]


@torch.inference_mode()
def plain(model: PreTrainedModel, layers: list[int], batch: list[np.ndarray]) -> torch.Tensor:
    found = [model(torch.from_numpy(text)[None], output_hidden_states=True).hidden_states for text in batch]
    return torch.stack([torch.stack([states[layer][0, -1] for layer in layers]) for states in found])


def body(model: PreTrainedModel) -> PreTrainedModel:
    return getattr(model, model.base_model_prefix)


@pytest.mark.parametrize(
    ("name", "packed"),
    [*((name, False) for name in FAMILIES), *((name, True) for name in FAMILIES if name not in NOT_PACKED)],
)
@pytest.mark.parametrize("skip", [False, True])
def test_every_family_in_every_way(name: str, packed: bool, skip: bool) -> None:
    model = family(name)
    for layers in ([3], [2], [1], [0], [0, 2, 3, 1]):
        expected = plain(model, layers, texts())
        found = LastTokenForward(body(model), layers, packed=packed, skip=skip)(texts())
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("name", FAMILIES)
def test_the_cheapest_way_is_found_and_the_model_is_left_as_it_was(name: str) -> None:
    model = family(name)
    before = plain(model, [3], texts())
    way = model.config._attn_implementation
    forward = exact_forward(body(model), [3], packed=True)
    assert (forward.packed, forward.skip) == (name not in NOT_PACKED, True)
    forward(texts())
    assert model.config._attn_implementation == way
    assert torch.equal(plain(model, [3], texts()), before)


@pytest.mark.parametrize("name", ["llama", "gpt2", "bloom", "gemma2"])
def test_bfloat16_to_its_own_tolerance(name: str) -> None:
    model = family(name, dtype=torch.bfloat16)
    expected = plain(model, [3], texts()).float()
    found = exact_forward(body(model), [3], packed=True)(texts())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0.02, atol=0.02 * float(expected.abs().max()))


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma3"])
@pytest.mark.parametrize("packed", [False, True])
def test_a_model_that_was_split_over_devices(name: str, packed: bool) -> None:
    """With the hooks that move each block's input to its device; here every device is the CPU."""
    model = family(name)
    expected = plain(model, [1, 3], texts())
    parts: dict[str, str] = {}
    for part, module in body(model).named_children():
        many = isinstance(module, torch.nn.ModuleList)
        parts |= {f"{part}.{i}": "cpu" for i in range(len(module))} if many else {part: "cpu"}
    split = dispatch_model(body(model), parts, main_device="cpu", force_hooks=True)
    forward = exact_forward(split, [1, 3], packed=packed)
    assert (forward.packed, forward.skip) == (packed, True)
    torch.testing.assert_close(forward(texts()), expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


def test_a_block_that_asks_for_more_than_a_cache_is_run_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """A family that nobody tried: its attention wants to know how long its cache is."""
    model = family("llama")
    attention = model.model.layers[-1].self_attn
    original = attention.forward

    def forward(*args: object, past_key_values: object = None, **kwargs: object) -> object:
        if past_key_values is not None:
            past_key_values.get_seq_length()
        return original(*args, past_key_values=past_key_values, **kwargs)

    monkeypatch.setattr(attention, "forward", forward)
    found = exact_forward(model.model, [3], packed=False)
    assert not found.skip
    torch.testing.assert_close(found(texts()), plain(model, [3], texts()), rtol=1e-5, atol=1e-5)


def test_a_model_without_keys_and_values_gives_what_it_can() -> None:
    """A state-space model's blocks are given other hidden states than it reports, but for the last."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(MambaConfig(hidden_size=32, num_hidden_layers=3, vocab_size=VOCABULARY))
    expected = plain(model.eval(), [3], texts())
    found = exact_forward(model.backbone, [3], packed=False)(texts())
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))
    with pytest.raises(ValueError, match=r"hidden states 2 of MambaModel cannot be taken"):
        exact_forward(model.backbone, [2], packed=False)


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 9)), min_size=1, max_size=5), st.sampled_from([None, 3]))
def test_packed_attention_is_causal_attention_in_each_text(shapes: list[tuple[int, int]], window: int | None) -> None:
    """Against one text at a time with a written-out mask; texts may have more keys than queries."""
    torch.manual_seed(len(shapes))
    queries, keys = [q for q, _ in shapes], [q + more for q, more in shapes]
    q, k, v = (torch.randn(1, h, n, 4) for h, n in ((4, sum(queries)), (2, sum(keys)), (2, sum(keys))))
    ends = [torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int32) for lengths in (queries, keys)]
    found, _ = packed_attention(
        torch.nn.Module(), q, k, v, None, cu_seq_lens_q=ends[0], cu_seq_lens_k=ends[1],
        max_length_q=max(queries), max_length_k=max(keys), scaling=0.3, sliding_window=window,
    )  # fmt: skip
    assert found.shape == (1, sum(queries), 4, 4)
    for i, (n_q, n_k) in enumerate(zip(queries, keys, strict=True)):
        own_q = q[0, :, ends[0][i] : ends[0][i + 1]]
        own_k, own_v = (x[0, :, ends[1][i] : ends[1][i + 1]].repeat_interleave(2, dim=0) for x in (k, v))
        distance = (torch.arange(n_k - n_q, n_k)[:, None] - torch.arange(n_k)[None]).float()
        hidden = (distance < 0) | (distance >= (window or 10**6))
        weights = (own_q @ own_k.transpose(1, 2) * 0.3).masked_fill(hidden, float("-inf")).softmax(-1)
        expected = (weights @ own_v).transpose(0, 1)
        torch.testing.assert_close(found[0, ends[0][i] : ends[0][i + 1]], expected, rtol=1e-4, atol=1e-5)
