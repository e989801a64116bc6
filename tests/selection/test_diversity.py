"""Diversity against brute force: every pair of cosines, every draw of n-grams, every distance."""

from collections import Counter
from itertools import combinations, pairwise
from math import comb
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import pairwise_distances
from sklearn.metrics.pairwise import cosine_similarity

from raysel.selection import dsir
from raysel.selection.diversity import distances_to_nearest, distinct_share, mean_over, ngrams_by_order
from raysel.separability.similarity import PairwiseSimilarity

NGRAMS = st.lists(st.integers(0, 5), min_size=1, max_size=12)
VECTORS = arrays(np.float64, st.tuples(st.integers(2, 12), st.just(3)), elements=st.integers(-50, 50).map(float))


def similarity(vectors: np.ndarray) -> float | None:
    within = PairwiseSimilarity(["all"], vectors.shape[1])
    within.add(["all"] * len(vectors), vectors)
    return within.mean("all")


@given(NGRAMS, st.data())
def test_the_expected_share_is_the_mean_over_every_draw(ngrams: list[int], data: Any) -> None:
    size = data.draw(st.integers(1, len(ngrams)))
    drawn = [len({ngrams[at] for at in places}) for places in combinations(range(len(ngrams)), size)]
    assert distinct_share(np.array(ngrams), size) == pytest.approx(np.mean(drawn) / size, rel=1e-12)


def test_the_expected_share_of_many_is_that_of_whole_numbers() -> None:
    ngrams = np.random.default_rng(0).zipf(1.3, 3_000) % 500
    frequencies = Counter(Counter(ngrams.tolist()).values())
    missed = sum(kinds * comb(3_000 - count, 900) / comb(3_000, 900) for count, kinds in frequencies.items())
    expected = (len(set(ngrams.tolist())) - missed) / 900
    assert distinct_share(ngrams, 900) == pytest.approx(expected, rel=1e-9)


@given(NGRAMS)
def test_of_all_it_is_plain_distinct_n_and_falls_with_the_size(ngrams: list[int]) -> None:
    shares = [distinct_share(np.array(ngrams), size) for size in range(1, len(ngrams) + 1)]
    assert shares[0] == pytest.approx(1)
    assert shares[-1] == pytest.approx(len(set(ngrams)) / len(ngrams))
    assert all(later <= earlier + 1e-12 for earlier, later in pairwise(shares))
    assert distinct_share(np.array(ngrams[::-1]), len(ngrams)) == shares[-1]


@pytest.mark.parametrize("size", [0, 4])
def test_more_ngrams_than_there_are_cannot_be_drawn(size: int) -> None:
    with pytest.raises(ValueError, match=f"a share of {size} n-grams cannot be taken from 3"):
        distinct_share(np.array([1, 2, 3]), size)


def test_orders_of_ngrams_are_told_apart() -> None:
    texts = ["A rose is a rose", "", "Rose", "ดอกไม้ is"]
    one, two = ngrams_by_order(*dsir.hashed_ngrams(texts, buckets=1 << 32))
    words = [dsir.tokenize(text) for text in texts]
    assert len(one) == sum(map(len, words))
    assert len(np.unique(one)) == len({word for text in words for word in text})
    pairs = [pair for text in words for pair in pairwise(text)]
    assert (len(two), len(np.unique(two))) == (len(pairs), len(set(pairs)))
    nothing = ngrams_by_order(*dsir.hashed_ngrams([], buckets=1 << 32))
    assert [len(found) for found in nothing] == [0, 0]


def test_the_nearest_is_that_of_every_distance() -> None:
    rng = np.random.default_rng(0)
    rows, chosen = rng.normal(100, 1, (3_000, 7)), rng.normal(100, 1, (40, 7))
    expected = pairwise_distances(rows, chosen).min(axis=1)
    np.testing.assert_allclose(distances_to_nearest(rows, chosen), expected, rtol=1e-6)
    half = [distances_to_nearest(rows, part) for part in (chosen[:15], chosen[15:])]
    np.testing.assert_allclose(np.minimum(*half), expected, rtol=1e-6)
    for dtype, error in ((np.float32, 1e-4), (np.float16, 0.1)):
        few = distances_to_nearest(rows.astype(dtype), chosen.astype(dtype))
        np.testing.assert_allclose(few, expected, atol=error)
    assert distances_to_nearest(rows[:0], chosen).shape == (0,)


@settings(max_examples=25)
@given(VECTORS, st.randoms(use_true_random=False))
def test_coverage_falls_with_what_is_added_to_nothing(rows: np.ndarray, rng: Any) -> None:
    order = rng.sample(range(len(rows)), len(rows))
    means = [distances_to_nearest(rows, rows[order[:k]]).mean() for k in range(1, len(rows) + 1)]
    assert all(later <= earlier + 1e-5 for earlier, later in pairwise(means))
    assert means[-1] == 0
    again = distances_to_nearest(rows, rows[order[:2][::-1]]).mean()
    assert again == pytest.approx(means[1], abs=1e-5)


@given(VECTORS, st.randoms(use_true_random=False))
def test_similarity_is_the_mean_of_all_pairs(rows: np.ndarray, rng: Any) -> None:
    rows = rows + 200.0
    order = rng.sample(range(len(rows)), len(rows))
    pairs = cosine_similarity(rows)[np.triu_indices(len(rows), 1)]
    assert similarity(rows) == pytest.approx(pairs.mean(), abs=1e-9)
    assert similarity(rows[order]) == pytest.approx(pairs.mean(), abs=1e-9)


def test_the_same_row_again_and_again_is_no_diversity() -> None:
    assert similarity(np.full((9, 4), 3.0)) == pytest.approx(1)
    one, two = ngrams_by_order(*dsir.hashed_ngrams(["the same row"] * 9, buckets=1 << 32))
    assert (distinct_share(one, 27), distinct_share(two, 18)) == (pytest.approx(3 / 27), pytest.approx(2 / 18))


def test_a_mean_leaves_out_what_is_not_there() -> None:
    assert mean_over([0.5, None, 2.0, 9.0], [1, 5, 3, 0]) == pytest.approx(6.5 / 4)
    assert mean_over([None, 1.0], [2, 0]) is None
