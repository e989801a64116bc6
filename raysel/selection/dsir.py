"""DSIR: importance weights of hashed n-grams (Xie et al. 2023, arXiv 2302.03169).

A text's weight is the logarithm of how much likelier its uni- and bigrams are in the target texts than in the raw
ones, each text a bag of n-grams hashed into buckets. Texts are drawn in proportion to their weights, by Gumbel top-k.
"""

import re
from array import array
from collections import defaultdict
from collections.abc import Iterable, Sequence
from hashlib import sha256
from itertools import count as numbers_from_zero
from typing import Literal

import numpy as np
import regex

from raysel.seeding import draw

Tokenizer = Literal["unicode", "wordpunct", "characters"]
BUCKETS = 10_000
# Keeps the logarithm of a bucket that one side never saw finite; the value of the authors' code.
UNSEEN = 1e-8
# Texts hashed at once: enough for most n-grams to come more than once, few enough for their tokens to fit in memory.
BLOCK = 8_192

# Scripts that mark no word boundaries (Tibetan marks syllables): a word there cannot be told without a dictionary.
UNSPACED_SCRIPTS = (
    *("Han", "Hiragana", "Katakana", "Bopomofo", "Yi", "Tangut", "Nushu", "Thai", "Lao", "Khmer", "Myanmar"),
    *("Tibetan", "Tai_Le", "New_Tai_Lue", "Tai_Tham", "Tai_Viet", "Javanese", "Balinese"),
)
# Letters of several such scripts, as the long vowel mark of Hiragana and Katakana, have no script of their own.
_SHARED = r"[\p{L}&&[\p{scx=Han}\p{scx=Hiragana}\p{scx=Katakana}]]"
_SCRIPTS = "".join(rf"\p{{Script={name}}}" for name in UNSPACED_SCRIPTS)
_UNSPACED = rf"[[\p{{L}}\p{{M}}\p{{N}}]&&[{_SCRIPTS}{_SHARED}]]"
# As in rule WB4 of UAX #29, marks and format characters (a joiner, a soft hyphen) belong to what they follow.
_FOLLOWING = r"\p{M}[\p{Cf}--\u200b]"
_UNICODE_TOKEN = regex.compile(
    rf"(?V1)[[\w\p{{N}}]--{_UNSPACED}--\p{{Cf}}][[\w\p{{N}}{_FOLLOWING}]--{_UNSPACED}--\u200b]*+"
    rf"|[^\w\s\p{{N}}\p{{Cf}}][[^\w\s\p{{N}}\p{{Cf}}]{_FOLLOWING}]*+"
    rf"|(?={_UNSPACED})\X"
)
_WORDPUNCT = re.compile(r"\w+|[^\w\s]+")
# Latin, Greek, Cyrillic, Armenian, Hebrew, Arabic, Georgian and Hangul without marks or format characters: there both
# patterns find the same tokens, and that of `re` is several times as fast.
_PLAIN = re.compile(
    "[\0-\x1b\x20-\xac\xae-\u02ff\u0370-\u0482\u048a-\u052f\u0531-\u0556\u0559-\u058a\u05d0-\u05ea\u060c\u061b\u061f"
    "\u0620-\u064a\u0660-\u066f\u0671-\u06d5\u06f0-\u06f9\u10a0-\u10ff\u1e00-\u1fff\u2010-\u2029\u2030-\u203e"
    "\u2041-\u2053\u2055-\u205e\u20a0-\u20bf\uac00-\ud7a3]*"
)
_GRAPHEME = regex.compile(r"(?=\S)\X")


def tokenize(text: str, tokenizer: Tokenizer = "unicode") -> list[str]:
    """The tokens of the text in lower case.

    `unicode`: words, with the marks and joiners in them, and runs of punctuation; a grapheme for each word character
    of a script written without spaces, so that bigrams there are pairs of characters. `wordpunct`: as NLTK's
    tokenizer of that name, the one DSIR's authors use; it cuts words of Hindi or Tamil at every vowel sign and makes
    one token of a run of Thai or Chinese. `characters`: extended grapheme clusters other than white space.
    """
    text = text.lower()
    if tokenizer == "characters":
        return _GRAPHEME.findall(text)
    if tokenizer == "wordpunct" or _PLAIN.fullmatch(text):
        return _WORDPUNCT.findall(text)
    return _UNICODE_TOKEN.findall(text)


