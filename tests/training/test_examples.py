"""What of a sample is learned."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raysel.models.loading import load_tokenizer
from raysel.models.templates import NAMED_TEMPLATES, TemplateError, end_of_turn, prompt_text
from raysel.training.base_model import train_tokenizer
from raysel.training.examples import IGNORED, instruction_example
from tests.small_models import byte_bpe_tokenizer

TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="<"), min_size=1, max_size=40)


def decode(tokenizer, ids) -> str:
    return tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)


@pytest.mark.parametrize("template", ["auto", *NAMED_TEMPLATES])
def test_what_is_learned_is_the_response_and_its_end(tiny_llama: Path, template: str) -> None:
    tokenizer = load_tokenizer(tiny_llama, template)

    @settings(max_examples=40, deadline=None)
    @given(prompt=TEXTS, response=TEXTS)
    def check(prompt: str, response: str) -> None:
        example = instruction_example(tokenizer, prompt, response, 10_000)
        learned = example.labels != IGNORED
        closing = end_of_turn(tokenizer)
        assert decode(tokenizer, example.input_ids[learned]) == response + closing
        assert closing
        assert decode(tokenizer, example.input_ids[~learned]) == prompt_text(tokenizer, prompt)
        assert np.array_equal(example.labels[learned], example.input_ids[learned])
        assert not example.truncated

    check()


THINKING = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
    "{% if m['role'] == 'assistant' and loop.last %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{{ m['content'] | trim }}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def test_a_template_that_inserts_text_before_the_answer_ends_it_as_its_own_turns_end() -> None:
    """As Qwen 3's does; its end of turn is not the end of text."""
    tokenizer = byte_bpe_tokenizer()
    tokenizer.chat_template = THINKING
    example = instruction_example(tokenizer, "Hi", " fine ", 10_000)
    assert decode(tokenizer, example.input_ids[example.labels != IGNORED]) == " fine <|im_end|>"


def test_a_tokenizer_that_can_end_no_turn_is_refused() -> None:
    tokenizer = byte_bpe_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    tokenizer.eos_token = None
    with pytest.raises(TemplateError, match="a model could not learn where to stop"):
        instruction_example(tokenizer, "Hi", "fine", 100)


def test_a_base_model_learns_all_but_the_first_token() -> None:
    tokenizer = train_tokenizer(["some text to learn from", "un autre texte"] * 5, 300, 128)
    example = instruction_example(tokenizer, "Hi", "Hello there", 100, learn_prompt=True)
    assert example.labels[0] == IGNORED
    assert np.array_equal(example.labels[1:], example.input_ids[1:])
    assert decode(tokenizer, example.input_ids) == "<|user|>Hi<|assistant|>Hello there<|end|>"


def test_the_base_tokenizer_has_single_tokens_for_the_turns() -> None:
    tokenizer = train_tokenizer(["a b c"] * 3, 300, 128)
    text = prompt_text(tokenizer, "x") + "y" + end_of_turn(tokenizer)
    assert len(tokenizer(text, add_special_tokens=False)["input_ids"]) == 5


@given(length=st.integers(2, 60))
@settings(max_examples=30, deadline=None)
def test_truncation_is_on_the_right_and_is_told(length: int) -> None:
    tokenizer = byte_bpe_tokenizer()
    whole = instruction_example(tokenizer, "How are you?", "I am fine, thank you very much indeed.", 10_000)
    cut = instruction_example(tokenizer, "How are you?", "I am fine, thank you very much indeed.", length)
    assert np.array_equal(cut.input_ids, whole.input_ids[:length])
    assert np.array_equal(cut.labels, whole.labels[:length])
    assert cut.truncated == (len(whole.input_ids) > length)


def test_a_token_across_the_border_is_split_as_generation_splits_it() -> None:
    tokenizer = byte_bpe_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    joined = tokenizer("Hello", add_special_tokens=False)["input_ids"]
    example = instruction_example(tokenizer, "Hel", "lo", 100)
    assert decode(tokenizer, example.input_ids[example.labels != IGNORED]) == "lo</s>"
    assert list(example.input_ids[: len(joined)]) != joined


def test_the_base_tokenizer_is_the_same_every_time() -> None:
    texts = [f"{a} {b}{c} ข้าว 学习 слово" for a in "abcde" for b in "fghij" for c in "klmno"]
    one, two = (train_tokenizer(texts, 400, 128).backend_tokenizer.to_str() for _ in range(2))
    assert one == two
