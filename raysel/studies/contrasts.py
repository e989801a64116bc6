"""Two conditions under the same seeds: their difference in every language and on average, and its noise. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.stats import t as student

from raysel.evaluation.intervals import Interval
from raysel.evaluation.significance import LEVEL, holm

Verdict = Literal["lower", "higher", "no clear difference", "cannot be told"]


@dataclass(frozen=True)
class Difference:
    """A paired difference over seeds with its 95% t interval, its two-sided p and what at least four of five such
    comparisons would have seen. With one seed there is neither."""

    interval: Interval
    p: float | None
    verdict: Verdict
    detectable: float | None


@dataclass(frozen=True)
class Contrast:
    """overall: of the mean over languages; by_language: of each, their p corrected (Holm) over the languages."""

    overall: Difference
    by_language: Mapping[str, Difference]

    @property
    def verdict(self) -> Verdict:
        return self.overall.verdict


def contrast(first: Sequence[Mapping[str, float]], second: Sequence[Mapping[str, float]]) -> Contrast:
    """The first condition less the second: of each seed, in the same order, the value of every language.

    Raises ValueError where seeds or languages are not the same, or there are none.
    """
    langs = sorted(first[0]) if first else []
    if not langs or len(first) != len(second) or any(sorted(of) != langs for of in (*first, *second)):
        raise ValueError("two conditions are compared under the same seeds, in the same languages")
    values = np.array([[[of[lang] for lang in langs] for of in side] for side in (first, second)])
    of_seeds = values[0] - values[1]
    by_language = [_difference(of_seeds[:, place]) for place in range(len(langs))]
    ps = holm([of.p for of in by_language if of.p is not None])
    corrected = (
        [
            Difference(of.interval, p, _verdict(of.interval.value, p), of.detectable)
            for of, p in zip(by_language, ps, strict=True)
        ]
        if ps
        else by_language
    )
    return Contrast(_difference(of_seeds.mean(axis=1)), dict(zip(langs, corrected, strict=True)))


def _difference(values: np.ndarray) -> Difference:
    """values: (S,), one for each seed."""
    n, mean = len(values), float(values.mean())
    if n < 2:
        return Difference(Interval(mean), None, "cannot be told", None)
    error = float(values.std(ddof=1) / np.sqrt(n))
    if not error:
        p = 1.0 if not mean else 0.0
        return Difference(Interval(mean, mean, mean, 0.0), p, _verdict(mean, p), 0.0)
    margin = float(student.ppf(1 - LEVEL / 2, n - 1)) * error
    p = float(2 * student.sf(abs(mean) / error, n - 1))
    reach = float(student.ppf(1 - LEVEL / 2, n - 1) + student.ppf(0.8, n - 1)) * error
    return Difference(Interval(mean, mean - margin, mean + margin, error), p, _verdict(mean, p), reach)


def _verdict(mean: float, p: float) -> Verdict:
    if p > LEVEL:
        return "no clear difference"
    return "lower" if mean < 0 else "higher"
