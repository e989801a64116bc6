"""95% intervals of a metric over the items of one task."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Z_95 = 1.959963984540054
RESAMPLES = 1000


def wilson_interval(successes: int, n: int) -> tuple[float, float]:
    """The 95% score interval of a proportion (Wilson 1927, "Probable inference", eq. 4), without continuity correction.

    Holds its level where the normal interval fails: at small n and at 0% and 100%. Lies in [0, 1] and contains
    `successes / n`. Raises ValueError unless 0 <= successes <= n and n >= 1.
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n} is no proportion")
    share = successes / n
    spread = Z_95**2 / n
    centre = (share + spread / 2) / (1 + spread)
    half = Z_95 / (1 + spread) * np.sqrt(share * (1 - share) / n + spread / (4 * n))
    return float(min(max(centre - half, 0.0), share)), float(max(min(centre + half, 1.0), share))


def bootstrap_interval(
    values: Sequence[Any],
    statistic: Callable[[list[Any]], float] | None = None,
    *,
    seed: int,
    resamples: int = RESAMPLES,
) -> tuple[float, float]:
    """The 95% percentile bootstrap interval over items (Efron & Tibshirani 1993, ch. 13).

    values: one entry per item, (n,) floats, or whatever `statistic` takes a list of; statistic defaults to the mean.
    Items are drawn with replacement `resamples` times from a generator seeded with `seed`. One item gives a single
    point. Raises ValueError for no items.
    """
    n = len(values)
    if n < 1:
        raise ValueError("an interval needs at least one item")
    generator = np.random.default_rng(seed)
    drawn = np.empty(resamples)
    numbers: NDArray[np.float64] | None = np.asarray(values, dtype=np.float64) if statistic is None else None
    for i in range(resamples):
        picks = generator.integers(0, n, size=n)
        if numbers is not None:
            drawn[i] = numbers[picks].mean()
        elif statistic is not None:
            drawn[i] = statistic([values[pick] for pick in picks])
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(low), float(high)


def mean_interval(values: Sequence[float], *, seed: int) -> tuple[float, float]:
    """The 95% interval of the mean of (n,) values: Wilson's where all are 0 or 1, else the bootstrap's."""
    if all(value in (0, 1) for value in values):
        return wilson_interval(int(sum(values)), len(values))
    return bootstrap_interval(values, seed=seed)
