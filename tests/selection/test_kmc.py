"""KMC and random selection: distinct members, the nearest to the centroids, seeded, whole or in shards."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits

from raysel.selection import kmc, random


def test_takes_one_member_of_each_clear_cluster() -> None:
    rng = np.random.default_rng(0)
    centres = np.array([[0.0, 0.0], [50.0, 0.0], [0.0, 50.0], [50.0, 50.0]])
    vectors = np.repeat(centres, 25, axis=0) + rng.normal(size=(100, 2))
    chosen = kmc.select(vectors, 4, seed=0)
    assert sorted(index // 25 for index in chosen) == [0, 1, 2, 3]
    for index in chosen:
        members = vectors[index // 25 * 25 : index // 25 * 25 + 25]
        gaps = np.linalg.norm(members - members.mean(0), axis=1)
        assert gaps[index % 25] == gaps.min()


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 30), st.data(), st.integers(0, 3))
def test_chosen_members_are_distinct_even_among_duplicates(n: int, data: st.DataObject, seed: int) -> None:
    k = data.draw(st.integers(0, n))
    vectors = np.random.default_rng(seed).integers(0, 2, size=(n, 2)).astype(float)
    chosen = kmc.select(vectors, k, seed=seed)
    assert len(set(chosen.tolist())) == k
    assert np.array_equal(chosen, kmc.select(vectors, k, seed=seed))


def test_the_order_and_distances_by_hand() -> None:
    # Two clusters around 1 and around 101.5; the middle of the first is a row, that of the second lies between two.
    vectors = np.array([[0.0], [1.0], [2.0], [100.0], [101.0], [102.0], [103.0]])
    chosen, distances = kmc.select_with_distances(vectors, 2, seed=0)
    assert chosen.tolist() == [1, 4]
    np.testing.assert_allclose(distances, [0, 0.5], atol=1e-12)


def test_none_and_all() -> None:
    vectors = np.array([[3.0], [1.0], [2.0]])
    for k in (0, 3):
        for chosen, distances in (
            kmc.select_with_distances(vectors, k, seed=0),
            kmc.select_by_quota(vectors, k, 2, seed=0),
        ):
            assert chosen.tolist() == list(range(k))
            assert distances.tolist() == [0.0] * k


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_rows_that_are_all_the_same_go_by_index(dtype: type) -> None:
    vectors = np.full((50, 3), 7.3, dtype=dtype)
    chosen, distances = kmc.select_with_distances(vectors, 20, seed=0)
    assert len(set(chosen.tolist())) == 20
    np.testing.assert_allclose(distances, 0, atol=1e-6)
    chosen, _ = kmc.select_by_quota(vectors, 20, 4, seed=0)
    assert len(set(chosen.tolist())) == 20


def test_duplicates_are_taken_only_once_every_other_row_has_been() -> None:
    # Three different rows and k = 4: one of them a second time.
    vectors = np.repeat([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]], [5, 2, 1], axis=0)
    chosen = kmc.select(vectors, 4, seed=0)
    assert len(set(chosen.tolist())) == 4
    assert {tuple(row) for row in vectors[chosen]} == {(0.0, 0.0), (10.0, 0.0), (0.0, 10.0)}


def test_many_rows_that_are_all_the_same_need_no_lists_for_each() -> None:
    tracemalloc.start()
    chosen, distances = kmc.select_with_distances(np.ones((50_000, 8), dtype=np.float32), 20_000, seed=0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert chosen.tolist() == list(range(20_000))
    assert not distances.any()
    # A list of candidates for each of the 20,000 would be 3 GB.
    assert peak < 2**26


def test_each_kind_of_row_gives_one_before_any_gives_another() -> None:
    rng = np.random.default_rng(0)
    kinds = rng.permutation(np.concatenate([np.arange(40), np.zeros(400, dtype=int)]))
    chosen = kmc.select(rng.normal(size=(40, 3))[kinds], 300, seed=0)
    assert len(set(chosen.tolist())) == 300
    assert set(kinds[chosen]) == set(range(40))


def test_many_centroids_beside_one_another_take_different_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kmc, "CANDIDATES", 1)
    vectors = np.random.default_rng(0).normal(size=(60, 2))
    chosen, distances = kmc.select_with_distances(vectors, 55, seed=0)
    assert len(set(chosen.tolist())) == 55
    assert (np.diff(distances) >= 0).all()


def test_vectors_far_from_the_origin_lose_nothing_in_single_precision() -> None:
    far = (np.random.default_rng(0).normal(size=(300, 4)) + 4096).astype(np.float32)
    exact = far.astype(np.float64)
    assert np.array_equal(kmc.nearest(far, exact[:12], 5)[0], kmc.nearest(exact, exact[:12], 5)[0])
    assert np.array_equal(kmc.partial_sums(far, exact[:12])[1], kmc.partial_sums(exact, exact[:12])[1])


@pytest.mark.parametrize("full", [kmc.FULL_KMEANS_DISTANCES, 0])
def test_the_number_of_threads_changes_nothing(full: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kmc, "FULL_KMEANS_DISTANCES", full)
    vectors = np.random.default_rng(0).normal(size=(3_000, 33)).astype(np.float32)
    found = []
    for threads in (1, 2, 3):
        with threadpool_limits(threads):
            found.append(
                [*kmc.select_with_distances(vectors, 40, seed=1), *kmc.select_by_quota(vectors, 40, 9, seed=1)]
            )
            found[-1] += [*kmc.partial_sums(vectors, vectors[:7]), *kmc.nearest(vectors, vectors[:7], 5)]
    for other in found[1:]:
        assert all(np.array_equal(one, two) for one, two in zip(found[0], other, strict=True))


@pytest.mark.parametrize(
    ("sizes", "k", "expected"),
    [
        ([60, 30, 10], 10, [6, 3, 1]),
        ([97, 1, 1, 1], 4, [1, 1, 1, 1]),
        ([97, 1, 1, 1], 10, [7, 1, 1, 1]),
        # What is left of the others' share would round to 0 in turn: 1 for the 15 as well.
        ([980, 15, 3, 2], 5, [2, 1, 1, 1]),
        ([50, 0, 50], 2, [1, 0, 1]),
        ([5, 90, 5], 1, [0, 1, 0]),
        ([3, 2], 5, [3, 2]),
        ([3, 2], 0, [0, 0]),
    ],
)
def test_quotas_by_hand(sizes: list[int], k: int, expected: list[int]) -> None:
    assert kmc.quotas(np.array(sizes), k).tolist() == expected


@given(st.lists(st.integers(0, 60), min_size=1, max_size=12), st.data())
def test_quotas_are_whole_and_possible(sizes: list[int], data: st.DataObject) -> None:
    k = data.draw(st.integers(0, sum(sizes)))
    counts = kmc.quotas(np.array(sizes), k)
    assert counts.sum() == k
    assert (counts <= sizes).all()
    if k >= np.count_nonzero(sizes):
        assert (counts[np.array(sizes) > 0] > 0).all()


def test_each_cluster_gives_in_proportion_to_its_size_at_random() -> None:
    rng = np.random.default_rng(0)
    sizes = np.array([60, 36, 3, 1])
    vectors = np.repeat(np.array([[0.0, 0.0], [90.0, 0.0], [0.0, 90.0], [90.0, 90.0]]), sizes, axis=0)
    vectors += rng.normal(size=vectors.shape)
    cluster_of = np.repeat(np.arange(4), sizes)
    chosen, distances = kmc.select_by_quota(vectors, 10, 4, seed=0)
    assert len(set(chosen.tolist())) == 10
    assert np.bincount(cluster_of[chosen]).tolist() == kmc.quotas(sizes, 10).tolist() == [5, 3, 1, 1]
    centres = np.array([vectors[cluster_of == cluster].mean(0) for cluster in range(4)])
    np.testing.assert_allclose(distances, np.linalg.norm(vectors[chosen] - centres[cluster_of[chosen]], axis=1))
    assert (np.diff(distances) >= 0).all()
    assert np.array_equal(chosen, kmc.select_by_quota(vectors, 10, 4, seed=0)[0])
    drawn = {tuple(sorted(kmc.select_by_quota(vectors, 10, 4, seed=seed)[0].tolist())) for seed in range(5)}
    assert len(drawn) == 5


def test_no_cluster_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match="0 clusters"):
        kmc.select_by_quota(np.zeros((3, 2)), 2, 0, seed=0)


def test_partial_sums_by_hand() -> None:
    vectors = np.array([[0.0, 1.0], [2.0, 1.0], [10.0, 0.0], [1.0, 5.0]], dtype=np.float32)
    centroids = np.array([[1.0, 1.0], [9.0, 0.0], [500.0, 500.0]])
    sums, counts, inertia = kmc.partial_sums(vectors, centroids)
    assert sums.tolist() == [[3, 7], [10, 0], [0, 0]]
    assert counts.tolist() == [3, 1, 0]
    assert inertia == 1 + 1 + 1 + 16
    assert kmc.moved(centroids, sums, counts).tolist() == [[1, 7 / 3], [10, 0], [500, 500]]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("iterations", [1, 6])
def test_shards_give_the_centroids_of_scikit_learn(
    dtype: type, iterations: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors = (np.random.default_rng(0).normal(size=(2_000, 16)) + 3).astype(dtype)
    start = kmc.start_centroids(vectors[::4], 20, seed=0)
    assert len({tuple(row) for row in start} & {tuple(row) for row in vectors[::4].astype(np.float64)}) == 20
    whole = KMeans(20, init=start.astype(dtype), n_init=1, max_iter=iterations, tol=0, algorithm="lloyd").fit(vectors)
    # Several blocks in each shard.
    monkeypatch.setattr(kmc, "BLOCK_DISTANCES", 20 * 64)
    shards = [vectors[:700], vectors[700:701], vectors[701:701], vectors[701:]]
    centroids = start
    for _ in range(iterations):
        centroids, _ = kmc.improved(centroids, [kmc.partial_sums(shard, centroids) for shard in shards])
    np.testing.assert_allclose(centroids, whole.cluster_centers_, atol=1e-6 if dtype == np.float32 else 1e-12)


def test_iterations_end_where_nothing_gets_nearer() -> None:
    vectors = np.array([[0.0], [2.0], [10.0], [12.0]])
    centroids, found, inertias = vectors[:2], [], []
    while not kmc.settled(inertias):
        centroids, inertia = kmc.improved(centroids, [kmc.partial_sums(vectors, centroids)])
        found.append(centroids.ravel().tolist())
        inertias.append(inertia)
    assert found == [[0, 8], [1, 11], [1, 11], [1, 11]]
    assert inertias == [64 + 100, 4 + 4 + 16, 4, 4]


def test_too_many_centroids_for_a_sample_are_refused() -> None:
    with pytest.raises(ValueError, match="4 centroids cannot start from 3 rows"):
        kmc.start_centroids(np.zeros((3, 2)), 4, seed=0)


def test_the_nearest_of_all_are_the_nearest_of_each_shards_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kmc, "BLOCK_DISTANCES", 500)
    vectors, centroids = np.split(np.random.default_rng(0).normal(size=(210, 5)), [200])
    indices, distances = kmc.nearest(vectors, centroids, 6)
    gaps = np.linalg.norm(vectors[None] - centroids[:, None], axis=2)
    assert np.array_equal(indices, gaps.argsort(axis=1)[:, :6])
    np.testing.assert_allclose(distances, np.sort(gaps, axis=1)[:, :6])
    starts = (0, 70, 196)
    parts = [kmc.nearest(shard, centroids, 6) for shard in np.split(vectors, starts[1:])]
    assert [part.shape for part, _ in parts] == [(10, 6), (10, 6), (10, 4)]
    merged = np.hstack([part + start for (part, _), start in zip(parts, starts, strict=True)])
    order = np.hstack([part for _, part in parts]).argsort(axis=1)[:, :6]
    assert np.array_equal(np.take_along_axis(merged, order, axis=1), indices)


def test_take_free_by_hand() -> None:
    # Of kind 0 there are two rows, of the others one. The third centroid is first in turn, the first wants three.
    candidates = np.array([[0, 1], [0, 2], [0, 3]])
    place, before = kmc.take_free(candidates, [2, 1, 1, 1], np.array([2, 0, 1, 0, 0, 2]))
    assert place.tolist() == [0, 0, 1, 1, -1, 1]
    assert before.tolist() == [0, 1, 0, 0, 0, 0]


def test_distinct_by_hand() -> None:
    first, kind = kmc.distinct(np.array([[1.0, 2.0], [3.0, 4.0], [1.0, 2.0], [5.0, 6.0], [3.0, 4.0]]))
    assert first.tolist() == [0, 1, 3]
    assert kind.tolist() == [0, 1, 0, 2, 1]


@pytest.mark.parametrize(
    "select",
    [
        lambda: kmc.select(np.zeros((3, 2)), 4, seed=0),
        lambda: kmc.select_by_quota(np.zeros((3, 2)), 4, 2, seed=0),
        lambda: random.select(3, 4, seed=0),
    ],
)
def test_more_than_there_is_is_refused(select: object) -> None:
    with pytest.raises(ValueError, match="4 rows cannot be chosen from 3"):
        select()


def test_random_is_seeded_and_distinct() -> None:
    chosen = random.select(100, 30, seed=7)
    assert len(set(chosen.tolist())) == 30
    assert np.array_equal(chosen, random.select(100, 30, seed=7))
    assert not np.array_equal(chosen, random.select(100, 30, seed=8))
