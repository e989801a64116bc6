"""KMC: k-means over the vectors, and of each cluster the member closest to its centroid.

Read as kM-Closest of "Diversify and Conquer" (arXiv 2409.11378); LangGPS names the method without saying more.
`select_by_quota` is that paper's kMQ. Where the rows do not fit in one process, `start_centroids`, `improved` by the
`partial_sums` of shards, and the `nearest` rows of each shard with `take_free`, or their `labels`, do the same piece by
piece.
"""

from collections.abc import Iterable, Iterator, Sequence
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
# Different rows looked at for each row that is wanted: few are the nearest of more than a handful of centroids.
CANDIDATES = 8
# k-means ends where an iteration lessens the squared distances by no more than this share of them.
TOLERANCE = 1e-4


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
    first, kind = distinct(points)
    centroids, _ = _clusters(points, first, kind, k, seed)
    # Fewer centroids than k where rows are the same: then several rows are taken for each.
    owner = np.arange(k) % len(centroids)
    by_kind, sizes = np.argsort(kind, kind="stable"), np.bincount(kind)
    next_of_kind, left = np.cumsum(sizes) - sizes, sizes.copy()
    chosen, distances, to_fill = np.zeros(k, dtype=np.int64), np.zeros(k), np.arange(k)
    while len(to_fill):
        wanted, slot = np.unique(owner[to_fill], return_inverse=True)
        free = np.flatnonzero(left)
        candidates, gaps = nearest(points[first[free]], centroids[wanted], list_length(k, len(wanted)))
        place, before = take_free(candidates, left[free].tolist(), slot)
        found = place >= 0
        taken = free[candidates[slot[found], place[found]]]
        chosen[to_fill[found]] = by_kind[next_of_kind[taken] + before[found]]
        distances[to_fill[found]] = gaps[slot[found], place[found]]
        used = np.bincount(taken, minlength=len(sizes))
        next_of_kind, left, to_fill = next_of_kind + used, left - used, to_fill[~found]
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
    centroids, cluster_of = _clusters(points, *distinct(points), clusters, seed)
    generator = np.random.default_rng(seed)
    drawn = [
        generator.permutation(np.flatnonzero(cluster_of == cluster))[:count]
        for cluster, count in enumerate(quotas(np.bincount(cluster_of), k))
    ]
    chosen = np.concatenate(drawn)
    distances = lengths(points[chosen], centroids[cluster_of[chosen]])
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
def labels(vectors: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """int64 (n,): which of the centroids (k, d) is nearest to each row; of two as near the first."""
    shift = centroids.mean(axis=0, dtype=np.float64)
    targets = _less(centroids, shift, _precision(vectors))
    squares = np.square(targets).sum(axis=1)
    found = np.zeros(len(vectors), dtype=np.int64)
    for block in _blocks(vectors, centroids):
        points = _less(vectors[block], shift, targets.dtype)
        found[block] = (squares - 2 * (points @ targets.T)).argmin(axis=1)
    return found


@_one_thread()
def partial_sums(vectors: np.ndarray, centroids: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """What a shard (n, d) adds to an iteration of Lloyd's: of the rows nearest to each of the centroids (k, d), the
    sum, float64 (k, d), and the number, int64 (k,); and the sum of all squared distances to the nearest centroid.
    """
    k, cluster_of = len(centroids), labels(vectors, centroids)
    sums, inertia = np.zeros(centroids.shape), 0.0
    for block in _blocks(vectors, centroids):
        rows, own = vectors[block], cluster_of[block]
        member = csr_matrix((np.ones(len(rows)), own, np.arange(len(rows) + 1)), shape=(len(rows), k))
        sums += member.T @ rows.astype(np.float64)
        inertia += float(np.square(rows - centroids[own]).sum())
    return sums, np.bincount(cluster_of, minlength=k), inertia


def improved(
    centroids: np.ndarray, partials: Iterable[tuple[np.ndarray, np.ndarray, float]]
) -> tuple[np.ndarray, float]:
    """An iteration of Lloyd's: the centroids, float64 (k, d), and the sum of squared distances to those before.

    partials: `partial_sums` of every shard, in an order that is always the same (sums in another order round
    otherwise).
    """
    sums, counts, inertia = np.zeros(centroids.shape), np.zeros(len(centroids), dtype=np.int64), 0.0
    for part_sums, part_counts, part_inertia in partials:
        sums += part_sums
        counts += part_counts
        inertia += part_inertia
    return moved(centroids, sums, counts), inertia


def moved(centroids: np.ndarray, sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """float64 (k, d): the mean of each cluster; one without rows keeps its centroid."""
    return np.where(counts[:, None] > 0, sums / np.maximum(counts, 1)[:, None], centroids)


def settled(inertias: Sequence[float]) -> bool:
    """Whether the last iteration, of these sums of squared distances, brought too little for another."""
    return len(inertias) > 1 and inertias[-1] >= (1 - TOLERANCE) * inertias[-2]


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
    point_squares = np.square(points).sum(axis=1)
    rows = max(1, BLOCK_DISTANCES // n)
    for start in range(0, k, rows):
        squares = point_squares - 2 * (targets[start : start + rows] @ points.T)
        for centroid, found in enumerate(np.argpartition(squares, how_many - 1, axis=1)[:, :how_many], start):
            # Of rows almost as near the products' rounding may confuse the order: measured again.
            gaps = lengths(vectors[found], centroids[centroid])
            order = np.lexsort((found, gaps))
            indices[centroid], distances[centroid] = found[order], gaps[order]
    return indices, distances


def list_length(k: int, unfilled: int) -> int:
    """How many candidates each of the `unfilled` centroids looks at: the fewer are left of k rows, the longer lists."""
    return -(-CANDIDATES * k // unfilled)


def take_free(candidates: np.ndarray, sizes: Sequence[int], owner: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each row that is wanted in turn, where its centroid's first candidate stands that is not used up.

    candidates: (c, m) kinds of rows, for each centroid the nearest first; sizes: how many rows each kind has;
    owner: (s,) the centroid that each row is wanted for. Place among the candidates, int64 (s,), -1 where all are used
    up, and how many rows of that kind were taken before.
    """
    lists, used, at = candidates.tolist(), [0] * len(sizes), [0] * len(candidates)
    place, before = np.full(len(owner), -1, dtype=np.int64), np.zeros(len(owner), dtype=np.int64)
    for wanted, centroid in enumerate(owner.tolist()):
        kinds = lists[centroid]
        while at[centroid] < len(kinds) and used[kinds[at[centroid]]] == sizes[kinds[at[centroid]]]:
            at[centroid] += 1
        if at[centroid] < len(kinds):
            kind = kinds[at[centroid]]
            place[wanted], before[wanted] = at[centroid], used[kind]
            used[kind] += 1
    return place, before


def distinct(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The first row of each kind (rows that are the same are of one), int64 (kinds,), and each row's kind, (n,)."""
    kinds: dict[bytes, int] = {}
    kind = np.zeros(len(vectors), dtype=np.int64)
    for i, row in enumerate(vectors):
        kind[i] = kinds.setdefault(blake2b(row.tobytes(), digest_size=16).digest(), len(kinds))
    return np.unique(kind, return_index=True)[1], kind


def lengths(rows: np.ndarray, origins: np.ndarray) -> np.ndarray:
    """float64 (n,): how far each row is from its origin (n, d), or from one for all (d,)."""
    return np.linalg.norm(rows - np.asarray(origins, dtype=np.float64), axis=1)


def _all_or_nothing(n: int, k: int) -> bool:
    """Whether there is nothing to search for. Raises ValueError where k > n."""
    if k > n:
        raise ValueError(f"{k} rows cannot be chosen from {n}")
    return k in (0, n)


def _clusters(
    points: np.ndarray, first: np.ndarray, kind: np.ndarray, k: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Centroids of at most k clusters, and the cluster of each row."""
    # More clusters than different rows cannot be.
    if len(first) <= k:
        return points[first], kind
    form = KMeans if len(points) * k <= FULL_KMEANS_DISTANCES else MiniBatchKMeans
    found = form(n_clusters=k, random_state=seed, n_init="auto").fit(points)
    return found.cluster_centers_, found.labels_


def _blocks(vectors: np.ndarray, centroids: np.ndarray) -> Iterator[slice]:
    rows = max(1, BLOCK_DISTANCES // max(centroids.shape))
    return (slice(start, start + rows) for start in range(0, len(vectors), rows))


def _centred(vectors: np.ndarray) -> np.ndarray:
    """The rows less their mean: far from the origin, distances by products would lose digits of single precision."""
    return _less(vectors, vectors.mean(axis=0, dtype=np.float64), _precision(vectors))


def _precision(vectors: np.ndarray) -> np.dtype:
    return np.result_type(vectors.dtype, np.float32)


def _less(vectors: np.ndarray, shift: np.ndarray, precision: np.dtype) -> np.ndarray:
    return np.subtract(vectors, shift.astype(precision), dtype=precision)
