"""What of a sample is learned."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raysel.models.loading import load_tokenizer
from raysel.models.templates import NAMED_TEMPLATES, TemplateError, end_of_turn, prompt_text, sample_text
from raysel.training.base_model import CHAT_TEMPLATE, train_tokenizer
from raysel.training.examples import IGNORED, instruction_example
from tests.small_models import byte_bpe_tokenizer

TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="<"), min_size=1, max_size=40)


def decode(tokenizer, ids) -> str:
    return tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)


THINKING = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
    "{% if m['role'] == 'assistant' and loop.last %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{{ m['content'] | trim }}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}"
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else m['role']) + '\n' + m['content'] | trim }}"
    "{{ '<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
# As Mistral's first, but it passes over a system message without a word.
EXCHANGES = (
    "{% for m in messages %}{% if m['role'] == 'user' %}{{ bos_token + '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% elif m['role'] == 'assistant' %}{{ ' ' + m['content'] | trim + eos_token }}{% endif %}{% endfor %}"
)
JINJA = {"thinking": THINKING, "gemma": GEMMA, "exchanges": EXCHANGES, "base model": CHAT_TEMPLATE}
# What each shows of a conversation before the response: start, system, user, assistant, opening of the response.
WITH_SYSTEM_ROLE = {
    "auto": ("<s>", "<|user|>{}", "<|user|>{}", "<|assistant|>{}</s>", "<|assistant|>"),
    "plain": ("<s>", "{}\n\n", "{}\n\n", "{}</s>", ""),
    "chatml": (
        "", "<|im_start|>system\n{}<|im_end|>\n", "<|im_start|>user\n{}<|im_end|>\n",
        "<|im_start|>assistant\n{}<|im_end|>\n", "<|im_start|>assistant\n",
    ),
    "llama3": (
        "<s>", "<|start_header_id|>system<|end_header_id|>\n\n{}<|eot_id|>",
        "<|start_header_id|>user<|end_header_id|>\n\n{}<|eot_id|>",
        "<|start_header_id|>assistant<|end_header_id|>\n\n{}<|eot_id|>",
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
    ),
    "alpaca": ("<s>", "{}\n\n", "### Instruction:\n{}\n\n", "### Response:\n{}</s>", "### Response:\n"),
    "thinking": (
        "", "<|im_start|>system\n{:t}<|im_end|>\n", "<|im_start|>user\n{:t}<|im_end|>\n",
        "<|im_start|>assistant\n{:t}<|im_end|>\n", "<|im_start|>assistant\n",
    ),
    "base model": ("", "{}\n\n", "<|user|>{}", "<|assistant|>{}<|end|>", "<|assistant|>"),
}  # fmt: skip
WITHOUT_SYSTEM_ROLE = {
    "gemma": (
        "<s>", "<start_of_turn>user\n{:t}<end_of_turn>\n", "<start_of_turn>model\n{:t}<end_of_turn>\n",
        "<start_of_turn>model\n",
    ),
    "exchanges": ("", "<s>[INST] {} [/INST]", " {:t}</s>", ""),
}  # fmt: skip
CLOSINGS = {
    "chatml": "<|im_end|>",
    "llama3": "<|eot_id|>",
    "thinking": "<|im_end|>",
    "gemma": "<end_of_turn>",
    "base model": "<|end|>",
}


class Trimmable(str):
    """A text that the format `{:t}` trims, as Jinja's `trim` does."""

    def __format__(self, how: str) -> str:
        return self.strip() if how == "t" else str(self)


def shown(template: str, system: str | None, turns: list[str]) -> str:
    """The conversation up to where the response begins; turns are the user's and the assistant's, the prompt last."""
    if template in WITH_SYSTEM_ROLE:
        start, of_system, *of_turns, opening = WITH_SYSTEM_ROLE[template]
        first = "" if system is None else of_system.format(Trimmable(system))
    else:
        start, *of_turns, opening = WITHOUT_SYSTEM_ROLE[template]
        turns, first = [turns[0] if system is None else f"{system}\n\n{turns[0]}", *turns[1:]], ""
    said = (of_turns[i % 2].format(Trimmable(turn)) for i, turn in enumerate(turns))
    return start + first + "".join(said) + opening


@pytest.mark.parametrize("template", ["auto", *NAMED_TEMPLATES, *JINJA])
def test_what_is_learned_is_the_last_response_and_its_end(tiny_llama: Path, template: str) -> None:
    tokenizer = load_tokenizer(tiny_llama, JINJA.get(template, template))
    closing = CLOSINGS.get(template, "</s>")

    @settings(max_examples=40, deadline=None)
    @given(
        system=st.none() | TEXTS,
        earlier=st.lists(st.tuples(TEXTS, TEXTS), max_size=3),
        prompt=TEXTS,
        response=TEXTS,
    )
    def check(system: str | None, earlier: list[tuple[str, str]], prompt: str, response: str) -> None:
        before = [text for exchange in earlier for text in exchange]
        messages = [] if system is None else [{"role": "system", "content": system}]
        messages += [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(before)]
        history = json.dumps(messages) if messages else None
        example = instruction_example(tokenizer, prompt, response, 10_000, history=history)
        learned = example.labels != IGNORED
        assert decode(tokenizer, example.input_ids[learned]) == response + closing
        context = shown(template, system, [*before, prompt])
        assert decode(tokenizer, example.input_ids[~learned]) == context
        assert sample_text(tokenizer, prompt, response, history) == context + response
        assert np.array_equal(example.labels[learned], example.input_ids[learned])
        # What is learned is the end of the row: nothing of an earlier answer.
        assert learned[-int(learned.sum()) :].all()
        assert not example.truncated

    check()


def test_a_template_that_refuses_the_conversation_is_named() -> None:
    tokenizer = byte_bpe_tokenizer()
    tokenizer.chat_template = "{% if messages | length > 2 %}{{ raise_exception('one question at a time') }}{% endif %}"
    history = json.dumps([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}])
    with pytest.raises(TemplateError, match="refuses messages of the roles user, assistant, user: one question at a"):
        prompt_text(tokenizer, "And now?", history)


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
