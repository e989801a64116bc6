"""KMC: k-means over the vectors, and of each cluster the member closest to its centroid.

Read as kM-Closest of "Diversify and Conquer" (arXiv 2409.11378); LangGPS names the method without saying more.
`select_by_quota` is that paper's kMQ. Where the rows do not fit in one process, `start_centroids`, `lloyd` over the
`partial_sums` of shards, the `nearest` rows of each shard and `take_distinct` do the same piece by piece.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from hashlib import blake2b

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.cluster import KMeans, MiniBatchKMeans, kmeans_plusplus
from threadpoolctl import threadpool_limits

from raysel.apportionment import largest_remainder

# Full k-means costs n * k distances an iteration; beyond this many the mini-batch form takes over.
FULL_KMEANS_DISTANCES = 2_000_000
# Distances held at a time.
BLOCK_DISTANCES = 2**23
# Rows looked at for each centroid at first: few are the nearest of more than a handful of centroids.
CANDIDATES = 8


@contextmanager
def _one_thread() -> Iterator[None]:
    """The same bits on any machine: several threads would add their sums in the order in which they end."""
    with threadpool_limits(1):
        yield


def select(vectors: np.ndarray, k: int, *, seed: int) -> np.ndarray:
    """int64 (k,): indices of k distinct rows of `vectors` (n, d), the closest to their centroids first.

    Where a row is already taken for another centroid, the next nearest is. Raises ValueError where k > n.
    """
    return select_with_distances(vectors, k, seed=seed)[0]


@_one_thread()
def select_with_distances(vectors: np.ndarray, k: int, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """`select`, with the distance of each chosen row to its centroid, float64 (k,)."""
    if _all_or_nothing(len(vectors), k):
        return np.arange(k, dtype=np.int64), np.zeros(k)
    points = _centred(vectors)
    centroids = _kmeans(points, k, seed).cluster_centers_
    # Fewer centroids than k where rows are the same: then several rows are taken for each.
    owner = np.arange(k) % len(centroids)
    chosen, distances = np.full(k, -1, dtype=np.int64), np.zeros(k)
    free, to_fill = np.arange(len(points)), np.arange(k)
    while True:
        wanted, slot = np.unique(owner[to_fill], return_inverse=True)
        candidates, gaps = nearest(points, centroids[wanted], CANDIDATES * int(np.bincount(slot).max()))
        taken, taken_gaps = take_distinct(candidates[slot], gaps[slot])
        found = taken >= 0
        chosen[to_fill[found]], distances[to_fill[found]] = free[taken[found]], taken_gaps[found]
        to_fill = to_fill[~found]
        if not len(to_fill):
            break
        points, free = np.delete(points, taken[found], axis=0), np.delete(free, taken[found])
    order = np.lexsort((chosen, distances))
    return chosen[order], distances[order]


@_one_thread()
def select_by_quota(vectors: np.ndarray, k: int, clusters: int, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """k distinct rows of `vectors` (n, d), drawn at random from each of `clusters` clusters in proportion to its size.

    Their indices, int64 (k,), and distances to their centroids, float64 (k,), the closest first. Every cluster gives
    at least one row where k allows it. Raises ValueError where k > n, or where there is not one cluster.
    """
    if clusters < 1:
        raise ValueError(f"{clusters} clusters: at least 1")
    if _all_or_nothing(len(vectors), k):
        return np.arange(k, dtype=np.int64), np.zeros(k)
    points = _centred(vectors)
    found = _kmeans(points, clusters, seed)
    counts = quotas(np.bincount(found.labels_), k)
    generator = np.random.default_rng(seed)
    drawn = [
        generator.permutation(np.flatnonzero(found.labels_ == cluster))[:count] for cluster, count in enumerate(counts)
    ]
    chosen = np.concatenate(drawn)
    distances = _lengths(points[chosen], found.cluster_centers_[found.labels_[chosen]])
    order = np.lexsort((chosen, distances))
    return chosen[order], distances[order]


def quotas(sizes: np.ndarray, k: int) -> np.ndarray:
    """int64 (clusters,): k rows (at most the sum of `sizes`) in proportion to `sizes`, by largest remainder.

    No cluster gets more than it has, and none that has a row gets 0 unless k is less than the clusters with rows.
    """
    open_clusters = {f"{cluster:09d}": int(size) for cluster, size in enumerate(sizes) if size}
    counts = np.zeros(len(sizes), dtype=np.int64)
    at_least_one = k >= len(open_clusters)
    while open_clusters:
        shares = largest_remainder(open_clusters, k)
        raised = [name for name, share in shares.items() if at_least_one and not share]
        if not raised:
            for name, share in shares.items():
                counts[int(name)] = share
            break
        for name in raised:
            counts[int(name)] = 1
            del open_clusters[name]
        k -= len(raised)
    return counts


@_one_thread()
def start_centroids(sample: np.ndarray, k: int, *, seed: int) -> np.ndarray:
    """float64 (k, d): k rows of `sample` (n, d), far apart, drawn by k-means++. Raises ValueError where k > n."""
    if k > len(sample):
        raise ValueError(f"{k} centroids cannot start from {len(sample)} rows")
    rows = kmeans_plusplus(_centred(sample), k, random_state=seed)[1]
    return np.asarray(sample[rows], dtype=np.float64)


@_one_thread()
def partial_sums(vectors: np.ndarray, centroids: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """What a shard (n, d) adds to an iteration of Lloyd's: of the rows nearest to each of the centroids (k, d), the
    sum, float64 (k, d), and the number, int64 (k,); and the sum of all squared distances to the nearest centroid.

    A row as near to two belongs to the first.
    """
    k, shift = len(centroids), centroids.mean(axis=0, dtype=np.float64)
    targets = _less(centroids, shift, _precision(vectors))
    lengths = np.square(targets).sum(axis=1)
    sums, counts, inertia = np.zeros(centroids.shape), np.zeros(k, dtype=np.int64), 0.0
    rows = max(1, BLOCK_DISTANCES // max(centroids.shape))
    for start in range(0, len(vectors), rows):
        block = vectors[start : start + rows]
        labels = (lengths - 2 * (_less(block, shift, targets.dtype) @ targets.T)).argmin(axis=1)
        counts += np.bincount(labels, minlength=k)
        member = csr_matrix((np.ones(len(block)), labels, np.arange(len(block) + 1)), shape=(len(block), k))
        sums += member.T @ block.astype(np.float64)
        inertia += float(np.square(block - centroids[labels]).sum())
    return sums, counts, inertia


def moved(centroids: np.ndarray, sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """float64 (k, d): the mean of each cluster; one without rows keeps its centroid."""
    return np.where(counts[:, None] > 0, sums / np.maximum(counts, 1)[:, None], centroids)


def lloyd(
    partials: Callable[[np.ndarray], Iterable[tuple[np.ndarray, np.ndarray, float]]],
    start: np.ndarray,
    *,
    iterations: int,
    tolerance: float = 1e-4,
) -> np.ndarray:
    """float64 (k, d): the centroids after at most `iterations` of Lloyd's from `start` (k, d).

    `partials` gives `partial_sums` of every shard for the centroids it is given, in an order that is always the same
    (sums in another order round otherwise). Ends early where an iteration lessens the squared distances by no more
    than `tolerance` of them.
    """
    centroids, before = np.asarray(start, dtype=np.float64), np.inf
    for _ in range(iterations):
        sums, counts, inertia = np.zeros(centroids.shape), np.zeros(len(centroids), dtype=np.int64), 0.0
        for part_sums, part_counts, part_inertia in partials(centroids):
            sums += part_sums
            counts += part_counts
            inertia += part_inertia
        centroids = moved(centroids, sums, counts)
        if inertia >= (1 - tolerance) * before:
            break
        before = inertia
    return centroids


@_one_thread()
def nearest(vectors: np.ndarray, centroids: np.ndarray, how_many: int) -> tuple[np.ndarray, np.ndarray]:
    """For each of the centroids (k, d) its `how_many` nearest rows of `vectors` (n, d), all n where there are fewer.

    Indices, int64 (k, how_many), and distances, float64, the nearest first and equal ones by index. The nearest of
    several shards are the nearest of each one's.
    """
    n, k = len(vectors), len(centroids)
    how_many = min(how_many, n)
    indices, distances = np.zeros((k, how_many), dtype=np.int64), np.zeros((k, how_many))
    if not how_many:
        return indices, distances
    shift = centroids.mean(axis=0, dtype=np.float64)
    points, targets = (_less(each, shift, _precision(vectors)) for each in (vectors, centroids))
    lengths = np.square(points).sum(axis=1)
    rows = max(1, BLOCK_DISTANCES // n)
    for start in range(0, k, rows):
        squares = lengths - 2 * (targets[start : start + rows] @ points.T)
        for centroid, found in enumerate(np.argpartition(squares, how_many - 1, axis=1)[:, :how_many], start):
            # Of rows almost as near the products' rounding may confuse the order: measured again.
            gaps = _lengths(vectors[found], centroids[centroid])
            order = np.lexsort((found, gaps))
            indices[centroid], distances[centroid] = found[order], gaps[order]
    return indices, distances


def take_distinct(candidates: np.ndarray, distances: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each centroid in turn the first of its `candidates` (k, m) that no other has taken, and its distance.

    int64 (k,), -1 where all are taken, and float64 (k,).
    """
    chosen, gaps, taken = np.full(len(candidates), -1, dtype=np.int64), np.full(len(candidates), np.inf), set()
    for centroid, rows in enumerate(candidates.tolist()):
        place = next((place for place, row in enumerate(rows) if row not in taken), None)
        if place is not None:
            taken.add(rows[place])
            chosen[centroid], gaps[centroid] = rows[place], distances[centroid, place]
    return chosen, gaps


