"""Stage `influence`: LESS's score of every row of the pool, from its gradients and the target's."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from raysel.selection import less
from raysel.selection.gradients_stage import gradient_rows
from raysel.stage import StageOutput, StageRun
from raysel.store import Artifact, Attempt, ShardRecord
from raysel.tables import ROW_SCORES

INFLUENCE = ROW_SCORES.append(pa.field("subtask", pa.string()))


def run(run: StageRun) -> StageOutput:
    """Write table `influence`, with the subtask that each row helps most. inputs: `gradients`, `target_gradients`,
    `warmup`."""
    gradients, target = run.inputs["gradients"], run.inputs["target_gradients"]
    rates = [entry["learning_rate"] for entry in run.inputs["warmup"].summary["checkpoints"]]
    attempt, pieces = run.attempt, gradients.summary["pieces"]
    finished = attempt.finished()
    means = finished.get(("means", 0)) or run.cluster.run_task(write_means, target, attempt)
    todo = [index for index in range(pieces) if ("influence", index) not in finished]
    with run.progress.track(pieces, "shards", done=pieces - len(todo)) as tracker:
        for _ in run.cluster.map_tasks(write_influence, [(i, gradients, rates, means, attempt) for i in todo]):
            tracker.advance(1)
    finished = attempt.finished()
    records = [finished["influence", i] for i in range(pieces)]
    helped: dict[str, int] = {}
    for record in records:
        for subtask, count in record.summary["helped"].items():
            helped[subtask] = helped.get(subtask, 0) + count
    return StageOutput(records, {"rows_by_subtask": dict(sorted(helped.items()))})


def write_means(target: Artifact, attempt: Attempt) -> ShardRecord:
    """Ray task: the mean gradient of each subtask at each checkpoint, float64 (C, S, D)."""
    found = less.subtask_means(_parts(target))
    return attempt.write_array("means", 0, found.means, summary={"subtasks": found.subtasks})


def _parts(target: Artifact) -> Iterator[tuple[list[np.ndarray], list[str]]]:
    """Of each piece of the target its rows at every checkpoint, and their subtasks; one piece is in memory at once."""
    checkpoints, shards = target.summary["checkpoints"], target.shards("gradients")
    for start in range(0, len(shards), checkpoints):
        parts = [gradient_rows(target, shard, ["subtask"]) for shard in shards[start : start + checkpoints]]
        yield [rows for _, rows in parts], parts[0][0]["subtask"].to_pylist()


def write_influence(
    index: int, gradients: Artifact, learning_rates: list[float], means: ShardRecord, attempt: Attempt
) -> None:
    """Ray task: the scores of one piece of the rows."""
    checkpoints, shards = gradients.summary["checkpoints"], gradients.shards("gradients")
    parts = [gradient_rows(gradients, shard, ["id", "lang"]) for shard in shards[index * checkpoints :][:checkpoints]]
    target = less.SubtaskMeans(means.summary["subtasks"], attempt.read_array(means))
    scores, names = less.influence([rows for _, rows in parts], target, learning_rates)
    columns = [parts[0][0]["id"], parts[0][0]["lang"], pa.array(scores, pa.float64()), pa.array(names, pa.string())]
    helped = {name: names.count(name) for name in set(names)}
    attempt.write_table("influence", index, pa.table(columns, schema=INFLUENCE), summary={"helped": helped})
