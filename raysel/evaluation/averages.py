"""Averages of one metric over tasks and languages, for one model or two, and what they are worth.

The languages of a parallel task (XCOPA, XQuAD, MGSM) have the same items, and an item that is hard in one is hard in
the others: the languages are not independent. There the unit that is drawn is the item with all of its languages. Items
that have no counterpart are drawn within their own cell, cells apart, and families of tasks are independent of each
other, unless they ask about the same items (FLORES from and to English).
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from raysel.evaluation.intervals import (
    FEW,
    RESAMPLES,
    Z_95,
    Interval,
    freedom,
    is_accuracy,
    resampled_sums,
    spread_quantiles,
    wilson_interval,
)

Weights = NDArray[np.float64]
# What is left of terms that cancel: no sum here has so many of them that rounding leaves more.
ROUNDING = 1e-12


@dataclass(frozen=True)
class Cell:
    """One task of one language. values: (M, n) of M models on the same n items; groups: (n,) the item's name in all
    languages of `family`, None where it has no counterpart."""

    task: str
    lang: str
    family: str
    values: NDArray[np.float64]
    groups: Sequence[str | None]


@dataclass(frozen=True)
class Stratum:
    """Units that are drawn together: cells (C,) places in the panel; sums (U, M, C) of a unit's values; counts (U,
    C)."""

    name: str
    cells: NDArray[np.int64]
    sums: NDArray[np.float64]
    counts: NDArray[np.float64]

    def draws(self, seed: int) -> NDArray[np.float64]:
        """(RESAMPLES, M, C) means over drawn units, of those that the cell has; its own mean where it has none of
        them."""
        units, models, cells = self.sums.shape
        flat = np.concatenate([self.sums.reshape(units, -1), self.counts], axis=1)
        # Equal columns are summed once: a matrix product may round them apart, and equal models would differ.
        columns, back = np.unique(flat, axis=1, return_inverse=True)
        generator = np.random.default_rng([seed, crc32(self.name.encode())])
        drawn = resampled_sums(columns, generator)[:, back.ravel()]
        sums, counts = drawn[:, : models * cells].reshape(RESAMPLES, models, cells), drawn[:, None, models * cells :]
        own = np.broadcast_to(self.sums.sum(axis=0) / self.counts.sum(axis=0), sums.shape).copy()
        return np.divide(sums, counts, out=own, where=counts > 0)


class Panel:
    """The cells of one metric. An average, a difference or a ratio of averages is a contrast: (M, C) weights of each
    model's cells, each row as `macro_weights` or `item_weights` has it."""

    def __init__(self, cells: Sequence[Cell], *, seed: int, share: bool = True) -> None:
        """share: what `is_share` says of the metric. Raises ValueError for a cell without items or with a value that is
        no finite number."""
        for cell in cells:
            if not cell.values.shape[1] or not np.isfinite(cell.values).all():
                raise ValueError(f"{cell.task}: every cell needs items, and every item a finite value")
        self.cells = list(cells)
        self.seed = seed
        self.means = np.stack([cell.values.mean(axis=1) for cell in cells], axis=1)
        self.sizes = np.array([cell.values.shape[1] for cell in cells])
        self.accuracies = np.array([share and is_accuracy(cell.values) for cell in cells])
        self.strata = list(_strata(cells))

    @cached_property
    def _draws(self) -> list[NDArray[np.float64]]:
        return [stratum.draws(self.seed) for stratum in self.strata]

    def estimate(self, contrast: Weights) -> Interval:
        """The sum of the weighted means with its 95% interval and standard error.

        The bootstrap's over units (intervals.py); but of right-or-wrong items, one cell with fewer than 100 of them and
        averages that no draw changes have an interval by formula. None where a unit of another kind is alone.
        """
        value = float(_weighed(self.means, contrast))
        used = self._used(contrast)
        units = self._units(contrast, used)
        least, most = min(contrast.sum(axis=1).min(), 0.0), max(contrast.sum(axis=1).max(), 0.0)
        accuracy = bool(self.accuracies[contrast.any(axis=0)].all())
        cells = np.flatnonzero(contrast.any(axis=0))
        if accuracy and ((units < 2).any() or (len(cells) == 1 and self.sizes[cells[0]] < FEW)):
            return self._few(contrast, used, value, (least, most))
        if (units < 2).any():
            return Interval(value)
        parts = self._parts(contrast, used)
        draws = value + (parts - parts.mean(axis=1, keepdims=True)).sum(axis=0)
        variances = parts.var(axis=1)
        if accuracy and not variances.any():
            return self._few(contrast, used, value, (least, most))
        low, high = spread_quantiles(value, draws, freedom(variances, units))
        if accuracy:
            low, high = max(low, least), min(high, most)
        return Interval(value, low, high, float(np.sqrt(variances.sum())))

    def ratio(self, over: Weights, under: Weights) -> Interval | None:
        """One weighted sum over another, drawn together; None where the one below is 0. No interval where it may be."""
        below = float(_weighed(self.means, under))
        if not below:
            return None
        value = float(_weighed(self.means, over)) / below
        used = self._used(np.abs(over) + np.abs(under))
        units = self._units(np.abs(over) + np.abs(under), used)
        if (units < 2).any():
            return Interval(value)
        above, beneath = self._parts(over, used).sum(axis=0), self._parts(under, used).sum(axis=0)
        if (np.sign(beneath) != np.sign(below)).any():
            return Interval(value)
        # The delta method says how much each stratum has in the error of the ratio.
        variances = self._parts((over - value * under) / below, used).var(axis=1)
        low, high = spread_quantiles(value, above / beneath, freedom(variances, units))
        return Interval(value, low, high, float(np.sqrt(variances.sum())))

    def changes(self, contrast: Weights) -> NDArray[np.float64]:
        """(units,) what each unit adds to the sum that `contrast` weighs: what the permutation test flips the signs
        of. Exactly 0 where the weighted values are equal, or cancel but for rounding."""
        strata = [self.strata[i] for i in self._used(contrast)]
        weights = [contrast[:, of.cells] / of.counts.sum(axis=0) for of in strata]
        added = np.concatenate([_weighed(of.sums, with_) for of, with_ in zip(strata, weights, strict=True)])
        terms = [_weighed(np.abs(of.sums), np.abs(with_)) for of, with_ in zip(strata, weights, strict=True)]
        return np.where(np.abs(added) > ROUNDING * np.concatenate(terms), added, 0.0)

    def _used(self, contrast: Weights) -> list[int]:
        return [i for i, stratum in enumerate(self.strata) if contrast[:, stratum.cells].any()]

    def _units(self, contrast: Weights, used: Sequence[int]) -> NDArray[np.int64]:
        """(strata,) of the units, those that a weighted cell has."""
        counts = [self.strata[i].counts[:, contrast[:, self.strata[i].cells].any(axis=0)] for i in used]
        return np.array([np.count_nonzero(of.any(axis=1)) for of in counts])

    def _parts(self, contrast: Weights, used: Sequence[int]) -> NDArray[np.float64]:
        """(strata, RESAMPLES): the draws of each stratum's part of the sum."""
        weights = [contrast[:, self.strata[i].cells] for i in used]
        return np.stack([_weighed(self._draws[i], of) for i, of in zip(used, weights, strict=True)])

    def _contributions(self, place: int, contrast: Weights) -> NDArray[np.float64]:
        stratum = self.strata[place]
        return _weighed(stratum.sums, contrast[:, stratum.cells] / stratum.counts.sum(axis=0))

    def _few(self, contrast: Weights, used: Sequence[int], value: float, ends: tuple[float, float]) -> Interval:
        """Of right-or-wrong units: four made-up ones, shared out over the strata, stand for what was not seen: two
        wholly right and two wholly wrong (Price & Bonett 2004, "An improved confidence interval for a linear function
        of binomial proportions"), of a difference half of (better, worse, same, same) (Agresti & Min 2005, "Simple
        improved confidence intervals for comparing matched proportions"); Wilson's for one cell of one model."""
        signed = ends[0] < 0
        extra, weight = (np.array([-1.0, 0, 0, 1]), 0.5) if signed else (np.array([0.0, 0, 1, 1]), 1.0)
        weight /= len(used)
        centre = variance = 0.0
        for i in used:
            reach = np.abs(contrast[:, self.strata[i].cells]).sum(axis=1).max()
            units = self._units(contrast, [i])[0]
            seen = self._contributions(i, contrast) * units / reach
            n = units + 4 * weight
            mean = (seen.sum() + weight * extra.sum()) / n
            centre += reach * mean
            variance += reach**2 * ((seen**2).sum() / n + weight * (extra**2).sum() / n - mean**2) / n
        error = float(np.sqrt(variance))
        low, high = centre - Z_95 * error, centre + Z_95 * error
        if not signed and np.count_nonzero(contrast) == 1:
            n = self.sizes[contrast.any(axis=0)][0]
            low, high = (float(contrast.max() * end) for end in wilson_interval(round(value / contrast.max() * n), n))
        return Interval(value, max(min(low, value), ends[0]), min(max(high, value), ends[1]), error)


