"""Stage `results`: every task of every language is one cell, scored by lm-eval on a pool of Ray actors.

An actor loads the model once and scores one cell after another; a finished cell is two shards (`results`, `items`) with
their markers, so that a later attempt carries on from every cell that an earlier one finished.
"""

import importlib.metadata
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

import jinja2
import pyarrow as pa

from raysel import tables
from raysel.cluster import STALL_SECONDS
from raysel.errors import UserError
from raysel.evaluation.deadline import DeadlineError, deadline
from raysel.evaluation.settings import EvaluationSettings
from raysel.evaluation.tasks import EvalTask, load_tasks
from raysel.stage import StageOutput, StageRun
from raysel.store import Artifact, Attempt, ShardRecord

CPU_BATCH, GPU_BATCH = 16, 32
TABLES = ("results", "items")
# Whatever a task's templates, data or metrics can raise: it fails that cell, not the others.
CELL_FAULTS = (
    ArithmeticError, AssertionError, AttributeError, LookupError, OSError, RuntimeError, TypeError, ValueError,
    jinja2.TemplateError,
)  # fmt: skip


class CellsFailedError(UserError):
    """Some tasks could not be scored; those that could are kept, and the next run does only the others."""


def run(run: StageRun) -> StageOutput:
    """Evaluate one model on the chosen tasks.

    settings: `evaluation`, `trust_remote_code`, `seed`, `model_name` (what the `model` column says);
    inputs: `model` (a small base model) or the leaf `model` (a folder), and `tuned` (table `model` or `adapter`) where
    the model after training is evaluated. Writes `results` and `items`.
    """
    settings: EvaluationSettings = run.settings["evaluation"]
    tasks = load_tasks(settings)

    def choose() -> dict[str, Any]:
        batch = settings.batch_size or (GPU_BATCH if run.cluster.gpus() else CPU_BATCH)
        # The number of threads decides the last bits: it must not depend on how many cells are left.
        threads = run.cluster.cpus_each(settings.workers or run.cluster.gpus() or min(2, run.cluster.cpus()))
        return {"tasks": [task.name for task in tasks], "batch_size": batch, "threads": threads}

    plan = run.attempt.plan(choose, given={"batch_size": settings.batch_size})
    finished = _finished(run.attempt, plan)
    todo = [i for i in range(len(tasks)) if i not in finished]
    failures: dict[str, str] = {}
    with run.progress.track(len(tasks), "tasks", done=len(finished)) as tracker:
        for done in _score_cells(run, plan, tasks, todo) if todo else ():
            if done["failure"]:
                failures[done["task"]] = done["failure"]
            tracker.advance(1, done["task"])
    if failures:
        listed = "\n".join(f"  {name}: {failures[name]}" for name in sorted(failures))
        raise CellsFailedError(
            f"{len(failures)} of {len(tasks)} evaluation tasks failed on model {run.settings['model_name']}; "
            f"the others are kept and not scored again:\n{listed}"
        )
    finished = _finished(run.attempt, plan)
    records = [record for i in range(len(tasks)) for record in finished[i]]
    return StageOutput(records, _summary(tasks, [finished[i][0] for i in range(len(tasks))], settings))


