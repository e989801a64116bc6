"""KMC over more vectors than one task can hold: k-means whose assignment and candidates are Ray tasks over shards.

The centroids after each iteration lie in the attempt: tasks read them there, and a run that was killed carries on from
the last.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raysel.cluster import Cluster
from raysel.seeding import draw
from raysel.selection import kmc
from raysel.stage import StageRun
from raysel.store import Artifact, Attempt, ShardRecord

# A task of its own clusters this many vectors or fewer (mini-batch k-means).
ROWS_OF_ONE_TASK = 1_000_000
ROWS_OF_A_GROUP = 1 << 18
# Sums of clusters that wait at a time to be added up.
BYTES_OF_SUMS = 1 << 32
ITERATIONS = 20
# k-means++ draws the first centroids from this many rows for each.
SAMPLED_ROWS_PER_CENTROID = 4
# Beyond, they start from rows drawn at random: k-means++ compares every centroid with all of the sample.
MOST_FAR_APART = 5_000


@dataclass(frozen=True)
class CellVectors:
    """Of the vectors those of the rows of the pool that pass a filter (`in_cell`, None for all); count: of these."""

    vectors: Artifact
    pool: Artifact
    in_cell: Any
    count: int

    def ids(self) -> pa.Array:
        return self.pool.read("pool", ["id"], filters=self.in_cell)["id"].combine_chunks()

    def groups(self) -> list[list[ShardRecord]]:
        """Shards of one task each. However many workers there are, the groups are the same, and so are rounded sums."""
        groups: list[list[ShardRecord]] = [[]]
        for shard in self.vectors.shards("vectors"):
            if groups[-1] and sum(record.rows for record in groups[-1]) + shard.rows > ROWS_OF_A_GROUP:
                groups.append([])
            groups[-1].append(shard)
        return groups

    def read(self, group: list[ShardRecord], wanted: pa.Array) -> Iterator[tuple[pa.Array, np.ndarray]]:
        """Of each shard those of the wanted ids that it has, (n,), and their vectors, float32 (n, d)."""
        for shard in group:
            table = self.vectors.read_shard(shard, ["id", "vector"])
            table = table.filter(pc.is_in(table["id"], value_set=wanted)).combine_chunks()
            column = table["vector"].combine_chunks()
            points = column.flatten().to_numpy(zero_copy_only=False).reshape(-1, column.type.list_size)
            yield table["id"].combine_chunks(), points.astype(np.float32)


@dataclass(frozen=True)
class Candidates:
    """Rows near to some centroids. kinds: (c, m), for each centroid the nearest kinds of row, by their number;
    gaps: (c, m), their distances, in order; members: of each kind the ids of its rows (which are the same), sorted."""

    kinds: np.ndarray
    gaps: np.ndarray
    members: list[list[str]]

    def merged(self, other: "Candidates", length: int) -> "Candidates":
        """The `length` nearest of both; whichever are merged first, the last are the same."""
        members = self.members + other.members
        by_id = np.empty(len(members), dtype=np.int64)
        by_id[sorted(range(len(members)), key=lambda kind: members[kind][0])] = np.arange(len(members))
        kinds = np.hstack([self.kinds, other.kinds + len(self.members)])
        gaps = np.hstack([self.gaps, other.gaps])
        order = np.lexsort((by_id[kinds], gaps))[:, :length]
        used, kinds = np.unique(np.take_along_axis(kinds, order, axis=1), return_inverse=True)
        return Candidates(
            kinds.reshape(order.shape), np.take_along_axis(gaps, order, axis=1), [members[kind] for kind in used]
        )


def select(
    run: StageRun, cell: CellVectors, k: int, clusters: int | None, *, name: str, seed: int
) -> tuple[list[str], np.ndarray]:
    """Ids of k rows of the cell, the closest to their centroids first, and their distances, float64 (k,).

    As `kmc.select`, or with a number of clusters `kmc.select_by_quota`. `name` is that of the cell in the attempt.
    """
    if k == cell.count:
        return run.cluster.run_task(all_ids, cell), np.zeros(k)
    found = min(clusters or k, cell.count)
    centroids = _centroids(run.cluster, run.attempt, cell, found, f"centroids-{name}", seed)
    if clusters is None:
        chosen = _closest(run.cluster, run.attempt, cell, centroids, k)
    else:
        chosen = _by_quota(run.cluster, run.attempt, cell, centroids, k, seed)
    chosen.sort(key=lambda row: (row[1], row[0]))
    return [identity for identity, _ in chosen], np.array([distance for _, distance in chosen])


def _centroids(cluster: Cluster, attempt: Attempt, cell: CellVectors, k: int, table: str, seed: int) -> ShardRecord:
    """k centroids; `table` has those after each iteration."""
    finished, found = attempt.finished(), list[ShardRecord]()
    while (table, len(found)) in finished:
        found.append(finished[table, len(found)])
    groups = cell.groups()
    if not found:
        sample = cluster.run_task(sample_ids, cell, k * (SAMPLED_ROWS_PER_CENTROID if k <= MOST_FAR_APART else 1), seed)
        rows = np.concatenate(_in_order(cluster.map_tasks(read_rows, [(group, cell, sample) for group in groups])))
        found.append(cluster.run_task(write_start, rows, k, table, attempt, seed))
    while len(found) <= ITERATIONS and not kmc.settled([record.summary["inertia"] for record in found[1:]]):
        partials = _partials(cluster, attempt, cell, groups, found[-1])
        centroids, inertia = kmc.improved(attempt.read_array(found[-1]), partials)
        found.append(attempt.write_array(table, len(found), centroids, summary={"inertia": inertia}))
    return found[-1]


def _partials(
    cluster: Cluster, attempt: Attempt, cell: CellVectors, groups: list[list[ShardRecord]], centroids: ShardRecord
) -> Iterator[tuple[np.ndarray, np.ndarray, float]]:
    """`kmc.partial_sums` of each group in turn. No more than a few wait for those before them."""
    at_once = max(1, BYTES_OF_SUMS // centroids.bytes)
    for first in range(0, len(groups), at_once):
        items = [(group, cell, centroids, attempt) for group in groups[first : first + at_once]]
        yield from _in_order(cluster.map_tasks(sum_group, items))


def _closest(
    cluster: Cluster, attempt: Attempt, cell: CellVectors, centroids: ShardRecord, k: int
) -> list[tuple[str, float]]:
    """Of each centroid in turn the nearest row that no other took."""
    chosen: list[tuple[str, float]] = []
    left = np.arange(k)
    while len(left):
        taken, length = pa.array([identity for identity, _ in chosen], pa.string()), kmc.list_length(k, len(left))
        items = [(group, cell, centroids, attempt, left, taken, length) for group in cell.groups()]
        near = Candidates(np.zeros((len(left), 0), dtype=np.int64), np.zeros((len(left), 0)), [])
        for _, more in cluster.map_tasks(find_candidates, items):
            near = near.merged(more, length)
        place, before = kmc.take_free(near.kinds, [len(ids) for ids in near.members], np.arange(len(left)))
        for row in np.flatnonzero(place >= 0):
            members = near.members[near.kinds[row, place[row]]]
            chosen.append((members[before[row]], float(near.gaps[row, place[row]])))
        left = left[place < 0]
    return chosen


def _by_quota(
    cluster: Cluster, attempt: Attempt, cell: CellVectors, centroids: ShardRecord, k: int, seed: int
) -> list[tuple[str, float]]:
    """Of each cluster rows drawn by their ids, in proportion to its size."""
    groups = cell.groups()
    sizes = sum(counts for _, counts, _ in _partials(cluster, attempt, cell, groups, centroids))
    counts = kmc.quotas(np.asarray(sizes), k)
    items = [(group, cell, centroids, attempt, counts, seed) for group in groups]
    drawn = _first_of_each(pa.concat_tables(_in_order(cluster.map_tasks(draw_rows, items))), counts)
    return list(zip(drawn["id"].to_pylist(), drawn["distance"].to_pylist(), strict=True))


def all_ids(cell: CellVectors) -> list[str]:
    """Ray task: the ids of the cell's rows, sorted."""
    return sorted(cell.ids().to_pylist())


