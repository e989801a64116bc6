"""Selectors of a user's own, right and wrong."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from raysel.selection.selector import Candidates


@dataclass
class ShortestResponses:
    """Those with the shortest responses that have at least `least` characters, of the most separable ones first."""

    least: int = 1

    def select(self, candidates: Candidates, count: int, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
        assert candidates.vectors.shape == (len(candidates), 6)
        lengths = np.array([len(response) for _, response in candidates.texts], dtype=float)
        lengths[lengths < self.least] = 1e9
        order = np.lexsort((-candidates.separability, lengths))[:count]
        return order, -lengths[order]


@dataclass
class Wrong:
    how: str

    def select(self, candidates: Candidates, count: int, *, seed: int) -> tuple[Any, Any]:
        few, scores = list(range(count)), [0.0] * count
        return {
            "twice": ([0] * count, scores),
            "too few": (few[1:], scores[1:]),
            "beyond": ([i + len(candidates) for i in few], scores),
            "halves": ([i + 0.5 for i in few], scores),
            "nan": (few, [float("nan")] * count),
        }[self.how]


class WithoutSelect:
    pass
