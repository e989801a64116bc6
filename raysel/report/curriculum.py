"""What the order of training looks like: separability, languages, tasks and levels from its beginning to its end."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

STRETCHES = 40
MIN_PER_STRETCH = 5


@dataclass(frozen=True)
class Composition:
    """What each of S stretches is made of: shares (S, K) of the K `parts`."""

    parts: list[Hashable]
    shares: NDArray[np.float64]


@dataclass(frozen=True)
class Curriculum:
    """The order cut into S equal stretches.

    mean, low, high: (S,) the mean separability and its 10% and 90% quantiles; of: what each stretch is made of, by
    `language` and, where the order tells several apart, by `task` and `level`; rows in all; trained: whether this is
    the order found while training.
    """

    mean: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    of: dict[str, Composition]
    rows: int
    trained: bool


def cut(
    separability: NDArray[np.float64], labels: Mapping[str, Sequence[Hashable]], *, trained: bool = False
) -> Curriculum | None:
    """separability and each of the labels (`language`, `task`, `level`): (N,) in the order of training.

    None where that is too short to show a course.
    """
    rows = len(separability)
    stretches = min(STRETCHES, rows // MIN_PER_STRETCH)
    if stretches < 2:
        return None
    stretch = np.array_split(np.arange(rows), stretches)
    quantiles = np.array([np.quantile(separability[part], [0.1, 0.9]) for part in stretch])
    of = {
        by: _composition(values, stretch) for by, values in labels.items() if by == "language" or len(set(values)) > 1
    }
    mean = np.array([separability[part].mean() for part in stretch])
    return Curriculum(mean, quantiles[:, 0], quantiles[:, 1], of, rows, trained)


def _composition(values: Sequence[Hashable], stretches: list[NDArray[np.int64]]) -> Composition:
    parts = sorted(set(values), key=lambda part: (part is None, part))
    number = {part: k for k, part in enumerate(parts)}
    own = np.array([number[value] for value in values])
    shares = np.array([np.bincount(own[rows], minlength=len(parts)) / len(rows) for rows in stretches])
    return Composition(parts, shares)
