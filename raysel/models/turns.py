"""The border between a conversation and its answer, in tokens: in one row, or between an encoder and its decoder."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def turn_tokens(tokenizer: "PreTrainedTokenizerBase", opening: str, answer: str) -> tuple[list[int], list[int]]:
    """The tokens of `opening` (a rendered template, up to where the answer begins) and of `answer` behind it.

    Nothing is added: the template owns its special tokens.
    """
    before = own_tokens(tokenizer, opening)
    whole = own_tokens(tokenizer, opening + answer)
    if whole[: len(before)] != before:
        # A token would straddle the border. Generation starts from the opening's own tokens, so all else does too.
        return before, own_tokens(tokenizer, answer)
    return before, whole[len(before) :]


def source_tokens(tokenizer: "PreTrainedTokenizerBase", opening: str, most: int) -> tuple[list[int], bool]:
    """What an encoder takes in: the tokens of `opening`, cut on the right, and the end-of-text token, `most` at most;
    and whether any were cut.

    T5's tokenizers end every text so, as those of its pre-training ended. What the template has ended is not ended
    again.
    """
    end, tokens = tokenizer.eos_token_id, own_tokens(tokenizer, opening)
    if end is None:
        return tokens[:most], len(tokens) > most
    if tokens[-1:] == [end]:
        tokens.pop()
    return [*tokens[: most - 1], end], len(tokens) > most - 1


def own_tokens(tokenizer: "PreTrainedTokenizerBase", text: str) -> list[int]:
    """The tokens of `text` and no more."""
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])
