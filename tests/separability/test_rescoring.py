"""Rescoring from the sums is scoring from scratch: subsets of languages, merged labels, one task at a time."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import silhouette_samples as sklearn_silhouette

from raysel.separability.rescoring import merge_columns, merging
from tests.separability.test_silhouette import clustered


def sums_of(X: np.ndarray, labels: np.ndarray, clusters: int) -> np.ndarray:
    distances = np.sqrt(((X[:, None] - X[None]) ** 2).sum(2))
    return distances @ (labels[:, None] == np.arange(clusters))


@given(st.integers(0, 1000), st.lists(st.sampled_from(["x", "y", "z", None]), min_size=6, max_size=6))
def test_any_merging_and_subset_equals_scoring_from_scratch(seed: int, names: list[str | None]) -> None:
    X, own = clustered(90, 5, 6, seed)
    merged = merging(names)
    kept = merged.of_cluster[own] >= 0
    labels = merged.of_cluster[own[kept]]
    if not 2 <= len(set(labels)) < kept.sum():
        return
    sizes = np.bincount(own, minlength=6)
    result = merged.score(sums_of(X, own, 6)[kept], own[kept], sizes)
    np.testing.assert_allclose(result.score, sklearn_silhouette(X[kept], labels), atol=1e-9)
    assert [merged.labels[k] for k in range(len(merged.labels))] == sorted({n for n in names if n})
    assert merged.sizes(sizes).sum() == kept.sum()


def test_a_sample_without_another_cluster_has_no_nearest_one() -> None:
    result = merging(["x", "x"]).score(np.ones((3, 2)), np.array([0, 0, 1]), np.array([2, 1]))
    assert (result.score == 0).all()
    assert np.isinf(result.b).all()


def test_columns_of_one_group_are_added() -> None:
    merged = merge_columns(np.array([[1.0, 2.0, 4.0]]), np.array([1, 0, 1]), 3)
    assert merged.tolist() == [[2.0, 5.0, 0.0]]
