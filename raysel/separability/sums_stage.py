"""Stage `sums`: summed distances of every sample to every cluster, in pairs of blocks over Ray.

A block is a run of vector shards. Each pair of blocks is one idempotent task that publishes its partial sums; the
partial sums of a block are then added in block order. A tile is the work of one thread and the plan fixes blocks and
tiles, so the bits are the same for any number of workers and threads and after any kill.

The clusters are the finest that any label can ask for: language, what the source calls it, and script. Beside the sums
to each whole cluster stand those to its members with the sample's own task, for silhouettes within a task.
"""

from collections import Counter
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from raysel.separability.blocks import CPU_TILE, GPU_TILE, Moments, Origin, make_block, moments, origin_of
from raysel.separability.distance_sums import block_sums
from raysel.separability.rescoring import merge_columns
from raysel.separability.settings import SeparabilitySettings
from raysel.stage import StageOutput, StageRun
from raysel.store import Artifact, Attempt, ShardRecord
from raysel.tables import sums_schema

# A GPU measures 32,768 x 32,768 pairs in the time it takes to read a block.
BLOCK_ROWS = {"cpu": 8_192, "cuda": 32_768}
MOST_BLOCKS = 64
CLUSTER = ["lang", "lang_raw", "script"]


@dataclass(frozen=True)
class Cells:
    """clusters: (language, raw language, script), sorted; tasks: sorted, None among them where a row has none; sizes:
    the rows of each cluster, by task.

    A cell is a cluster within a task; its number is cluster * len(tasks) + task.
    """

    clusters: list[tuple[str, str, str]]
    tasks: list[str | None]
    sizes: list[list[int]]

    def of(self, table: pa.Table) -> NDArray[np.int64]:
        """int64 (n,): the cell of every row."""
        cluster = {name: k * len(self.tasks) for k, name in enumerate(self.clusters)}
        task = {name: t for t, name in enumerate(self.tasks)}
        columns = (table[name].to_pylist() for name in (*CLUSTER, "task"))
        return np.array(
            [cluster[lang, raw, script] + task[named] for lang, raw, script, named in zip(*columns, strict=True)],
            dtype=np.int64,
        )