def sample_ids(cell: CellVectors, count: int, seed: int) -> pa.Array:
    """Ray task: `count` ids of the cell's rows (all where there are fewer), drawn by the ids."""
    ids = cell.ids()
    draws = [draw(seed, f"start\0{identity}") for identity in ids.to_pylist()]
    in_turn = pa.table({"draw": draws, "id": ids}).sort_by([("draw", "ascending"), ("id", "ascending")])
    return in_turn["id"][:count].combine_chunks()


def read_rows(group: list[ShardRecord], cell: CellVectors, wanted: pa.Array) -> np.ndarray:
    """Ray task: the vectors of the wanted rows, float32 (n, d)."""
    return np.concatenate([points for _, points in cell.read(group, wanted)])


def write_start(sample: np.ndarray, k: int, table: str, attempt: Attempt, seed: int) -> ShardRecord:
    """Ray task: the centroids that k-means starts from: rows of the sample far apart, or all it has."""
    start = kmc.start_centroids(sample, k, seed=seed) if len(sample) > k else sample.astype(np.float64)
    return attempt.write_array(table, 0, start)


def sum_group(
    group: list[ShardRecord], cell: CellVectors, record: ShardRecord, attempt: Attempt
) -> tuple[np.ndarray, np.ndarray, float]:
    """Ray task: `kmc.partial_sums` over the group's shards."""
    centroids = attempt.read_array(record)
    sums, counts, inertia = np.zeros(centroids.shape), np.zeros(len(centroids), dtype=np.int64), 0.0
    for _, points in cell.read(group, cell.ids()):
        more = kmc.partial_sums(points, centroids)
        sums, counts, inertia = sums + more[0], counts + more[1], inertia + more[2]
    return sums, counts, inertia


