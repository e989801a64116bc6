"""Stage `subset`: a selector fills the quota from the pool, one Ray task per language (and task)."""

from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from threadpoolctl import threadpool_limits

from raysel.seeding import draw
from raysel.selection import kmc, random
from raysel.selection.settings import SelectionSettings
from raysel.stage import StageOutput, StageRun
from raysel.store import Artifact, Attempt
from raysel.tables import CHOSEN


def run(run: StageRun) -> StageOutput:
    settings: SelectionSettings = run.settings["selection"]
    pool, quota = run.inputs["pool"], run.inputs["quota"]
    in_pool = {(lang, task): count for lang, task, count in pool.summary["cells"]}
    cells = [(lang, task, count) for lang, task, count, _ in quota.summary["cells"]]
    # What a count asks for beyond the pool is repeated or done without (mixture.shortfall), or was refused before.
    taken = [
        (lang, task, min(count, in_pool[lang, task]) if quota.summary["binding"] else in_pool[lang, task])
        for lang, task, count in cells
        if (lang, task) in in_pool
    ]
    wanted = sorted((cell for cell in taken if cell[2]), key=lambda cell: (cell[0], cell[1] or ""))
    finished = run.attempt.finished()
    items = [
        (index, *cell, settings.method, run.settings["seed"], pool, run.inputs.get("vectors"), run.attempt)
        for index, cell in enumerate(wanted)
        if ("subset", index) not in finished
    ]
    with run.progress.track(len(wanted), "languages", done=len(wanted) - len(items)) as tracker:
        for _ in run.cluster.map_tasks(write_subset, items):
            tracker.advance(1)
    finished = run.attempt.finished()
    languages: Counter[str] = Counter()
    for lang, _, count in wanted:
        languages[lang] += count
    return StageOutput([finished["subset", i] for i in range(len(wanted))], {"languages": dict(languages)})


def write_subset(
    index: int,
    lang: str,
    task: str | None,
    count: int,
    method: str,
    seed: int,
    pool: Artifact,
    vectors: Artifact | None,
    attempt: Attempt,
) -> None:
    """Ray task: choose `count` rows of one language (and task); rank 0 is the selector's first choice."""
    in_lang: Any = pc.field("lang") == lang
    in_cell = in_lang if task is None else in_lang & (pc.field("task") == task)
    candidates = pool.read("pool", ["id"], filters=in_cell).sort_by("id")
    # A seed of its own for each language: with a shared one, parallel corpora would give the same items everywhere.
    own_seed = int(draw(seed, lang if task is None else f"{lang}\0{task}") * 2**32)
    if method == "kmc" and vectors is not None:
        with threadpool_limits(1):
            rows, distances = kmc.select_with_distances(_vectors_of(candidates, vectors, in_lang), count, seed=own_seed)
        scores = -distances
    else:
        rows = random.select(candidates.num_rows, count, seed=own_seed)
        scores = np.zeros(count)
    columns = [
        candidates["id"].take(pa.array(rows)),
        pa.array([lang] * count, pa.string()),
        pa.array(range(count), pa.int64()),
        pa.array(scores, pa.float64()),
        pa.array([method] * count, pa.string()),
    ]
    attempt.write_table("subset", index, pa.table(columns, schema=CHOSEN))


def _vectors_of(candidates: pa.Table, vectors: Artifact, in_lang: Any) -> np.ndarray:
    """(n, d) vectors of the candidates, in their order."""
    table = vectors.read("vectors", ["id", "vector"], filters=in_lang)
    row_of = {identity: i for i, identity in enumerate(table["id"].to_pylist())}
    flat = np.concatenate([chunk.flatten().to_numpy() for chunk in table["vector"].chunks])
    rows = [row_of[identity] for identity in candidates["id"].to_pylist()]
    return flat.reshape(-1, vectors.summary["width"])[rows]
