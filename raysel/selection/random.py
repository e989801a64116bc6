"""Selection at random, the baseline every other selector is held against."""

import numpy as np


def select(n: int, k: int, *, seed: int) -> np.ndarray:
    """int64 (k,): k distinct indices below n, drawn with `seed`. Raises ValueError where k > n."""
    if k > n:
        raise ValueError(f"{k} rows cannot be chosen from {n}")
    return np.random.default_rng(seed).permutation(n)[:k]
