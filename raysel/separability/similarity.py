"""Mean pairwise similarity within groups of samples (LangGPS, Figure 1b), in one pass and without a pair."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


class PairwiseSimilarity:
    """Adds up unit vectors by group: the mean cosine of all pairs of a group is (|sum|^2 - n) / (n (n - 1))."""

    def __init__(self, groups: Sequence[object], width: int) -> None:
        self.row = {group: k for k, group in enumerate(groups)}
        self.sums = np.zeros((len(self.row), width))
        self.counts = np.zeros(len(self.row), dtype=np.int64)

    def add(self, groups: Sequence[object], vectors: NDArray[np.floating]) -> None:
        """groups: (N,); vectors: (N, d) of any length but 0: a zero vector has no direction and is left out."""
        own = np.fromiter((self.row[group] for group in groups), np.int64, len(vectors))
        rows = vectors.astype(np.float64)
        lengths = np.sqrt(np.square(rows).sum(axis=1))
        there = lengths > 0
        rows, own = rows[there] / lengths[there, None], own[there]
        order = np.argsort(own, kind="stable")
        present, starts = np.unique(own[order], return_index=True)
        if len(present):
            self.sums[present] += np.add.reduceat(rows[order], starts, axis=0)
            self.counts += np.bincount(own, minlength=len(self.counts))

    def mean(self, group: object) -> float | None:
        """Mean cosine of the pairs of two samples of a group; None for fewer than two samples."""
        n = int(self.counts[self.row[group]])
        if n < 2:
            return None
        return float((np.square(self.sums[self.row[group]]).sum() - n) / (n * (n - 1)))