def _score_cells(
    run: StageRun, plan: dict[str, Any], tasks: list[EvalTask], cells: list[int]
) -> Iterator[dict[str, Any]]:
    settings: EvaluationSettings = run.settings["evaluation"]
    gpus = run.cluster.gpus()
    threads = plan["threads"]
    workers = settings.workers or gpus or max(1, min(2, run.cluster.cpus() // threads))
    arguments = {
        "attempt": run.attempt,
        "plan": plan,
        "tasks": tasks,
        "base": run.inputs.get("model") or run.leaves.get("model"),
        "tuned": run.inputs.get("tuned"),
        "evaluation": settings,
        "trust_remote_code": run.settings["trust_remote_code"],
        "seed": run.settings["seed"],
        "model_name": run.settings["model_name"],
        "threads": threads,
    }
    return run.cluster.map_actors(
        CellWorker,
        arguments,
        [{"cell": i} for i in cells],
        workers=min(workers, len(cells)),
        # Half a CPU less than a CPU actor computes with: what else runs on the node (a trial) must find room.
        num_cpus=1 if gpus else threads - 0.5,
        num_gpus=1 if gpus else 0,
        stall_seconds=STALL_SECONDS + 60 * settings.cell_timeout_minutes,
    )


class CellWorker:
    """Holds the model and scores cells."""

    def __init__(
        self,
        *,
        attempt: Attempt,
        plan: dict[str, Any],
        tasks: list[EvalTask],
        base: Artifact | str | None,
        tuned: Artifact | None,
        evaluation: EvaluationSettings,
        trust_remote_code: bool,
        seed: int,
        model_name: str,
        threads: int,
    ) -> None:
        import torch

        from raysel.evaluation.harness import harness_model
        from raysel.models.loading import load_causal_lm, load_tokenizer

        torch.set_num_threads(threads)
        self.attempt, self.plan, self.tasks, self.settings = attempt, plan, tasks, evaluation
        self.seed, self.model_name = seed, model_name
        with tempfile.TemporaryDirectory(prefix="raysel-models-") as scratch:
            adapter = None
            if tuned is not None and tuned.shards("adapter"):
                adapter = tuned.local_folder("adapter", Path(scratch))
            source = base if tuned is None or adapter is not None else tuned
            if source is None:
                raise ValueError("stage results needs `model`, an input or a leaf, unless `tuned` is a whole model")
            folder = source.local_folder("model", Path(scratch)) if isinstance(source, Artifact) else source
            model = load_causal_lm(folder, adapter=adapter, trust_remote_code=trust_remote_code)
            # Any named template does: none is applied, and `auto` would refuse a tokenizer without one.
            tokenizer = load_tokenizer(folder, "plain", trust_remote_code=trust_remote_code)
        model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
        self.lm = harness_model(model, tokenizer, batch_size=plan["batch_size"])

    def process(self, item: dict[str, Any]) -> dict[str, Any]:
        """Score one cell and write its two shards; a fault of the task is returned, not raised."""
        from datasets.exceptions import DatasetsError

        cell = int(item["cell"])
        task = self.tasks[cell]
        failure = ""
        try:
            with deadline(self.lm.model, 60 * self.settings.cell_timeout_minutes):
                self._score(cell, task)
        except DeadlineError as error:
            failure = f"{error} (evaluation.cell_timeout_minutes)"
        except (*CELL_FAULTS, DatasetsError) as error:
            lines = str(error).strip().splitlines() or [""]
            failure = lines[0] if isinstance(error, UserError) else f"{type(error).__name__}: {lines[0][:500]}"
        return {"cell": cell, "task": task.name, "failure": failure}

    def _score(self, cell: int, task: EvalTask) -> None:
        from raysel.evaluation.harness import evaluate_task

        scores, items = evaluate_task(self.lm, task, limit=self.settings.limit, seed=self.seed)
        shared = {"model": self.model_name, "task": task.name, "lang": task.lang, "split": self.settings.split}
        conditions = {
            "seed": self.seed,
            "shots": int(task.config.get("num_fewshot") or 0),
            "template": "none",
            "harness": _harness_version(),
        }
        self._write("items", cell, [shared | asdict(item) for item in items], {})
        values = {score.metric: score.value for score in scores}
        summary = {"values": values, "items": max(score.n for score in scores)}
        self._write("results", cell, [shared | asdict(score) | conditions for score in scores], summary)

    def _write(self, table: str, cell: int, rows: list[dict[str, Any]], summary: dict[str, Any]) -> None:
        known = {field.name: field.type for field in tables.SCHEMAS[table]}
        names = [*known, *(name for name in rows[0] if name not in known)]
        columns = {name: pa.array([row[name] for row in rows], known.get(name)) for name in names}
        self.attempt.write_table(table, cell, pa.table(columns), plan=self.plan, summary=summary)


def _finished(attempt: Attempt, plan: dict[str, Any]) -> dict[int, list[ShardRecord]]:
    """The cells of which both shards are there: cell -> [results, items]."""
    found = attempt.finished(plan)
    cells = {index for _, index in found if all((table, index) in found for table in TABLES)}
    return {cell: [found[table, cell] for table in TABLES] for cell in cells}


def _summary(tasks: list[EvalTask], results: list[ShardRecord], settings: EvaluationSettings) -> dict[str, Any]:
    """macro is, per metric, the mean over languages of the mean over each language's tasks."""
    by_metric: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for task, record in zip(tasks, results, strict=True):
        for metric, value in record.summary["values"].items():
            by_metric[metric][task.lang].append(value)
    return {
        "tasks": [task.name for task in tasks],
        "languages": sorted({task.lang for task in tasks}),
        "split": settings.split,
        "items": sum(record.summary["items"] for record in results),
        "harness": _harness_version(),
        "macro": {metric: fmean(fmean(values) for values in langs.values()) for metric, langs in by_metric.items()},
    }


def _harness_version() -> str:
    return f"lm-eval {importlib.metadata.version('lm_eval')}"
