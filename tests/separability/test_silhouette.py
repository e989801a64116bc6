"""Silhouette scores against scikit-learn's, and that their bits hang on nothing but the input."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import silhouette_samples as sklearn_silhouette

from raysel.separability import silhouette, silhouette_samples
from raysel.separability.blocks import CPU_TILE, make_block, moments, origin_of, runs_of
from raysel.separability.distance_sums import MOST_RUNS, block_sums
from raysel.separability.silhouette import silhouette_details

TOLERANCE = {np.float64: 1e-6, np.float32: 1e-5}


def clustered(rows: int, width: int, clusters: int, seed: int, spread: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(clusters, size=rows)
    labels[:clusters] = np.arange(clusters)
    return rng.normal(size=(clusters, width))[labels] * spread + rng.normal(size=(rows, width)), labels


def far_tight_clusters() -> tuple[np.ndarray, np.ndarray]:
    """Clusters a thousand times narrower than they are apart, in near pairs: the Gram form alone loses every digit."""
    rng = np.random.default_rng(9)
    labels = np.repeat(np.arange(8), 90)
    pairs = rng.normal(size=(4, 16)) * 1e3
    return pairs[labels // 2] + rng.normal(size=(8, 16))[labels] + 0.3 * rng.normal(size=(720, 16)), labels


def make_case(name: str) -> tuple[np.ndarray, np.ndarray]:
    X, labels = clustered(300, 24, 7, seed=1, spread=0.0 if name == "random" else 2.0)
    if name == "duplicated":
        X = np.concatenate([X[:100], X[:100], X[:100]])
        labels = np.concatenate([labels[:100], labels[:100], labels[50:100], labels[:50]])
    elif name == "shifted":
        X = X + 1e4
    elif name == "tiny-spread":
        X = X * 1e-6
    elif name == "shifted-tiny-spread":
        X = X * 1e-6 + 1e-3
    elif name == "tight":
        X, labels = far_tight_clusters()
    elif name == "far-outlier":
        X[3] += 1e6
    elif name == "fine-detail":
        X = np.array([[0, 1e-6, 2e-6, 3e-6, 1e-4, 1.01e-4, 1.02e-4, 1.03e-4, 1e6]]).T
        labels = np.array([0, 0, 0, 0, 1, 1, 1, 1, 2])
    elif name == "groups-of-duplicates":
        X, labels = np.repeat(X[:12], 25, axis=0), labels[:300]
    elif name == "singletons":
        labels[:5] = np.arange(100, 105)
    elif name == "tiny":
        X, labels = X[:3], np.array([0, 0, 1])
    elif name == "one-dimensional":
        X = X[:, :1]
    elif name == "over-two-tiles":
        X, labels = clustered(2 * CPU_TILE + 77, 8, 5, seed=2)
    elif name == "many-clusters":
        X, labels = clustered(CPU_TILE + 300, 8, 10 * MOST_RUNS, seed=3)
    return X, labels


CASES = [
    *("random", "clustered", "duplicated", "shifted", "tiny-spread", "shifted-tiny-spread", "tight", "singletons"),
    *(
        "far-outlier",
        "fine-detail",
        "groups-of-duplicates",
        "tiny",
        "one-dimensional",
        "over-two-tiles",
        "many-clusters",
    ),
]


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("metric", ["euclidean", "sqeuclidean", "cosine"])
@pytest.mark.parametrize("case", CASES)
def test_agrees_with_scikit_learn(case: str, metric: str, dtype: type) -> None:
    X, labels = make_case(case)
    X = X.astype(dtype)
    # The oracle works in float64 throughout: scikit-learn itself loses digits on float32 input.
    expected = sklearn_silhouette(X.astype(np.float64), labels, metric=metric)
    np.testing.assert_allclose(silhouette_samples(X, labels, metric=metric), expected, atol=TOLERANCE[dtype], rtol=0)


@pytest.mark.parametrize(
    ("precision", "tolerance"), [("float32", 1e-6), ("tf32x3", 1e-6), ("bf16x3", 1e-5), ("tf32", 1e-3)]
)
def test_every_precision_is_as_close_as_it_says(precision: str, tolerance: float) -> None:
    X, labels = clustered(700, 96, 9, seed=6)
    expected = sklearn_silhouette(X.astype(np.float32).astype(np.float64), labels)
    error = np.abs(silhouette_samples(X.astype(np.float32), labels, precision=precision) - expected).max()
    assert error < tolerance
    if precision in ("bf16x3", "tf32"):
        assert error > 1e-8, "the precision was not lowered"


@given(st.integers(0, 10_000), st.floats(-2, 0.3))
def test_clusters_of_any_tightness_keep_their_digits(seed: int, tightness: float) -> None:
    rng = np.random.default_rng(seed)
    group = np.arange(60) % 4
    X = rng.normal(size=(4, 256))[group] + 10**tightness * rng.normal(size=(60, 256))
    X, labels = X.astype(np.float32), group * 2 + rng.integers(0, 2, 60)
    expected = sklearn_silhouette(X.astype(np.float64), labels)
    np.testing.assert_allclose(silhouette_samples(X, labels), expected, atol=1e-5, rtol=0)


SCALES = [(1e-40, "f4"), (1e30, "f4"), (5e37, "f4"), (1e-310, "f8"), (1e305, "f8")]


@pytest.mark.parametrize(("factor", "dtype"), SCALES)
@pytest.mark.parametrize("metric", ["euclidean", "sqeuclidean", "cosine"])
def test_scores_do_not_depend_on_the_scale(factor: float, dtype: str, metric: str) -> None:
    X, labels = clustered(60, 5, 3, seed=12)
    expected = sklearn_silhouette(X, labels, metric=metric)
    scores = silhouette_samples((X * factor).astype(dtype), labels, metric=metric)
    np.testing.assert_allclose(scores, expected, atol=1e-5)


def test_rows_of_one_direction_are_at_cosine_distance_zero() -> None:
    X = np.outer([1.0, 2.0, 7.3, 0.1, 5.0, 9.0], [1.0, 2.0, 3.0])
    assert (silhouette_samples(X, list("010122"), metric="cosine") == 0).all()


def test_what_the_caller_computes_in_changes_nothing() -> None:
    X, labels = clustered(300, 64, 4, seed=13)
    rows = torch.from_numpy(X).float().requires_grad_()
    expected = silhouette_samples(rows, labels)
    with torch.autocast("cpu", torch.bfloat16):
        assert (silhouette_samples(rows, labels) == expected).all()


def test_any_layout_of_numbers_is_taken() -> None:
    X, labels = clustered(60, 5, 3, seed=14)
    expected = silhouette_samples(X, labels)
    frozen = X.copy()
    frozen.flags.writeable = False
    layouts = [X[::-1].copy()[::-1], X.astype(">f8"), X.astype(np.longdouble), X.astype(object), X.tolist(), frozen]
    for rows in (*layouts, X.T.copy().T):
        np.testing.assert_allclose(silhouette_samples(rows, labels), expected, atol=1e-12)


def test_singletons_score_zero_and_labels_may_be_anything_hashable() -> None:
    X, numbers = clustered(50, 6, 4, seed=3)
    labels = [("lang", int(n)) if i else "alone" for i, n in enumerate(numbers)]
    scores = silhouette_samples(X, labels)
    assert scores[0] == 0
    codes = {label: i for i, label in enumerate(dict.fromkeys(labels))}
    expected = sklearn_silhouette(X, [codes[label] for label in labels])
    np.testing.assert_allclose(scores, expected, atol=1e-6)


def test_half_precision_integers_and_torch_tensors_are_taken_and_left_alone() -> None:
    X, labels = clustered(60, 8, 3, seed=4)
    for rows in (torch.from_numpy(X).half(), torch.from_numpy(X), (X * 100).astype(np.int64), X.astype(np.float32)):
        before = rows.clone() if isinstance(rows, torch.Tensor) else rows.copy()
        expected = sklearn_silhouette(np.asarray(rows, dtype=np.float64), labels)
        np.testing.assert_allclose(silhouette_samples(rows, labels), expected, atol=1e-5)
        assert (rows == before).all()


def test_a_b_and_the_nearest_cluster_are_those_of_the_definition() -> None:
    X, labels = clustered(120, 7, 4, seed=8)
    distances = np.sqrt(((X[:, None] - X[None]) ** 2).sum(2))
    means = np.stack([distances[:, labels == k].sum(1) / (labels == k).sum() for k in range(4)], 1)
    a = np.array([distances[i, labels == k].sum() / ((labels == k).sum() - 1) for i, k in enumerate(labels)])
    means[np.arange(120), labels] = np.inf
    details = silhouette_details(X, labels)
    np.testing.assert_allclose(details.a, a, rtol=1e-12)
    np.testing.assert_allclose(details.b, means.min(1), rtol=1e-12)
    np.testing.assert_array_equal(details.nearest, means.argmin(1))


def test_identical_rows_are_at_distance_zero() -> None:
    X = np.tile(np.random.default_rng(0).normal(size=(1, 40)) * 1e3, (8, 1)).astype(np.float32)
    X[4:] += 1
    details = silhouette_details(X, [0] * 4 + [1] * 4)
    assert (details.a == 0).all()
    assert (details.score == 1).all()
    assert (silhouette_samples(np.ones((6, 3)), [0, 0, 0, 1, 1, 1]) == 0).all()


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_the_bits_are_the_same_on_any_number_of_threads(dtype: type) -> None:
    X, labels = clustered(2500, 40, 13, seed=7)
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 3, 7):
            torch.set_num_threads(threads)
            found.append(silhouette_samples(X.astype(dtype), labels).tobytes())
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert len(set(found)) == 1


def test_many_blocks_give_what_one_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    X, labels = clustered(1500, 33, 6, seed=11)
    whole = silhouette_samples(X, labels)
    monkeypatch.setattr(silhouette, "BLOCK_BYTES", 40_000)
    np.testing.assert_allclose(silhouette_samples(X, labels), whole, atol=1e-12)


@pytest.mark.parametrize(
    ("X", "labels", "found"),
    [
        (np.zeros((4, 2)), [0, 0, 0, 0], "1 clusters"),
        (np.zeros((4, 2)), [0, 1, 2, 3], "4 clusters"),
        (np.full((4, 2), np.nan), [0, 0, 1, 1], "NaN"),
        (np.array([[0.0], [np.inf], [1.0], [-np.inf]]), [0, 0, 1, 1], "infinity"),
        (np.zeros((4, 2)), [0, 1], "labels"),
        (np.zeros(4), [0, 0, 1, 1], "shape"),
        (np.zeros((4, 2)), 3, "labels must be"),
        (np.zeros((4, 2)), np.zeros((4, 1)), "labels of shape"),
        (np.zeros((4, 2)), [0, 0, [1], 1], "hashable"),
        (np.zeros((4, 2)), [0, 0, float("nan"), 1], "label is NaN"),
        (np.zeros((4, 2), dtype=complex), [0, 0, 1, 1], "complex"),
        ([["a", "b"]] * 4, [0, 0, 1, 1], "no number"),
    ],
)
@pytest.mark.parametrize("metric", ["euclidean", "sqeuclidean", "cosine"])
def test_unusable_input_is_refused(X: np.ndarray, labels: list[int], found: str, metric: str) -> None:
    with pytest.raises(ValueError, match=found):
        silhouette_samples(X, labels, metric=metric)


def test_unknown_metric_is_refused() -> None:
    with pytest.raises(ValueError, match="manhattan"):
        silhouette_samples(np.eye(4), [0, 0, 1, 1], metric="manhattan")


def test_a_block_must_be_sorted_by_cell() -> None:
    X = torch.zeros(3, 2, dtype=torch.float64)
    with pytest.raises(ValueError, match="not sorted"):
        make_block(X, np.arange(3), np.array([1, 0, 1]), origin_of(moments(X), 3))


@settings(max_examples=30)
@given(seed=st.integers(0, 10_000), rows=st.integers(6, 60), clusters=st.integers(2, 5), cut=st.floats(0.1, 0.9))
def test_blocks_add_up_to_the_whole(seed: int, rows: int, clusters: int, cut: float) -> None:
    X, labels = clustered(rows, 5, clusters, seed)
    labels, rows_of = np.sort(labels), torch.from_numpy(X)
    origin = origin_of(moments(rows_of), rows)
    whole = np.zeros((rows, clusters))
    block = make_block(rows_of, np.arange(rows), labels, origin, tile=7)
    whole[:, block.cells] = block_sums(block)[0]
    middle = max(1, int(rows * cut))
    x, y = (
        make_block(rows_of, np.arange(rows)[part], labels[part], origin, tile=7)
        for part in (slice(middle), slice(middle, None))
    )
    added = np.zeros((rows, clusters))
    added[:middle, x.cells] += block_sums(x)[0]
    added[middle:, y.cells] += block_sums(y)[0]
    forth, back = block_sums(x, y, threads=2)
    added[:middle, y.cells] += forth
    added[middle:, x.cells] += back
    np.testing.assert_allclose(added, whole, atol=1e-9)
    distances = torch.cdist(rows_of, rows_of).numpy() / origin.scale
    members = labels[:, None] == np.arange(clusters)
    np.testing.assert_allclose(whole, distances @ members, atol=1e-6)


@given(st.lists(st.integers(0, 6), min_size=1, max_size=40), st.integers(1, 12))
def test_runs_are_the_cells_of_each_tile(cells: list[int], tile: int) -> None:
    cells.sort()
    present, starts = np.unique(cells, return_index=True)
    found = runs_of(np.append(starts, len(cells)), tile)
    for number, runs in enumerate(found):
        rows = cells[number * tile : (number + 1) * tile]
        expected = [(cell, len(list(members))) for cell, members in itertools.groupby(rows)]
        assert [(present[runs.first + k], b - a) for k, (a, b) in enumerate(runs.rows)] == expected
        assert (runs.rows[0][0], runs.rows[-1][1]) == (0, len(rows))
    assert len(found) == -(-len(cells) // tile)
