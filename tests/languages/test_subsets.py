"""The mathematics of language subsets, on made features."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from raysel.languages.layout import coordinates, principal_components
from raysel.languages.subsets import (
    SubsetError,
    evenly_spread,
    jaccard,
    joined,
    nearest_to_centroids,
    one_of_each_family,
    ranked,
)


def made(rows: int, seed: int, width: int = 5) -> NDArray[np.float64]:
    return np.random.default_rng(seed).normal(size=(rows, width))


@given(st.integers(1, 24), st.integers(0, 2**32 - 1), st.data())
@settings(max_examples=40)
def test_each_cluster_gives_one_of_its_members(rows: int, seed: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, rows))
    found = nearest_to_centroids(made(rows, seed), k, seed=seed)
    assert len(found.chosen) == len(set(found.chosen)) == k
    assert found.chosen == sorted(set(found.of.tolist()))
    assert all(found.of[row] == row for row in found.chosen)
    if k == rows:
        assert found.chosen == list(range(rows))


def test_of_two_equally_near_members_the_first_row_is_taken() -> None:
    pairs = np.array([[0.0, 0.1], [0.1, 0.0], [9.0, 9.3], [9.7, 9.1]])
    assert nearest_to_centroids(pairs, 2, seed=66).chosen == [0, 2]
    order = [1, 3, 2, 0]
    assert [order[row] for row in nearest_to_centroids(pairs[order], 2, seed=66).chosen] == [1, 3]


def test_more_clusters_than_different_features_are_refused() -> None:
    features = np.repeat(made(3, 0), [4, 1, 1], axis=0)
    with pytest.raises(SubsetError, match="k 4 is more than the 3 different feature vectors that the 6 candidates"):
        nearest_to_centroids(features, 4, seed=0)
    assert len(nearest_to_centroids(features, 3, seed=0).chosen) == 3
    assert nearest_to_centroids(features, 6, seed=0).chosen == list(range(6))


@given(st.integers(2, 12), st.integers(0, 99), st.floats(0.1, 9), st.floats(0.1, 9))
@settings(max_examples=30)
def test_a_groups_weight_is_its_mean_squared_distance(rows: int, seed: int, first: float, second: float) -> None:
    groups = {"a": made(rows, seed, 3) * 50 + 7, "b": made(rows, seed + 1, 40), "same": np.ones((rows, 4))}
    features = joined(groups, {"a": first, "b": second, "same": 5.0})
    assert features.shape == (rows, 47)
    for part, weight in ((features[:, :3], first), (features[:, 3:43], second), (features[:, 43:], 0.0)):
        squares = ((part[:, None] - part[None]) ** 2).sum(axis=2)
        assert squares.mean() == pytest.approx(weight)


@given(st.lists(st.sampled_from("abcdef"), min_size=1, max_size=30), st.integers(0, 2**32 - 1), st.data())
@settings(max_examples=50)
def test_families_are_drawn_as_pandas_would(families: list[str], seed: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, len(set(families))))
    frame = pd.DataFrame({"family": families}).sample(frac=1, random_state=seed).drop_duplicates("family").head(k)
    assert one_of_each_family(families, k, seed=seed) == frame.index.tolist()


def test_more_languages_than_families_are_refused() -> None:
    with pytest.raises(SubsetError, match="k 3 is more than the 2 families that the 4 candidates"):
        one_of_each_family(["x", "y", "x", "y"], 3, seed=0)


@given(st.integers(1, 60), st.data())
def test_a_spread_reaches_both_ends_in_even_steps(length: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, length))
    places = evenly_spread(length, k)
    assert len(set(places)) == k
    assert set(places) <= set(range(length))
    if k > 1:
        assert (places[0], places[-1]) == (0, length - 1)
        assert np.ptp(np.diff(places)) <= 1


def test_ranks_and_overlaps() -> None:
    amounts = {"sw": 3.0, "en": 9.0, "th": 3.0}
    assert ranked(amounts) == ["en", "sw", "th"]
    assert ranked(amounts, falling=False) == ["sw", "th", "en"]
    assert jaccard(["a", "b", "c"], ["b", "c", "d"]) == 0.5
    assert jaccard([], []) == 1.0


@given(st.lists(st.tuples(st.floats(-85, 85), st.floats(-179, 179)), min_size=1, max_size=8))
def test_places_come_back_from_their_distances(places: list[tuple[float, float]]) -> None:
    known = np.array([[90, 0], [0, 0], [0, 90], [-45, 200], [10, -100]])

    def unit(points: NDArray[np.float64]) -> NDArray[np.float64]:
        latitude, longitude = np.radians(points).T
        east = np.cos(latitude)
        return np.column_stack([east * np.cos(longitude), east * np.sin(longitude), np.sin(latitude)])

    distances = np.arccos(np.clip(unit(np.array(places)) @ unit(known).T, -1, 1)) / np.pi
    np.testing.assert_allclose(coordinates(distances, known), places, atol=1e-4)


def test_components_are_those_of_the_covariance() -> None:
    features = made(40, 3, 6) * [5, 3, 1, 1, 1, 1]
    points, shares = principal_components(features)
    variances, vectors = np.linalg.eigh(np.cov(features.T))
    assert shares == pytest.approx(tuple(variances[::-1][:2] / variances.sum()))
    projected = (features - features.mean(axis=0)) @ vectors[:, ::-1][:, :2]
    np.testing.assert_allclose(np.abs(points), np.abs(projected) / np.abs(projected).max(), atol=1e-4)
    same, none = principal_components(np.ones((1, 3)))
    assert same.tolist() == [[0.0, 0.0]]
    assert none == (0.0, 0.0)
