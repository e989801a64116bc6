"""Last-token vectors against the plain one-text-at-a-time forward."""

import subprocess
import sys
from itertools import zip_longest
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from raysel.embedding import LastTokenEncoder
from raysel.embedding.batches import batches_under_budget
from raysel.embedding.token_budget import BUDGETS
from tests.conftest import REPOSITORY
from tests.embedding.families import FAMILIES, SHAPE, family
from tests.small_models import byte_bpe_tokenizer

TEXTS = ["Hello there.", "Привет", "你好，你怎么样？" * 6, "a", "नमस्ते आप कैसे हैं " * 9, "mixed 混合 текст 🙂", "x " * 40]


@torch.inference_mode()
def one_at_a_time(model: torch.nn.Module, tokenizer: object, texts: list[str], layer: int = -1) -> np.ndarray:
    rows = []
    for text in texts:
        ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
        rows.append(model(ids, output_hidden_states=True).hidden_states[layer][0, -1].numpy())
    return np.stack(rows)


@pytest.mark.parametrize("budget", [1, 64, 4096])
@pytest.mark.parametrize("layer", [-1, 0, 1])
def test_equals_the_plain_forward(tiny_llama: Path, budget: int, layer: int) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype="float32").eval()
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    expected = one_at_a_time(model, tokenizer, TEXTS, layer)
    found = LastTokenEncoder(model, tokenizer, token_budget=budget, layer=layer).encode(TEXTS)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize(("side", "pad"), [("left", "<pad>"), ("right", None)])
def test_every_family_either_padding_side_with_and_without_a_pad_token(name: str, side: str, pad: str | None) -> None:
    model, tokenizer = family(name), byte_bpe_tokenizer()
    expected = one_at_a_time(model, tokenizer, TEXTS)
    tokenizer.padding_side = tokenizer.truncation_side = side
    tokenizer.pad_token = pad
    found = LastTokenEncoder(model, tokenizer, token_budget=256).encode(TEXTS)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


def test_a_list_of_layers_in_one_pass(tiny_llama: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype="float32").eval()
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    found = LastTokenEncoder(model, tokenizer, layer=[-1, 0, 1]).encode(TEXTS)
    assert found.shape == (len(TEXTS), 3, 32)
    for place, layer in enumerate((-1, 0, 1)):
        expected = one_at_a_time(model, tokenizer, TEXTS, layer)
        np.testing.assert_allclose(found[:, place], expected, rtol=1e-5, atol=1e-5)


def test_packed_and_padded_give_the_same(tiny_llama: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype="float32").eval()
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    packed = LastTokenEncoder(model, tokenizer, packed=True, token_budget=100)
    assert packed.forward.packed
    padded = LastTokenEncoder(model, tokenizer, packed=False, token_budget=100)
    np.testing.assert_allclose(packed.encode(TEXTS), padded.encode(TEXTS), rtol=1e-5, atol=1e-5)


def test_the_tokenizers_own_special_tokens_are_added_when_asked_for(tiny_llama: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype="float32").eval()
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    tokenizer._tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    own = LastTokenEncoder(model, tokenizer, add_special_tokens=True).tokenise(["<s>a", "b"])
    assert [ids.tolist()[:2] for ids in own.ids] == [[0, 0], [0, tokenizer.convert_tokens_to_ids("b")]]
    assert [len(ids) for ids in LastTokenEncoder(model, tokenizer).tokenise(["<s>a", "b"]).ids] == [2, 1]


def test_more_tokens_than_learned_positions_are_refused() -> None:
    encoder = LastTokenEncoder(family("gpt2"), byte_bpe_tokenizer())
    with pytest.raises(ValueError, match=r"text 1 has 1,024 tokens, and the model has positions for 512"):
        encoder.encode(["a", "z" * 2000])


def test_rotary_positions_that_depend_on_the_texts_before_are_refused() -> None:
    rope = {"rope_type": "dynamic", "rope_theta": 10_000.0, "factor": 2.0}
    config = LlamaConfig(**SHAPE | {"max_position_embeddings": 64, "rope_parameters": rope})
    encoder = LastTokenEncoder(LlamaForCausalLM(config).eval(), byte_bpe_tokenizer())
    assert encoder.encode(["x" * 30]).shape == (1, 32)
    with pytest.raises(ValueError, match="the model has positions for 64: max_tokens must be at most that"):
        encoder.encode(["x " * 200])


@pytest.mark.parametrize("name", ["llama", "gpt2", "phi3_longrope"])
def test_the_same_bits_with_any_number_of_threads(name: str) -> None:
    model, tokenizer = family(name), byte_bpe_tokenizer()
    texts = TEXTS * 9
    expected = LastTokenEncoder(model, tokenizer, token_budget=64, threads=1).encode(texts)
    before = torch.get_num_threads()
    try:
        for intra_op in (1, 2):
            torch.set_num_threads(intra_op)
            for threads in (2, 5, None):
                found = LastTokenEncoder(model, tokenizer, token_budget=64, threads=threads).encode(texts)
                np.testing.assert_array_equal(found, expected)
                assert torch.get_num_threads() == intra_op
    finally:
        torch.set_num_threads(before)


