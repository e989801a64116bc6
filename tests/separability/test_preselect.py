"""The pool: the published arithmetic, and what must hold for every corpus."""

from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raysel.separability.preselect import LENGTH_BINS, Band, PoolError, pool_sizes, preselect, refuse_small_pool

BANDS = get_args(Band)


@pytest.mark.parametrize(("percent", "chosen"), [(20, 19_539), (10, 9_770), (1, 977)])
def test_published_sizes(percent: int, chosen: int) -> None:
    rows = {f"l{i:02d}": 97_696 // 31 + (i < 97_696 % 31) * 1 for i in range(31)}
    assert sum(rows.values()) == 97_696
    assert sum(pool_sizes(rows, rho=percent / 100).values()) == chosen


@given(
    st.dictionaries(st.integers(0, 60).map(lambda i: f"l{i:02d}"), st.integers(1, 40), min_size=1, max_size=50),
    st.floats(0.001, 1),
)
def test_no_language_gives_more_than_it_has_or_less_than_nothing(rows: dict[str, int], rho: float) -> None:
    sizes = pool_sizes(rows, rho=rho)
    assert sum(sizes.values()) == round(sum(rows.values()) * rho)
    assert all(0 <= sizes[lang] <= rows[lang] for lang in rows)


samples = st.lists(st.tuples(st.sampled_from("abcd"), st.floats(-1, 1, allow_nan=False)), min_size=1, max_size=60)


@given(samples, st.floats(0.01, 1), st.integers(0, 5))
def test_every_band_takes_the_same_number_of_each_language(rows: list, rho: float, seed: int) -> None:
    ids = [f"r{i}" for i in range(len(rows))]
    langs, scores = [row[0] for row in rows], [row[1] for row in rows]
    taken = {}
    lengths = [len(row[0]) + int(10 * row[1]) for row in rows]
    known = [None if lang == "a" else (1 + score) / 2 for lang, score in rows]
    for band in BANDS:
        beside = {"lengths": lengths, "label_probabilities": known}
        chosen = preselect(ids, langs, scores, rho=rho, band=band, seed=seed, **beside)
        assert len(set(chosen)) == len(chosen)
        taken[band] = sorted(langs[ids.index(i)] for i in chosen)
    assert all(of_band == taken["high"] for of_band in taken.values())
    assert len(taken["high"]) == round(len(rows) * rho)


@given(samples, st.randoms(use_true_random=False))
def test_the_order_of_the_rows_does_not_matter(rows: list, random: object) -> None:
    ids = [f"r{i}" for i in range(len(rows))]
    table = [(identity, lang, score) for identity, (lang, score) in zip(ids, rows, strict=True)]
    shuffled = table.copy()
    random.shuffle(shuffled)
    for band in BANDS:
        chosen = []
        for rows_in_order in (table, shuffled):
            columns = [list(column) for column in zip(*rows_in_order, strict=True)]
            beside = {"lengths": [len(i) for i in columns[0]], "label_probabilities": [abs(s) for s in columns[2]]}
            chosen.append(preselect(*columns, rho=0.4, band=band, **beside))
        assert chosen[0] == chosen[1]


def test_high_takes_the_highest_and_no_quota_takes_nothing() -> None:
    ids, langs = list("abcdefg"), ["x"] * 6 + ["y"]
    scores = [0.1, 0.5, 0.3, -0.2, 0.9, 0.0, 0.99]
    assert preselect(ids, langs, scores, rho=0.34) == ["e", "b"]
    assert preselect(ids, langs, scores, rho=0.34, band="low") == ["d", "f"]


@pytest.mark.parametrize("rho", [0, 1.5, -1])
def test_rho_outside_its_bounds_is_refused(rho: float) -> None:
    with pytest.raises(ValueError, match="rho"):
        preselect(["a"], ["x"], [0.0], rho=rho)


def test_middle_leaves_as_many_above_as_below() -> None:
    ids = list("abcdefg")
    scores = [0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1]
    assert preselect(ids, ["x"] * 7, scores, size=3, band="middle") == ["c", "d", "e"]


def test_permuted_scores_say_nothing_about_the_true_ones() -> None:
    ids, scores = [f"{i:04d}" for i in range(2000)], np.linspace(-1, 1, 2000)
    langs = ["x"] * 1000 + ["y"] * 1000
    chosen = preselect(ids, langs, scores, rho=0.2, band="permuted", seed=1)
    assert abs(np.mean([scores[int(i)] for i in chosen])) < 0.1
    assert chosen != preselect(ids, langs, scores, rho=0.2, band="permuted", seed=2)
    # The scores stay within their language: the best of y still come before the best of x.
    assert {langs[int(i)] for i in chosen[:100]} == {"y"}


def test_length_matched_rows_are_as_long_as_the_high_ones_and_else_random() -> None:
    rng = np.random.default_rng(0)
    lengths = rng.integers(5, 500, size=3000).tolist()
    scores = np.array(lengths) / 500 + rng.normal(scale=0.3, size=3000)
    ids, langs = [f"{i:04d}" for i in range(3000)], ["x"] * 3000
    high, matched, drawn = (
        [int(i) for i in preselect(ids, langs, scores, rho=0.2, band=band, lengths=lengths)]
        for band in ("high", "length_matched", "random")
    )
    place = {row: k for k, row in enumerate(sorted(range(3000), key=lambda i: (lengths[i], ids[i])))}
    bins = [sorted(place[row] * LENGTH_BINS // 3000 for row in rows) for rows in (high, matched)]
    assert bins[0] == bins[1]
    mean = [np.mean([lengths[i] for i in rows]) for rows in (high, matched, drawn)]
    assert abs(mean[0] - mean[1]) < 5 < abs(mean[0] - mean[2])
    assert len(set(high) & set(matched)) < 0.6 * len(high)


def test_lid_clean_takes_the_surest_and_draws_where_nothing_is_known() -> None:
    ids, langs = [f"{i:02d}" for i in range(40)], ["x"] * 20 + ["y"] * 20
    known = [*(i / 20 for i in range(20)), *[None] * 20]
    chosen = preselect(ids, langs, [0.0] * 40, rho=0.25, band="lid_clean", label_probabilities=known)
    assert chosen[:5] == ["19", "18", "17", "16", "15"]
    drawn = preselect(ids, langs, [0.0] * 40, rho=0.25, band="random")
    assert chosen[5:] == [identity for identity in drawn if identity >= "20"]
    # A row of which nothing is known comes after every other one, however little sure that one is.
    one_known = preselect(["a", "b"], ["x"] * 2, [0.0] * 2, size=2, band="lid_clean", label_probabilities=[None, 0.0])
    assert one_known == ["b", "a"]


def test_a_band_needs_what_it_ranks_by_and_a_name() -> None:
    with pytest.raises(ValueError, match="label probability of every row"):
        preselect(["a"], ["x"], [0.0], rho=1, band="lid_clean")
    with pytest.raises(ValueError, match="length of every row"):
        preselect(["a"], ["x"], [0.0], rho=1, band="length_matched")
    with pytest.raises(ValueError, match="band 'best': choose high, low"):
        preselect(["a"], ["x"], [0.0], rho=1, band="best")


rows_by_language = st.dictionaries(st.sampled_from("abcdefgh"), st.integers(1, 50), min_size=1)


@given(rows_by_language, st.data())
def test_a_size_is_shared_out_by_largest_remainder(rows: dict[str, int], data: st.DataObject) -> None:
    total = sum(rows.values())
    size = data.draw(st.integers(1, total))
    sizes = pool_sizes(rows, size=size)
    assert sum(sizes.values()) == size
    assert all(abs(sizes[lang] - size * rows[lang] / total) < 1 for lang in rows)
    assert all(sizes[lang] <= rows[lang] for lang in rows)


@given(rows_by_language, st.floats(0.05, 1), st.integers(0, 20))
def test_a_minimum_is_taken_off_the_largest(rows: dict[str, int], rho: float, minimum: int) -> None:
    plain = pool_sizes(rows, rho=rho)
    least = {lang: min(minimum, rows[lang]) for lang in rows}
    if sum(least.values()) > sum(plain.values()):
        with pytest.raises(PoolError, match="minimum"):
            pool_sizes(rows, rho=rho, minimum=minimum)
        return
    sizes = pool_sizes(rows, rho=rho, minimum=minimum)
    assert sum(sizes.values()) == sum(plain.values())
    assert all(least[lang] <= sizes[lang] <= rows[lang] for lang in rows)
    lowered = [sizes[lang] for lang in rows if sizes[lang] < plain[lang]]
    untouched = [sizes[lang] for lang in rows if least[lang] < sizes[lang] == plain[lang]]
    assert not lowered or not untouched or max(untouched) <= min(lowered) + 1


def test_a_size_beyond_the_rows_and_two_budgets_are_refused() -> None:
    with pytest.raises(PoolError, match="11 rows cannot be taken: there are 10"):
        pool_sizes({"a": 10}, size=11)
    for both in ({}, {"rho": 0.5, "size": 3}):
        with pytest.raises(ValueError, match="either rho"):
            pool_sizes({"a": 10}, **both)


def test_a_pool_below_its_quota_is_refused_with_the_arithmetic() -> None:
    quota, pool, rows = {"sw": 21, "en": 5}, {"sw": 20, "en": 20}, {"sw": 100, "en": 100}
    with pytest.raises(PoolError, match=r"sw: round\(100 rows x rho 0.2\) = 20 in the pool, quota 21") as caught:
        refuse_small_pool(quota, pool, rows, rho=0.2)
    assert "preselect.rho (0.21 is enough)" in str(caught.value)
    with pytest.raises(PoolError, match=r"sw: 20 of 100 rows in the pool, quota 21\nraise preselect.size"):
        refuse_small_pool(quota, pool, rows)
    refuse_small_pool({"sw": 20}, {"sw": 20}, {"sw": 100}, rho=0.2)
    rows = {"a": 1000, "b": 10, "c": 10}
    with pytest.raises(PoolError, match=r"= 200, settled to 184, in the pool, quota 190") as caught:
        refuse_small_pool({"a": 190}, pool_sizes(rows, rho=0.2, minimum=10), rows, rho=0.2, minimum=10)
    assert "(0.21 is enough)" in str(caught.value)


def test_scores_that_are_no_number_and_ids_that_are_not_unique_are_refused() -> None:
    with pytest.raises(ValueError, match="NaN"):
        preselect(["a", "b"], ["x", "x"], [0.1, float("nan")], rho=0.5)
    with pytest.raises(ValueError, match="1 ids occur more than once"):
        preselect(["a", "a"], ["x", "x"], [0.1, 0.2], rho=0.5)
