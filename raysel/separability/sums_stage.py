"""Stage `sums`: summed distances of every sample to every language, in pairs of blocks over Ray.

A block is a run of vector shards. Each pair of blocks is one idempotent task that publishes its partial sums; the
partial sums of a block are then added in block order. Every task computes with one thread, so the bits are the same
for any number of workers and after any kill.
"""

from typing import Any

import numpy as np
import torch

from raysel.separability.settings import SeparabilitySettings
from raysel.separability.silhouette import block_sums, centre
from raysel.stage import StageOutput, StageRun
from raysel.store import Artifact, Attempt, ShardRecord
from raysel.tables import sums_schema

MOST_BLOCKS = 64


def run(run: StageRun) -> StageOutput:
    settings: SeparabilitySettings = run.settings["separability"]
    vectors = run.inputs["vectors"]
    languages = list(vectors.summary["languages"])
    plan = run.attempt.plan(
        lambda: {"blocks": _blocks(vectors, settings.block_rows)}, given={"block_rows": settings.block_rows}
    )
    blocks: list[list[int]] = plan["blocks"]
    gpus = 1 if run.cluster.gpus() else 0
    common = (vectors, plan, run.attempt)

    finished = run.attempt.finished(plan)
    todo = [i for i in range(len(blocks)) if ("moments", i) not in finished]
    for _ in run.cluster.map_tasks(write_moments, [(i, *common) for i in todo]):
        pass

    finished = run.attempt.finished(plan)
    moments = [finished["moments", i] for i in range(len(blocks))]
    pairs = [(i, j) for i in range(len(blocks)) for j in range(i, len(blocks))]
    todo_pairs = [pair for pair in pairs if ("pair", _pair_index(pair, blocks)) not in finished]
    sizes = [sum(vectors.shards("vectors")[s].rows for s in block) for block in blocks]
    distances = {(i, j): sizes[i] * sizes[j] // (2 if i == j else 1) for i, j in pairs}
    done = sum(distances[pair] for pair in pairs if pair not in set(todo_pairs))
    items = [(pair, languages, moments, *common) for pair in todo_pairs]
    with run.progress.track(sum(distances.values()) / 1e6, "million distances", done=done / 1e6) as tracker:
        for index, _ in run.cluster.map_tasks(write_pair, items, num_gpus=gpus):
            tracker.advance(distances[todo_pairs[index]] / 1e6)

    finished = run.attempt.finished(plan)
    partial = {pair: finished["pair", _pair_index(pair, blocks)] for pair in pairs}
    todo = [i for i in range(len(blocks)) if ("sums", i) not in finished]
    for _ in run.cluster.map_tasks(write_sums, [(i, languages, partial, sizes, *common) for i in todo]):
        pass
    finished = run.attempt.finished(plan)
    return StageOutput(
        [finished["sums", i] for i in range(len(blocks))],
        {"languages": vectors.summary["languages"], "blocks": len(blocks), "distances": int(sum(distances.values()))},
    )


def _blocks(vectors: Artifact, block_rows: int) -> list[list[int]]:
    """Runs of vector shards of at least `block_rows` rows or one shard, at most about `MOST_BLOCKS` of them."""
    # Every block keeps N x K partial sums until they are added: few blocks, whatever the corpus's size.
    block_rows = max(block_rows, -(-vectors.rows("vectors") // MOST_BLOCKS))
    blocks: list[list[int]] = []
    filled = block_rows
    for index, shard in enumerate(vectors.shards("vectors")):
        if filled + shard.rows > block_rows:
            blocks.append([])
            filled = 0
        blocks[-1].append(index)
        filled += shard.rows
    return blocks


def _pair_index(pair: tuple[int, int], blocks: list[list[int]]) -> int:
    return pair[0] * len(blocks) + pair[1]


def _read_block(vectors: Artifact, block: list[int], columns: list[str]) -> dict[str, Any]:
    shards = vectors.shards("vectors")
    tables = [vectors.read_shard(shards[index], columns) for index in block]
    out: dict[str, Any] = {
        name: np.concatenate([table[name].to_numpy() for table in tables]) for name in columns if name != "vector"
    }
    if "vector" in columns:
        flat = [chunk.flatten().to_numpy() for table in tables for chunk in table["vector"].chunks]
        out["vector"] = torch.from_numpy(np.concatenate(flat).reshape(-1, vectors.summary["width"]))
    return out


def write_moments(block: int, vectors: Artifact, plan: dict[str, Any], attempt: Attempt) -> None:
    """Ray task: float64 (2, d) of a block, the sums and the sums of squares of its vectors' components."""
    torch.set_num_threads(1)
    X = _read_block(vectors, plan["blocks"][block], ["vector"])["vector"].double()
    attempt.write_array("moments", block, torch.stack([X.sum(0), X.square().sum(0)]).numpy(), plan=plan)


def _mean_and_scale(moments: list[ShardRecord], rows: int, attempt: Attempt) -> tuple[torch.Tensor, float]:
    """The mean (d,) of all vectors and the root of their mean squared distance from it."""
    total = np.sum([attempt.read_array(record) for record in moments], axis=0) / rows
    variance = float(np.maximum(total[1] - total[0] ** 2, 0).sum())
    return torch.from_numpy(total[0]), variance**0.5 or 1.0


def write_pair(
    pair: tuple[int, int],
    languages: list[str],
    moments: list[ShardRecord],
    vectors: Artifact,
    plan: dict[str, Any],
    attempt: Attempt,
) -> None:
    """Ray task: the distance sums of block i's rows to block j's clusters and the other way round, stacked."""
    torch.set_num_threads(1)
    mean, scale = _mean_and_scale(moments, vectors.rows("vectors"), attempt)
    number = {lang: k for k, lang in enumerate(languages)}
    device = "cuda" if torch.cuda.is_available() else "cpu"
    sides: list[Any] = []
    for block in dict.fromkeys(pair):
        read = _read_block(vectors, plan["blocks"][block], ["lang", "vector"])
        own = np.array([number[lang] for lang in read["lang"]], dtype=np.int64)
        sides += [centre(read["vector"], mean, scale).to(device), own]
    sums = block_sums(sides[0], sides[1], len(languages), *sides[2:])
    attempt.write_array("pair", _pair_index(pair, plan["blocks"]), np.concatenate(sums) * scale, plan=plan)


def write_sums(
    block: int,
    languages: list[str],
    partial: dict[tuple[int, int], ShardRecord],
    sizes: list[int],
    vectors: Artifact,
    plan: dict[str, Any],
    attempt: Attempt,
) -> None:
    """Ray task: add up a block's partial sums in block order and write its shard of the `sums` table."""
    import pyarrow as pa

    total = np.zeros((sizes[block], len(languages)))
    for other in range(len(sizes)):
        part = attempt.read_array(partial[min(block, other), max(block, other)])
        total += part[: sizes[block]] if block <= other else part[sizes[other] :]
    read = _read_block(vectors, plan["blocks"][block], ["id", "lang"])
    flat = pa.FixedSizeListArray.from_arrays(pa.array(total.reshape(-1)), len(languages))
    columns = [pa.array(read["id"], pa.string()), pa.array(read["lang"], pa.string()), flat]
    attempt.write_table("sums", block, pa.table(columns, schema=sums_schema(len(languages))), plan=plan)
