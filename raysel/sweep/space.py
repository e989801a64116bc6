"""The points of a space: which keys get which values. Pure: a point is a mapping of keys to values."""

import copy
import itertools
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from raysel.apportionment import largest_remainder
from raysel.sweep.settings import Parameter, Space, SpaceError

Point = dict[str, Any]
Known = Callable[[str], Any]
MOST_POINTS = 10_000
# Weights are apportioned as whole numbers of this share.
PARTS = 10**9


def ordered(parameters: Mapping[str, Parameter]) -> list[str]:
    """The keys, each after those that its condition asks about. Raises `SpaceError` where that is a circle."""
    found: list[str] = []
    left = dict(parameters)
    while left:
        free = [
            key for key, of in left.items() if not any(_holds_key(other, asked) for asked in of.when for other in left)
        ]
        if not free:
            raise SpaceError(f"the conditions (when) of {', '.join(left)} wait for each other")
        found += free
        left = {key: of for key, of in left.items() if key not in free}
    return found


def resolve(parameters: Mapping[str, Parameter], known: Known, choose: Callable[[str, Parameter], Any]) -> Point:
    """One point: `choose(key, parameter)` for every key whose condition holds. known: the experiment's value of a
    key."""
    point: Point = {}
    for key in ordered(parameters):
        if holds(parameters[key].when, point, known):
            # A copy: whoever changes an experiment's keys by a point must not change the space.
            point[key] = copy.deepcopy(choose(key, parameters[key]))
    return {key: point[key] for key in parameters if key in point}


def holds(when: Mapping[str, Any], point: Point, known: Known) -> bool:
    """Whether every key of a condition has its value, or one of its values."""
    for key, wanted in when.items():
        holder = next((other for other in point if _holds_key(other, key)), None)
        value = known(key) if holder is None else _inside(point[holder], key.removeprefix(holder))
        if value not in (wanted if isinstance(wanted, list) else [wanted]):
            return False
    return True


def _holds_key(key: str, asked: str) -> bool:
    """Whether `key` is `asked`, or the section that it is in."""
    return asked == key or asked.startswith(f"{key}.")


def _inside(value: Any, rest: str) -> Any:
    """What a section has for a key in it; None where it says nothing."""
    for part in filter(None, rest.split(".")):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def grid(space: Space, known: Known) -> list[Point]:
    """Every combination of the listed values, each once: what differs in a key whose condition does not hold is one
    point; or the space's own points. Raises `SpaceError` above 10,000 combinations."""
    if space.points:
        return distinct(copy.deepcopy(space.points))
    keys = list(space.parameters)
    size = math.prod(len(of.values) for of in space.parameters.values())
    if size > MOST_POINTS:
        raise SpaceError(f"the grid has {size:,} combinations; {MOST_POINTS:,} are the most: searcher random or tpe")
    points = []
    for combination in itertools.product(*(space.parameters[key].values for key in keys)):
        points.append(_resolve_listed(space, known, dict(zip(keys, combination, strict=True))))
    return distinct(points)


def _resolve_listed(space: Space, known: Known, values: Point) -> Point:
    return resolve(space.parameters, known, lambda key, _: values[key])


def drawn(space: Space, known: Known, count: int) -> list[Point]:
    """`count` random points; point k is the same however many there are."""
    return [_draw(space, known, k) for k in range(count)]


def _draw(space: Space, known: Known, k: int) -> Point:
    generator = np.random.default_rng([space.seed, k])
    # Drawn for every key, used or not: a condition changes no other key's value.
    units = {key: generator.random(len(of.simplex or [0])) for key, of in space.parameters.items()}
    return resolve(space.parameters, known, lambda key, of: at(of, units[key]))


def at(parameter: Parameter, units: Sequence[float] | np.ndarray) -> Any:
    """The value of a parameter at `units`, numbers in [0, 1): one, or of a simplex one for each name. Uniform units
    give values that are spread as the parameter says."""
    unit = float(units[0])
    low, high = parameter.ends
    match parameter.kind:
        case "grid" | "choice":
            return parameter.values[int(unit * len(parameter.values))]
        case "uniform":
            return _within(low, high, low * (1 - unit) + high * unit)
        case "loguniform":
            return _within(low, high, math.exp(math.log(low) * (1 - unit) + math.log(high) * unit))
        case "integer":
            return min(int(high), int(low) + int(unit * (high - low + 1)))
    return _on_simplex(parameter, units)


def _within(low: float, high: float, value: float) -> float:
    # exp(log(1e-5)) is less than 1e-5, and a key may allow no less.
    return min(max(value, low), high)


def _on_simplex(parameter: Parameter, units: Sequence[float] | np.ndarray) -> dict[str, Any]:
    # Exponentially distributed numbers, divided by their sum, are uniform on the simplex.
    sizes = -np.log1p(-np.asarray(units, dtype=np.float64))
    names = parameter.simplex or []
    weights = sizes / sizes.sum() if sizes.sum() > 0 else np.full(len(names), 1 / len(names))
    if parameter.total is None:
        return dict(zip(names, weights.tolist(), strict=True))
    parts = {name: round(float(weight) * PARTS) for name, weight in zip(names, weights, strict=True)}
    return dict(largest_remainder(parts, parameter.total))


def distinct(points: Sequence[Point]) -> list[Point]:
    """The points without those that came before."""
    first: dict[str, Point] = {}
    for point in points:
        first.setdefault(_identity(point), point)
    return list(first.values())


def _identity(value: Any) -> str:
    # Not `==`: of mixture.total 1 is a row, and 1.0 the whole corpus.
    return json.dumps(value, sort_keys=True)


def varied(points: Sequence[Point]) -> Iterator[str]:
    """The keys that do not have one value in all points."""
    keys = dict.fromkeys(key for point in points for key in point)
    for key in keys:
        if len({_identity([key in point, point.get(key)]) for point in points}) > 1:
            yield key
