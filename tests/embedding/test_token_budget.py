"""Which token budget is taken, given what each one costs."""

import pytest

from raysel.embedding.token_budget import fastest_budget

LADDER = (1, 2, 4, 8)


def measured(costs: dict[int, float]):
    """The cost of a budget; those above the largest one given do not fit in memory."""
    return lambda budget: costs.get(budget, float("inf"))


@pytest.mark.parametrize(
    ("costs", "chosen"),
    [
        ({1: 9, 2: 8, 4: 5, 8: 7}, 4),
        ({1: 9, 2: 5.2, 4: 5, 8: 7}, 2),  # not worth leaving the usual budget for
        ({1: 9}, 1),  # not even the usual one fits
        ({1: 9, 2: 4}, 2),
        ({1: 1, 2: 4}, 1),
        ({}, 1),  # its batches are halved
    ],
)
def test_the_fastest_that_fits(costs: dict[int, float], chosen: int) -> None:
    assert fastest_budget(LADDER, 2, measured(costs)) == chosen


def test_slow_models_are_not_measured_to_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raysel.embedding.token_budget.ENOUGH_SECONDS", 0.0)
    assert fastest_budget(LADDER, 2, measured({1: 3, 2: 1, 4: 1, 8: 1})) == 1
