"""Two conditions trained with the same seeds: is one lower or higher, in the mean over languages and in each; and
whether values rise or fall over an ordered factor.

A value is of one run and one language: bits per byte, an accuracy. The unit is the seed: what is said holds for other
seeds on the same items, and says nothing of other items.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from math import factorial
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import bartlett, nct, page_trend_test, permutation_test, rankdata
from scipy.stats import t as student

from raysel.errors import UserError
from raysel.evaluation.intervals import Interval
from raysel.evaluation.significance import LEVEL, POWER, SAMPLED, holm

Array = NDArray[np.float64]
# Seed -> language -> value.
Runs = Mapping[int, Mapping[str, float]]
Verdict = Literal["lower", "higher", "no clear difference"]
# Differences that are closer than this share of the values differ by rounding.
ROUNDING = 1e-12
# Conditions whose spreads over the seeds differ by no more than chance explains this well are taken to scatter alike.
ALIKE = 0.2
# Orders of up to so many levels are all listed.
EXACT_LEVELS = 8


@dataclass(frozen=True)
class Difference:
    """Condition A less condition B, over S seeds.

    interval: the mean difference with its 95% t interval; p: two-sided, of the t test, of languages corrected by Holm,
    so that an interval of a language may exclude 0 without a verdict; verdict: of A; detectable: the least true
    difference that is found in four of five such studies; freedom: degrees of freedom of the error. Of one seed, or of
    several that gave the same difference to the last digit, nothing is known of the noise: all but the mean is None.
    """

    interval: Interval
    p: float | None = None
    verdict: Verdict | None = None
    detectable: float | None = None
    freedom: int | None = None


@dataclass(frozen=True)
class Contrast:
    """A less B: of the mean over languages, and by language, in alphabetical order."""

    seeds: tuple[int, ...]
    overall: Difference
    languages: dict[str, Difference]


@dataclass(frozen=True)
class Trend:
    """Whether values rise or fall over an ordered factor. correlation: Spearman's, within a seed, the mean over seeds;
    p: two-sided."""

    seeds: tuple[int, ...]
    correlation: float
    p: float
    verdict: Literal["rises", "falls", "no clear trend"]


def contrast(first: Runs, second: Runs, among: Sequence[Runs] = ()) -> Contrast:
    """The first condition less the second, paired by seed.

    first, second: seed -> language -> value, of the same seeds and languages. among: all conditions of the study. Where
    these scatter alike over the seeds (Bartlett's test, p > 0.2), the error is that of all of them: a two-way analysis
    of variance by condition and seed without interaction (Montgomery 2017, "Design and analysis of experiments", ch.
    4), which of two conditions is the paired t test. Otherwise it is the error of these two.

    Measured with three seeds and 3, 5 and 10 conditions: of equal means 5 to 7% are told apart if all scatter alike,
    and 4 to 8% if some scatter six to eight times as much as others; means that differ by 2.5 of their standard
    deviations are told apart in 59, 69 and 76%, by the paired test in 39%.

    Raises UserError where seeds or languages differ, where there is none, and for a value that is no finite number.
    """
    seeds, languages = _common([first, second, *among])
    pair = np.stack([_array(of, seeds, languages) for of in (first, second)])
    every = np.stack([_array(of, seeds, languages) for of in among]) if among else pair
    rounding = ROUNDING * float(np.abs(pair).max(axis=(1, 2)).sum())
    overall = _difference(pair.mean(axis=2), every.mean(axis=2), rounding)
    apart = [
        _difference(pair[:, :, at], every[:, :, at], rounding, tests=len(languages)) for at in range(len(languages))
    ]
    return Contrast(tuple(seeds), overall, dict(zip(languages, _corrected(apart), strict=True)))


def trend(levels: Sequence[Runs], *, seed: int = 0) -> Trend:
    """Whether the mean over languages rises or falls from level to level (Page 1963, "Ordered hypotheses for multiple
    treatments"; with one seed Spearman's test).

    levels: at least three conditions in the order of the factor, of the same seeds and languages. Under no trend all
    orders within a seed are equally likely, also of one seed, as each level is a run of its own. p is twice the
    smaller of both directions', exact up to eight levels (twelve seeds) where nothing is tied; of more levels in one
    seed 9,999 orders are drawn with `seed`. Four levels of one seed can never be clear. Raises UserError as `contrast`,
    and for fewer than three levels.
    """
    if len(levels) < 3:
        raise UserError(f"a trend needs three levels of the factor, there are {len(levels)}: compare two as a contrast")
    seeds, languages = _common(levels)
    values = np.stack([_array(level, seeds, languages).mean(axis=1) for level in levels], axis=1)
    correlation = _correlation(values)
    p = _page_p(values) if len(seeds) > 1 else _spearman_p(values, seed)
    if p > LEVEL:
        return Trend(tuple(seeds), correlation, p, "no clear trend")
    return Trend(tuple(seeds), correlation, p, "rises" if correlation > 0 else "falls")


def _page_p(values: Array) -> float:
    return min(1.0, 2 * min(float(page_trend_test(signed).pvalue) for signed in (values, -values)))


def _spearman_p(values: Array, seed: int) -> float:
    done = permutation_test(
        (values[0],),
        lambda drawn, axis: _correlations(np.moveaxis(drawn, axis, -1)),
        permutation_type="pairings",
        vectorized=True,
        n_resamples=factorial(k) if (k := values.shape[1]) <= EXACT_LEVELS else SAMPLED,
        rng=np.random.default_rng(seed),
    )
    return float(done.pvalue)


def detectable_difference(error: float, freedom: int, *, tests: int = 1) -> float:
    """The true difference that a t test finds (5% two-sided) in four of five studies, for a difference of this standard
    error with so many degrees of freedom: 5.7 of them with two, 3.8 with four, 2.8 with very many.

    From the noncentral t (Cohen 1988, "Statistical power analysis", ch. 2), as few seeds know their own spread only
    roughly. tests: of so many at once, corrected by Holm. Raises ValueError for less than one degree of freedom.
    """
    if freedom < 1:
        raise ValueError(f"an error with {freedom} degrees of freedom says nothing")
    return error * _detectable_errors(freedom, tests)


@cache
def _detectable_errors(freedom: int, tests: int) -> float:
    critical = student.ppf(1 - LEVEL / (2 * tests), freedom)
    return float(brentq(lambda away: nct.sf(critical, freedom, away) - POWER, 0, 10 * critical))


def _difference(pair: Array, every: Array, rounding: float, *, tests: int = 1) -> Difference:
    """Of (2, S) values of two conditions among (C, S) of all, p not yet corrected."""
    values = pair[0] - pair[1]
    mean, seeds = float(values.mean()), len(values)
    if seeds == 1 or np.abs(values).max() <= rounding:
        return Difference(Interval(mean))
    found = every if _scatter_alike(every, rounding) else pair
    error, freedom = _error(found)
    if error <= rounding:
        return Difference(Interval(mean))
    p = float(2 * student.sf(abs(mean) / error, freedom))
    margin = float(student.ppf(1 - LEVEL / 2, freedom)) * error
    interval = Interval(mean, mean - margin, mean + margin, error)
    return Difference(interval, p, _verdict(mean, p), detectable_difference(error, freedom, tests=tests), freedom)


def _scatter_alike(values: Array, rounding: float) -> bool:
    """Whether the seeds of the (C, S) conditions have the same spread, as far as one can tell."""
    some = len(values) > 2 and bool((np.ptp(values, axis=1) > rounding).all())
    return some and float(bartlett(*values).pvalue) > ALIKE


def _error(values: Array) -> tuple[float, int]:
    """The standard error of a difference between two of (C, S) conditions' means over seeds, and its degrees of
    freedom: what neither the condition nor the seed explains."""
    conditions, seeds = values.shape
    left = values - values.mean(axis=1, keepdims=True) - values.mean(axis=0) + values.mean()
    freedom = (conditions - 1) * (seeds - 1)
    return float(np.sqrt(2 * (left**2).sum() / freedom / seeds)), freedom


def _verdict(mean: float, p: float) -> Verdict:
    if p > LEVEL:
        return "no clear difference"
    return "lower" if mean < 0 else "higher"


def corrected(contrasts: Sequence[Contrast]) -> list[Contrast]:
    """The contrasts of one study: the p of their means over languages corrected (Holm) over all of them, with verdicts
    and the least difference that would have been found accordingly."""
    tests = sum(of.overall.p is not None for of in contrasts)
    found = []
    for of, overall in zip(contrasts, _corrected([of.overall for of in contrasts]), strict=True):
        error, freedom = overall.interval.error, overall.freedom
        if error is not None and freedom is not None:
            overall = replace(overall, detectable=detectable_difference(error, freedom, tests=tests))
        found.append(replace(of, overall=overall))
    return found


def _corrected(differences: Sequence[Difference]) -> list[Difference]:
    corrected = iter(holm([of.p for of in differences if of.p is not None]))
    found = []
    for of in differences:
        if of.p is not None:
            p = next(corrected)
            of = replace(of, p=p, verdict=_verdict(of.interval.value, p))
        found.append(of)
    return found


def _correlation(values: Array) -> float:
    return float(_correlations(values).mean())


def _correlations(values: Array) -> Array:
    """(...,) Spearman's correlations of (..., k) values with their order, from Page's L, which is linear in them; ties
    have their mean rank, and what is all tied has 0."""
    k = values.shape[-1]
    sums = rankdata(values, axis=-1) @ np.arange(1, k + 1)
    correlations: Array = 12 * sums / (k * (k**2 - 1)) - 3 * (k + 1) / (k - 1)
    return correlations


def _common(conditions: Sequence[Runs]) -> tuple[list[int], list[str]]:
    """The seeds and languages that all conditions have, and no other."""
    seeds = sorted(conditions[0])
    if not seeds or any(sorted(condition) != seeds for condition in conditions):
        each = "; ".join(", ".join(str(seed) for seed in sorted(condition)) or "none" for condition in conditions)
        raise UserError(f"conditions are compared by the seeds that both were trained with, these have {each}")
    languages = sorted(conditions[0][seeds[0]])
    for condition in conditions:
        for seed, values in condition.items():
            if sorted(values) != languages or not languages:
                other = ", ".join(sorted(set(languages) ^ set(values))) or "no language at all"
                raise UserError(f"seed {seed} does not have the languages of the others: {other}")
            if bad := [lang for lang in languages if not np.isfinite(values[lang])]:
                raise UserError(f"seed {seed}: the value of {', '.join(bad)} is no finite number: leave it out of both")
    return seeds, languages


def _array(runs: Runs, seeds: Sequence[int], languages: Sequence[str]) -> Array:
    return np.array([[runs[seed][lang] for lang in languages] for seed in seeds], dtype=np.float64)
