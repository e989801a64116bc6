from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import curve_fit
from scipy.stats import f as fisher

from raysel.errors import UserError
from raysel.evaluation.significance import SAMPLED
from raysel.studies import published
from raysel.studies.saturation import (
    Curve,
    Form,
    fit,
    flat_p,
    relative_to_english,
    saturation,
)

SINGLE = np.array([0.0, 100, 200, 400, 800, 1000, 2000, 5000])
MULTI = np.array([0.0, 100, *range(500, 7001, 500)])
FORMS: list[Form] = ["exponential", "power"]


def test_relative_to_english_is_the_mean_of_the_others() -> None:
    assert relative_to_english({"de": 0.3, "en": 0.5, "sw": 0.1}) == pytest.approx(0.4)


@given(st.floats(0.1, 5), st.floats(0.1, 5))
def test_worse_than_english_is_less_than_1(english: float, other: float) -> None:
    assert (relative_to_english({"en": english, "fr": other}) < 1) == (other < english)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"de": 1.0, "sw": 1.0}, "there is de, sw"),
        ({"en": 1.0}, "there is en"),
        ({"en": 0.0, "de": 1.0}, "the English value is 0"),
        ({"en": float("nan"), "de": 1.0}, "the value of en is no finite number"),
    ],
)
def test_a_ratio_needs_english_and_another_language(values: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        relative_to_english(values)


@settings(max_examples=40)
@given(
    st.sampled_from(FORMS),
    st.floats(60, 2000),
    st.floats(-3, 3),
    st.sampled_from([-0.4, -0.02, 0.02, 0.3, 5.0]),
    st.booleans(),
)
def test_a_planted_curve_is_found(form: Form, scale: float, asymptote: float, rise: float, multi: bool) -> None:
    x = MULTI if multi else SINGLE
    planted = Curve(form, scale, asymptote, rise)
    found = fit(x, planted.at(x))
    assert found.form == form
    assert found.scale == pytest.approx(scale, rel=1e-3)
    assert (found.asymptote, found.rise) == pytest.approx((asymptote, rise), rel=1e-3, abs=1e-6)


@settings(max_examples=20)
@given(st.sampled_from(FORMS), st.floats(80, 1500), st.integers(0, 2**16))
def test_the_fit_is_that_of_least_squares(form: Form, scale: float, seed: int) -> None:
    y = Curve(form, scale, 1.0, 0.5).at(SINGLE) + np.random.default_rng(seed).normal(0, 0.03, len(SINGLE))
    found = fit(SINGLE, y)

    def value(x: np.ndarray, asymptote: float, rise: float, log_scale: float) -> np.ndarray:
        return Curve(found.form, float(np.exp(log_scale)), asymptote, rise).at(x)

    start = [found.asymptote + 0.01, found.rise * 0.95, np.log(found.scale) + 0.05]
    expected, _ = curve_fit(value, SINGLE, y, p0=start, maxfev=5000)
    squares = ((found.at(SINGLE) - y) ** 2).sum()
    assert squares <= ((value(SINGLE, *expected) - y) ** 2).sum() * (1 + 1e-6)


@given(st.sampled_from(FORMS), st.floats(1, 5000), st.floats(0.001, 0.5), st.floats(-2, 2))
def test_a_curve_goes_one_way_and_has_its_tolerance_left_at_the_plateau(
    form: Form, scale: float, tolerance: float, rise: float
) -> None:
    curve = Curve(form, scale, 1.0, rise)
    steps = np.diff(curve.at(np.geomspace(1, 1e5, 60)))
    assert (steps * np.sign(rise) >= 0).all()
    plateau = curve.plateau(tolerance)
    assert 1 - curve.at(plateau) == pytest.approx(tolerance * rise, abs=1e-9)
    assert curve.change(0, plateau) == pytest.approx((1 - tolerance) * rise, abs=1e-9)


def test_the_plateau_of_an_exponential_is_at_three_scales() -> None:
    assert Curve("exponential", 100).plateau(0.05) == pytest.approx(299.6, abs=0.1)
    assert Curve("power", 100).plateau(0.05) == pytest.approx(1900)


def test_clear_curves_are_reached_or_not_and_a_claim_is_before_or_after_them() -> None:
    noise = np.random.default_rng(0).normal(0, 0.002, (3, len(SINGLE)))

    def found(scale: float, **more: Any) -> Any:
        return saturation(SINGLE, Curve("exponential", scale, 0.9, 0.4).at(SINGLE) + noise, seed=0, **more)

    early, late, never = found(60), found(800), found(3000)
    assert (early.verdict, early.claim) == ("reached", "earlier")
    assert (late.verdict, late.claim) == ("reached", "later")
    assert (never.verdict, never.plateau, never.high, never.claim) == ("not reached", None, None, "later")
    assert early.low <= 60 * np.log(20) <= early.high
    assert found(60, claimed=180.0).claim == "consistent"
    assert early.plateau < found(60, tolerance=0.01).plateau
    # What more data brings after the claimed plateau.
    assert late.gain.low <= 0.4 * (np.exp(-400 / 800) - np.exp(-5000 / 800)) <= late.gain.high
    assert abs(early.gain.value) < 0.002
    assert found(60, more=9000.0).gain is None


def test_a_level_of_its_own_for_each_run_changes_nothing() -> None:
    noise = np.random.default_rng(1).normal(0, 0.02, (3, len(SINGLE)))
    runs = Curve("exponential", 300, 0.9, 0.4).at(SINGLE) + noise
    shifted = saturation(SINGLE, runs + np.array([[-0.5], [0.1], [0.4]]), seed=2)
    plain = saturation(SINGLE, runs, seed=2)
    assert shifted.plateau == pytest.approx(plain.plateau, rel=1e-4)
    assert (shifted.low, shifted.high) == pytest.approx((plain.low, plain.high), rel=1e-6)
    assert shifted.p == plain.p
    # And more runs know more.
    one = saturation(SINGLE, runs[:1], seed=2)
    assert plain.low is not None
    assert one.low is not None
    assert plain.low > one.low


@settings(max_examples=15)
@given(st.floats(0.001, 1000), st.floats(-5, 5), st.integers(0, 100))
def test_the_unit_of_the_values_does_not_matter(factor: float, shift: float, seed: int) -> None:
    y = Curve("power", 150, 0.9, 0.4).at(SINGLE) + np.random.default_rng(seed).normal(0, 0.02, len(SINGLE))
    plain, other = saturation(SINGLE, y, seed=0), saturation(SINGLE, -factor * y + shift, seed=0)
    assert plain.verdict == other.verdict
    assert plain.curve is not None
    assert other.curve is not None
    assert other.curve.scale == pytest.approx(plain.curve.scale, rel=1e-3)
    assert other.curve.rise == pytest.approx(-factor * plain.curve.rise, rel=1e-3)


def test_one_seed_decides_everything() -> None:
    y = Curve("exponential", 150, 0.9, 0.4).at(SINGLE) + np.random.default_rng(5).normal(0, 0.03, len(SINGLE))
    assert saturation(SINGLE, y, seed=1) == saturation(SINGLE, y, seed=1)
    assert saturation(SINGLE, y, seed=1) != saturation(SINGLE, y, seed=2)


@pytest.mark.parametrize(("x", "runs"), [(SINGLE, 1), (SINGLE, 3), (MULTI, 1)])
def test_noise_is_called_flat_in_nineteen_tables_of_twenty(x: np.ndarray, runs: int) -> None:
    generator = np.random.default_rng(0)
    tables = [generator.normal(3, 0.2, (runs, len(x))) + generator.normal(size=(runs, 1)) for _ in range(200)]
    flat = np.mean([flat_p(x, table, seed=0) > 0.05 for table in tables])
    assert 0.92 <= flat <= 0.98


def test_the_flat_test_with_one_scale_would_be_the_f_test() -> None:
    # Simulated, the best of many scales asks for more than F with one: the naive p is smaller.
    y = np.array([0.2, 0.6, 0.3, 0.55, 0.5, 0.7, 0.52, 0.68])
    curve = fit(SINGLE, y)
    residual = ((y - curve.at(SINGLE)) ** 2).sum()
    explained = ((y - y.mean()) ** 2).sum() - residual
    assert flat_p(SINGLE, y, seed=0) > float(fisher.sf(explained / residual * 6, 1, 6))


def test_a_constant_is_flat_and_a_clear_step_is_not() -> None:
    found = saturation(SINGLE, np.full(8, 0.3), seed=0)
    assert (found.verdict, found.p, found.curve, found.plateau, found.claim, found.gain) == (
        "flat", 1.0, None, None, None, None,
    )  # fmt: skip
    step = np.array([0.22, 0.618, 0.599, 0.617, 0.63, 0.595, 0.618, 0.583])
    assert flat_p(SINGLE, step, seed=0) == pytest.approx(1 / (SAMPLED + 1))


def covered(x: np.ndarray, curve: Curve, noise: float, runs: int, tables: int) -> float:
    """The share of intervals that hold the planted plateau."""
    generator, hits = np.random.default_rng(0), []
    for _ in range(tables):
        found = saturation(x, curve.at(x) + generator.normal(0, noise, (runs, len(x))), seed=0)
        if found.verdict != "flat":
            low, high = found.low or x[-1], found.high or np.inf
            hits.append(low <= curve.plateau(0.05) <= high)
    return float(np.mean(hits))


@pytest.mark.parametrize(("form", "noise"), [("exponential", 0.1), ("power", 0.08)])
def test_intervals_hold_the_planted_plateau(form: Form, noise: float) -> None:
    assert covered(SINGLE, Curve(form, 130, 1.0, 1.0), noise, 1, tables=30) >= 0.85


@pytest.mark.slow
@pytest.mark.parametrize("scale", [60, 400, 1200])
@pytest.mark.parametrize(("x", "runs"), [(SINGLE, 1), (SINGLE, 3), (MULTI, 1)])
def test_intervals_hold_their_level(x: np.ndarray, runs: int, scale: float) -> None:
    assert 0.87 <= covered(x, Curve("exponential", scale, 1.0, 1.0), 0.08, runs, tables=150) <= 1


@pytest.mark.parametrize(
    ("number", "verdict", "claim"),
    [(17, "flat", None), (18, "reached", "consistent"), (21, "reached", "consistent"), (22, "not reached", "later")],
)
def test_what_the_guide_printed(number: int, verdict: str, claim: str | None) -> None:
    values = published.transfer_table(number).values
    found = saturation(list(values), [relative_to_english(scores) for scores in values.values()], seed=0)
    assert (found.verdict, found.claim) == (verdict, claim)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        ([0, 1, 2, 3], [1, 2, 3, 4], "4 numbers of samples per language"),
        ([1, 2, 3, 4, 5], [1, 2, 3, 4, 5], "increase from 0"),
        ([0, 2, 2, 4, 5], [1, 2, 3, 4, 5], "they are 0, 2, 2, 4, 5"),
        ([0, 1, 2, 3, 4], [1, 2, np.nan, 4, 5], "no finite number"),
        ([0, 1, 2, 3, 4], [1, 2, 3, 4], "a value at each x in every run"),
        ([0, 1, 2, 3, 4], np.empty((0, 5)), "a value at each x in every run"),
    ],
)
def test_points_that_make_no_curve_are_refused(x: Any, y: Any, message: str) -> None:
    for made in (fit, lambda x, y: flat_p(x, y, seed=0), lambda x, y: saturation(x, y, seed=0)):
        with pytest.raises(UserError, match=message):
            made(x, y)


@pytest.mark.parametrize("tolerance", [0.0, 1.0, -1.0, np.nan])
def test_a_tolerance_is_a_share(tolerance: float) -> None:
    with pytest.raises(UserError, match="is no share of the way"):
        saturation(SINGLE, SINGLE, seed=0, tolerance=tolerance)
