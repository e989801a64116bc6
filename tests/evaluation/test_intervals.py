import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, binomtest, norm

from raysel.evaluation.intervals import bootstrap_interval, mean_interval, wilson_interval


def test_wilson_is_scipys() -> None:
    for n in (1, 2, 5, 16, 100, 1319):
        for successes in {0, 1, n // 3, n - 1, n}:
            expected = binomtest(successes, n).proportion_ci(0.95, method="wilson")
            assert wilson_interval(successes, n) == pytest.approx((expected.low, expected.high), abs=1e-12)


@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_contains_the_share_and_mirrors(case: tuple[int, int]) -> None:
    successes, n = case
    low, high = wilson_interval(successes, n)
    assert 0 <= low <= successes / n <= high <= 1
    assert high - low < 1
    assert wilson_interval(n - successes, n) == pytest.approx((1 - high, 1 - low), abs=1e-12)


@pytest.mark.parametrize("n", [8, 16, 50])
def test_wilson_covers_what_it_says_on_average(n: int) -> None:
    """Exact coverage, averaged over the true share, is 95% within a point."""
    intervals = np.array([wilson_interval(successes, n) for successes in range(n + 1)])
    shares = np.linspace(0.01, 0.99, 197)
    held = (intervals[:, :1] <= shares) & (shares <= intervals[:, 1:])
    coverage = (binom.pmf(np.arange(n + 1)[:, None], n, shares) * held).sum(axis=0)
    assert coverage.mean() == pytest.approx(0.95, abs=0.01)


@pytest.mark.parametrize(("successes", "n"), [(0, 0), (-1, 5), (6, 5)])
def test_wilson_refuses_what_is_no_proportion(successes: int, n: int) -> None:
    with pytest.raises(ValueError, match="no proportion"):
        wilson_interval(successes, n)


def test_bootstrap_of_a_normal_mean_is_the_textbook_interval() -> None:
    values = np.random.default_rng(3).normal(10, 2, size=400)
    half = norm.ppf(0.975) * values.std() / 20
    low, high = bootstrap_interval(values, seed=0, resamples=4000)
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.03)


def test_bootstrap_covers_about_what_it_says() -> None:
    generator = np.random.default_rng(0)
    held = 0
    for trial in range(200):
        low, high = bootstrap_interval(generator.exponential(size=60), seed=trial, resamples=200)
        held += low <= 1 <= high
    assert 0.88 <= held / 200 <= 0.99


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=40), st.integers(0, 2**32))
def test_bootstrap_is_seeded_ordered_and_within_the_values(values: list[float], seed: int) -> None:
    low, high = bootstrap_interval(values, seed=seed, resamples=50)
    assert min(values) - 1e-9 <= low <= high <= max(values) + 1e-9
    assert bootstrap_interval(values, seed=seed, resamples=50) == (low, high)


def test_bootstrap_of_another_statistic_draws_the_same_items() -> None:
    values = [1.0, 4.0, 2.5, 8.0, 3.0]
    own = bootstrap_interval([(v, "item") for v in values], lambda drawn: float(np.mean([v for v, _ in drawn])), seed=5)
    assert own == pytest.approx(bootstrap_interval(values, seed=5))


def test_bootstrap_refuses_no_items() -> None:
    with pytest.raises(ValueError, match="at least one item"):
        bootstrap_interval([], seed=0)


def test_mean_interval_chooses_by_the_values() -> None:
    assert mean_interval([1.0, 0.0, 1.0, 1.0], seed=0) == wilson_interval(3, 4)
    assert mean_interval([1.0, 0.5, 1.0, 1.0], seed=0) == bootstrap_interval([1.0, 0.5, 1.0, 1.0], seed=0)
