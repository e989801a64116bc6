"""Evaluation items inside the corpus: runs of tokens that a sample shares with an item.

Items are numbered in the order in which they come. An item's n-grams are those of each of its texts; an item of shorter
texts only has its longest one whole.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raysel.corpus.plain_text import ALPHABETIC, CHARACTERS_OF_WORD, gram_hashes, hashed, tokens_of, tokens_per_word

# A whole text of fewer tokens is said by many who never saw the item.
LEAST_TOKENS = 6
# What more items share is an instruction or a phrase, not an item; the questions on one passage are fewer.
MOST_ITEMS = 25


class TokenHashes(dict[str, int]):
    """The hash of every token seen so far."""

    def __missing__(self, token: str) -> int:
        self[token] = hashed(token)
        return self[token]

    def of(self, tokens: Sequence[str]) -> NDArray[np.uint64]:
        return np.array([self[token] for token in tokens], np.uint64)


@dataclass(frozen=True)
class ItemGrams:
    """hashes: sorted, one for each item that has the n-gram; owners: that item; totals: n-grams of each item; lengths:
    the n that occur; letter_lengths: those that occur in Thai, Lao, Khmer and Myanmar items."""

    hashes: NDArray[np.uint64]
    owners: NDArray[np.int64]
    totals: NDArray[np.int64]
    lengths: list[int]
    letter_lengths: list[int]


@dataclass(frozen=True)
class Overlap:
    """share: of the item's n-grams, how many the sample has; quoted: the first run of tokens that both have."""

    item: int
    share: float
    quoted: list[str]


def item_grams(items: Iterable[Sequence[str]], n: int) -> ItemGrams:
    """The n-grams of items, each given as its texts; of a text in single letters four times as long ones."""
    known = TokenHashes()
    hashes, owners = [np.empty(0, np.uint64)], [np.empty(0, np.int64)]
    lengths: dict[int, set[int]] = {1: set(), CHARACTERS_OF_WORD: set()}
    count = 0
    for texts in items:
        listed = [(tokens, tokens_per_word(tokens)) for tokens in map(tokens_of, texts)]
        cut = [(tokens, n * unit, unit) for tokens, unit in listed if len(tokens) >= n * unit]
        if not cut and listed:
            tokens, unit = max(listed, key=lambda text: len(text[0]) / text[1])
            cut = [(tokens, len(tokens), unit)] if len(tokens) >= LEAST_TOKENS * unit else []
        for _, length, unit in cut:
            lengths[unit].add(length)
        grams = [gram_hashes(known.of(tokens), length) for tokens, length, _ in cut]
        found = np.unique(np.concatenate([np.empty(0, np.uint64), *grams]))
        hashes.append(found)
        owners.append(np.full(len(found), count))
        count += 1
    every, owner = np.concatenate(hashes), np.concatenate(owners)
    order = np.lexsort((owner, every))
    every, owner = every[order], owner[order]
    _, place, shared = np.unique(every, return_inverse=True, return_counts=True)
    kept = (shared <= MOST_ITEMS)[place] if len(every) else np.empty(0, bool)
    totals = np.bincount(owner[kept], minlength=count).astype(np.int64)
    return ItemGrams(every[kept], owner[kept], totals, *(sorted(found) for found in lengths.values()))


def overlaps(rows: Sequence[Sequence[str]], items: ItemGrams) -> list[Overlap | None]:
    """For each row, given as its texts, the item of which it has the largest share (of those the first), None for none.

    All rows are looked up together: a row alone has too few n-grams for the time that a look-up takes.
    """
    texts = [(row, tokens_of(text)) for row, texts in enumerate(rows) for text in texts]
    in_letters = [(row, tokens) for row, tokens in texts if any(map(ALPHABETIC.match, tokens))]
    found: dict[int, dict[int, list[str]]] = {}
    for some, lengths in ((texts, items.lengths), (in_letters, items.letter_lengths)):
        tokens = [token for _, listed in some for token in listed]
        text = np.repeat(np.arange(len(some)), [len(listed) for _, listed in some])
        values = TokenHashes().of(tokens)
        for n in lengths if len(items.hashes) else ():
            grams = gram_hashes(values, n)
            places = np.minimum(np.searchsorted(items.hashes, grams), len(items.hashes) - 1)
            within = text[: len(grams)] == text[n - 1 :]
            for at in np.flatnonzero((items.hashes[places] == grams) & within):
                found.setdefault(some[text[at]][0], {}).setdefault(int(grams[at]), tokens[at : at + n])
    return [_largest(found[row], items) if row in found else None for row in range(len(rows))]


def _largest(shared: dict[int, list[str]], items: ItemGrams) -> Overlap:
    """shared: the n-grams of a row that an item has, by hash, in the row's order."""
    grams = np.array(list(shared), np.uint64)
    starts, ends = (np.searchsorted(items.hashes, grams, side=side) for side in ("left", "right"))
    owners = [items.owners[start:end] for start, end in zip(starts, ends, strict=True)]
    who, times = np.unique(np.concatenate(owners), return_counts=True)
    shares = times / items.totals[who]
    best = int(np.lexsort((who, -shares))[0])
    quoted = next(tokens for tokens, of in zip(shared.values(), owners, strict=True) if who[best] in of)
    return Overlap(int(who[best]), float(shares[best]), quoted)