def hashed_ngrams(
    texts: Sequence[str], *, tokenizer: Tokenizer = "unicode", buckets: int = BUCKETS
) -> tuple[np.ndarray, np.ndarray]:
    """The bucket of every uni- and bigram of all texts, uint32 (M,), and where each text's begin, int64 (N + 1,).

    The bucket is the SHA-256 of the n-gram in UTF-8, as a whole number, modulo `buckets` (1 to 2^32); the words of a
    bigram are joined by one space. A text's n-grams come in its order, each word before the bigram it begins.
    """
    if not 1 <= buckets <= 2**32:
        raise ValueError(f"n-grams cannot be hashed into {buckets} buckets: 1 to 2^32")
    blocks = [_hashed_block(texts[start : start + BLOCK], tokenizer, buckets) for start in range(0, len(texts), BLOCK)]
    hashed = np.concatenate([np.zeros(0, dtype=np.uint32), *(block for block, _ in blocks)])
    sizes = np.concatenate([np.zeros(1, dtype=np.int64), *(sizes for _, sizes in blocks)])
    return hashed, np.cumsum(sizes)


def count(hashed: np.ndarray, buckets: int = BUCKETS) -> np.ndarray:
    """int64 (buckets,): how often each bucket is among `hashed` (M,)."""
    return np.bincount(hashed, minlength=buckets)


def log_ratio(raw_counts: np.ndarray, target_counts: np.ndarray, *, smoothing: float = 0.0) -> np.ndarray:
    """float64 (buckets,): the logarithm of each bucket's share of the target over its share of the raw n-grams.

    `smoothing` is added to each of the target's counts. Raises ValueError where either side has no n-gram.
    """
    for name, counts in (("raw", raw_counts), ("target", target_counts)):
        if not counts.any():
            raise ValueError(f"no n-gram in the {name} texts: nothing to weigh by")
    target = target_counts + smoothing
    return np.log(target / target.sum() + UNSEEN) - np.log(raw_counts / raw_counts.sum() + UNSEEN)


def weights(hashed: np.ndarray, offsets: np.ndarray, log_ratio: np.ndarray) -> np.ndarray:
    """float64 (N,): for each text the sum of `log_ratio` (buckets,) over its n-grams, 0 for a text without any.

    `hashed` (M,) and `offsets` (N + 1,) as `hashed_ngrams` gives them. A sum, so a long text weighs more.
    """
    rows = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    return np.bincount(rows, weights=log_ratio[hashed], minlength=len(offsets) - 1)


def log_importance(
    raw_texts: Sequence[str],
    target_texts: Sequence[str],
    *,
    tokenizer: Tokenizer = "unicode",
    buckets: int = BUCKETS,
) -> np.ndarray:
    """float64 (N,): the log importance weight of each raw text.

    With `wordpunct` the weights of HashedNgramDSIR of the authors' package data-selection 1.0.3, whose defaults these
    are, to the rounding of a sum taken in another order. Raises ValueError where either side has no n-gram.
    """
    raw, offsets = hashed_ngrams(raw_texts, tokenizer=tokenizer, buckets=buckets)
    target, _ = hashed_ngrams(target_texts, tokenizer=tokenizer, buckets=buckets)
    return weights(raw, offsets, log_ratio(count(raw, buckets), count(target, buckets)))


def tokens_of(offsets: np.ndarray) -> np.ndarray:
    """int64 (N,): the number of tokens of each text, from the offsets (N + 1,) of its uni- and bigrams."""
    return (np.diff(offsets) + 1) // 2


