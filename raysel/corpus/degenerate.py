"""Texts that are no text: nothing to read, the prompt over again, one phrase over and over, damaged characters."""

import re

from raysel.corpus.plain_text import normalised, repeated_share, tokens_of

REPEATED_TOKENS = 4
# Lists and rhymes repeat themselves too: only long texts of which most is a repeat count.
LEAST_TOKENS = 24
MOST_REPEATED = 0.6
# "Ja", "42": an answer this short may well stand in the question.
LEAST_REPEATED_PROMPT = 12
LONG_WORD = 40
CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")


def degenerate(prompt: str, response: str, before: str = "") -> tuple[str, float | None] | None:
    """What is wrong with a row, and how much of it where that is a share; None for nothing.

    before: the earlier messages, looked at for damaged characters only.
    """
    whole = f"{before}{prompt}{response}"
    if not any(character.isalnum() for character in f"{prompt}{response}"):
        return "there is no letter or digit in it", None
    if "\ufffd" in whole:
        return f"{whole.count(chr(0xFFFD)):,} replacement characters (U+FFFD): it was decoded wrongly", None
    if found := CONTROL.search(whole):
        return f"a control character (U+{ord(found.group()):04X})", None
    if len(response) >= LEAST_REPEATED_PROMPT and normalised(prompt) == normalised(response):
        return "the response repeats the prompt", None
    for name, text in (("prompt", prompt), ("response", response)):
        tokens = [part for token in tokens_of(text) for part in ([token] if len(token) < LONG_WORD else list(token))]
        share = repeated_share(tokens, REPEATED_TOKENS) if len(tokens) >= LEAST_TOKENS else 0.0
        if share > MOST_REPEATED:
            return f"{share:.0%} of the {name}'s runs of {REPEATED_TOKENS} words are repeats of earlier ones", share
    return None
