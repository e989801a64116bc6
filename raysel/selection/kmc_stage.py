"""KMC over more vectors than one task can hold: k-means whose assignment and candidates are Ray tasks over shards."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow.compute as pc

from raysel.cluster import Cluster
from raysel.seeding import draw
from raysel.selection import kmc
from raysel.store import Artifact, ShardRecord

# A task of its own clusters this many vectors or fewer (mini-batch k-means).
ROWS_OF_ONE_TASK = 1_000_000
ROWS_OF_A_GROUP = 1 << 18
ITERATIONS = 20
# k-means++ draws the first centroids from this many rows for each.
SAMPLED_ROWS_PER_CENTROID = 4
# Beyond, they start from rows drawn at random: k-means++ compares every centroid with all of the sample.
MOST_FAR_APART = 5_000
CANDIDATES = 8


def select(
    cluster: Cluster, vectors: Artifact, pool: Artifact, in_cell: Any, k: int, *, seed: int
) -> tuple[list[str], np.ndarray]:
    """Ids of k rows of the pool, the closest to their centroids first, and their distances, float64 (k,).

    in_cell: a filter on the pool's rows, None for all. As `kmc.select`; the centroids go to every task, and the sums of
    its shards come back.
    """
    groups = _groups(vectors.shards("vectors"))
    given = (vectors, pool, in_cell)
    drawn = cluster.map_tasks(draw_rows, [(group, *given, k * SAMPLED_ROWS_PER_CENTROID, seed) for group in groups])
    sample = _in_order(drawn)
    # The tasks draw by the rows' ids: what is kept of all does not depend on how the shards are grouped.
    keys = np.concatenate([keys for keys, _ in sample])
    first = np.argsort(keys, kind="stable")[: k * SAMPLED_ROWS_PER_CENTROID]
    rows = np.concatenate([rows for _, rows in sample])[first]
    start = kmc.start_centroids(rows, k, seed=seed) if k <= MOST_FAR_APART else rows[:k]

    def partials(centroids: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray, float]]:
        yield from _in_order(cluster.map_tasks(sum_group, [(group, *given, centroids) for group in groups]))

    centroids = kmc.lloyd(partials, start, iterations=ITERATIONS)
    chosen: dict[int, tuple[str, float]] = {}
    while len(chosen) < k:
        left = [number for number in range(k) if number not in chosen]
        taken = [name for name, _ in chosen.values()]
        items = [(group, *given, centroids[left], taken) for group in groups]
        for number, found in _nearest_free(_in_order(cluster.map_tasks(find_candidates, items))).items():
            chosen[left[number]] = found
    order = sorted(chosen.values(), key=lambda found: (found[1], found[0]))
    return [name for name, _ in order], np.array([distance for _, distance in order])


def draw_rows(
    group: list[ShardRecord], vectors: Artifact, pool: Artifact, in_cell: Any, count: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Ray task: `count` rows of the group's shards drawn by their ids: the draws, (n,), and the vectors, (n, d)."""
    keys, rows = [], []
    for ids, points in _read(group, vectors, pool, in_cell):
        own = np.array([draw(seed, name) for name in ids])
        first = np.argsort(own, kind="stable")[:count]
        keys.append(own[first])
        rows.append(points[first])
    every = np.concatenate(keys)
    first = np.argsort(every, kind="stable")[:count]
    return every[first], np.concatenate(rows)[first]


def sum_group(
    group: list[ShardRecord], vectors: Artifact, pool: Artifact, in_cell: Any, centroids: np.ndarray
) -> tuple[np.ndarray, np.ndarray, float]:
    """Ray task: `kmc.partial_sums` over the group's shards."""
    sums, counts, inertia = np.zeros(centroids.shape), np.zeros(len(centroids), dtype=np.int64), 0.0
    for _, points in _read(group, vectors, pool, in_cell):
        more = kmc.partial_sums(points, centroids)
        sums, counts, inertia = sums + more[0], counts + more[1], inertia + more[2]
    return sums, counts, inertia


def find_candidates(
    group: list[ShardRecord], vectors: Artifact, pool: Artifact, in_cell: Any, centroids: np.ndarray, taken: list[str]
) -> list[list[tuple[float, str]]]:
    """Ray task: of the group's rows that are not taken, those nearest to each centroid."""
    best: list[list[tuple[float, str]]] = [[] for _ in centroids]
    for ids, points in _read(group, vectors, pool, in_cell):
        free = ~np.isin(ids, taken)
        indices, distances = kmc.nearest(points[free], centroids, CANDIDATES)
        names = ids[free]
        for number, (rows, gaps) in enumerate(zip(indices, distances, strict=True)):
            best[number] = sorted([*best[number], *zip(gaps.tolist(), names[rows].tolist(), strict=True)])[:CANDIDATES]
    return best


def _groups(shards: list[ShardRecord]) -> list[list[ShardRecord]]:
    """Shards of one task each. However many workers there are, the groups are the same, and so are rounded sums."""
    groups: list[list[ShardRecord]] = [[]]
    for shard in shards:
        if groups[-1] and sum(record.rows for record in groups[-1]) + shard.rows > ROWS_OF_A_GROUP:
            groups.append([])
        groups[-1].append(shard)
    return groups


def _in_order(results: Iterator[tuple[int, Any]]) -> list[Any]:
    return [result for _, result in sorted(results, key=lambda found: found[0])]


def _read(
    group: list[ShardRecord], vectors: Artifact, pool: Artifact, in_cell: Any
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Of each shard the ids of the cell's rows in the pool, (n,), and their vectors, float32 (n, d)."""
    wanted = pool.read("pool", ["id"], filters=in_cell)["id"].combine_chunks()
    for shard in group:
        table = vectors.read_shard(shard, ["id", "vector"])
        table = table.filter(pc.is_in(table["id"], value_set=wanted)).combine_chunks()
        column = table["vector"].combine_chunks()
        points = column.flatten().to_numpy(zero_copy_only=False).reshape(-1, column.type.list_size)
        yield np.array(table["id"].to_pylist(), dtype=object), points.astype(np.float32)


def _nearest_free(groups: list[list[list[tuple[float, str]]]]) -> dict[int, tuple[str, float]]:
    """For each centroid in turn the nearest of all groups' candidates that no other took; none where all are taken."""
    taken: set[str] = set()
    found = {}
    for number, candidates in enumerate(zip(*groups, strict=True)):
        nearest = sorted(candidate for group in candidates for candidate in group)
        free = next(((name, gap) for gap, name in nearest if name not in taken), None)
        if free is not None:
            taken.add(free[0])
            found[number] = free
    return found
