"""What a change of model did, with paired intervals: the same items are resampled for both models.

Two models are asked the same items, so much of the chance in their scores is common to both, and the interval of the
difference is narrower than the two intervals of the values suggest (paired bootstrap resampling: Koehn 2004,
"Statistical significance tests for machine translation evaluation").
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 1000
Value = TypeVar("Value", float, NDArray[np.float64])


@dataclass(frozen=True)
class Interval:
    """A value and its 95% interval; the ends are None where none can be made."""

    value: float
    low: float | None = None
    high: float | None = None

    def excludes_zero(self) -> bool:
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


def resampled_means(values: NDArray[np.float64], *, name: str, seed: int) -> NDArray[np.float64]:
    """(models, RESAMPLES) means over items drawn with replacement, the same draws for all models.

    values: (models, n) of one task; name decides the draws together with seed. Equal columns are drawn together, as
    one multinomial count, which is the same distribution and takes no time for right-or-wrong items.
    """
    columns, counts = np.unique(values, axis=1, return_counts=True)
    n = values.shape[1]
    generator = np.random.default_rng([seed, crc32(name.encode())])
    drawn = generator.multinomial(n, counts / n, size=RESAMPLES)
    means: NDArray[np.float64] = columns @ drawn.T / n
    return means


def interval(value: float, draws: NDArray[np.float64]) -> Interval:
    """`value` with the 2.5% and 97.5% quantiles of its resampled `draws`."""
    low, high = np.quantile(draws, [0.025, 0.975])
    return Interval(value, float(low), float(high))


def average(cells: Mapping[tuple[str, str], Value]) -> Value:
    """The mean over languages of the mean over each language's tasks; cells: (lang, task) -> value or array."""
    by_language: dict[str, list[Value]] = defaultdict(list)
    for (lang, _), value in cells.items():
        by_language[lang].append(value)
    means: list[Value] = [sum(values[1:], start=values[0]) / len(values) for values in by_language.values()]
    return sum(means[1:], start=means[0]) / len(means)
