"""The points of a space: each once, under their conditions, spread as the space says, the same at any count."""

import itertools
import json
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from scipy import stats

from raysel.sweep.settings import Parameter, Space, SpaceError
from raysel.sweep.space import at, distinct, drawn, grid, holds, ordered, varied

OBJECTIVE = {"metric": "acc"}
MOST = 1 - 2**-53  # the largest unit that a generator draws
UNITS = st.floats(0, MOST)
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(-3, 3), st.floats(-1, 1), st.sampled_from(["a", "b"]))
VALUES = st.one_of(SCALARS, st.lists(SCALARS, max_size=2), st.dictionaries(st.sampled_from("xy"), SCALARS))


def nothing(key: str) -> Any:
    raise AssertionError(f"nobody has to know {key}")


def space(parameters: dict[str, Any], **more: Any) -> Space:
    return Space(parameters=parameters, objective=OBJECTIVE, **more)


def random_space(parameters: dict[str, Any], *, seed: int = 0) -> Space:
    return space(parameters, searcher="random", seed=seed, limits={"trials": 1})


def written(points: list[dict[str, Any]]) -> list[str]:
    return [json.dumps(point, sort_keys=True) for point in points]


@given(st.dictionaries(st.sampled_from("abc"), st.lists(VALUES, min_size=1, max_size=4), min_size=1))
def test_a_grid_has_every_combination_once_in_order(values: dict[str, list[Any]]) -> None:
    points = grid(space({key: {"grid": of} for key, of in values.items()}), nothing)
    combinations = [dict(zip(values, chosen, strict=True)) for chosen in itertools.product(*values.values())]
    assert written(points) == list(dict.fromkeys(written(combinations)))


def test_one_row_the_whole_corpus_and_true_are_three_values() -> None:
    assert len(grid(space({"mixture.total": {"grid": [1, 1.0, True, 1]}}), nothing)) == 3


def test_points_that_differ_in_nothing_that_counts_are_one() -> None:
    points = grid(
        space(
            {
                "curriculum.levels": {"grid": [3, 5], "when": {"curriculum.kind": ["balanced", "staged"]}},
                "curriculum.kind": {"grid": ["random", "balanced"]},
                "preselect.rho": {"grid": [0.2, 1.0]},
            }
        ),
        nothing,
    )
    assert len(points) == 2 * (1 + 2)
    assert points[:2] == [
        {"curriculum.kind": "random", "preselect.rho": 0.2},
        {"curriculum.kind": "random", "preselect.rho": 1.0},
    ]
    assert all(("curriculum.levels" in point) == (point["curriculum.kind"] == "balanced") for point in points)
    # In the order in which the space names them, though the condition was asked first.
    assert list(points[2]) == ["curriculum.levels", "curriculum.kind", "preselect.rho"]


@given(st.data())
def test_a_key_is_there_exactly_where_its_condition_holds(data: st.DataObject) -> None:
    bits, keys = [0, 1], ["a", "b", "c", "d"]
    order = data.draw(st.permutations(keys))
    when = {
        key: data.draw(st.dictionaries(st.sampled_from([*order[:place], "outside"]), st.sampled_from([0, 1, [0, 1]])))
        for place, key in enumerate(order)
    }
    shuffled = {key: {"grid": bits, "when": when[key]} for key in keys}
    outside = data.draw(st.sampled_from(bits))
    own = {"outside": outside} | dict.fromkeys(keys, data.draw(st.sampled_from(bits)))
    points = grid(space(shuffled), own.__getitem__)
    assert len(written(points)) == len(set(written(points)))
    for point in points:
        values = own | point
        for key in keys:
            wanted = {k: w if isinstance(w, list) else [w] for k, w in when[key].items()}
            assert (key in point) == all(values[k] in w for k, w in wanted.items())
    # Nothing that could be a point is missing: every combination of what is free leads to one of them.
    everything = [dict(zip(keys, chosen, strict=True)) for chosen in itertools.product(bits, repeat=4)]
    assert all(any(point.items() <= one.items() for point in points) for one in everything)


def test_a_condition_on_a_key_that_is_left_alone_asks_the_experiment() -> None:
    parameters = {
        "a": {"grid": [1]},
        "b": {"grid": [2], "when": {"a": 7}},
        "c": {"grid": [3], "when": {"b": 2}},
    }
    assert grid(space(parameters), {"b": 2}.__getitem__) == [{"a": 1, "c": 3}]
    assert grid(space(parameters), {"b": 5}.__getitem__) == [{"a": 1}]


