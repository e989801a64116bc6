"""One metric of two models (or one): its lines with intervals, tests and what they could have shown."""

from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from raysel.evaluation.averages import (
    Cell,
    Panel,
    Weights,
    families_drawn_together,
    item_weights,
    macro_weights,
    relative_gain,
)
from raysel.evaluation.intervals import Interval, is_share, mean_interval
from raysel.evaluation.significance import LEVEL, accuracy_difference_error, holm, sign_flip_p, smallest_detectable
from raysel.evaluation.tasks import LANGUAGE_SUFFIX

MODELS = ("base", "tuned")
ENGLISH = "en"
LOWER_IS_BETTER = {"perplexity", "word_perplexity", "byte_perplexity", "bits_per_byte", "ter", "brier_score"}
Key = tuple[str, str, str]
Name = TypeVar("Name", bound=Hashable)


@dataclass(frozen=True)
class ItemValues:
    """One metric of one cell. numbers: (n,) of the items, sorted; values: (n,), NaN where a metric has none for a
    single item; groups: (n,) the item's name in all languages, or None."""

    numbers: NDArray[np.int64]
    values: NDArray[np.float64]
    groups: Sequence[str | None]

    def averages_to(self, value: float) -> bool:
        """Whether `value` is the mean of the items that have one."""
        finite = self.values[np.isfinite(self.values)]
        return len(finite) > 0 and bool(np.isclose(finite.mean(), value, rtol=1e-6, atol=1e-9))


@dataclass(frozen=True)
class Compared:
    """One line: base and tuned (either may be missing), and tuned less base. n items.

    p: of the permutation test, corrected (Holm) where the line is one of several; None without values of single items.
    same: no item has another value. by_items: an average over all items, not over languages. detectable: the smallest
    true difference that at least four of five such evaluations call clear, whatever the other lines show.
    """

    label: str
    lang: str
    metric: str
    n: int
    base: Interval | None
    tuned: Interval | None
    difference: Interval | None
    p: float | None = None
    same: bool = False
    by_items: bool = False
    detectable: float | None = None

    @property
    def verdict(self) -> str:
        """`higher`, `lower`, `no clear difference`, `no item changed`, `no interval`; empty with one model alone.

        By the corrected p; without one, by whether the two intervals overlap.
        """
        if self.base is None or self.tuned is None or self.difference is None:
            return ""
        if self.same:
            return "no item changed"
        if self.p is not None:
            apart = self.p <= LEVEL
        elif self.base.low is None or self.base.high is None or self.tuned.low is None or self.tuned.high is None:
            return "no interval"
        else:
            apart = self.base.high < self.tuned.low or self.tuned.high < self.base.low
        if not apart:
            return "no clear difference"
        return "higher" if self.difference.value > 0 else "lower"

    @property
    def better(self) -> bool | None:
        """Whether a clear difference is for the better; None where it is not clear."""
        if self.verdict not in ("higher", "lower"):
            return None
        return (self.verdict == "higher") != lower_is_better(self.metric)


@dataclass(frozen=True)
class Ratio:
    """A ratio of averages, of each model; or (is_gain) by which part the tuned model is above the base one."""

    label: str
    base: Interval | None
    tuned: Interval | None
    is_gain: bool = False


def lower_is_better(metric: str) -> bool:
    return metric.partition(",")[0] in LOWER_IS_BETTER


def family(task: str) -> str:
    """`xcopa_sw` and `xcopa_zh-Hans` are both `xcopa`."""
    return LANGUAGE_SUFFIX.sub("", task) or task


def corrected(lines: Iterable[Compared]) -> list[Compared]:
    """The lines with their p corrected over all of them that have one, and what they could detect at such a p."""
    found = list(lines)
    asked = sum(line.p is not None or line.detectable is not None for line in found)
    several = smallest_detectable(1.0, tests=asked) / smallest_detectable(1.0)
    tested = [(i, line.p) for i, line in enumerate(found) if line.p is not None]
    for (i, _), p in zip(tested, holm([p for _, p in tested]), strict=True):
        found[i] = replace(found[i], p=p)
    return [line if line.detectable is None else replace(line, detectable=several * line.detectable) for line in found]


