"""Duplicates: equal digests, and MinHash signatures that share a band and agree in enough places.

Shapes: N rows, P places of a signature, R of a response's, B bands. Rows are numbered through the whole corpus.
"""

from collections.abc import Sequence

import numpy as np
from datasketch import MinHash
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from raysel.corpus.plain_text import gram_hashes, shingles

PLACES = 128
# Two questions about one long passage are two samples: the responses must be alike as well, not as closely.
RESPONSE_PLACES = 32
RESPONSES_ALIKE = 0.5
SHINGLE = 5
SEED = 1
# Two texts right at the threshold share a band at least so often.
LEAST_CHANCE = 0.9
# In a band that very many rows share, each is compared with so many others: what two of them have in common beyond
# that band shows in their other bands.
NEIGHBOURS = 16


def signatures(texts: Sequence[str], places: int) -> NDArray[np.uint32]:
    """uint32 (N, places): MinHash over the 5-grams of characters of each text, a unit that every script has."""
    found = np.empty((len(texts), places), np.uint32)
    empty = MinHash(places, seed=SEED, hashfunc=int)
    for row, text in enumerate(texts):
        sketch = empty.copy()
        sketch.update_batch((shingles(text, SHINGLE) >> np.uint64(32)).tolist())
        found[row] = sketch.hashvalues
    return found


def rows_per_band(threshold: float) -> int:
    """The longest band that two texts of Jaccard similarity `threshold` share with a chance of at least 0.9.

    Longer bands have fewer false candidates.
    """
    fitting = [r for r in (1, 2, 4, 8, 16, 32) if 1 - (1 - threshold**r) ** (PLACES // r) >= LEAST_CHANCE]
    return max(fitting)


def band_keys(signatures_NP: NDArray[np.uint32], rows: int) -> NDArray[np.uint64]:
    """uint64 (B, N): one hash for each band of `rows` places."""
    bands = signatures_NP.astype(np.uint64).reshape(len(signatures_NP), -1, rows)
    keys = [gram_hashes(bands[:, band].reshape(-1), rows)[::rows] for band in range(bands.shape[1])]
    return np.stack(keys) if len(signatures_NP) else np.empty((bands.shape[1], 0), np.uint64)


def equal_groups(digests_N2: NDArray[np.uint64], rank_N: NDArray[np.int64]) -> NDArray[np.int64]:
    """int64 (found, 2): each row that equals one of a lower rank, and the row of lowest rank that it equals."""
    order = np.lexsort((rank_N, digests_N2[:, 1], digests_N2[:, 0]))
    ordered = digests_N2[order]
    same = np.zeros(len(order), bool)
    same[1:] = (ordered[1:] == ordered[:-1]).all(axis=1)
    starts = np.maximum.accumulate(np.where(same, 0, np.arange(len(order))))
    return np.stack([order[same], order[starts[same]]], axis=1).astype(np.int64)


def candidates(keys_N: NDArray[np.uint64], rank_N: NDArray[np.int64]) -> NDArray[np.int64]:
    """int64 (found, 2): pairs of rows with the same key, the one of lower rank first; rows of rank -1 are left out.

    Of more than `NEIGHBOURS` rows with one key each is paired with the next ones by rank.
    """
    rows = np.flatnonzero(rank_N >= 0)
    order = rows[np.lexsort((rank_N[rows], keys_N[rows]))]
    keys = keys_N[order]
    found = []
    for step in range(1, NEIGHBOURS + 1):
        places = np.flatnonzero(keys[step:] == keys[:-step])
        if not len(places):
            break
        found.append(np.stack([order[places], order[places + step]], axis=1))
    return np.concatenate(found) if found else np.empty((0, 2), np.int64)


def alike(
    left: NDArray[np.uint32], right: NDArray[np.uint32], threshold: float
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """int64 (M,): the places in which the whole texts of each pair agree, whose share of P estimates their Jaccard
    similarity; bool (M,): whether that is the threshold or more and the responses are alike too.

    left, right: uint32 (M, P + R), the signatures of the whole text and of the response.
    """
    same = left == right
    agree = same[:, :PLACES].sum(axis=1, dtype=np.int64)
    answers = same[:, PLACES:].sum(axis=1, dtype=np.int64)
    return agree, (agree >= threshold * PLACES) & (answers >= RESPONSES_ALIKE * RESPONSE_PLACES)


def near_groups(pairs_M3: NDArray[np.int64], rank_N: NDArray[np.int64]) -> NDArray[np.int64]:
    """int64 (found, 4): each row linked to one of lower rank, its group's row of lowest rank, the row that it is most
    like, and the places in which it agrees with that one.

    pairs_M3: (row, row, places that agree); a pair may stand there more than once.
    """
    pairs = np.unique(pairs_M3, axis=0)
    rows, places = np.unique(pairs[:, :2], return_inverse=True)
    places = places.reshape(-1, 2)
    if not len(rows):
        return np.empty((0, 4), np.int64)
    links = coo_array((np.ones(len(pairs), bool), (places[:, 0], places[:, 1])), shape=(len(rows), len(rows)))
    groups = connected_components(links, directed=False)[1]
    rank = rank_N[rows]
    order = np.lexsort((rank, groups))
    starts = np.flatnonzero(np.r_[True, groups[order][1:] != groups[order][:-1]])
    first = order[starts][groups]
    # Both directions of each pair, the most alike first, then the one of lowest rank.
    one, other = np.concatenate([places, places[:, ::-1]]).T
    agree = np.tile(pairs[:, 2], 2)
    best_first = np.lexsort((rank[other], -agree, one))
    best = best_first[np.unique(one[best_first], return_index=True)[1]]
    left = np.flatnonzero(first != np.arange(len(rows)))
    found = np.stack([rows[left], rows[first[left]], rows[other[best]][left], agree[best][left]], axis=1)
    return found.astype(np.int64)
