"""Orders of training: coverage, direction, balance in every window, independence of the rows' order."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raysel.mixture.curriculum import order, quantile_levels

KINDS = ("random", "ascending", "descending", "balanced")
rows = st.lists(st.tuples(st.sampled_from("abc"), st.floats(-1, 1, allow_nan=False)), min_size=1, max_size=50)


@given(rows, st.sampled_from(KINDS), st.integers(1, 7), st.integers(0, 3), st.randoms(use_true_random=False))
def test_an_order_is_a_permutation_that_ignores_the_rows_order(
    rows: list, kind: str, levels: int, seed: int, random: object
) -> None:
    table = [(f"r{i}", score, lang) for i, (lang, score) in enumerate(rows)]
    ordered = order(*zip(*table, strict=True), kind=kind, levels=levels, seed=seed)
    assert sorted(ordered) == sorted(row[0] for row in table)
    random.shuffle(table)
    assert order(*zip(*table, strict=True), kind=kind, levels=levels, seed=seed) == ordered


def test_ascending_and_descending_follow_the_score() -> None:
    ids, scores, langs = ["a", "b", "c", "d"], [0.3, -0.5, 0.9, 0.0], ["x", "y", "x", "y"]
    assert order(ids, scores, langs, kind="ascending") == ["b", "d", "a", "c"]
    assert order(ids, scores, langs, kind="descending") == ["c", "a", "d", "b"]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_balanced_holds_every_language_and_level_in_every_window(seed: int) -> None:
    rng = np.random.default_rng(seed)
    langs = ["en"] * 200 + ["sw"] * 100 + ["th"] * 100
    ids, scores = [f"r{i}" for i in range(400)], rng.normal(size=400)
    ordered = order(ids, scores, langs, kind="balanced", levels=5, seed=seed)
    level = dict(zip(ids, quantile_levels(ids, scores, langs, levels=5), strict=True))
    lang = dict(zip(ids, langs, strict=True))
    for start in range(0, 400, 40):
        window = ordered[start : start + 40]
        for name, expected in (("en", 20), ("sw", 10), ("th", 10)):
            assert abs(Counter(lang[i] for i in window)[name] - expected) <= 5
        assert all(abs(count - 8) <= 3 for count in Counter(level[i] for i in window).values())


def test_levels_are_equal_shares_of_each_language() -> None:
    ids = [f"r{i}" for i in range(30)]
    langs = ["a"] * 20 + ["b"] * 10
    levels = quantile_levels(ids, np.arange(30.0), langs, levels=5)
    assert Counter(levels[:20]) == dict.fromkeys(range(5), 4)
    assert Counter(levels[20:]) == dict.fromkeys(range(5), 2)


def test_another_seed_gives_another_random_order() -> None:
    ids = [f"r{i}" for i in range(50)]
    first, second = (order(ids, [0.0] * 50, ["a"] * 50, kind="random", seed=seed) for seed in (0, 1))
    assert first != second
