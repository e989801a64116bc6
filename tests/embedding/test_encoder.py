"""Last-token vectors against the plain one-text-at-a-time forward."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer, BloomConfig, BloomForCausalLM, GPT2Config, GPT2LMHeadModel

from raysel.embedding import LastTokenEncoder
from raysel.embedding.encoder import batches_under_budget
from tests.small_models import byte_bpe_tokenizer

TEXTS = ["Hello there.", "Привет", "你好，你怎么样？" * 6, "a", "नमस्ते आप कैसे हैं " * 9, "mixed 混合 текст 🙂", "x " * 40]


@torch.inference_mode()
def one_at_a_time(model: torch.nn.Module, tokenizer: object, texts: list[str], layer: int = -1) -> np.ndarray:
    rows = []
    for text in texts:
        ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
        rows.append(model(ids, output_hidden_states=True).hidden_states[layer][0, -1].numpy())
    return np.stack(rows)


def models() -> dict[str, torch.nn.Module]:
    torch.manual_seed(0)
    size = {"vocab_size": 400, "bos_token_id": 0, "eos_token_id": 1}
    return {
        "gpt2": GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=512, **size)),
        "bloom": BloomForCausalLM(BloomConfig(hidden_size=32, n_layer=2, n_head=4, **size)),
    }


@pytest.mark.parametrize("budget", [1, 64, 4096])
@pytest.mark.parametrize("layer", [-1, 0, 1])
def test_equals_the_plain_forward(tiny_llama: Path, budget: int, layer: int) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype="float32").eval()
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    expected = one_at_a_time(model, tokenizer, TEXTS, layer)
    found = LastTokenEncoder(model, tokenizer, token_budget=budget, layer=layer).encode(TEXTS)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", ["gpt2", "bloom"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_other_families_and_either_padding_side(family: str, side: str) -> None:
    model, tokenizer = models()[family].eval(), byte_bpe_tokenizer()
    expected = one_at_a_time(model, tokenizer, TEXTS)
    tokenizer.padding_side = tokenizer.truncation_side = side
    tokenizer.pad_token = None
    found = LastTokenEncoder(model, tokenizer, token_budget=256).encode(TEXTS)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_long_texts_are_cut_on_the_right(tiny_llama: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype="float32")
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    encoder = LastTokenEncoder(model, tokenizer, max_tokens=5)
    encoded = encoder.encode_with_lengths(["x " * 100, "a"])
    assert encoded.truncated.tolist() == [True, False]
    assert encoded.n_tokens.tolist() == [5, 1]
    ids = tokenizer("x " * 100, add_special_tokens=False)["input_ids"][:5]
    with torch.inference_mode():
        expected = model.model(torch.tensor([ids])).last_hidden_state[0, -1].numpy()
    np.testing.assert_allclose(encoded.vectors[0], expected, atol=1e-5)


def test_no_texts_give_no_rows_and_a_wrong_layer_is_refused(tiny_llama: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype="float32")
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    assert LastTokenEncoder(model, tokenizer).encode([]).shape == (0, 32)
    with pytest.raises(ValueError, match="layer 7 is not one of the model's 3"):
        LastTokenEncoder(model, tokenizer, layer=7)
    with pytest.raises(ValueError, match="has no token"):
        LastTokenEncoder(model, tokenizer).encode(["a", ""])


@given(st.lists(st.integers(1, 300), max_size=40), st.integers(1, 500))
def test_batches_hold_every_row_once_under_the_budget(lengths: list[int], budget: int) -> None:
    array = np.array(lengths, dtype=np.int32)
    batches = list(batches_under_budget(array, budget))
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * array[batch].max() <= budget