class MetricLines:
    """The rows of one metric, model by model, and the panel of the cells that the models have the same items of."""

    def __init__(
        self,
        metric: str,
        rows: Mapping[Key, Mapping[str, dict[str, Any]]],
        items: Mapping[str, Mapping[Key, ItemValues]],
        *,
        seed: int,
    ) -> None:
        self.metric, self.seed = metric, seed
        self.models = [model for model in MODELS if any(model in found for found in rows.values())]
        self.rows = {key: dict(found) for key, found in rows.items()}
        self.places: dict[Key, int] = {}
        # The cells where an item has a value in one model only.
        self.partial: set[Key] = set()
        names: dict[str, set[str]] = defaultdict(set)
        for of_model in items.values():
            for (_, task, named), of in of_model.items():
                if named == metric:
                    names[family(task)] |= {group for group in of.groups if group is not None}
        self.drawn_as = families_drawn_together(names)
        cells: list[Cell] = []
        for key in rows:
            scored = [items.get(model, {}).get(key) for model in self.models]
            of_all = [of for of in scored if of is not None]
            if len(of_all) == len(rows[key]) == len(self.models) and self._are_averaged(key, of_all):
                self.places[key] = len(cells)
                cells.append(self._cell(key, of_all))
        self.panel = Panel(cells, seed=seed, share=is_share(metric)) if cells else None

    def _are_averaged(self, key: Key, of_all: Sequence[ItemValues]) -> bool:
        """Whether the models have the same items (of the same name, where two trials hold out other samples), and each
        one's value is the mean of those that have one. That of a whole corpus (BLEU, chrF++) is not: its sentences say
        nothing of it."""
        first = of_all[0]
        if not all(np.array_equal(of.numbers, first.numbers) and [*of.groups] == [*first.groups] for of in of_all):
            return False
        if not np.isfinite([of.values for of in of_all]).all(axis=0).any():
            return False
        return all(
            of.averages_to(self.rows[key][model]["value"]) for model, of in zip(self.models, of_all, strict=True)
        )

    def _cell(self, key: Key, of_all: Sequence[ItemValues]) -> Cell:
        """The items that have a value in all models. Where a model has values of others, its row is made anew."""
        values = np.stack([of.values for of in of_all])
        finite = np.isfinite(values)
        kept = np.flatnonzero(finite.all(axis=0)).tolist()
        values = values[:, kept]
        if finite.sum() > values.size:
            self.partial.add(key)
            for model, of in zip(self.models, values, strict=True):
                low, high = mean_interval(of, seed=self.seed, share=is_share(self.metric))
                anew = {"value": float(of.mean()), "ci_low": low, "ci_high": high, "n": len(of)}
                self.rows[key][model] = {**self.rows[key][model], **anew}
        return Cell(key[1], key[0], self.drawn_as[family(key[1])], values, [of_all[0].groups[i] for i in kept])

    def cells(self) -> list[Compared]:
        """Every task of every language."""
        return corrected(self._line(key[1], key[0], [key], np.ones(1)) for key in self.rows)

    def overall(self) -> list[Compared]:
        return self._averages("average", list(self.rows))

    def families(self) -> list[Compared]:
        """The averages of each family of tasks. Those over all items ask the same again: they are corrected apart."""
        of = _grouped(self.rows, lambda key: family(key[1]))
        lines = [line for name, keys in sorted(of.items()) if (line := self._averages(name, keys))]
        equally, weighted = corrected(line[0] for line in lines), corrected(part for line in lines for part in line[1:])
        return sorted(equally + weighted, key=lambda line: (line.label, line.by_items))

    def languages(self) -> list[Compared]:
        of = _grouped(self.rows, lambda key: key[0])
        return corrected(line for lang, keys in sorted(of.items()) for line in self._averages(lang, keys, lang)[:1])

    def by_training(self, trained: Collection[str]) -> list[Compared]:
        """The languages that were trained on and the others, where both were evaluated."""
        of = _grouped(self.rows, lambda key: key[0] in trained)
        if len(of) < 2:
            return []
        langs = {seen: len({lang for lang, _, _ in keys}) for seen, keys in of.items()}
        names = {True: f"Trained on ({langs[True]})", False: f"Not trained on ({langs[False]})"}
        return corrected(line for seen in (True, False) for line in self._averages(names[seen], of[seen])[:1])

    def ratios(self) -> list[Ratio]:
        """The other languages relative to English, in the families that have it; the gain relative to the base
        model."""
        if lower_is_better(self.metric):
            return []
        found = []
        common = [key for key, of in self.rows.items() if len(of) == len(self.models)]
        with_english = {family(task) for lang, task, _ in common if lang == ENGLISH}
        keys = [key for key in common if family(key[1]) in with_english]
        others, english = [key for key in keys if key[0] != ENGLISH], [key for key in keys if key[0] == ENGLISH]
        if others and english:
            of = {model: self._ratio((model, others), (model, english)) for model in self.models}
            found.append(Ratio("Other languages relative to English", of.get("base"), of.get("tuned")))
        if common and len(self.models) == len(MODELS):
            gain = self._ratio(("tuned", common), ("base", common), gain=True)
            found.append(Ratio("Relative gain Δ over the base model", None, gain, is_gain=True))
        return [line for line in found if line.base is not None or line.tuned is not None]

    def _averages(self, label: str, keys: Sequence[Key], lang: str = "") -> list[Compared]:
        """The mean over languages of the mean over each one's tasks and, where it is another, the mean over all
        items. None where the models have no cell in common."""
        common = self._common(keys)
        if not common:
            return []
        equally, sizes = macro_weights([key[0] for key in common]), item_weights([self._n(key) for key in common])
        lines = [self._line(label, lang, common, equally)]
        if not np.allclose(equally, sizes):
            lines.append(replace(self._line(label, lang, common, sizes), by_items=True))
        return lines

    def _common(self, keys: Sequence[Key]) -> Sequence[Key]:
        """The cells that every model has, so that like is compared with like."""
        models = {model for key in keys for model in self.rows[key]}
        return [key for key in keys if models == set(self.rows[key])]

    def _n(self, key: Key) -> int:
        return max(int(row["n"]) for row in self.rows[key].values())

    def _line(self, label: str, lang: str, keys: Sequence[Key], weights: Weights) -> Compared:
        shown: dict[str, Interval | None] = dict.fromkeys(MODELS)
        for model in self.models:
            shown[model] = self._interval(model, keys, weights)
        base, tuned = shown["base"], shown["tuned"]
        line = Compared(label, lang, self.metric, sum(map(self._n, keys)), base, tuned, None)
        if base is None or tuned is None:
            return replace(line, detectable=self._detectable(base or tuned, keys))
        difference = Interval(tuned.value - base.value)
        if self.panel is None or not self._measured(keys):
            return replace(line, difference=difference)
        contrast = self._contrast("tuned", keys, weights) - self._contrast("base", keys, weights)
        paired = self.panel.estimate(contrast)
        return replace(
            line,
            difference=replace(paired, value=difference.value),
            p=sign_flip_p(self.panel.changes(contrast), seed=self.seed),
            same=all(np.array_equal(*self.panel.cells[self.places[key]].values) for key in keys),
            detectable=smallest_detectable(paired.error) if paired.error else None,
        )

    def _interval(self, model: str, keys: Sequence[Key], weights: Weights) -> Interval | None:
        if not all(model in self.rows[key] for key in keys):
            return None
        if len(keys) == 1:
            row = self.rows[keys[0]][model]
            low, high = (float(row[end]) if np.isfinite(row[end]) else None for end in ("ci_low", "ci_high"))
            error = self._estimate(model, keys, weights).error
            return Interval(float(row["value"]), low, high, error)
        return self._estimate(model, keys, weights)

    def _estimate(self, model: str, keys: Sequence[Key], weights: Weights) -> Interval:
        value = self._value(model, keys, weights)
        if self.panel is None or not self._measured(keys):
            return Interval(value)
        # lm-eval's value and the mean of the items' differ by rounding alone.
        return replace(self.panel.estimate(self._contrast(model, keys, weights)), value=value)

    def _value(self, model: str, keys: Sequence[Key], weights: Weights) -> float:
        return float(sum(of * self.rows[key][model]["value"] for key, of in zip(keys, weights, strict=True)))

    def _detectable(self, alone: Interval | None, keys: Sequence[Key]) -> float | None:
        """With one model: a second one near it, on items of its own."""
        if self.panel is None or alone is None or not alone.error or not self._measured(keys):
            return None
        if len(keys) == 1 and self.panel.accuracies[self.places[keys[0]]]:
            return smallest_detectable(accuracy_difference_error(alone.value, self._n(keys[0])))
        return smallest_detectable(float(np.sqrt(2)) * alone.error)

    def _measured(self, keys: Sequence[Key]) -> bool:
        return all(key in self.places for key in keys)

    def _contrast(self, model: str, keys: Sequence[Key], weights: Weights) -> Weights:
        """(models, cells of the panel)."""
        contrast = np.zeros((len(self.models), len(self.places)))
        contrast[self.models.index(model), [self.places[key] for key in keys]] = weights
        return contrast

    def _ratio(
        self, over: tuple[str, Sequence[Key]], under: tuple[str, Sequence[Key]], *, gain: bool = False
    ) -> Interval | None:
        """One mean over languages over another; `gain`: less 1."""
        weights = [macro_weights([key[0] for key in keys]) for _, keys in (over, under)]
        if self.panel is not None and self._measured([*over[1], *under[1]]):
            above, below = (self._contrast(*of, with_) for of, with_ in zip((over, under), weights, strict=True))
            return self.panel.ratio(above - below if gain else above, below)
        values = [self._value(*of, with_) for of, with_ in zip((over, under), weights, strict=True)]
        if not values[1]:
            return None
        return Interval(relative_gain(*values) if gain else values[0] / values[1])


def _grouped(keys: Iterable[Key], name: Callable[[Key], Name]) -> dict[Name, list[Key]]:
    found: dict[Name, list[Key]] = defaultdict(list)
    for key in keys:
        found[name(key)].append(key)
    return dict(found)
