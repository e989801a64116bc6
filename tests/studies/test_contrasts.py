from collections.abc import Callable
from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import bartlett, spearmanr, ttest_rel
from scipy.stats import t as student

from raysel.errors import UserError
from raysel.evaluation.significance import holm, smallest_detectable
from raysel.studies.contrasts import Runs, contrast, detectable_difference, trend

LANGUAGES = ["de", "en", "sw"]


def runs(values: np.ndarray) -> dict[int, dict[str, float]]:
    """(S, L) values as seeds 0, 1, ... of the first languages."""
    names = LANGUAGES + [f"x{place:02}" for place in range(30)]
    return {seed: dict(zip(names, row.tolist(), strict=False)) for seed, row in enumerate(values)}


@settings(max_examples=40)
@given(st.integers(2, 6), st.integers(1, 4), st.integers(0, 2**16))
def test_differences_are_paired_t_tests_and_their_p_corrected(seeds: int, languages: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    first, second = generator.normal(1, 0.1, size=(2, seeds, languages))
    found = contrast(runs(first), runs(second))
    expected = ttest_rel(first.mean(axis=1), second.mean(axis=1))
    interval = expected.confidence_interval(0.95)
    assert found.overall.p == pytest.approx(expected.pvalue, rel=1e-6)
    assert (found.overall.interval.low, found.overall.interval.high) == pytest.approx(tuple(interval), abs=1e-9)
    assert found.overall.interval.value == pytest.approx((first - second).mean())
    # Uncorrected, the interval and the verdict are the same thing.
    assert (found.overall.verdict == "no clear difference") == (interval.low <= 0 <= interval.high)
    apart = ttest_rel(first, second)
    assert [of.p for of in found.languages.values()] == pytest.approx(holm(list(apart.pvalue)), rel=1e-6)


def test_the_verdict_is_of_the_first_condition_and_turns_with_them() -> None:
    noise = np.random.default_rng(0).normal(0, 0.02, size=(2, 4, 3))
    low, high = runs(1 + noise[0]), runs(1.5 + noise[1])
    there, back = contrast(low, high), contrast(high, low)
    assert (there.overall.verdict, back.overall.verdict) == ("lower", "higher")
    assert there.overall.interval.value == pytest.approx(-back.overall.interval.value)
    assert list(there.languages) == LANGUAGES
    assert {of.verdict for of in back.languages.values()} == {"higher"}
    assert there.seeds == (0, 1, 2, 3)


def test_what_one_language_shows_is_corrected_for_the_others() -> None:
    differences = np.zeros((4, 12))
    differences[:, :] = np.random.default_rng(3).normal(0, 1, size=(4, 12))
    differences[:, 0] = [0.9, 1.4, 0.7, 1.2]
    found = contrast(runs(differences), runs(np.zeros((4, 12))))
    alone = contrast(runs(differences[:, :1]), runs(np.zeros((4, 1))))
    assert alone.languages["de"].verdict == "higher"
    assert found.languages["de"].verdict == "no clear difference"
    assert found.languages["de"].interval == alone.languages["de"].interval
    assert (found.languages["de"].interval.low or 0) > 0
    assert (found.languages["de"].detectable or 0) > (alone.languages["de"].detectable or 0)


# 0.3 - 0.1 and 0.7 - 0.5 are the same difference but for rounding.
@pytest.mark.parametrize("first", [[[0.3, 0.3]], [[0.3, 0.3], [0.7, 0.7]]])
def test_one_seed_or_seeds_that_change_nothing_give_no_verdict(first: list[list[float]]) -> None:
    second = np.array(first) - 0.2
    found = contrast(runs(np.array(first)), runs(second))
    for of in (found.overall, *found.languages.values()):
        assert of.interval.value == pytest.approx(0.2)
        assert (of.interval.low, of.p, of.verdict, of.detectable) == (None, None, None, None)


def test_a_language_without_noise_is_left_out_of_the_correction() -> None:
    first = np.array([[1.0, 1.0], [1.0, 1.3], [1.0, 1.1]])
    found = contrast(runs(first), runs(np.zeros((3, 2))))
    assert found.languages["de"].verdict is None
    assert found.languages["en"].p == pytest.approx(ttest_rel(first[:, 1], np.zeros(3)).pvalue)


def test_what_is_detectable_is_found_four_times_in_five() -> None:
    generator = np.random.default_rng(0)
    seeds, sigma = 4, 0.05
    # The difference of two runs has √2 of their noise, its mean over seeds half of that.
    shift = detectable_difference(sigma * np.sqrt(2 / seeds), seeds - 1)
    found = [
        contrast(
            runs(generator.normal(1 + shift, sigma, (seeds, 1))), runs(generator.normal(1, sigma, (seeds, 1)))
        ).overall.verdict
        for _ in range(300)
    ]
    assert np.mean([verdict == "higher" for verdict in found]) == pytest.approx(0.8, abs=0.05)
    assert detectable_difference(1, 5_000) == pytest.approx(smallest_detectable(1), rel=1e-3)
    assert detectable_difference(1, 2) == pytest.approx(5.65, abs=0.01)
    with pytest.raises(ValueError, match="0 degrees of freedom"):
        detectable_difference(1, 0)


@settings(max_examples=30)
@given(st.integers(3, 6), st.integers(2, 4), st.integers(0, 2**16))
def test_conditions_that_scatter_alike_share_their_error(conditions: int, seeds: int, seed: int) -> None:
    """Against least squares on a column for each condition and each seed."""
    generator = np.random.default_rng(seed)
    values = generator.normal(0, 1, (conditions, 1)) + generator.normal(0, 0.5, seeds)
    values = values + 0.1 * np.stack([generator.permutation(np.linspace(-1, 1, seeds)) for _ in range(conditions)])
    every = [runs(row[:, None]) for row in values]
    assume(bartlett(*values).pvalue > 0.2)
    found = contrast(every[0], every[1], every).overall
    which, when = np.divmod(np.arange(conditions * seeds), seeds)
    design = np.concatenate([np.eye(conditions)[which], np.eye(seeds)[when]], axis=1)
    fitted = design @ np.linalg.lstsq(design, values.ravel(), rcond=None)[0]
    freedom = conditions * seeds - np.linalg.matrix_rank(design)
    error = np.sqrt(2 * np.sum((values.ravel() - fitted) ** 2) / freedom / seeds)
    assume(error > 1e-6)
    assert (found.freedom, found.interval.error) == (freedom, pytest.approx(error, rel=1e-6))
    assert found.interval.value == pytest.approx(values[0].mean() - values[1].mean())
    expected = student.interval(0.95, freedom, found.interval.value, error)
    assert (found.interval.low, found.interval.high) == pytest.approx(expected)


def test_conditions_that_scatter_otherwise_do_not() -> None:
    generator = np.random.default_rng(0)
    quiet = [runs(generator.normal(at, 0.01, (3, 2))) for at in range(2)]
    loud = [runs(generator.normal(at, 5.0, (3, 2))) for at in range(4)]
    assert contrast(*quiet, [*quiet, *loud]).overall == contrast(*quiet).overall
    assert contrast(*quiet, quiet) == contrast(*quiet)


def test_among_many_chance_is_still_one_in_twenty_and_more_is_found() -> None:
    generator = np.random.default_rng(0)
    seen = {shift: np.zeros(2) for shift in (0.0, 2.5)}
    for shift, counts in seen.items():
        for _ in range(300):
            every = [runs(generator.normal(shift * (at == 1), 1, (3, 1))) for at in range(5)]
            for which, among in enumerate(([], every)):
                counts[which] += contrast(every[1], every[0], among).overall.verdict != "no clear difference"
    assert (seen[0.0] <= 0.08 * 300).all()
    paired, pooled = seen[2.5] / 300
    assert pooled > paired + 0.2


def test_chance_is_called_a_difference_in_one_study_of_twenty() -> None:
    generator = np.random.default_rng(0)
    overall, some = 0, 0
    for _ in range(300):
        found = contrast(*(runs(generator.normal(1, 0.1, (3, 6))) for _ in range(2)))
        overall += found.overall.verdict != "no clear difference"
        some += any(of.verdict != "no clear difference" for of in found.languages.values())
    assert 0.02 <= overall / 300 <= 0.08
    assert some / 300 <= 0.08


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda second: second.pop(1), "these have 0, 1; 0"),
        (lambda second: second.clear(), "these have 0, 1; none"),
        (lambda second: second[1].pop("en"), "seed 1 does not have the languages of the others: en"),
        (lambda second: second[0].update(fr=1.0), "seed 0 does not have the languages of the others: fr"),
        (lambda second: second[0].update(en=np.nan), "seed 0: the value of en is no finite number"),
    ],
)
def test_conditions_that_cannot_be_paired_are_refused(change: Callable[..., object], message: str) -> None:
    first, second = runs(np.ones((2, 3))), runs(np.ones((2, 3)))
    change(second)
    with pytest.raises(UserError, match=message):
        contrast(first, second)
    with pytest.raises(UserError, match=message):
        trend([first, second, second])