def gumbel_order(log_weights: np.ndarray, ids: Sequence[str], *, seed: int) -> np.ndarray:
    """int64 (N,): rows in the order of a draw without replacement, each in proportion to exp(log_weights).

    Descending in weight plus Gumbel noise. A row's noise is decided by `seed` and its id alone, so which other rows
    there are does not change which of two comes first. Equal keys are ordered by id.
    """
    drawn = np.array([draw(seed, f"gumbel\0{identity}") for identity in ids], dtype=np.float64)
    # At 0 and at 1 the noise would be infinite.
    drawn = np.clip(drawn, 2.0**-64, 1 - 2.0**-53)
    return np.lexsort((np.array(ids, dtype=np.str_), np.log(-np.log(drawn)) - log_weights))


def kl_reduction(
    target_counts: np.ndarray, random_counts: np.ndarray, selected_counts: np.ndarray, *, smoothing: float = 1.0
) -> float:
    """How much nearer the selected texts are to the target than random raw ones: a difference of divergences, in nats.

    KL(target || random) - KL(target || selected), as in section 5 of the paper, over the buckets' counts (buckets,).
    `smoothing` is added to every count of the random and the selected texts: let them be as many n-grams, for a
    smaller sample is smoothed more, and drawn, for an expectation covers more buckets than any sample. Raises
    ValueError where a distribution has no n-gram, or where smoothing is not above 0 (the divergence would be infinite).
    """
    if smoothing <= 0:
        raise ValueError(f"smoothing {smoothing}: the divergence needs one above 0")
    shares = []
    for name, counts in (("target", target_counts), ("random", random_counts), ("selected", selected_counts)):
        if not counts.any():
            raise ValueError(f"no n-gram in the {name} texts: they have no distribution")
        added = counts + (0.0 if name == "target" else smoothing)
        shares.append(added / added.sum())
    target, random, selected = shares
    return float(np.sum(target * (np.log(selected) - np.log(random))))


def effective_sample_size(log_weights: np.ndarray) -> float:
    """(sum of weights)^2 / sum of squared weights: 1 where one row has all the weight, N where all weigh the same."""
    if not len(log_weights):
        return 0.0
    relative = np.exp(log_weights - np.max(log_weights))
    return float(relative.sum() ** 2 / np.square(relative).sum())


def _hashed_block(texts: Sequence[str], tokenizer: Tokenizer, buckets: int) -> tuple[np.ndarray, np.ndarray]:
    """The buckets of the texts' n-grams (M,) and each text's number of them (N,); each distinct one is hashed once."""
    vocabulary: defaultdict[str, int] = defaultdict(numbers_from_zero().__next__)
    ids, lengths = array("q"), np.zeros(len(texts), dtype=np.int64)
    for row, text in enumerate(texts):
        words = tokenize(text, tokenizer)
        lengths[row] = len(words)
        ids.extend(map(vocabulary.__getitem__, words))
    tokens = np.array(ids, dtype=np.int64)
    is_last = np.zeros(len(tokens), dtype=bool)
    is_last[np.cumsum(lengths)[lengths > 0] - 1] = True
    begins = np.flatnonzero(~is_last)
    pairs, pair_of = np.unique(tokens[begins] * len(vocabulary) + tokens[begins + 1], return_inverse=True)
    first, second = np.divmod(pairs, len(vocabulary))
    spelled = [word.encode() for word in vocabulary]
    followed = [word + b" " for word in spelled]
    bigrams = (followed[one] + spelled[other] for one, other in zip(first.tolist(), second.tolist(), strict=True))
    hashed, present = np.zeros((len(tokens), 2), dtype=np.uint32), np.ones((len(tokens), 2), dtype=bool)
    hashed[:, 0] = _buckets(spelled, buckets)[tokens]
    hashed[begins, 1] = _buckets(bigrams, buckets)[pair_of]
    present[is_last, 1] = False
    return hashed[present], np.maximum(2 * lengths - 1, 0)


def _buckets(ngrams: Iterable[bytes], buckets: int) -> np.ndarray:
    """uint32: SHA-256 modulo `buckets`, 32 bits of all the digests at a time."""
    digests = np.frombuffer(b"".join(sha256(ngram).digest() for ngram in ngrams), dtype=">u4").reshape(-1, 8)
    remainder = np.zeros(len(digests), dtype=np.uint64)
    for part in digests.T:
        remainder = ((remainder << 32) | part) % buckets
    return remainder.astype(np.uint32)
