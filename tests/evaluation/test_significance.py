import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, norm, permutation_test

from raysel.evaluation.significance import (
    SAMPLED,
    accuracy_difference_error,
    holm,
    sign_flip_p,
    smallest_detectable,
)


@settings(max_examples=40)
@given(st.lists(st.integers(-4, 4), min_size=2, max_size=8))
def test_few_changes_are_tested_exactly(changes: list[int]) -> None:
    values = np.array(changes, dtype=float)
    expected = permutation_test(
        (values, np.zeros(len(values))),
        lambda x, y, axis: (x - y).sum(axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=np.inf,
    )
    assert sign_flip_p(values, seed=0) == pytest.approx(min(1.0, expected.pvalue), abs=1e-9)


@pytest.mark.parametrize(("better", "worse", "same"), [(3, 0, 0), (30, 12, 400), (900, 850, 3000), (1, 1, 5)])
def test_right_or_wrong_items_are_tested_as_mcnemar_does(better: int, worse: int, same: int) -> None:
    changes = np.repeat([1.0, -1.0, 0.0], [better, worse, same])
    expected = binomtest(better, better + worse, 0.5).pvalue
    assert sign_flip_p(changes / len(changes), seed=0) == pytest.approx(expected, rel=1e-9)


def test_many_changes_are_drawn() -> None:
    changes = np.random.default_rng(0).normal(0.25, 1, size=60)
    p = sign_flip_p(changes, seed=0)
    # The sum of many signs is nearly normal.
    expected = 2 * norm.sf(abs(changes.sum()) / np.sqrt((changes**2).sum()))
    assert p == pytest.approx(expected, abs=0.01)
    assert sign_flip_p(changes, seed=0) == p == sign_flip_p(-changes, seed=0)
    assert (p * (SAMPLED + 1)) == pytest.approx(round(p * (SAMPLED + 1)))
    # What is drawn is never proof: the least p is 1 / (m + 1).
    assert sign_flip_p(np.abs(changes) + 5, seed=0) == 1 / (SAMPLED + 1)


def test_equal_models_have_p_1_and_unknown_changes_are_refused() -> None:
    assert sign_flip_p(np.zeros(40), seed=0) == 1
    assert sign_flip_p(np.array([]), seed=0) == 1
    with pytest.raises(ValueError, match="no finite number"):
        sign_flip_p(np.array([1.0, np.nan]), seed=0)


def test_chance_is_called_clear_in_at_most_one_of_twenty() -> None:
    generator = np.random.default_rng(0)
    found = [sign_flip_p(generator.normal(size=10), seed=0) <= 0.05 for _ in range(300)]
    assert 0.02 <= np.mean(found) <= 0.07


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_holm_keeps_the_order_and_lies_between_p_and_bonferroni(p: list[float]) -> None:
    corrected = np.array(holm(p))
    assert (corrected >= p).all()
    assert (corrected <= np.minimum(1, np.array(p) * len(p)) + 1e-12).all()
    assert (np.diff(corrected[np.argsort(p, kind="stable")]) >= 0).all()


@pytest.mark.parametrize(("accuracy", "n"), [(0.3, 200), (0.5, 1000), (0.8, 5000)])
def test_the_smallest_detectable_difference_is_found_in_four_of_five(accuracy: float, n: int) -> None:
    assert smallest_detectable(1.0) == pytest.approx(2.8016, abs=1e-4)
    assert smallest_detectable(1.0, tests=10) == pytest.approx(3.6487, abs=1e-4)
    gain = smallest_detectable(accuracy_difference_error(accuracy, n))
    generator = np.random.default_rng(n)
    # Half of the difference on each side, where the standard error is that of the accuracy.
    first, second = (generator.binomial(n, accuracy + side * gain / 2, size=20_000) / n for side in (-1, 1))
    error = np.sqrt(first * (1 - first) / n + second * (1 - second) / n)
    assert (np.abs(second - first) > 1.96 * error).mean() == pytest.approx(0.8, abs=0.015)


@pytest.mark.parametrize("tests", [1, 4, 30])
def test_what_is_detectable_among_several_survives_holm(tests: int) -> None:
    generator = np.random.default_rng(tests)
    found = np.zeros(2000)
    for trial in range(len(found)):
        z = generator.normal(size=tests)
        z[0] += smallest_detectable(1.0, tests=tests)
        found[trial] = holm(2 * norm.sf(np.abs(z)))[0] <= 0.05
    assert found.mean() == pytest.approx(0.8, abs=0.03)


def test_all_right_is_not_known_exactly() -> None:
    expected = np.sqrt(2 * 0.0125 * 0.9875 / 40)
    assert [accuracy_difference_error(end, 40) for end in (0.0, 1.0)] == pytest.approx([expected] * 2)
