"""Stage `order`: the subset in its order of training, or in the queues that a loss-aware curriculum takes it from."""

import json
from collections import Counter
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import fs

from raysel.errors import UserError
from raysel.mixture.curriculum import order, quantile_levels, queues
from raysel.mixture.settings import CurriculumSettings
from raysel.seeding import draw
from raysel.stage import StageOutput, StageRun
from raysel.store import Artifact, Attempt, ShardRecord, open_filesystem
from raysel.tables import ORDER, QUEUES, TRAINED_ORDER


class OrderError(UserError):
    """A recorded order that does not fit what was selected."""


def trained_order_file(path: str) -> str:
    """The Parquet file of a recorded order: `path` itself, or the one in the folder of a model."""
    filesystem, inside = open_filesystem(path)
    info = filesystem.get_file_info(inside)
    if info.type == fs.FileType.File:
        return path
    manifest = f"{inside.rstrip('/')}/manifest.json"
    found: list[str] = []
    if filesystem.get_file_info(manifest).type == fs.FileType.File:
        with filesystem.open_input_file(manifest) as file:
            content = file.read()
        try:
            found = [entry["path"] for entry in json.loads(content)["files"] if entry["table"] == "trained_order"]
        except (ValueError, KeyError, TypeError):
            found = []
    if len(found) != 1:
        raise OrderError(
            f"curriculum.trained_order {path!r} is neither a Parquet file nor the folder of a model trained by "
            "a loss-aware curriculum (<storage>/model/<fingerprint>)"
        )
    return f"{path.rstrip('/')}/{found[0]}"


def run(run: StageRun) -> StageOutput:
    """Write table `order`, or `queues` where the order is found while training.

    The summary has rows, epochs (how many the table covers: one that is to be repeated, or all of them), loss_aware
    (its settings, or null) and levels_apart (whether the samples of a row of tokens are of one level).
    """
    settings: CurriculumSettings = run.settings["curriculum"]
    arguments = (run.settings["seed"], dict(run.inputs), run.attempt)
    if settings.kind == "replay":
        record = run.cluster.run_task(write_replay, run.leaves["trained_order"], *arguments[1:])
    elif settings.kind == "loss_aware":
        record = run.cluster.run_task(write_queues, settings, *arguments)
    else:
        record = run.cluster.run_task(write_order, settings, run.settings["epochs"], *arguments)
    return StageOutput([record], record.summary)


class _Subset:
    """The selected rows as they are trained on: one that is repeated (mixture.shortfall) occurs several times.

    keys: one for each occurrence, (N,), as are ids, scores and langs.
    """

    def __init__(self, inputs: dict[str, Artifact]) -> None:
        subset = inputs["subset"].read("subset", ["id", "lang", "rank"])
        wanted = pc.field("id").isin(subset["id"])
        scores = inputs["scores"].read("scores", ["id", "separability"], filters=wanted)
        facts = inputs["corpus"].read("corpus", ["id", "lang", "task"], filters=wanted)
        score = _by_id(scores, "separability")
        self.lang, self.task = _by_id(facts, "lang"), _by_id(facts, "task")
        times = self._times(inputs["quota"], subset) if "quota" in inputs else {}
        found = [(i, copy) for i in subset["id"].to_pylist() for copy in range(times.get(i, 1))]
        self.ids = [i for i, _ in found]
        self.keys = [i if copy == 0 else f"{i}\0{copy}" for i, copy in found]
        self.id_of = dict(zip(self.keys, self.ids, strict=True))
        self.scores, self.langs = [score[i] for i in self.ids], [self.lang[i] for i in self.ids]

    def _times(self, quota: Artifact, subset: pa.Table) -> dict[str, int]:
        """How often each row occurs: the selector's first choices once more where that does not come out even."""
        by_task = quota.summary["by_task"]
        cells = {(lang, task): count for lang, task, count, _ in quota.summary["cells"]}
        rank = _by_id(subset, "rank")
        if quota.summary["parallel"]:  # the same items once more in every language
            rank = _by_id(quota.read("parallel", ["id", "place"]), "place")
        ranked = sorted((rank[i], i) for i in subset["id"].to_pylist())
        cell_of = {i: (self.lang[i], self.task[i] if by_task else None) for _, i in ranked}
        rows = Counter(cell_of.values())
        seen: Counter[tuple[str, str | None]] = Counter()
        times = {}
        for _, i in ranked:
            cell = cell_of[i]
            whole, more = divmod(cells[cell], rows[cell])
            times[i] = whole + (seen[cell] < more)
            seen[cell] += 1
        return times

    def columns(self, keys: list[str], levels: list[int | None]) -> dict[str, list[Any]]:
        ids = [self.id_of[key] for key in keys]
        return {
            "id": ids,
            "lang": [self.lang[i] for i in ids],
            "task": [self.task[i] for i in ids],
            "level": levels,
        }