@pytest.mark.parametrize(
    ("wanted", "value", "held"),
    [
        (None, None, True),
        ([None, 1], None, True),
        (16, 16.0, True),
        ([["qa"]], ["qa"], True),
        (["qa"], ["qa"], False),  # a list names the values that are allowed: that of a list is a list in it
        (True, False, False),
        ([], 1, False),
    ],
)
def test_what_holds(wanted: Any, value: Any, held: bool) -> None:
    assert holds({"k": wanted}, {}, {"k": value}.__getitem__) == held
    assert holds({"k": wanted}, {"k": value}, nothing) == held


@pytest.mark.parametrize(
    "when", [{"a": {"a": 1}}, {"a": {"b": 1}, "b": {"a": 1}}, {"a": {"b": 1}, "b": {"c": 1}, "c": {"a": 1}, "d": {}}]
)
def test_conditions_that_wait_for_each_other_are_refused(when: dict[str, Any]) -> None:
    parameters = {key: Parameter(grid=[1], when=of) for key, of in when.items()}
    with pytest.raises(SpaceError, match=r"the conditions \(when\) of a.* wait for each other") as refused:
        ordered(parameters)
    assert "d" not in str(refused.value).split(" of ")[1].split(" wait")[0]


def test_a_grid_too_large_is_refused_before_it_is_made() -> None:
    large = space({key: {"grid": list(range(500))} for key in "abcd"})
    with pytest.raises(SpaceError, match=r"62,500,000,000 combinations; 10,000 are the most: searcher random or tpe"):
        grid(large, nothing)


def test_a_point_can_be_changed_without_changing_the_space() -> None:
    listed = space({"mixture": {"grid": [{"quota": "even"}]}, "a": {"grid": [1, 2]}})
    points = grid(listed, nothing)
    points[0]["mixture"]["total"] = 5
    assert points[1]["mixture"] == {"quota": "even"}
    assert listed.parameters["mixture"].values == [{"quota": "even"}]


ALL_KINDS = {
    "rho": {"uniform": [0.1, 0.9]},
    "rate": {"loguniform": [1e-6, 1e-2], "when": {"kind": "b"}},
    "epochs": {"int": [1, 4]},
    "kind": {"choice": ["a", "b"]},
    "weights": {"simplex": ["x", "y", "z"]},
    "counts": {"simplex": ["x", "y"], "total": 7},
}


@given(st.integers(0, 2**32 - 1), st.integers(0, 8), st.integers(1, 8))
def test_a_point_does_not_depend_on_how_many_are_drawn(seed: int, k: int, more: int) -> None:
    of = random_space(ALL_KINDS, seed=seed)
    few, many = drawn(of, nothing, k), drawn(of, nothing, k + more)
    assert many[:k] == few
    assert many != drawn(random_space(ALL_KINDS, seed=(seed + 1) % 2**32), nothing, k + more)


def test_a_condition_changes_no_other_keys_value() -> None:
    free = drawn(random_space({**ALL_KINDS, "rate": {"loguniform": [1e-6, 1e-2]}}), nothing, 40)
    bound = drawn(random_space(ALL_KINDS), nothing, 40)
    for one, other in zip(free, bound, strict=True):
        assert other == {key: value for key, value in one.items() if key != "rate" or one["kind"] == "b"}
    assert {"rate" in point for point in bound} == {True, False}


@given(st.floats(allow_nan=False, allow_infinity=False), st.floats(allow_nan=False, allow_infinity=False), UNITS)
@example(-1.7e308, 1.7e308, 0.5)  # the distance of the two is no float
def test_a_uniform_value_is_between_the_ends(one: float, other: float, unit: float) -> None:
    assume(one != other)
    low, high = sorted([one, other])
    assert low <= at(Parameter(uniform=(low, high)), [unit]) <= high


@given(st.floats(1e-300, 1e300), st.floats(1e-300, 1e300), UNITS)
def test_a_log_uniform_value_is_between_the_ends(one: float, other: float, unit: float) -> None:
    assume(one != other)
    low, high = sorted([one, other])
    assert low <= at(Parameter(loguniform=(low, high)), [unit]) <= high
    assert at(Parameter(loguniform=(low, high)), [0.0]) == pytest.approx(low, rel=1e-9)


