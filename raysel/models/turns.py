"""The border between a conversation and its answer, in tokens."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def turn_tokens(tokenizer: "PreTrainedTokenizerBase", opening: str, answer: str) -> tuple[list[int], list[int]]:
    """The tokens of `opening` (a rendered template, up to where the answer begins) and of `answer` behind it.

    Nothing is added: the template owns its special tokens.
    """
    before = _tokens(tokenizer, opening)
    whole = _tokens(tokenizer, opening + answer)
    if whole[: len(before)] != before:
        # A token would straddle the border. Generation starts from the opening's own tokens, so all else does too.
        return before, _tokens(tokenizer, answer)
    return before, whole[len(before) :]


def _tokens(tokenizer: "PreTrainedTokenizerBase", text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])
