"""TPE: it learns, and its points depend on nothing but the results it was to know."""

import numpy as np
import pytest

from raysel.sweep.search import Listed, Tpe, searcher_of
from raysel.sweep.settings import Space
from raysel.sweep.space import Point

SPACE = {
    "parameters": {
        "training.learning_rate": {"loguniform": [1e-6, 1e-1]},
        "preselect.rho": {"uniform": [0.05, 1.0]},
        "curriculum.kind": {"choice": ["random", "balanced", "staged"]},
        "curriculum.levels": {"int": [2, 9], "when": {"curriculum.kind": ["balanced", "staged"]}},
        "mixture.counts": {"simplex": ["en", "sw", "ta"], "total": 90},
    },
    "objective": {"metric": "acc"},
    "searcher": "tpe",
    "limits": {"trials": 60},
}


def space(**changes) -> Space:
    return Space.model_validate(SPACE | changes)


def planted(point: Point) -> float:
    """Best at a learning rate of 1e-3 and rho 0.3, with the balanced curriculum."""
    off = abs(np.log10(point["training.learning_rate"]) + 3) / 3 + abs(point["preselect.rho"] - 0.3)
    return -off - 0.3 * (point["curriculum.kind"] != "balanced")


def searched(of: Space, count: int, *, order: np.random.Generator | None = None, at_once: int = 1) -> list[Point]:
    """Ask and tell as a sweep does, `at_once` points running at a time, ending in a random order."""
    tpe = Tpe(of, lambda key: "random", count)
    points: list[Point] = []
    running: list[int] = []
    ended: set[int] = set()
    told = 0
    while len(ended) < count:
        while len(points) < count and len(running) < at_once and set(range(tpe.needs(len(points)))) <= ended:
            while told < tpe.needs(len(points)):
                tpe.tell(told, [planted(points[told])])
                told += 1
            point = tpe.ask(len(points))
            assert point is not None
            running.append(len(points))
            points.append(point)
        ended.add(running.pop(int(order.integers(len(running))) if order else 0))
    return points


@pytest.mark.parametrize("seed", range(4))
def test_it_finds_the_better_half_of_a_space_with_a_planted_optimum(seed: int) -> None:
    points = searched(space(seed=seed), 60)
    drawn = searched(space(seed=seed), 1)  # the first is drawn
    assert points[0] == drawn[0]
    values = [planted(point) for point in points]
    # Of points drawn at random, one in two is worse than the median.
    generator = np.random.default_rng(seed)
    random = [
        planted({
            "training.learning_rate": 10 ** generator.uniform(-6, -1),
            "preselect.rho": generator.uniform(0.05, 1),
            "curriculum.kind": generator.choice(["random", "balanced", "staged"]),
        })
        for _ in range(2000)
    ]  # fmt: skip
    later = np.array(values[20:])
    assert (later > np.median(random)).mean() > 0.75
    assert max(values) > np.quantile(random, 0.9)


@pytest.mark.parametrize("at_once", [1, 2, 5, 9])
def test_the_points_are_the_same_however_many_run_at_once_and_in_whatever_order_they_end(at_once: int) -> None:
    alone = searched(space(), 24)
    assert searched(space(), 24, order=np.random.default_rng(at_once), at_once=at_once) == alone


def test_another_seed_searches_elsewhere() -> None:
    assert searched(space(seed=1), 6) != searched(space(seed=2), 6)


def test_conditions_hold_and_totals_are_whole() -> None:
    for point in searched(space(), 30):
        assert ("curriculum.levels" in point) == (point["curriculum.kind"] != "random")
        assert sum(point["mixture.counts"].values()) == 90
        assert 2 <= point.get("curriculum.levels", 2) <= 9


def test_points_that_were_stopped_or_failed_are_learned_from_too() -> None:
    tpe = Tpe(space(ahead=0), lambda key: "random", 30)
    kinds = []
    for number in range(30):
        point = tpe.ask(number)
        assert point is not None
        kinds.append(point["curriculum.kind"])
        tpe.tell(number, None if point["curriculum.kind"] == "staged" else [planted(point)])
    assert tpe.ask(30) is None
    assert kinds[15:].count("staged") <= 5


def test_two_objectives() -> None:
    of = space(objective=[{"metric": "acc"}, {"of": "trained_tokens"}], ahead=0)
    tpe = Tpe(of, lambda key: "random", 12)
    for number in range(12):
        point = tpe.ask(number)
        assert point is not None
        tpe.tell(number, [planted(point), point["preselect.rho"]] if number != 3 else None)
    assert len(tpe.study.best_trials) >= 1


def test_asked_too_early_is_an_error() -> None:
    tpe = Tpe(space(ahead=1), lambda key: "random", 5)
    tpe.ask(0)
    tpe.ask(1)
    with pytest.raises(ValueError, match="point 2 is asked for after 2, and 0 were told"):
        tpe.ask(2)


def test_listed_points_come_in_order() -> None:
    points: list[Point] = [{"seed": 1}, {"seed": 2}]
    listed = searcher_of(space(), lambda key: None, points, None)
    assert isinstance(listed, Listed)
    assert [listed.ask(number) for number in range(3)] == [*points, None]
