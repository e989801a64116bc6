"""KMC: k-means over the vectors, and of each cluster the member closest to its centroid.

Read as kM-Closest of "Diversify and Conquer" (arXiv 2409.11378); LangGPS names the method without saying more.
"""

import numpy as np
from sklearn.cluster import KMeans, MiniBatchKMeans

# Full k-means costs n * k distances an iteration; beyond this many the mini-batch form takes over.
FULL_KMEANS_DISTANCES = 2_000_000


def select(vectors: np.ndarray, k: int, *, seed: int) -> np.ndarray:
    """int64 (k,): indices of k distinct rows of `vectors` (n, d), the closest to their centroids first.

    Where a row is already taken for another centroid, the next nearest is. Raises ValueError where k > n.
    """
    return select_with_distances(vectors, k, seed=seed)[0]


def select_with_distances(vectors: np.ndarray, k: int, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """`select`, with the distance of each chosen row to its centroid, float64 (k,)."""
    n = len(vectors)
    if k > n:
        raise ValueError(f"{k} rows cannot be chosen from {n}")
    if k == 0:
        return np.zeros(0, dtype=np.int64), np.zeros(0)
    points = np.asarray(vectors, dtype=np.float64)
    if k == n:
        # Every row is its own cluster: nothing to search for.
        return np.arange(n, dtype=np.int64), np.zeros(n)
    kind = KMeans if n * k <= FULL_KMEANS_DISTANCES else MiniBatchKMeans
    distinct = len(np.unique(points, axis=0))
    centroids = kind(n_clusters=min(k, distinct), random_state=seed, n_init="auto").fit(points).cluster_centers_
    chosen, distances, taken = [], [], np.zeros(n, dtype=bool)
    for i in range(k):
        gap = np.linalg.norm(points - centroids[i % len(centroids)], axis=1)
        gap[taken] = np.inf
        best = int(gap.argmin())
        taken[best] = True
        chosen.append(best)
        distances.append(gap[best])
    order = np.lexsort((chosen, distances))
    return np.array(chosen, dtype=np.int64)[order], np.array(distances)[order]