def write_order(
    settings: CurriculumSettings, epochs: int, seed: int, inputs: dict[str, Artifact], attempt: Attempt
) -> ShardRecord:
    """Ray task: position, language, task and curriculum level of every selected row; of every epoch where they
    differ."""
    rows = _Subset(inputs)
    covered = epochs if settings.repetition == "reshuffled" and "repetition" in settings.read else 1
    assert settings.kind != "loss_aware"
    assert settings.kind != "replay"
    keys: list[str] = []
    for epoch in range(covered):
        own_seed = seed if epoch == 0 else int(draw(seed, f"epoch {epoch}") * 2**32)
        keys += order(
            rows.keys,
            rows.scores,
            rows.langs,
            kind=settings.kind,
            levels=settings.levels,
            seed=own_seed,
            within_level=settings.within_level,
            stages=settings.stages,
            mix_in=settings.mix_in,
        )
    level: dict[str, int] = {}
    if settings.has_levels:
        levels = quantile_levels(rows.keys, rows.scores, rows.langs, levels=settings.levels)
        level = dict(zip(rows.keys, levels, strict=True))
    columns = rows.columns(keys, [level.get(key) for key in keys]) | {"position": list(range(len(keys)))}
    summary = {"rows": len(keys), "epochs": covered, "loss_aware": None, "levels_apart": False}
    return attempt.write_table("order", 0, _table(columns, ORDER), summary=summary)


def write_queues(settings: CurriculumSettings, seed: int, inputs: dict[str, Artifact], attempt: Attempt) -> ShardRecord:
    """Ray task: the selected rows of each level, in the order in which they come up."""
    rows = _Subset(inputs)
    own = (rows.keys, rows.scores, rows.langs)
    by_level = queues(*own, levels=settings.levels, seed=seed, within_level=settings.within_level)
    levels: list[int | None] = [level for level, members in enumerate(by_level) for _ in members]
    columns = rows.columns([key for members in by_level for key in members], levels)
    columns["place"] = list(range(len(levels)))
    how_to_choose = settings.loss_aware.model_dump()
    summary = {"rows": len(levels), "epochs": 1, "loss_aware": how_to_choose, "levels_apart": True}
    return attempt.write_table("queues", 0, _table(columns, QUEUES), summary=summary)


def write_replay(path: str, inputs: dict[str, Artifact], attempt: Attempt) -> ShardRecord:
    """Ray task: a recorded order, once its rows were found among the selected ones."""
    recorded = _read_recorded(path)
    rows = _Subset(inputs)
    unknown = pc.unique(recorded["id"].filter(pc.invert(pc.is_in(recorded["id"], pa.array(list(rows.lang))))))
    if len(unknown):
        raise OrderError(
            f"{path} orders {len(unknown):,} rows that were not selected here, e.g. {unknown[0].as_py()}: "
            "replay it over the same corpus, preselect, selection and mixture"
        )
    ids = recorded["id"].to_pylist()
    left = len(rows.lang.keys() - set(ids))
    columns = {name: recorded[name].to_pylist() for name in ("id", "level")} | {
        "position": range(len(ids)),
        "lang": [rows.lang[i] for i in ids],
        "task": [rows.task[i] for i in ids],
    }
    warnings = [f"{left:,} selected rows are not in the order that is replayed"] if left else []
    # All the epochs are in what was recorded; its rows of tokens kept levels apart, and so must these.
    steps = 1 + pc.max(recorded["step"]).as_py()
    summary = {"rows": len(ids), "epochs": None, "loss_aware": None, "levels_apart": True, "steps": steps}
    summary["warnings"] = warnings
    return attempt.write_table("order", 0, _table(columns, ORDER), summary=summary)


def _read_recorded(path: str) -> pa.Table:
    filesystem, inside = open_filesystem(path)
    try:
        table = pq.read_table(inside, filesystem=filesystem, columns=["id", "position", "level", "step"])
        table = table.cast(pa.schema([TRAINED_ORDER.field(name) for name in table.column_names]))
    except (pa.ArrowException, ValueError) as error:
        first = str(error).splitlines()[0]
        raise OrderError(f"{path} is no recorded order (Parquet with id, position, level, step): {first}") from error
    if not table.num_rows:
        raise OrderError(f"{path} is a recorded order of no rows")
    return table.sort_by("position")


def _table(columns: dict[str, Any], schema: pa.Schema) -> pa.Table:
    return pa.table({name: columns[name] for name in schema.names}, schema=schema)


def _by_id(table: pa.Table, column: str) -> dict[str, Any]:
    return dict(zip(table["id"].to_pylist(), table[column].to_pylist(), strict=True))
