"""The varied parameters as axes: what each point has on them, how they group the points, which of them matter."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from raysel.sweep.records import Ranked
from raysel.sweep.settings import LISTED, Parameter, Space
from raysel.sweep.space import varied
from raysel.sweep.values import UNCHANGED, identity, labels, short_names, value_text

# So many different numbers or fewer are groups of their own; more are put into bins.
DISTINCT = 5
MOST_BINS = 4
MOST_PAIRS = 6
LABEL_CHARACTERS = 26


@dataclass(frozen=True)
class Dimension:
    """A parameter, or one name's weight of a simplex, over n points.

    key: of the experiment; name: as shown; values: of each point, None where `present` says that its condition did not
    hold; levels: of listed values all that the points have, in the order of the space; limits: the ends of numbers.
    """

    key: str
    part: str | None
    name: str
    kind: Literal["listed", "number", "log"]
    values: list[Any]
    present: list[bool]
    levels: list[Any]
    limits: tuple[float, float]

    def groups(self) -> tuple[list[str], NDArray[np.int64]]:
        """The labels of the groups, and (n,) the group of each point; those without a value are the last group."""
        if self.kind == "listed":
            names, group = self._levels()
        else:
            names, group = self._bins()
        if not all(self.present):
            names, group = [*names, UNCHANGED], [len(names) if k is None else k for k in group]
        return names, np.array(group, dtype=np.int64)

    def _levels(self) -> tuple[list[str], list[int | None]]:
        number = {identity(level): k for k, level in enumerate(self.levels)}
        group = [number[identity(v)] if there else None for v, there in zip(self.values, self.present, strict=True)]
        return labels(self.levels, LABEL_CHARACTERS), group

    def _bins(self) -> tuple[list[str], list[int | None]]:
        found = np.array([value for value, there in zip(self.values, self.present, strict=True) if there], float)
        own = np.unique(found)
        if len(own) <= DISTINCT:
            at = iter(np.searchsorted(own, found).tolist())
            return [value_text(value) for value in own.tolist()], [
                next(at) if there else None for there in self.present
            ]
        # Each bin has as many points as the others, near enough.
        count = min(MOST_BINS, max(2, round(np.sqrt(len(found)) / 1.5)))
        edges = np.unique(np.quantile(found, np.linspace(0, 1, count + 1)[1:-1]))
        number = np.unique(np.searchsorted(edges, found), return_inverse=True)[1]
        bins = [found[number == k] for k in range(number.max() + 1)]
        at = iter(number.tolist())
        names = [f"{value_text(float(one.min()))} to {value_text(float(one.max()))}" for one in bins]
        return names, [next(at) if there else None for there in self.present]


def dimensions(space: Space, ranking: Sequence[Ranked]) -> list[Dimension]:
    """One for each parameter that is not the same in all points, of a simplex one for each name; n is the points of
    the ranking, in its order."""
    points = [ranked.parameters for ranked in ranking]
    keys = [key for key in space.parameters if key in set(varied(points))]
    names = short_names(keys)
    found = []
    for key in keys:
        parameter = space.parameters[key]
        parts: list[str | None] = list(parameter.simplex or []) or [None]
        found += [_dimension(key, part, names[key], parameter, points) for part in parts]
    return found


def _dimension(
    key: str, part: str | None, name: str, parameter: Parameter, points: Sequence[Mapping[str, Any]]
) -> Dimension:
    present = [key in point for point in points]
    values: list[Any] = [point.get(key) for point in points]
    if part is not None:
        values = [value.get(part, 0) if there else None for value, there in zip(values, present, strict=True)]
    has = {identity(value): value for value, there in zip(values, present, strict=True) if there}
    in_order = {identity(value): value for value in parameter.values if identity(value) in has}
    return Dimension(
        key=key,
        part=part,
        name=name if part is None else f"{name}: {part}",
        kind="listed" if parameter.kind in LISTED else "log" if parameter.kind == "loguniform" else "number",
        values=values,
        present=present,
        levels=list((in_order | has).values()),
        limits=(0.0, float(parameter.total or 1)) if part is not None else parameter.ends,
    )


def effect(group: NDArray[np.int64], objective: NDArray[np.float64]) -> float:
    """Which share of the variance of (n,) values lies between their groups: ε² (Kelley 1935, "An unbiased correlation
    ratio measure"), which unlike η² does not grow with the number of groups; 0 where the groups have one point each."""
    count, total = len(np.unique(group)), float(((objective - objective.mean()) ** 2).sum())
    if total == 0 or len(objective) <= count:
        return 0.0
    means = np.array([objective[group == k].mean() for k in group.tolist()])
    within = float(((objective - means) ** 2).sum()) / (len(objective) - count)
    return max(0.0, (total - within * (len(objective) - 1)) / total)


def _effect_where_present(of: Dimension, group: NDArray[np.int64], objective: NDArray[np.float64]) -> float:
    """Of a parameter with a condition, among the points where it holds: the rest is the effect of the condition."""
    there = np.array(of.present)
    return effect(group[there], objective[there])


@dataclass(frozen=True)
class Interaction:
    """Two parameters together. mean: (rows, columns) of the objective over the points of a cell, nan where there are
    none; trials: (rows, columns), how many."""

    rows: str
    columns: str
    row_labels: list[str]
    column_labels: list[str]
    mean: NDArray[np.float64]
    trials: NDArray[np.int64]


def interactions(
    found: Sequence[Dimension], objective: NDArray[np.float64], trials: NDArray[np.int64]
) -> tuple[list[Interaction], int]:
    """Pairs of parameters and how many pairs there are: all where they are few, else those with the most effect.

    objective: (n,) of the points; trials: (n,), how many trials each has. Two names of one simplex are no pair.
    """
    grouped = [(of, *of.groups()) for of in found]
    pairs = [(a, b) for a, b in itertools.combinations(grouped, 2) if a[0].key != b[0].key]
    shown = pairs
    if len(pairs) > MOST_PAIRS:
        of = {dimension.name: _effect_where_present(dimension, group, objective) for dimension, _, group in grouped}
        ranked = sorted(range(len(pairs)), key=lambda k: -sum(of[side[0].name] for side in pairs[k]))
        shown = [pairs[k] for k in ranked[:MOST_PAIRS]]
    return [_interaction(a, b, objective, trials) for a, b in shown], len(pairs)


def _interaction(
    first: tuple[Dimension, list[str], NDArray[np.int64]],
    second: tuple[Dimension, list[str], NDArray[np.int64]],
    objective: NDArray[np.float64],
    trials: NDArray[np.int64],
) -> Interaction:
    # The one with fewer groups across: names are long.
    down, across = (first, second) if len(first[1]) >= len(second[1]) else (second, first)
    shape = len(down[1]), len(across[1])
    total, points, count = np.zeros(shape), np.zeros(shape), np.zeros(shape, dtype=np.int64)
    cells = (down[2], across[2])
    np.add.at(total, cells, objective)
    np.add.at(points, cells, 1)
    np.add.at(count, cells, trials)
    mean = np.divide(total, points, out=np.full(shape, np.nan), where=points > 0)
    return Interaction(down[0].name, across[0].name, down[1], across[1], mean, count)