def test_the_model_is_left_as_it_was() -> None:
    model = family("llama")
    LastTokenEncoder(model, byte_bpe_tokenizer(), threads=2).encode(TEXTS)
    assert {type(part) for part in model.modules()} == {type(part) for part in family("llama").modules()}
    assert not any(part._forward_pre_hooks or "forward" in vars(part) for part in model.modules())


def test_an_error_in_one_thread_ends_the_others() -> None:
    encoder = LastTokenEncoder(family("llama"), byte_bpe_tokenizer(), token_budget=1, threads=2)
    tokens = encoder.tokenise([f"text {i}" for i in range(200)])
    tokens.ids[100][0] = 10_000  # no such token
    taken: list[np.ndarray] = []
    with pytest.raises(IndexError):
        encoder._run(
            tokens, [np.array([100]), *(np.array([i]) for i in range(100))], lambda rows, _: taken.append(rows)
        )
    assert len(taken) < 100


STRANGE = {
    "long": "word " * 40_000,
    "emoji": "🙂🧑‍🤝‍🧑🏳️‍🌈" * 50,
    "zero width": "\u200b\u200c\u200d\ufeff" * 100,
    "right to left": "\u202eשלום\u202c \u2067مرحبا بالعالم\u2069 \u200f" * 30,
    "lone accents": "\u0301\u0300" * 40,
    "nul": "a\x00b",
}


def test_strange_texts(tiny_llama: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype="float32").eval()
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    texts = list(STRANGE.values())
    encoder = LastTokenEncoder(model, tokenizer, max_tokens=200)
    tokens = encoder.tokenise(texts)
    assert tokens.truncated.tolist() == [len(tokenizer.encode(t, add_special_tokens=False)) > 200 for t in texts]
    expected = [
        model.model(torch.tensor([tokenizer.encode(t, add_special_tokens=False)[:200]])).last_hidden_state[0, -1]
        for t in texts
    ]
    np.testing.assert_allclose(encoder.encode(texts), torch.stack(expected).detach().numpy(), rtol=1e-5, atol=1e-5)


def test_the_measured_budget_is_one_of_the_ladder(tiny_llama: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype="float32")
    encoder = LastTokenEncoder(model, AutoTokenizer.from_pretrained(tiny_llama))
    for texts in (["a"], TEXTS * 30):
        assert encoder.measure_token_budget(encoder.tokenise(texts)) in BUDGETS["cpu"]


OUT_OF_MEMORY = """
import resource, sys
import numpy as np, torch
from tests.small_models import byte_bpe_tokenizer
from transformers import LlamaConfig, LlamaForCausalLM
from raysel.embedding import LastTokenEncoder
torch.manual_seed(0)
torch.set_num_threads(1)
shape = dict(vocab_size=400, hidden_size=256, intermediate_size=4096, num_hidden_layers=2, num_attention_heads=4)
model = LlamaForCausalLM(LlamaConfig(**shape)).eval()
tokenizer = byte_bpe_tokenizer()
texts = ["x " * (300 + 10 * i) for i in range(40)]
small = LastTokenEncoder(model, tokenizer, token_budget=1)
expected = small.encode(texts)
large = LastTokenEncoder(model, tokenizer, token_budget=100_000)
def allow(more):
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + more, resource.RLIM_INFINITY))
allow(600 << 20)
found = large.encode(texts)
assert large.token_budget < 50_000, large.token_budget
np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
allow(64 << 20)
try:
    large.max_tokens = 40_000
    large.encode(["x " * 40_000])
except MemoryError as error:
    assert "a text of 40,000 tokens does not fit in the memory of cpu" in str(error), error
else:
    raise SystemExit("fitted")
"""


@pytest.mark.slow
def test_out_of_memory_halves_the_budget_and_goes_on() -> None:
    """Memory is really refused: a limit on the address space stands in for a small card."""
    done = subprocess.run([sys.executable, "-c", OUT_OF_MEMORY], capture_output=True, text=True, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr[-3000:]


def test_long_texts_are_cut_on_the_right(tiny_llama: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype="float32")
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    encoder = LastTokenEncoder(model, tokenizer, max_tokens=5)
    encoded = encoder.encode_tokens(encoder.tokenise(["x " * 100, "a"]))
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


@given(st.lists(st.integers(1, 300), max_size=40), st.integers(1, 500), st.booleans())
def test_batches_hold_every_row_once_under_the_budget(lengths: list[int], budget: int, packed: bool) -> None:
    array = np.array(lengths, dtype=np.int32)
    batches = list(batches_under_budget(array, budget, packed=packed))
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    for batch, following in zip_longest(batches, batches[1:]):
        assert len(batch) == 1 or (array[batch].sum() if packed else len(batch) * array[batch].max()) <= budget
        if following is not None:
            assert array[batch].min() >= array[following].max()
            assert not packed or array[batch].sum() + array[following[0]] > budget