def run(run: StageRun) -> StageOutput:
    settings: SeparabilitySettings = run.settings["separability"]
    vectors = run.inputs["vectors"]
    gpus = 1 if run.cluster.gpus() else 0
    device = "cuda" if gpus else "cpu"
    plan = run.attempt.plan(
        lambda: {
            "blocks": _blocks(vectors, settings.block_rows or BLOCK_ROWS[device]),
            "tile": GPU_TILE if gpus else CPU_TILE,
            "device": device,
        },
        given={"block_rows": settings.block_rows, "device": device},
    )
    blocks: list[list[int]] = plan["blocks"]
    common = (vectors, plan, run.attempt)

    finished = run.attempt.finished(plan)
    todo = [i for i in range(len(blocks)) if ("moments", i) not in finished]
    for _ in run.cluster.map_tasks(write_moments, [(i, *common) for i in todo]):
        pass

    finished = run.attempt.finished(plan)
    described = [finished["moments", i] for i in range(len(blocks))]
    rows = Counter[tuple[Any, ...]]()
    for record in described:
        rows.update({tuple(cell[:-1]): cell[-1] for cell in record.summary["cells"]})
    tasks = sorted({cell[3] for cell in rows}, key=lambda task: (task is None, task or ""))
    clusters = sorted({cell[:3] for cell in rows})
    cells = Cells(clusters, tasks, [[rows[(*cluster, task)] for task in tasks] for cluster in clusters])

    pairs = [(i, j) for i in range(len(blocks)) for j in range(i, len(blocks))]
    todo_pairs = [pair for pair in pairs if ("pair", _pair_index(pair, blocks)) not in finished]
    sizes = [record.rows for record in described]
    distances = {(i, j): sizes[i] * sizes[j] // (2 if i == j else 1) for i, j in pairs}
    done = sum(distances[pair] for pair in pairs if pair not in set(todo_pairs))
    items = [(pair, settings.precision, settings.cores, cells, described, *common) for pair in todo_pairs]
    with run.progress.track(sum(distances.values()) / 1e6, "million distances", done=done / 1e6) as tracker:
        pairs_done = len(pairs) - len(todo_pairs)
        for index, _ in run.cluster.map_tasks(write_pair, items, num_cpus=settings.cores, num_gpus=gpus):
            pairs_done += 1
            tracker.advance(distances[todo_pairs[index]] / 1e6, f"{pairs_done}/{len(pairs)} pairs of blocks")

    finished = run.attempt.finished(plan)
    partial = {pair: finished["pair", _pair_index(pair, blocks)] for pair in pairs}
    todo = [i for i in range(len(blocks)) if ("sums", i) not in finished]
    for _ in run.cluster.map_tasks(write_sums, [(i, cells, described, partial, *common) for i in todo]):
        pass
    finished = run.attempt.finished(plan)
    return StageOutput(
        [finished["sums", i] for i in range(len(blocks))],
        {
            "languages": vectors.summary["languages"],
            "clusters": [list(cluster) for cluster in cells.clusters],
            "tasks": tasks,
            # Members of each cluster, by task.
            "sizes": cells.sizes,
            "blocks": len(blocks),
            "distances": int(sum(distances.values())),
        },
    )


def _blocks(vectors: Artifact, block_rows: int) -> list[list[int]]:
    """Runs of vector shards of at least `block_rows` rows or one shard, at most about `MOST_BLOCKS` of them."""
    # Every block keeps N x K partial sums until they are added: few blocks, whatever the corpus's size.
    block_rows = max(block_rows, -(-vectors.rows("vectors") // MOST_BLOCKS))
    blocks: list[list[int]] = [[]]
    filled = 0
    for index, shard in enumerate(vectors.shards("vectors")):
        if blocks[-1] and filled + shard.rows > block_rows:
            blocks.append([])
            filled = 0
        blocks[-1].append(index)
        filled += shard.rows
    return blocks


def _pair_index(pair: tuple[int, int], blocks: list[list[int]]) -> int:
    return pair[0] * len(blocks) + pair[1]


def _read_block(vectors: Artifact, block: list[int], columns: list[str]) -> pa.Table:
    shards = vectors.shards("vectors")
    return pa.concat_tables([vectors.read_shard(shards[index], columns) for index in block])


def _matrix(table: pa.Table) -> NDArray[np.floating]:
    column = table["vector"]
    flat = [chunk.flatten().to_numpy() for chunk in column.chunks]
    matrix: NDArray[np.floating] = np.concatenate(flat).reshape(-1, column.type.list_size)
    return matrix


def write_moments(block: int, vectors: Artifact, plan: dict[str, Any], attempt: Attempt) -> None:
    """Ray task: the moments of a block's vectors, and how many rows of it each cell has."""
    table = _read_block(vectors, plan["blocks"][block], [*CLUSTER, "task", "vector"])
    found = moments(torch.from_numpy(_matrix(table)))
    counts = Counter(zip(*(table[name].to_pylist() for name in (*CLUSTER, "task")), strict=True))
    summary = {"cells": [[*cell, count] for cell, count in counts.items()]}
    array = torch.stack([found.total, found.least, found.largest]).numpy()
    attempt.write_array("moments", block, array, rows=len(table), plan=plan, summary=summary)


def _origin(described: list[ShardRecord], attempt: Attempt) -> Origin:
    parts = [Moments(*torch.from_numpy(attempt.read_array(record))) for record in described]
    return origin_of(reduce(add, parts), sum(record.rows for record in described))


def write_pair(
    pair: tuple[int, int],
    precision: Any,
    cores: int,
    cells: Cells,
    described: list[ShardRecord],
    vectors: Artifact,
    plan: dict[str, Any],
    attempt: Attempt,
) -> None:
    """Ray task: the distance sums of block i's rows to block j's clusters and the other way round.

    Written as one array each way: (rows, clusters the other block has, twice: whole, and within the row's task).
    """
    origin = _origin(described, attempt)
    sides = []
    for block in dict.fromkeys(pair):
        table = _read_block(vectors, plan["blocks"][block], [*CLUSTER, "task", "vector"])
        own = cells.of(table)
        order = np.argsort(own, kind="stable")
        X = torch.from_numpy(_matrix(table))
        how = {"device": plan["device"], "precision": precision, "tile": plan["tile"], "threads": cores}
        how["sizes"] = np.array(cells.sizes, dtype=np.int64).reshape(-1)
        made = make_block(X, order, own[order], origin, **how)
        sides.append((made, order, own[order] % len(cells.tasks)))
    (x, order_x, task_x), (y, order_y, task_y) = sides[0], sides[-1]
    sums = block_sums(x, None if len(sides) == 1 else y, threads=cores)
    written = [_by_cluster(sums[0] * origin.scale, y.cells, task_x, order_x, len(cells.tasks))]
    if len(sides) == 2:
        written.append(_by_cluster(sums[1] * origin.scale, x.cells, task_y, order_y, len(cells.tasks)))
    flat = np.concatenate([part.reshape(-1) for part in written])
    attempt.write_array("pair", _pair_index(pair, plan["blocks"]), flat, plan=plan)


def _by_cluster(
    sums: NDArray[np.float64], cells: NDArray[np.int64], task: NDArray[np.int64], order: NDArray[np.int64], tasks: int
) -> NDArray[np.float64]:
    """Sums (n, cells) of sorted rows with these tasks (n,) -> (n, 2, clusters present), in the rows' original order."""
    clusters, groups = np.unique(cells // tasks, return_inverse=True)
    out = np.empty((len(sums), 2, len(clusters)))
    within = np.where(task[:, None] == cells % tasks, sums, 0.0)
    out[order, 0] = merge_columns(sums, groups, len(clusters))
    out[order, 1] = merge_columns(within, groups, len(clusters))
    return out


def write_sums(
    block: int,
    cells: Cells,
    described: list[ShardRecord],
    partial: dict[tuple[int, int], ShardRecord],
    vectors: Artifact,
    plan: dict[str, Any],
    attempt: Attempt,
) -> None:
    """Ray task: add up a block's partial sums in block order and write its shard of the `sums` table."""
    number = {cluster: k for k, cluster in enumerate(cells.clusters)}
    present = [sorted({number[tuple(cell[:3])] for cell in record.summary["cells"]}) for record in described]
    rows, width = described[block].rows, len(cells.clusters)
    total = np.zeros((rows, 2, width))
    for other in range(len(described)):
        flat = attempt.read_array(partial[min(block, other), max(block, other)])
        size = rows * 2 * len(present[other])
        part = flat[:size] if block <= other else flat[-size:]
        total[:, :, present[other]] += part.reshape(rows, 2, -1)
    table = _read_block(vectors, plan["blocks"][block], ["id", *CLUSTER, "task"])
    own = cells.of(table)
    columns = {
        "id": table["id"],
        "lang": table["lang"],
        "sums": _lists(total[:, 0]),
        "cluster": pa.array((own // len(cells.tasks)).astype(np.int32)),
        "task": table["task"],
    }
    if len(cells.tasks) > 1:
        columns["task_sums"] = _lists(total[:, 1])
    fields = {field.name: field for field in sums_schema(width)}
    schema = pa.schema([fields.get(name, pa.field(name, column.type)) for name, column in columns.items()])
    attempt.write_table("sums", block, pa.table(columns, schema=schema), plan=plan)


def _lists(values: NDArray[np.float64]) -> pa.FixedSizeListArray:
    return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(values).reshape(-1)), values.shape[1])
