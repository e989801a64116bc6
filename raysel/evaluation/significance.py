"""Whether a difference of two models on the same items is more than chance, and how large one would have to be."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom, norm

# The sums of at most so many sign flips are all listed; of more, a sample is drawn.
LISTED = 2**16
SAMPLED = 9_999
SIGNS_AT_ONCE = 4_000_000
LEVEL = 0.05
POWER = 0.8


def sign_flip_p(changes: NDArray[np.float64], *, seed: int) -> float:
    """The two-sided p of the paired permutation test: how often is the sum of `changes` as far from 0 with chance
    signs?

    changes: (n,), one for each unit, the second model's part less the first's. Were the models equal, each would be as
    likely with the other sign (Fisher 1935; Good 2005, "Permutation tests", 3.2). Exact where few different sums are
    possible (for right-or-wrong items always: McNemar's exact test); else of 9,999 seeded draws, (k + 1) / (m + 1),
    which counts what was observed as one of them (Phipson & Smyth 2010). 1 where nothing changed. Raises ValueError for
    a value that is not finite.
    """
    if not np.isfinite(changes).all():
        raise ValueError("a change that is no finite number cannot be tested")
    moved = changes[changes != 0]
    if not len(moved):
        return 1.0
    # Changes that are the same but for rounding are the same.
    moved = np.round(moved / np.abs(moved).max(), 12)
    observed = abs(moved.sum()) - 1e-9
    sizes, counts = np.unique(np.abs(moved), return_counts=True)
    if np.log(counts + 1).sum() <= np.log(LISTED):
        return _exact(sizes, counts, observed)
    generator = np.random.default_rng(seed)
    beyond, left = 0, SAMPLED
    while left:
        rows = min(left, max(1, SIGNS_AT_ONCE // len(moved)))
        signs = generator.integers(0, 2, size=(rows, len(moved)), dtype=np.int8) * 2 - 1
        beyond += int((np.abs(signs @ moved) >= observed).sum())
        left -= rows
    return (beyond + 1) / (SAMPLED + 1)


def _exact(sizes: NDArray[np.float64], counts: NDArray[np.int64], observed: float) -> float:
    """Every sum of the sizes with signs, and how likely it is: of each size only the number of pluses matters."""
    sums, shares = np.zeros(1), np.ones(1)
    for size, count in zip(sizes, counts, strict=True):
        pluses = np.arange(count + 1)
        sums = np.add.outer(sums, size * (2 * pluses - count)).ravel()
        shares = np.multiply.outer(shares, binom.pmf(pluses, count, 0.5)).ravel()
    return min(1.0, float(shares[np.abs(sums) >= observed].sum()))


def holm(p: Sequence[float]) -> list[float]:
    """The p of several tests, corrected so that one false finding among all of them has at most the level asked for
    (Holm 1979, "A simple sequentially rejective multiple test procedure"): none smaller, in the same order, at most
    1."""
    values = np.asarray(p, dtype=np.float64)
    order = np.argsort(values, kind="stable")
    stepped = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1))
    corrected = np.empty_like(values)
    corrected[order] = np.minimum(stepped, 1.0)
    return [float(value) for value in corrected]


def smallest_detectable(error: float, *, tests: int = 1) -> float:
    """The true difference that is found (5% two-sided) in four of five trials, for a difference of this standard error:
    2.80 of them (Cohen 1988, "Statistical power analysis", ch. 2).

    tests: of so many at once, where the p are corrected by Holm. The smallest of them is multiplied by `tests`, every
    other by less: what is found at the level / tests is found whatever the others are (3.65 errors of 10).
    """
    return float(norm.ppf(1 - LEVEL / (2 * max(tests, 1))) + norm.ppf(POWER)) * error


def accuracy_difference_error(accuracy: float, n: int) -> float:
    """The standard error of the difference of two accuracies near `accuracy`, each of n items of its own.

    On the same items it is smaller, by what the models have in common; with one model alone that cannot be known. An
    accuracy of 0 or 1 is taken as half an item away from it, as its own error would be 0.
    """
    near = min(max(accuracy, 0.5 / n), 1 - 0.5 / n)
    return float(np.sqrt(2 * near * (1 - near) / n))
