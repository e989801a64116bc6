"""Rank agreement of two scorings against SciPy, and its edges."""

import numpy as np
import pytest
from scipy.stats import kendalltau, spearmanr

from raysel.separability.agreement import agreement


def test_correlations_and_overlap_of_each_language() -> None:
    rng = np.random.default_rng(0)
    langs = ["x"] * 40 + ["y"] * 60
    ids = [f"{i:03d}" for i in range(100)]
    first = rng.normal(size=100)
    second = first + rng.normal(size=100)
    overall, of = agreement(ids, langs, first, second, rho=0.2)
    assert overall.rows == 100
    assert overall.spearman == pytest.approx(spearmanr(first, second).statistic)
    assert of["y"].kendall == pytest.approx(kendalltau(first[40:], second[40:]).statistic)
    top = [set(np.argsort(-scores[:40])[:8]) for scores in (first, second)]
    assert of["x"].overlap == pytest.approx(len(top[0] & top[1]) / len(top[0] | top[1]))


def test_a_scoring_agrees_with_itself_and_not_with_its_reverse() -> None:
    scores = np.arange(20.0)
    ids = [f"{i:02d}" for i in range(20)]
    same, _ = agreement(ids, ["x"] * 20, scores, scores, rho=0.25)
    reverse, _ = agreement(ids, ["x"] * 20, scores, -scores, rho=0.25)
    assert (same.spearman, same.kendall, same.overlap) == pytest.approx((1, 1, 1))
    assert (reverse.spearman, reverse.kendall, reverse.overlap) == pytest.approx((-1, -1, 0))


def test_what_is_not_defined_is_none() -> None:
    _, of = agreement(["a", "b", "c"], ["x", "y", "y"], np.array([0.1, 0.2, 0.2]), np.array([1.0, 2, 3]), rho=0.34)
    assert of["x"].spearman is None
    assert of["y"].kendall is None
    assert of["x"].overlap is None
