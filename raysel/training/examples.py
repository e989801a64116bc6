"""One sample as a model is trained on it: its tokens, and which of them are learned."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from raysel.models.templates import end_of_turn, prompt_text
from raysel.models.turns import own_tokens, source_tokens, turn_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORED = -100


@dataclass(frozen=True)
class Example:
    """input_ids and labels (int32, equally long): a label is the token itself where it is learned, else `IGNORED`.

    Labels are not shifted: the label at t is learned from the tokens before t, so the first is always ignored.
    source_ids: what the encoder of an encoder-decoder takes in (int32); `input_ids` is then what the decoder does, its
    begin token first. None for a decoder alone.
    """

    input_ids: np.ndarray
    labels: np.ndarray
    truncated: bool
    source_ids: np.ndarray | None = None

    @property
    def tokens(self) -> int:
        """All that the model takes in."""
        return len(self.input_ids) + (0 if self.source_ids is None else len(self.source_ids))

    @property
    def trained_tokens(self) -> int:
        return int(np.count_nonzero(self.labels != IGNORED))


def instruction_example(
    tokenizer: "PreTrainedTokenizerBase",
    prompt: str,
    response: str,
    max_tokens: int,
    *,
    history: str | None = None,
    learn_prompt: bool = False,
    decoder_start: int | None = None,
    max_source_tokens: int | None = None,
) -> Example:
    """The conversation in the chat template, cut on the right at `max_tokens`.

    What is learned is the response and what ends its turn; with `learn_prompt` everything, as a base model does.
    history: the messages before the prompt, JSON text as in the corpus table.
    decoder_start: what the decoder of an encoder-decoder begins with. The conversation up to the response is then the
    encoder's, cut at `max_source_tokens` (left open: `max_tokens`); the rest, with that token before it, the decoder's.
    """
    opening = prompt_text(tokenizer, prompt, history)
    answer = response + end_of_turn(tokenizer)
    if decoder_start is not None:
        source_ids, cut = source_tokens(tokenizer, opening, max_source_tokens or max_tokens)
        answer_ids = own_tokens(tokenizer, answer)
        example = _cut([decoder_start], answer_ids, max_tokens, learned_from=1)
        return replace(example, truncated=cut or example.truncated, source_ids=np.array(source_ids, dtype=np.int32))
    prompt_ids, answer_ids = turn_tokens(tokenizer, opening, answer)
    return _cut(prompt_ids, answer_ids, max_tokens, learned_from=1 if learn_prompt else max(1, len(prompt_ids)))


def _cut(before: list[int], answer: list[int], max_tokens: int, *, learned_from: int) -> Example:
    ids = np.array([*before, *answer], dtype=np.int32)
    labels = ids.copy()
    labels[:learned_from] = IGNORED
    return Example(ids[:max_tokens], labels[:max_tokens], len(ids) > max_tokens)