def _all_or_nothing(n: int, k: int) -> bool:
    """Whether there is nothing to search for. Raises ValueError where k > n."""
    if k > n:
        raise ValueError(f"{k} rows cannot be chosen from {n}")
    return k in (0, n)


def _kmeans(points: np.ndarray, k: int, seed: int) -> KMeans | MiniBatchKMeans:
    # More clusters than different rows cannot be.
    distinct = len({blake2b(row.tobytes(), digest_size=16).digest() for row in points})
    kind = KMeans if len(points) * k <= FULL_KMEANS_DISTANCES else MiniBatchKMeans
    return kind(n_clusters=min(k, distinct), random_state=seed, n_init="auto").fit(points)


def _centred(vectors: np.ndarray) -> np.ndarray:
    """The rows less their mean: far from the origin, distances by products would lose digits of single precision."""
    return _less(vectors, vectors.mean(axis=0, dtype=np.float64), _precision(vectors))


def _precision(vectors: np.ndarray) -> np.dtype:
    return np.result_type(vectors.dtype, np.float32)


def _less(vectors: np.ndarray, shift: np.ndarray, precision: np.dtype) -> np.ndarray:
    return np.subtract(vectors, shift.astype(precision), dtype=precision)


def _lengths(rows: np.ndarray, origins: np.ndarray) -> np.ndarray:
    return np.linalg.norm(rows - np.asarray(origins, dtype=np.float64), axis=1)
