"""What the order of training looks like: separability and languages from its beginning to its end."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

STRETCHES = 40
MIN_PER_STRETCH = 5


@dataclass(frozen=True)
class Curriculum:
    """The order cut into S equal stretches.

    mean, low, high: (S,) the mean separability and its 10% and 90% quantiles; shares: (S, K) of the K languages;
    rows in all.
    """

    languages: list[str]
    mean: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    shares: NDArray[np.float64]
    rows: int


def cut(separability: NDArray[np.float64], langs: list[str]) -> Curriculum | None:
    """separability, langs: (N,) in the order of training. None where that is too short to show a course."""
    stretches = min(STRETCHES, len(langs) // MIN_PER_STRETCH)
    if stretches < 2:
        return None
    languages = sorted(set(langs))
    number = {lang: k for k, lang in enumerate(languages)}
    own = np.array([number[lang] for lang in langs])
    parts = np.array_split(np.arange(len(langs)), stretches)
    quantiles = np.array([np.quantile(separability[part], [0.1, 0.9]) for part in parts])
    shares = np.array([np.bincount(own[part], minlength=len(languages)) / len(part) for part in parts])
    mean = np.array([separability[part].mean() for part in parts])
    return Curriculum(languages, mean, quantiles[:, 0], quantiles[:, 1], shares, len(langs))