def macro_weights(langs: Sequence[str]) -> Weights:
    """(C,) weights of cells in these languages: the mean over languages of the mean over each language's cells."""
    cells = Counter(langs)
    return np.array([1 / (len(cells) * cells[lang]) for lang in langs])


def item_weights(sizes: Sequence[int] | NDArray[np.int64]) -> Weights:
    """(C,) weights of cells of so many items: the mean over all items, as lm-eval's groups have it."""
    weights = np.asarray(sizes, dtype=np.float64)
    return weights / weights.sum()


def families_drawn_together(names: Mapping[str, Collection[str]]) -> dict[str, str]:
    """Family -> the name that its units are drawn under, as `Cell.family` wants it.

    names: family -> the names of its items. Families with the same first word (up to `_`) and the same names are two
    questions about the same items (`flores_to_en` and `flores_from_en`) and share them. Numbered items of unrelated
    families may agree by chance: drawn together, independent items still have the error of independent ones.
    """
    first: dict[tuple[str, frozenset[str]], str] = {}
    return {
        family: first.setdefault((family.partition("_")[0], frozenset(of)), family)
        for family, of in sorted(names.items())
    }


def relative_gain(value: float, reference: float) -> float:
    """Δ: by which part of `reference` is `value` higher. What the reference is (the model before training, after
    training on everything, on a random choice) has to be said beside it. Raises ValueError for a reference of 0."""
    if not reference:
        raise ValueError("there is no gain relative to 0")
    return (value - reference) / abs(reference)


