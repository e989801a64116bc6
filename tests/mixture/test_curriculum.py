"""Orders of training: coverage, direction, balance in every window, independence of the rows' order."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raysel.mixture.curriculum import order, quantile_levels, queues

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


def made_rows(seed: int, count: int = 400) -> tuple[list[str], np.ndarray, list[str]]:
    langs = ["en"] * (count // 2) + ["sw"] * (count // 4) + ["th"] * (count // 4)
    return [f"r{i}" for i in range(count)], np.random.default_rng(seed).normal(size=count), langs


def test_shuffled_within_levels_ascending_goes_level_by_level() -> None:
    rows = made_rows(0)
    level = dict(zip(rows[0], quantile_levels(*rows, levels=4), strict=True))
    up = order(*rows, kind="ascending", levels=4, within_level="shuffled", seed=1)
    assert [level[i] for i in up] == sorted(level.values())
    down = order(*rows, kind="descending", levels=4, within_level="shuffled", seed=1)
    assert [level[i] for i in down] == sorted(level.values(), reverse=True)
    score = dict(zip(rows[0], rows[1], strict=True))
    assert [score[i] for i in up] != sorted(score.values())


def test_balanced_and_sorted_within_a_level() -> None:
    ids, scores, langs = made_rows(0)
    score, lang = dict(zip(ids, scores, strict=True)), dict(zip(ids, langs, strict=True))
    level = dict(zip(ids, quantile_levels(ids, scores, langs, levels=5), strict=True))
    ordered = order(ids, scores, langs, kind="balanced", levels=5, within_level="sorted")
    for cell in {(lang[i], level[i]) for i in ids}:
        own = [score[i] for i in ordered if (lang[i], level[i]) == cell]
        assert own == sorted(own)


@given(rows, st.integers(0, 3), st.sampled_from([0.0, 0.1, 0.25, 0.5]), st.permutations(range(4)))
def test_stages_hold_every_row_once(rows: list, seed: int, mix_in: float, levels: list[int]) -> None:
    table = [(f"r{i}", score, lang) for i, (lang, score) in enumerate(rows)]
    stages = [levels[:1], levels[1:3], levels[3:]]
    columns = [list(column) for column in zip(*table, strict=True)]
    ordered = order(*columns, kind="staged", levels=4, stages=stages, mix_in=mix_in, seed=seed)
    assert sorted(ordered) == sorted(columns[0])


@pytest.mark.parametrize("mix_in", [0.0, 0.2])
def test_a_stage_has_its_levels_and_the_share_that_is_mixed_in(mix_in: float) -> None:
    ids, scores, langs = made_rows(3)
    level = dict(zip(ids, quantile_levels(ids, scores, langs, levels=4), strict=True))
    lang = dict(zip(ids, langs, strict=True))
    ordered = order(ids, scores, langs, kind="staged", levels=4, stages=[[3], [1, 2], [0]], mix_in=mix_in, seed=0)
    for start, end, own in ((0, 100, {3}), (100, 300, {1, 2}), (300, 400, {0})):
        stretch = ordered[start:end]
        foreign = [level[i] for i in stretch if level[i] not in own]
        # Of what is mixed in, the stage's own levels have their part.
        expected = mix_in * (end - start) * (1 - len(own) / 4)
        assert abs(len(foreign) - expected) <= 3
        assert mix_in == 0 or set(foreign) == set(range(4)) - own
        assert abs(Counter(lang[i] for i in stretch)["en"] - (end - start) / 2) <= 4


def test_stages_name_each_level_once() -> None:
    ids, scores, langs = made_rows(0, 40)
    each = order(ids, scores, langs, kind="staged", levels=3, stages=[[0], [1], [2]])
    assert order(ids, scores, langs, kind="staged", levels=3) == each
    with pytest.raises(ValueError, match=r"stages name the levels \[0, 1, 1\]"):
        order(ids, scores, langs, kind="staged", levels=3, stages=[[0, 1], [1]])


def test_what_has_no_order_beforehand_is_refused() -> None:
    with pytest.raises(ValueError, match="'loss_aware' has no order beforehand"):
        order(["a"], [0.1], ["en"], kind="loss_aware")


def test_queues_hold_the_languages_in_proportion() -> None:
    ids, scores, langs = made_rows(1)
    lang = dict(zip(ids, langs, strict=True))
    found = queues(ids, scores, langs, levels=5, seed=0)
    assert sorted(i for queue in found for i in queue) == sorted(ids)
    level = dict(zip(ids, quantile_levels(ids, scores, langs, levels=5), strict=True))
    for number, queue in enumerate(found):
        assert {level[i] for i in queue} == {number}
        for start in range(0, 80, 20):
            assert abs(Counter(lang[i] for i in queue[start : start + 20])["en"] - 10) <= 2
