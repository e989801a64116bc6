"""Texts as they are compared: normalised characters, their n-grams, and tokens in every script."""

import hashlib
import json
import re
import unicodedata
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

# Scripts without spaces between words: Han, kana, Thai, Lao, Khmer, Myanmar. There a character is a token.
UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u19e0-\u19ff\u3005\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf"
    "\u4e00-\u9fff\uaa60-\uaa7f\uf900-\ufaff\U0001b000-\U0001b16f\U00020000-\U0003ffff"
)
# Some four of these characters are as much as a word; a Han character is nearly one.
ALPHABETIC = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u19e0-\u19ff\uaa60-\uaa7f]")
CHARACTERS_OF_WORD = 4
TOKEN = re.compile(f"[{UNSPACED}]|[^\\s{UNSPACED}]+")
MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


class _NoLetters(dict[int, str | int]):
    """For str.translate: punctuation, symbols, controls and separators become spaces, everything else stays."""

    def __missing__(self, codepoint: int) -> str | int:
        kept = unicodedata.category(chr(codepoint))[0] in "LNM"
        self[codepoint] = codepoint if kept else " "
        return self[codepoint]


_NO_LETTERS = _NoLetters()


def normalised(text: str) -> str:
    """NFKC, casefolded, every run of whitespace one space."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def earlier_texts(history: str | None) -> list[str]:
    """The contents of the messages before the prompt."""
    return [message["content"] for message in json.loads(history or "[]")]


def said(prompt: str, response: str, history: str | None) -> str:
    """All of a conversation as it stands, one message after the other."""
    return " ".join([*earlier_texts(history), prompt, response])


def whole_text(prompt: str, response: str, history: str | None) -> str:
    """All of a conversation, normalised, its messages apart."""
    return "\0".join(map(normalised, (*earlier_texts(history), prompt, response)))


def digest_of(text: str) -> tuple[int, int]:
    """128 bits that are equal for equal texts, as two integers below 2^64."""
    found = hashlib.blake2b(text.encode(), digest_size=16).digest()
    return int.from_bytes(found[:8], "little"), int.from_bytes(found[8:], "little")


def tokens_of(text: str) -> list[str]:
    """Words without punctuation; single characters in scripts that put no spaces between words."""
    return TOKEN.findall(normalised(text).translate(_NO_LETTERS))


def tokens_per_word(tokens: Sequence[str]) -> int:
    """4 where most of `tokens` are single letters of Thai, Lao, Khmer or Myanmar, else 1."""
    letters = sum(1 for token in tokens if ALPHABETIC.match(token))
    return CHARACTERS_OF_WORD if 2 * letters > len(tokens) else 1


def hashed(token: str) -> int:
    return int.from_bytes(hashlib.blake2b(token.encode(), digest_size=8).digest(), "little")


def gram_hashes(values: NDArray[np.uint64], n: int) -> NDArray[np.uint64]:
    """(max(0, len - n + 1),): a hash of every run of `n` values, the same wherever the run stands."""
    count = len(values) - n + 1
    if count < 1:
        return np.empty(0, np.uint64)
    found = np.zeros(count, np.uint64)
    for place in range(n):
        found = found * MULTIPLIER + mixed(values[place : place + count])
    return mixed(found)


def mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Every bit of the result depends on every bit of the value (the finaliser of SplitMix64)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def shingles(text: str, n: int) -> NDArray[np.uint64]:
    """Hashes of the distinct n-grams of characters; a shorter text is one shingle."""
    points = np.frombuffer(text.encode("utf-32-le"), np.uint32).astype(np.uint64)
    return np.unique(gram_hashes(points, min(n, max(1, len(points)))))


def repeated_share(tokens: Sequence[str], n: int) -> float:
    """The share of the n-grams of `tokens` that are repeats of an earlier one."""
    grams = [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0
