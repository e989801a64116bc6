"""Is it language, or a proxy for it? How much of the variance of separability each property of a sample explains."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Share:
    """R^2 of the factor alone (one-way analysis of variance, eta^2), and what the additive model of all factors loses
    when this one is left out; levels: how many values the factor takes."""

    alone: float
    unique: float
    levels: int


class VarianceTable:
    """Adds up samples batch by batch, then gives the shares; its size depends on the factors' levels only.

    factors: name -> the values it may take. The model is ordinary least squares of the score on one indicator
    variable for each level of each factor.
    """

    def __init__(self, factors: Mapping[str, Sequence[object]]) -> None:
        self.codes: dict[str, dict[object, int]] = {}
        columns = 0
        for name, levels in factors.items():
            self.codes[name] = {level: columns + k for k, level in enumerate(levels)}
            columns += len(levels)
        self.together = np.zeros((columns, columns))
        self.totals = np.zeros(columns)
        self.rows, self.total, self.squares = 0, 0.0, 0.0

    def add(self, values: Mapping[str, Sequence[object]], scores: NDArray[np.float64]) -> None:
        """values: factor -> (N,) its value of every sample; scores: (N,)."""
        codes = [
            np.fromiter((self.codes[name][value] for value in values[name]), np.int64, len(scores))
            for name in self.codes
        ]
        size = len(self.totals)
        for first in codes:
            self.totals += np.bincount(first, weights=scores, minlength=size)
            for second in codes:
                pairs = np.bincount(first * size + second, minlength=size * size)
                self.together += pairs.reshape(size, size)
        self.rows += len(scores)
        self.total += float(scores.sum())
        self.squares += float(np.square(scores).sum())

    def shares(self) -> dict[str, Share]:
        """Factor -> its share; all 0 where the scores do not vary."""
        full = self.explained()
        return {
            name: Share(
                alone=self._r_squared([name]),
                unique=max(0.0, full - self._r_squared([other for other in self.codes if other != name])),
                levels=int((np.diag(self.together)[list(codes.values())] > 0).sum()),
            )
            for name, codes in self.codes.items()
        }

    def explained(self) -> float:
        """R^2 of all factors together."""
        return self._r_squared(list(self.codes))

    def _r_squared(self, factors: Sequence[str]) -> float:
        columns = [column for name in factors for column in self.codes[name].values()]
        mean = self.total / max(1, self.rows)
        variance = self.squares - self.rows * mean**2
        if not columns or variance <= 1e-12 * max(self.squares, 1e-300):
            return 0.0
        together = self.together[np.ix_(columns, columns)]
        # The scores are taken from their mean: the indicators of a factor sum to the constant, so it is in the model.
        totals = self.totals[columns] - mean * np.diag(together)
        effects = np.linalg.lstsq(together, totals, rcond=None)[0]
        return float(np.clip(effects @ totals / variance, 0.0, 1.0))
