"""Mean pairwise similarity against the matrix of all pairs."""

import numpy as np
import pytest
from sklearn.metrics.pairwise import cosine_similarity

from raysel.separability.similarity import PairwiseSimilarity


def test_the_mean_of_all_pairs_without_a_pair() -> None:
    rng = np.random.default_rng(0)
    X = (rng.normal(size=(50, 6)) + 1).astype(np.float16)
    groups = rng.integers(3, size=50)
    similarity = PairwiseSimilarity(range(4), 6)
    for part in (slice(0, 20), slice(20, 50)):
        similarity.add(groups[part], X[part])
    for group in range(3):
        pairs = cosine_similarity(X[groups == group].astype(np.float64))
        assert similarity.mean(group) == pytest.approx(pairs[np.triu_indices(len(pairs), 1)].mean())
    assert similarity.mean(3) is None


def test_zero_vectors_are_left_out() -> None:
    similarity = PairwiseSimilarity(["x"], 2)
    similarity.add(["x"] * 3, np.array([[0.0, 0.0], [2.0, 0.0], [5.0, 0.0]]))
    assert similarity.mean("x") == pytest.approx(1)
