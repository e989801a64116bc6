"""One sample as a model is trained on it: its tokens, and which of them are learned."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from raysel.models.templates import end_of_turn, prompt_text
from raysel.models.turns import turn_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORED = -100


@dataclass(frozen=True)
class Example:
    """input_ids and labels (int32, equally long): a label is the token itself where it is learned, else `IGNORED`.

    Labels are not shifted: the label at t is learned from the tokens before t, so the first is always ignored.
    """

    input_ids: np.ndarray
    labels: np.ndarray
    truncated: bool

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
) -> Example:
    """The conversation in the chat template, cut on the right at `max_tokens`.

    What is learned is the response and what ends its turn; with `learn_prompt` everything, as a base model does.
    history: the messages before the prompt, JSON text as in the corpus table.
    """
    opening = prompt_text(tokenizer, prompt, history)
    answer = response + end_of_turn(tokenizer)
    prompt_ids, answer_ids = turn_tokens(tokenizer, opening, answer)
    ids = prompt_ids + answer_ids
    labels = np.array(ids, dtype=np.int32)
    labels[: 1 if learn_prompt else max(1, len(prompt_ids))] = IGNORED
    return Example(np.array(ids[:max_tokens], dtype=np.int32), labels[:max_tokens], len(ids) > max_tokens)
