"""Scores of other clusters from the same sums: labels merged, languages left out, or one task at a time, without a new
distance, in O(N K)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raysel.separability.silhouette import Silhouette, silhouette_from_sums


def merge_columns(sums: NDArray[np.float64], groups: NDArray[np.int64], count: int) -> NDArray[np.float64]:
    """float64 (N, count): the columns of sums (N, K) added up by their group (K,), always in the same order."""
    merged = np.zeros((len(sums), count))
    for column, group in enumerate(groups):
        merged[:, group] += sums[:, column]
    return merged


@dataclass(frozen=True)
class Merging:
    """How K clusters become G labels.

    labels: the G labels, sorted; of_cluster: int64 (K,), the label's number of each cluster, -1 where it is left out.
    """

    labels: list[str]
    of_cluster: NDArray[np.int64]

    def sizes(self, sizes: NDArray[np.int64]) -> NDArray[np.int64]:
        """(G,) members of each label, from the clusters' (K,)."""
        kept = self.of_cluster >= 0
        merged = np.zeros(len(self.labels), dtype=np.int64)
        np.add.at(merged, self.of_cluster[kept], sizes[kept])
        return merged

    def score(self, sums: NDArray[np.float64], own: NDArray[np.int64], sizes: NDArray[np.int64]) -> Silhouette:
        """Scores of samples under the merged labels.

        sums: (N, K) to the clusters; own: int64 (N,) their clusters, none of them left out; sizes: int64 (K,).
        """
        kept = np.flatnonzero(self.of_cluster >= 0)
        merged = merge_columns(sums[:, kept], self.of_cluster[kept], len(self.labels))
        return silhouette_from_sums(merged, self.of_cluster[own], self.sizes(sizes))


def merging(labels: Sequence[str | None]) -> Merging:
    """From the label of each of K clusters, None for a cluster that is left out."""
    distinct = sorted({label for label in labels if label is not None})
    number = {label: k for k, label in enumerate(distinct)}
    return Merging(distinct, np.array([-1 if x is None else number[x] for x in labels], dtype=np.int64))