@given(st.integers(-(2**60), 2**60), st.integers(1, 2**60), UNITS)
@example(0, 2**60, MOST)
def test_a_whole_number_is_between_the_ends(low: int, size: int, unit: float) -> None:
    value = at(Parameter(int=(low, low + size)), [unit])
    assert type(value) is int
    assert low <= value <= low + size


@given(st.integers(-50, 50), st.integers(1, 50))
def test_every_whole_number_has_an_equal_share_of_the_units(low: int, size: int) -> None:
    of = Parameter(int=(low, low + size))
    middles = (np.arange((size + 1) * 20) + 0.5) / ((size + 1) * 20)
    assert Counter(at(of, [unit]) for unit in middles) == dict.fromkeys(range(low, low + size + 1), 20)
    assert (at(of, [0.0]), at(of, [MOST])) == (low, low + size)


@given(st.lists(SCALARS, min_size=1, max_size=9), UNITS)
def test_a_choice_is_one_of_its_values(values: list[Any], unit: float) -> None:
    assert at(Parameter(choice=values), [unit]) in values
    assert (at(Parameter(choice=values), [0.0]), at(Parameter(grid=values), [MOST])) == (values[0], values[-1])


def test_values_are_spread_as_the_kind_says() -> None:
    points = drawn(random_space(ALL_KINDS, seed=3), nothing, 2000)
    rates = np.log10([point["rate"] for point in points if "rate" in point])
    assert stats.kstest(rates, stats.uniform(-6, 4).cdf).pvalue > 0.05
    assert stats.kstest([point["rho"] for point in points], stats.uniform(0.1, 0.8).cdf).pvalue > 0.05
    for key in ("epochs", "kind"):
        assert stats.chisquare(list(Counter(point[key] for point in points).values())).pvalue > 0.05
    # The keys are drawn apart from each other.
    assert abs(stats.spearmanr([p["rho"] for p in points], [p["epochs"] for p in points]).statistic) < 0.06


def test_a_simplex_is_uniform() -> None:
    """Against the moments of the flat Dirichlet distribution, and its marginal, Beta(1, names - 1)."""
    names, count = ["a", "b", "c", "d"], 3000
    points = drawn(random_space({"w": {"simplex": names}}, seed=1), nothing, count)
    weights = np.array([[point["w"][name] for name in names] for point in points])
    assert np.allclose(weights.sum(axis=1), 1, atol=1e-12)
    flat = stats.dirichlet([1] * 4)
    error = 4 / np.sqrt(count)
    assert np.allclose(weights.mean(axis=0), flat.mean(), atol=error * np.sqrt(flat.var()[0]))
    assert np.allclose(np.cov(weights.T), flat.cov(), atol=error * flat.var()[0])
    for column in weights.T:
        assert stats.kstest(column, stats.beta(1, 3).cdf).pvalue > 0.01


@given(st.integers(2, 9), st.integers(1, 10**7), st.data())
def test_whole_numbers_on_a_simplex_sum_to_the_total(names: int, total: int, data: st.DataObject) -> None:
    listed = [f"n{k}" for k in range(names)]
    units = data.draw(st.lists(UNITS, min_size=names, max_size=names))
    parts = at(Parameter(simplex=listed, total=total), units)
    assert sorted(parts) == sorted(listed)
    assert sum(parts.values()) == total
    assert all(type(part) is int and part >= 0 for part in parts.values())
    weights = at(Parameter(simplex=listed), units)
    assert all(abs(parts[name] - weights[name] * total) <= 1 + total * names / 1e9 for name in listed)


@given(st.lists(st.dictionaries(st.sampled_from("ab"), VALUES)))
def test_distinct_keeps_the_first_of_equal_points(points: list[dict[str, Any]]) -> None:
    kept = distinct(points)
    assert written(kept) == list(dict.fromkeys(written(points)))
    assert all(any(point is one for one in points) for point in kept)


def test_which_keys_vary() -> None:
    points = [{"a": 1, "b": 2, "c": [1], "d": 1}, {"a": 1, "b": 3, "c": [1], "d": 1.0}, {"a": 1, "b": 2, "c": [1]}]
    assert list(varied(points)) == ["b", "d"]
    assert list(varied([{"a": None}, {}])) == ["a"]
    assert list(varied(points[:1])) == []
