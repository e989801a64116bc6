"""What trials are worth, and the order that follows."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from raysel.evaluation.intervals import Interval
from raysel.report.result_lines import ItemValues, Key
from raysel.sweep.objective import (
    chosen_rows,
    contrast_of_results,
    contrast_of_values,
    of_heldout,
    of_results,
    over_seeds,
)
from raysel.sweep.ranking import rank, winners
from raysel.sweep.records import TrialRecord
from raysel.sweep.settings import Objective, SpaceError

ACC = Objective(metric="acc")


def results(right: dict[tuple[str, str], list[int]], split: str = "dev"):
    """Rows and items of one model: (language, task) -> what every item got."""
    rows, items = [], {}
    for (lang, task), values in right.items():
        row = {"lang": lang, "task": task, "metric": "acc,none", "split": split, "n": len(values)}
        rows.append(row | {"value": float(np.mean(values)), "ci_low": 0.0, "ci_high": 1.0})
        key: Key = (lang, task, "acc,none")
        items[key] = ItemValues(np.arange(len(values)), np.array(values, dtype=float), [None] * len(values))
    return rows, items


RIGHT = {("en", "xnli_en"): [1, 1, 0, 1], ("sw", "xnli_sw"): [0, 0, 1, 0, 0], ("sw", "xcopa_sw"): [1, 0]}


def test_the_mean_over_languages_of_the_mean_over_tasks() -> None:
    rows, items = results(RIGHT)
    found = of_results(chosen_rows(ACC, rows), items, seed=0)
    assert found.value == pytest.approx((0.75 + (0.2 + 0.5) / 2) / 2)
    assert found.low is not None and found.high is not None and found.low < found.value < found.high  # noqa: PT018


@pytest.mark.parametrize(
    ("given", "value"),
    [({"tasks": ["xnli_*"]}, (0.75 + 0.2) / 2), ({"languages": ["sw"]}, 0.35), ({"tasks": ["xcopa_sw"]}, 0.5)],
)
def test_chosen_tasks_and_languages(given: dict, value: float) -> None:
    rows, items = results(RIGHT)
    objective = Objective(metric="acc", **given)
    assert of_results(chosen_rows(objective, rows), items, seed=0).value == pytest.approx(value)


def test_what_is_not_there_is_named_with_what_is() -> None:
    rows, _ = results(RIGHT)
    with pytest.raises(SpaceError, match=r"f1.*metrics acc,none; tasks xcopa_sw, xnli_en, xnli_sw; languages en, sw"):
        chosen_rows(Objective(metric="f1"), rows)


def test_test_items_are_never_an_objective() -> None:
    rows, _ = results(RIGHT, split="test")
    with pytest.raises(RuntimeError, match="scored on test items"):
        chosen_rows(ACC, rows)


def test_heldout_loss_is_that_of_the_exported_weights() -> None:
    entries = [
        {"steps": 0, "loss": 4.0, "loss_by_lang": {"en": 3.0, "sw": 5.0}},
        {"steps": 8, "loss": 2.0, "loss_by_lang": {"en": 1.0, "sw": 3.5}},
        {"steps": 12, "loss": None, "loss_by_lang": {"en": 1.0, "sw": None}},
    ]
    assert of_heldout(entries, 8, []).value == 2.0
    assert of_heldout(entries, 8, ["sw", "en"]).value == 2.25
    # The last two of ten steps had nothing to learn.
    assert of_heldout(entries[:2], 10, []).value == 2.0
    with pytest.raises(SpaceError, match="no sample was held out"):
        of_heldout([], 8, [])
    with pytest.raises(SpaceError, match="no sample is held out in ta; there are en, sw"):
        of_heldout(entries, 8, ["ta"])
    with pytest.raises(SpaceError, match="diverged"):
        of_heldout(entries, 12, [])


def test_seeds_and_items_add_up() -> None:
    """Values with a seed's part and an item's part: the interval over both covers the truth, that of items not."""
    generator = np.random.default_rng(0)
    covered = by_items_alone = 0
    rounds = 400
    for _ in range(rounds):
        seeds, items = generator.normal(0, 0.03, 5), generator.normal(0, 0.4, 200)
        trials = []
        for seed in seeds:
            values = 0.5 + seed + items
            error = float(values.std(ddof=1) / np.sqrt(len(values)))
            mean = float(values.mean())
            trials.append(Interval(mean, mean - 1.97 * error, mean + 1.97 * error, error))
        both = over_seeds(trials, items=200)
        covered += both.low <= 0.5 <= both.high  # type: ignore[operator]
        by_items_alone += abs(both.value - 0.5) <= 1.97 * trials[0].error  # type: ignore[operator]
    assert 0.93 <= covered / rounds <= 0.98
    assert by_items_alone < covered


def test_seeds_without_items_are_students_t() -> None:
    values = [2.0, 2.5, 2.2, 2.9]
    found = over_seeds([Interval(value) for value in values])
    expected = stats.t.interval(0.95, 3, loc=np.mean(values), scale=stats.sem(values))
    assert (found.low, found.high) == pytest.approx(expected)


def test_one_seed_keeps_its_own_interval() -> None:
    one = Interval(0.5, 0.4, 0.6, 0.05)
    assert over_seeds([one]) == one


def test_the_same_results_do_not_differ() -> None:
    rows, items = results(RIGHT)
    same = (chosen_rows(ACC, rows), items)
    found = contrast_of_results([same], [same], seed=0)
    assert (found.difference.value, found.clear) == (0.0, False)


@pytest.mark.parametrize(("better", "clear"), [(60, True), (2, False)])
def test_a_difference_on_the_same_items(better: int, clear: bool) -> None:
    worse = [0] * 100 + [1] * 100
    rows, items = results({("en", "t_en"): worse})
    more, its = results({("en", "t_en"): [1] * better + worse[better:]})
    found = contrast_of_results([(chosen_rows(ACC, more), its)], [(chosen_rows(ACC, rows), items)], seed=0)
    assert found.difference.value == pytest.approx(better / 200)
    assert found.clear is clear


def test_without_items_one_seed_tells_nothing_and_several_do() -> None:
    assert contrast_of_values([2.0], [2.5]).clear is None
    assert contrast_of_values([2.0, 2.1, 1.9], [2.5, 2.62, 2.38]).clear is True
    assert contrast_of_values([2.0, 2.9, 1.1], [2.1, 1.9, 2.5]).clear is False


def trial(number: int, point: int, *values: float, status="finished") -> TrialRecord:
    return TrialRecord(number, point, number % 2, {"a": point}, status, [Interval(value) for value in values])


def test_points_are_ranked_by_their_mean_and_only_with_all_seeds() -> None:
    trials = [trial(0, 0, 1.0), trial(1, 0, 3.0), trial(2, 1, 2.5), trial(3, 1, 2.5), trial(4, 2, 9.0)]
    trials.append(trial(5, 2, status="failed"))
    found = rank(trials, [True], 2)
    assert [(line.rank, line.point, line.trials) for line in found] == [(1, 1, [2, 3]), (2, 0, [0, 1])]
    assert [line.point for line in rank(trials, [False], 2)] == [0, 1]
    assert [line.point for line in winners(found)] == [1]


def test_equal_points_are_ranked_once() -> None:
    trials = [trial(i, i, value) for i, value in enumerate((1.0, 2.0, 3.0))]
    twice = replace(trials[2], number=3, point=3)
    assert [line.point for line in rank([*trials, twice], [True], 1)] == [2, 1, 0]


def test_the_front_is_what_no_other_point_beats() -> None:
    values = [(0.9, 100), (0.8, 50), (0.85, 120), (0.8, 60), (0.5, 10)]
    trials = [trial(2 * i, i, *map(float, both)) for i, both in enumerate(values)]
    found = rank(trials, [True, False], 1)
    assert [line.point for line in found] == [0, 2, 1, 3, 4]
    assert {line.point for line in found if line.on_front} == {0, 1, 4}
    assert {line.point for line in winners(found)} == {0, 1, 4}
