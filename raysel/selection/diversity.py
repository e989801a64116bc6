"""How diverse a choice of samples is: n-grams that are not said again, and how near what was left out is to it.

The third measure, the mean cosine of the pairs within a language (LangGPS, Figure 1b), is
`raysel.separability.similarity.PairwiseSimilarity`: it needs no pair either.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.stats import hypergeom

from raysel.selection import kmc

# Rows whose distances are measured at a time, in double precision.
BLOCK = 1_024


def ngrams_by_order(
    hashed: NDArray[np.uint32], offsets: NDArray[np.int64]
) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """The unigrams and the bigrams among the n-grams (M,) of texts that begin at `offsets` (N + 1,), both as
    `dsir.hashed_ngrams` gives them: of each text unigrams and bigrams in turn.
    """
    place = np.arange(len(hashed)) - np.repeat(offsets[:-1], np.diff(offsets))
    return hashed[place % 2 == 0], hashed[place % 2 == 1]


def distinct_share(ngrams: NDArray[np.integer], size: int) -> float:
    """Distinct-n (Li et al. 2016, arXiv 1510.03055) at a size: of `size` of the n-grams (M,), drawn at random without
    replacement, the share of different ones that is expected.

    Different n-grams over all n-grams falls with every text that is added, so choices can only be compared at one size.
    The expectation is exact (rarefaction, Hurlbert 1971), needs no draw, and at size M is the plain distinct-n. Raises
    ValueError unless 1 <= size <= M.
    """
    total = len(ngrams)
    if not 1 <= size <= total:
        raise ValueError(f"a share of {size} n-grams cannot be taken from {total}")
    frequencies, kinds = np.unique(np.unique(ngrams, return_counts=True)[1], return_counts=True)
    missed = hypergeom.pmf(0, total, frequencies, size)
    return float((kinds * (1 - missed)).sum() / size)


def distances_to_nearest(rows: NDArray[np.floating], chosen: NDArray[np.floating]) -> NDArray[np.float64]:
    """How far each of `rows` (n, d) is from the nearest of `chosen` (k, d), k at least 1: Euclidean on the vectors as
    they are, float64 (n,). Their mean is the coverage of the rows: 0 where all of them are chosen.

    In blocks of distances, never n x k. The nearest is found by products in the vectors' precision (at least single)
    and its distance measured in double, so that of almost equally near ones another may be taken. The nearest of
    several parts of what is chosen is the nearest of each part's.
    """
    nearest = kmc.labels(rows, chosen)
    starts = range(0, len(rows), BLOCK)
    parts = [kmc.lengths(rows[at : at + BLOCK], chosen[nearest[at : at + BLOCK]]) for at in starts]
    return np.concatenate([np.zeros(0), *parts])


def mean_over(values: list[float | None], weights: list[int]) -> float | None:
    """The mean of the values that are there, each counted `weights` times; None without any."""
    there = [(value, weight) for value, weight in zip(values, weights, strict=True) if value is not None and weight]
    total = sum(weight for _, weight in there)
    return sum(value * weight for value, weight in there) / total if total else None