def find_candidates(
    group: list[ShardRecord],
    cell: CellVectors,
    record: ShardRecord,
    attempt: Attempt,
    numbers: np.ndarray,
    taken: pa.Array,
    length: int,
) -> Candidates:
    """Ray task: of the group's rows that are not taken, those nearest to each of the centroids with these numbers."""
    centroids, ids = attempt.read_array(record)[numbers], cell.ids()
    best = Candidates(np.zeros((len(numbers), 0), dtype=np.int64), np.zeros((len(numbers), 0)), [])
    for names, points in cell.read(group, ids.filter(pc.invert(pc.is_in(ids, value_set=taken)))):
        first, kind = kmc.distinct(points)
        kinds, gaps = kmc.nearest(points[first], centroids, length)
        used = np.unique(kinds)
        # More rows of a kind than there are centroids cannot be taken.
        by_kind = np.split(np.argsort(kind, kind="stable"), np.cumsum(np.bincount(kind))[:-1])
        every = np.array(names.to_pylist(), dtype=object)
        members = [sorted(every[by_kind[number]])[: len(numbers)] for number in used]
        best = best.merged(Candidates(np.searchsorted(used, kinds), gaps, members), length)
    return best


def draw_rows(
    group: list[ShardRecord], cell: CellVectors, record: ShardRecord, attempt: Attempt, counts: np.ndarray, seed: int
) -> pa.Table:
    """Ray task: of each cluster as many of the group's rows as `counts` says, where there are: the lowest draws."""
    centroids, drawn = attempt.read_array(record), []
    for ids, points in cell.read(group, cell.ids()):
        own = kmc.labels(points, centroids)
        columns = {
            "id": ids,
            "cluster": own,
            "draw": np.array([draw(seed, identity) for identity in ids.to_pylist()], dtype=np.float64),
            "row": np.arange(len(own)),
        }
        found = _first_of_each(pa.table(columns), counts)
        rows = found["row"].to_numpy()
        distances = kmc.lengths(points[rows], centroids[own[rows]])
        drawn.append(found.drop_columns("row").append_column("distance", pa.array(distances)))
    return _first_of_each(pa.concat_tables(drawn), counts)


def _first_of_each(rows: pa.Table, counts: np.ndarray) -> pa.Table:
    """Of each cluster the rows with the lowest draws, at most so many as `counts` says."""
    rows = rows.sort_by([("cluster", "ascending"), ("draw", "ascending"), ("id", "ascending")])
    own = rows["cluster"].to_numpy()
    return rows.filter(pa.array(np.arange(len(own)) - np.searchsorted(own, own) < counts[own]))


def _in_order(results: Iterator[tuple[int, Any]]) -> list[Any]:
    return [result for _, result in sorted(results, key=lambda found: found[0])]
