"""Silhouette scores against scikit-learn's, and the properties that rescoring relies on."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import silhouette_samples as sklearn_silhouette

from raysel.separability import silhouette_samples
from raysel.separability.silhouette import TILE, block_sums, silhouette_details, silhouette_from_sums

TOLERANCE = {np.float64: 1e-6, np.float32: 1e-5}


def clustered(rows: int, width: int, clusters: int, seed: int, spread: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(clusters, size=rows)
    labels[:clusters] = np.arange(clusters)
    return rng.normal(size=(clusters, width))[labels] * spread + rng.normal(size=(rows, width)), labels


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("metric", ["euclidean", "sqeuclidean", "cosine"])
@pytest.mark.parametrize("case", ["random", "clustered", "duplicated", "shifted", "tiny-spread", "over-one-tile"])
def test_agrees_with_scikit_learn(case: str, metric: str, dtype: type) -> None:
    X, labels = clustered(300, 24, 7, seed=1, spread=0.0 if case == "random" else 2.0)
    if case == "duplicated":
        X = np.concatenate([X[:100], X[:100], X[:100]])
        labels = np.concatenate([labels[:100], labels[:100], labels[50:100], labels[:50]])
    elif case == "shifted":
        X = X + 1e4
    elif case == "tiny-spread":
        X = X * 1e-6
    elif case == "over-one-tile":
        X, labels = clustered(TILE + 77, 8, 5, seed=2)
    X = X.astype(dtype)
    # The oracle works in float64 throughout: scikit-learn itself loses digits on float32 input.
    expected = sklearn_silhouette(X.astype(np.float64), labels, metric=metric)
    np.testing.assert_allclose(silhouette_samples(X, labels, metric=metric), expected, atol=TOLERANCE[dtype], rtol=0)


def test_singletons_score_zero_and_labels_may_be_anything_hashable() -> None:
    X, numbers = clustered(50, 6, 4, seed=3)
    labels = [("lang", int(n)) if i else "alone" for i, n in enumerate(numbers)]
    scores = silhouette_samples(X, labels)
    assert scores[0] == 0
    codes = {label: i for i, label in enumerate(dict.fromkeys(labels))}
    expected = sklearn_silhouette(X, [codes[label] for label in labels])
    np.testing.assert_allclose(scores, expected, atol=1e-6)


def test_half_precision_and_torch_tensors_are_taken() -> None:
    X, labels = clustered(60, 8, 3, seed=4)
    half = torch.from_numpy(X).half()
    expected = sklearn_silhouette(half.double().numpy(), labels)
    np.testing.assert_allclose(silhouette_samples(half, labels), expected, atol=1e-5)


def test_identical_rows_are_at_distance_zero() -> None:
    X = np.tile(np.random.default_rng(0).normal(size=(1, 40)) * 1e3, (8, 1)).astype(np.float32)
    X[4:] += 1
    details = silhouette_details(X, [0] * 4 + [1] * 4)
    assert (details.a == 0).all()
    assert (details.score == 1).all()


@pytest.mark.parametrize(
    ("X", "labels", "found"),
    [
        (np.zeros((4, 2)), [0, 0, 0, 0], "1 clusters"),
        (np.zeros((4, 2)), [0, 1, 2, 3], "4 clusters"),
        (np.full((4, 2), np.nan), [0, 0, 1, 1], "NaN"),
        (np.zeros((4, 2)), [0, 1], "labels"),
        (np.zeros(4), [0, 0, 1, 1], "shape"),
    ],
)
def test_unusable_input_is_refused(X: np.ndarray, labels: list[int], found: str) -> None:
    with pytest.raises(ValueError, match=found):
        silhouette_samples(X, labels)


def test_unknown_metric_is_refused() -> None:
    with pytest.raises(ValueError, match="manhattan"):
        silhouette_samples(np.eye(4), [0, 0, 1, 1], metric="manhattan")


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), rows=st.integers(6, 60), clusters=st.integers(2, 5), cut=st.floats(0.1, 0.9))
def test_blocks_add_up_to_the_whole(seed: int, rows: int, clusters: int, cut: float) -> None:
    X, labels = clustered(rows, 5, clusters, seed)
    whole, _ = block_sums(torch.from_numpy(X), labels, clusters)
    middle = max(1, int(rows * cut))
    first, second = torch.from_numpy(X[:middle]), torch.from_numpy(X[middle:])
    one, two = labels[:middle], labels[middle:]
    across, back = block_sums(first, one, clusters, second, two)
    top = block_sums(first, one, clusters)[0] + across
    bottom = block_sums(second, two, clusters)[0] + back
    np.testing.assert_allclose(np.concatenate([top, bottom]), whole, atol=1e-9)


def test_a_subset_of_languages_is_rescored_from_the_same_sums() -> None:
    X, labels = clustered(200, 10, 6, seed=5)
    sums, _ = block_sums(torch.from_numpy(X), labels, 6)
    kept = np.isin(labels, [1, 3, 4])
    sizes = np.where(np.isin(np.arange(6), [1, 3, 4]), np.bincount(labels, minlength=6), 0)
    rescored = silhouette_from_sums(sums[kept], labels[kept], sizes)
    np.testing.assert_allclose(rescored.score, sklearn_silhouette(X[kept], labels[kept]), atol=1e-9)
    assert set(rescored.nearest) <= {1, 3, 4}