def test_runs_without_a_language_are_refused() -> None:
    with pytest.raises(UserError, match="no language at all"):
        contrast({0: {}}, {0: {}})


def levels(values: np.ndarray) -> list[Runs]:
    """(S, k) values by seed and level."""
    return [runs(column[:, None]) for column in values.T]


@settings(max_examples=20)
@given(st.integers(1, 3), st.integers(3, 4), st.integers(0, 2**16))
def test_a_trend_is_tested_over_all_orders_within_seeds(seeds: int, k: int, seed: int) -> None:
    values = np.random.default_rng(seed).normal(size=(seeds, k))
    found = trend(levels(values))
    expected = np.mean([spearmanr(row, range(k)).statistic for row in values])
    assert found.correlation == pytest.approx(expected)
    orders = list(permutations(range(k)))
    of_orders = {order: 1 - 6 * np.sum((np.array(order) - np.arange(k)) ** 2) / (k**3 - k) for order in orders}
    means = np.array([np.mean([of_orders[order] for order in drawn]) for drawn in product(orders, repeat=seeds)])
    one_sided = min(np.mean(means >= expected - 1e-9), np.mean(means <= expected + 1e-9))
    assert found.p == pytest.approx(min(1.0, 2 * one_sided))


def test_a_trend_is_seen_over_several_seeds_and_has_a_direction() -> None:
    rising = np.array([[1.0, 1.2, 1.3, 1.5], [1.1, 1.2, 1.4, 1.3], [0.9, 1.0, 1.2, 1.4]])
    assert trend(levels(rising)).verdict == "rises"
    assert trend(levels(-rising)).verdict == "falls"
    # Two of 24 orders are as extreme: one seed cannot show it.
    one = trend(levels(rising[:1]))
    assert (one.correlation, one.verdict) == (1.0, "no clear trend")
    assert one.p == pytest.approx(2 / 24)


def test_a_long_trend_of_one_seed_is_drawn() -> None:
    rising = np.arange(16.0)[None] + np.random.default_rng(0).normal(0, 2, (1, 16))
    found = trend(levels(rising), seed=4)
    assert found.verdict == "rises"
    assert found.p == trend(levels(rising), seed=4).p


def test_ties_and_a_constant_are_no_trend() -> None:
    found = trend(levels(np.ones((3, 5))))
    assert (found.correlation, found.p, found.verdict) == (0.0, 1.0, "no clear trend")
    assert trend(levels(np.ones((1, 5)))).p == 1.0
    with pytest.raises(UserError, match="three levels"):
        trend(levels(np.ones((2, 2))))