def _weighed(values: NDArray[np.float64], weights: Weights) -> NDArray[np.float64]:
    """(...,) sums of (..., M, C) values by (M, C) weights: the models of a cell first, so that equal models with
    opposite weights leave exactly 0."""
    summed: NDArray[np.float64] = (values * weights).sum(axis=-2).sum(axis=-1)
    return summed


def _strata(cells: Sequence[Cell]) -> Iterator[Stratum]:
    members: dict[str, list[int]] = defaultdict(list)
    for i, cell in enumerate(cells):
        parallel = any(group is not None for group in cell.groups)
        members[cell.family if parallel else f"{cell.lang}\0{cell.task}"].append(i)
    for name, of in sorted(members.items()):
        places: dict[tuple[int, str | int], int] = {}
        at = [
            np.array([
                places.setdefault((-1, group) if group is not None else (i, item), len(places))
                for item, group in enumerate(cells[i].groups)
            ])
            for i in of
        ]  # fmt: skip
        models = len(cells[of[0]].values)
        sums, counts = np.zeros((len(places), models, len(of))), np.zeros((len(places), len(of)))
        for column, i in enumerate(of):
            np.add.at(counts[:, column], at[column], 1)
            for model in range(models):
                np.add.at(sums[:, model, column], at[column], cells[i].values[model])
        yield Stratum(name, np.array(of), sums, counts)
