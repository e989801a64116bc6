"""Subsets of languages by their features, families or ranks: arrays in, row numbers out."""

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raysel.errors import UserError

# Members of a cluster within this of the nearest one's distance to the centroid are equally near: of two members both
# always are, and rounding would decide.
TIE = 1e-6
# The paper's lists come from 10 starts, scikit-learn's former default; one start gives others.
STARTS = 10


class SubsetError(UserError):
    """A subset of languages that cannot be chosen."""


@dataclass(frozen=True)
class Clusters:
    """chosen: (k,) the row nearest each centroid, sorted; of: (n,) for each row the chosen one of its cluster."""

    chosen: list[int]
    of: NDArray[np.int64]


def nearest_to_centroids(features_ND: NDArray[np.float64], k: int, *, seed: int) -> Clusters:
    """k-means with Euclidean distances on the features as they are; of each cluster the member nearest its centroid.

    Of equally near members the first row is taken, so the rows must come in the order that breaks ties.
    """
    rows = len(features_ND)
    if k == rows:
        return Clusters(list(range(rows)), np.arange(rows))
    distinct = len(np.unique(features_ND, axis=0))
    if k > distinct:
        raise SubsetError(
            f"k {k} is more than the {distinct} different feature vectors that the {rows} candidates have: "
            f"give a smaller k, or leave out candidates whose features are the same"
        )
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    # The order of a sum over several threads would depend on how many there are.
    with threadpool_limits(limits=1):
        fitted = KMeans(n_clusters=k, random_state=seed, n_init=STARTS).fit(features_ND)
    of = np.empty(rows, dtype=np.int64)
    chosen = []
    for number, centre in enumerate(fitted.cluster_centers_):
        members = np.flatnonzero(fitted.labels_ == number)
        distances = np.linalg.norm(features_ND[members] - centre, axis=1)
        nearest = int(members[distances <= distances.min() + TIE][0])
        of[members] = nearest
        chosen.append(nearest)
    return Clusters(sorted(chosen), of)


def joined(groups: Mapping[str, NDArray[np.float64]], weights: Mapping[str, float]) -> NDArray[np.float64]:
    """Feature groups (n, d) side by side, scaled so that each has its weight in the squared distance of two rows.

    Before the weight counts, a group's mean squared distance over all pairs of rows is 1, whatever its width and unit.
    """
    parts = []
    for name, features in groups.items():
        # The mean squared distance of two rows drawn with replacement is twice the summed variance.
        spread = 2 * float(features.var(axis=0).sum())
        parts.append(features * np.sqrt(weights[name] / spread) if spread else np.zeros_like(features))
    return np.hstack(parts)


def one_of_each_family(families: Sequence[str], k: int, *, seed: int) -> list[int]:
    """k rows of different families: shuffled, the first of each family kept, the first k of those taken.

    The shuffle is that of pandas' `sample(frac=1, random_state=seed)`, with which the published list was drawn.
    """
    found = len(set(families))
    if k > found:
        raise SubsetError(f"k {k} is more than the {found} families that the {len(families)} candidates belong to")
    kept: dict[str, int] = {}
    for row in np.random.RandomState(seed).permutation(len(families)):
        kept.setdefault(families[row], int(row))
    return list(kept.values())[:k]


def at_random(rows: int, k: int, *, seed: int) -> list[int]:
    return random.Random(seed).sample(range(rows), k)


def ranked(amounts: Mapping[str, float], *, falling: bool = True) -> list[str]:
    """The names by falling (or rising) amount; equal ones in alphabetical order."""
    return sorted(amounts, key=lambda name: (-amounts[name] if falling else amounts[name], name))


def evenly_spread(length: int, k: int) -> list[int]:
    """k places spread evenly over a ranking of `length`, its two ends among them; one alone is in the middle."""
    if k == 1:
        return [(length - 1) // 2]
    return [round(step * (length - 1) / (k - 1)) for step in range(k)]


def jaccard(one: Iterable[str], other: Iterable[str]) -> float:
    """What two sets have in common, as a share of what either has; 1 for two empty sets."""
    first, second = set(one), set(other)
    return len(first & second) / len(first | second) if first | second else 1.0
