"""Stage `results`: every task of every language is one cell, scored by lm-eval on a pool of Ray actors.

A cell is an artifact of its own (`cells`), addressed by what decides its numbers: the model, the task with its data,
the settings. A killed run loses the cells that were being scored, and whatever else asks for an equal cell finds it
there. The stage's own artifact holds the cells' rows under the model's name.
"""

import importlib.metadata
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import jinja2
import pyarrow as pa

from raysel import tables
from raysel.cluster import STALL_SECONDS
from raysel.embedding.placement import gpus_per_replica
from raysel.errors import IncompleteError, UserError
from raysel.evaluation.batch_size import largest_that_fits
from raysel.evaluation.deadline import DeadlineError, deadline
from raysel.evaluation.settings import EvaluationSettings
from raysel.evaluation.tasks import EvalTask, load_tasks
from raysel.models.size import model_size
from raysel.stage import StageOutput, StageRun
from raysel.store import Artifact, Attempt, ShardRecord, Store, digest, file_digest

if TYPE_CHECKING:
    from lm_eval.models.huggingface import HFLM

CPU_BATCH = 16
# A prompt with shots; what the batch size on a GPU is tried with.
PROBED_TOKENS = 4096
# Texts that are null in many cells: they have one type in all.
TEXTS = dict.fromkeys(("target", "generated", "judgement"), pa.string())
# Whatever a task's templates, data or metrics can raise: it fails that cell, not the others.
CELL_FAULTS = (
    ArithmeticError, AssertionError, AttributeError, LookupError, OSError, RuntimeError, TypeError, ValueError,
    jinja2.TemplateError,
)  # fmt: skip


class CellsFailedError(IncompleteError):
    """Some tasks could not be scored; those that could are kept, and the next run does only the others."""


@dataclass(frozen=True)
class EvaluatedModel:
    """Where a model is: `base` (a folder or an artifact) and, after training, `tuned` (a whole model or an adapter).

    template: the chat template that prompts are put into; None for none.
    """

    base: Artifact | str | None
    tuned: Artifact | None
    template: str | None
    trust_remote_code: bool

    @property
    def adapted(self) -> bool:
        return self.tuned is not None and bool(self.tuned.shards("adapter"))

    def folder(self, scratch: Path) -> Path:
        """The local folder of the whole model that is loaded, without an adapter."""
        source = self.base if self.tuned is None or self.adapted else self.tuned
        if source is None:
            raise ValueError("stage results needs `model`, an input or a leaf, unless `tuned` is a whole model")
        return source.local_folder("model", scratch) if isinstance(source, Artifact) else Path(source)

    def load(self, batch_size: int, gpus: int) -> "HFLM":
        from raysel.evaluation.harness import harness_model
        from raysel.models.loading import load_causal_lm, load_tokenizer

        with tempfile.TemporaryDirectory(prefix="raysel-models-") as scratch:
            folder = self.folder(Path(scratch))
            assert self.tuned is not None or not self.adapted
            adapter = self.tuned.local_folder("adapter", Path(scratch)) if self.tuned and self.adapted else None
            model = load_causal_lm(
                folder,
                adapter=adapter,
                trust_remote_code=self.trust_remote_code,
                device_map="balanced" if gpus > 1 else None,
            )
            # Any named template does where none is applied: `auto` would refuse a tokenizer without one.
            tokenizer = load_tokenizer(folder, self.template or "plain", trust_remote_code=self.trust_remote_code)
        if gpus <= 1:
            model.to("cuda" if gpus else "cpu")
        return harness_model(model.eval(), tokenizer, batch_size=batch_size)


def run(run: StageRun) -> StageOutput:
    """Evaluate one model on the chosen tasks.

    settings: `evaluation`, `trust_remote_code`, `seed`, `model_name` (what the `model` column says), `identity` (of the
    model and of this stage's version), `template` where prompts are put into the model's;
    inputs: `model` (a small base model) or the leaf `model` (a folder), and `tuned` (table `model` or `adapter`) where
    the model after training is evaluated; the leaf `judge` where answers are rated. Writes `results` and `items`.
    """
    settings: EvaluationSettings = run.settings["evaluation"]
    tasks = load_tasks(settings)
    model = EvaluatedModel(
        run.inputs.get("model") or run.leaves.get("model"),
        run.inputs.get("tuned"),
        run.settings.get("template") if settings.chat_template else None,
        run.settings["trust_remote_code"],
    )
    wished = {"batch_size": settings.batch_size, "gpus": settings.gpus_per_worker}
    plan = run.attempt.plan(lambda: _plan(run, tasks, model), given=wished)
    store = run.attempt.store
    addresses = [_address(run, plan, task) for task in tasks]
    todo = [i for i, address in enumerate(addresses) if store.artifact("cells", address) is None]
    failures: dict[str, str] = {}
    with run.progress.track(len(tasks), "tasks", done=len(tasks) - len(todo)) as tracker:
        for done in _score_cells(run, plan, model, tasks, addresses, todo) if todo else ():
            if done["failure"]:
                failures[done["task"]] = done["failure"]
            tracker.advance(1, done["task"])
    if failures:
        listed = "\n".join(f"  {name}: {failures[name]}" for name in sorted(failures))
        raise CellsFailedError(
            f"{len(failures)} of {len(tasks)} evaluation tasks failed on model {run.settings['model_name']}; "
            f"the others are kept and not scored again:\n{listed}"
        )
    records = run.cluster.run_task(_gather, run.attempt, addresses, run.settings["model_name"])
    cells = [_cell(store, address) for address in addresses]
    return StageOutput(records, _summary(tasks, cells, settings) | {"cells": addresses})


def _plan(run: StageRun, tasks: list[EvalTask], model: EvaluatedModel) -> dict[str, Any]:
    settings: EvaluationSettings = run.settings["evaluation"]
    names = [task.name for task in tasks]
    if not run.cluster.gpus():
        # The number of threads decides the last bits: it must not depend on how many cells are left.
        threads = run.cluster.cpus_each(settings.workers or min(2, run.cluster.cpus()))
        return {"tasks": names, "batch_size": settings.batch_size or CPU_BATCH, "threads": threads, "gpus": 0}
    gpus = settings.gpus_per_worker
    if gpus is None:
        gpu_bytes = run.cluster.run_task(_gpu_bytes, num_gpus=1)
        with tempfile.TemporaryDirectory() as scratch:
            gpus = gpus_per_replica(
                model_size(model.folder(Path(scratch))), gpu_bytes=gpu_bytes, max_tokens=PROBED_TOKENS
            )
    judge = _judge_model(run.leaves["judge"], settings) if "judge" in run.leaves else None
    batch = settings.batch_size or run.cluster.run_task(_fitting_batch, model, judge, gpus, num_gpus=gpus)
    return {"tasks": names, "batch_size": batch, "threads": 1, "gpus": gpus}


def _gpu_bytes() -> int:
    """Ray task: the memory of its GPU."""
    import torch

    return int(torch.cuda.get_device_properties(0).total_memory)


def _judge_model(folder: str, settings: EvaluationSettings) -> EvaluatedModel:
    assert settings.judge is not None
    return EvaluatedModel(folder, None, settings.judge.template.name, settings.judge.trust_remote_code)


def _fitting_batch(model: EvaluatedModel, judge: EvaluatedModel | None, gpus: int) -> int:
    """Ray task: the largest batch of long prompts that the GPUs hold with the model, logits included, and the judge."""
    import torch

    # Held while the batches are tried.
    beside = judge.load(1, gpus) if judge is not None else None
    lm = model.load(1, gpus)
    tokens = min(lm.max_length, PROBED_TOKENS)

    def fits(batch: int) -> bool:
        try:
            lm._model_call(torch.ones((batch, tokens), dtype=torch.long, device=lm.device)).float().log_softmax(-1)
        except torch.cuda.OutOfMemoryError:
            torch.cuda.empty_cache()
            return False
        return True

    batch = largest_that_fits(fits)
    del beside
    return batch


def _address(run: StageRun, plan: dict[str, Any], task: EvalTask) -> str:
    """What a cell's numbers depend on, hashed; where the files lie does not count."""
    settings: EvaluationSettings = run.settings["evaluation"]
    reading = {key: value for key, value in (task.config.get("dataset_kwargs") or {}).items() if key != "data_files"}
    return digest(
        {
            "model": run.settings["identity"],
            "task": _words(task) | {"lang": task.lang, "item": task.item},
            "part": None if task.part == "whole" else [task.part, task.dev_share],
            "judge": run.settings.get("judge_identity") if _judged(task) else None,
            "reading": reading,
            "data": {
                split: [file_digest(run.attempt.store, file) for file in files]
                for split, files in _data_files(task).items()
            },
            "split": settings.split,
            "limit": settings.limit,
            "template": run.settings.get("template") if settings.chat_template else None,
            "seed": run.settings["seed"],
            "batch": [plan["batch_size"], plan["threads"], plan["gpus"]],
            "harness": _harness_version(),
        }
    )


def _words(task: EvalTask) -> dict[str, Any]:
    """The task's config as plain data, less where its data lies."""
    return {key: value for key, value in task.config.items() if key != "dataset_kwargs" and not callable(value)}


def _score_cells(
    run: StageRun,
    plan: dict[str, Any],
    model: EvaluatedModel,
    tasks: list[EvalTask],
    addresses: list[str],
    cells: list[int],
) -> Iterator[dict[str, Any]]:
    settings: EvaluationSettings = run.settings["evaluation"]
    gpus, threads = plan["gpus"], plan["threads"]
    # Half a CPU less than a CPU actor computes with: what else runs on the node (a trial) must find room.
    each = {"num_cpus": 1 if gpus else threads - 0.5, "num_gpus": gpus}
    room = run.cluster.places(**each) if gpus else min(2, run.cluster.cpus() // threads)
    arguments = {
        "store": run.attempt.store,
        "plan": plan,
        "tasks": tasks,
        "addresses": addresses,
        "model": model,
        "judge": run.leaves.get("judge"),
        "evaluation": settings,
        "seed": run.settings["seed"],
        "identity": run.settings["identity"],
    }
    return run.cluster.map_actors(
        CellWorker,
        arguments,
        [{"cell": i} for i in cells],
        workers=min(settings.workers or max(1, room), len(cells)),
        **each,
        stall_seconds=STALL_SECONDS + 60 * settings.cell_timeout_minutes,
    )


class CellWorker:
    """Holds the model, and the judge once one is needed, and scores cells."""

    def __init__(
        self,
        *,
        store: Store,
        plan: dict[str, Any],
        tasks: list[EvalTask],
        addresses: list[str],
        model: EvaluatedModel,
        judge: str | None,
        evaluation: EvaluationSettings,
        seed: int,
        identity: str,
    ) -> None:
        import torch

        torch.set_num_threads(plan["threads"])
        self.store, self.plan, self.tasks, self.addresses = store, plan, tasks, addresses
        self.judge, self.settings, self.seed, self.identity = judge, evaluation, seed, identity
        self.template = model.template
        self.lm = model.load(plan["batch_size"], plan["gpus"])
        self.judged_by: HFLM | None = None

    def process(self, item: dict[str, Any]) -> dict[str, Any]:
        """Score one cell and publish it; a fault of the task is returned, not raised."""
        from datasets.exceptions import DatasetsError

        cell = int(item["cell"])
        task = self.tasks[cell]
        failure = ""
        judged_by = self._judge() if _judged(task) else None
        try:
            with ExitStack() as limits:
                for lm in (self.lm, judged_by):
                    if lm is not None:
                        limits.enter_context(deadline(lm.model, 60 * self.settings.cell_timeout_minutes))
                self._score(task, self.addresses[cell], judged_by)
        except DeadlineError as error:
            failure = f"{error} (evaluation.cell_timeout_minutes)"
        except DatasetsError as error:
            read = [file for files in _data_files(task).values() for file in files]
            failure = f"{_said(error)}; its data: {', '.join(read) or task.config['dataset_path']}"
        except CELL_FAULTS as error:
            failure = _said(error)
        return {"cell": cell, "task": task.name, "failure": failure}

    def _score(self, task: EvalTask, address: str, judged_by: "HFLM | None") -> None:
        from raysel.evaluation.harness import evaluate_task

        metadata = task.config.get("metadata") or {}
        scores, items = evaluate_task(
            self.lm,
            task,
            limit=self.settings.limit,
            seed=self.seed,
            chat_template=self.template is not None,
            judged_by=judged_by,
        )
        shared = {"model": self.identity, "task": task.name, "lang": task.lang, "split": self.settings.split}
        conditions = {
            "seed": self.seed,
            "shots": int(task.config.get("num_fewshot") or 0),
            "template": self.template or "none",
            "harness": _harness_version(),
            "task_version": str(metadata.get("version", "")),
        }
        attempt = self.store.attempt("cells", address)
        values = {score.metric: score.value for score in scores}
        records = [
            _write(attempt, "items", 0, [shared | asdict(item) for item in items]),
            _write(attempt, "results", 0, [shared | asdict(score) | conditions for score in scores]),
        ]
        summary = {"values": values, "items": len({item.item for item in items})}
        facts = {"task": _words(task), "lang": task.lang, **conditions}
        attempt.publish(records, settings=facts, inputs={}, version=1, summary=summary)

    def _judge(self) -> "HFLM | None":
        if self.judged_by is None and self.judge is not None:
            judge = _judge_model(self.judge, self.settings)
            self.judged_by = judge.load(self.plan["batch_size"], self.plan["gpus"])
        return self.judged_by


def _judged(task: EvalTask) -> bool:
    return bool((task.config.get("metadata") or {}).get("judge"))


def _data_files(task: EvalTask) -> dict[str, list[str]]:
    """By split; empty for a data set of the hub."""
    return dict((task.config.get("dataset_kwargs") or {}).get("data_files") or {})


def _said(error: BaseException) -> str:
    """The first line of an error, with that of its cause: datasets says what is wrong with a file only there."""
    line = (str(error).strip().splitlines() or [""])[0][:500]
    if isinstance(error, UserError):
        return line
    cause = f" ({_said(error.__cause__)})" if error.__cause__ is not None else ""
    return f"{type(error).__name__}: {line}{cause}"


def _write(attempt: Attempt, table: str, index: int, rows: list[dict[str, Any]]) -> ShardRecord:
    known = {field.name: field.type for field in tables.SCHEMAS[table]} | TEXTS
    return attempt.write_table(table, index, pa.table({
        name: pa.array([row[name] for row in rows], known.get(name)) for name in rows[0]
    }))  # fmt: skip


def _cell(store: Store, address: str) -> Artifact:
    cell = store.artifact("cells", address)
    if cell is None:
        raise FileNotFoundError(f"{store.shown(f'cells/{address}')} was published and is gone")
    return cell


def _gather(attempt: Attempt, addresses: list[str], model_name: str) -> list[ShardRecord]:
    """Ray task: the rows of all cells, under the model's name."""
    records = []
    for index, address in enumerate(addresses):
        cell = _cell(attempt.store, address)
        for table in ("results", "items"):
            rows = cell.read(table)
            names = pa.array([model_name] * rows.num_rows, pa.string())
            place = rows.column_names.index("model")
            named = rows.set_column(place, tables.SCHEMAS[table].field("model"), names)
            records.append(attempt.write_table(table, index, named))
    return records


def _summary(tasks: list[EvalTask], cells: list[Artifact], settings: EvaluationSettings) -> dict[str, Any]:
    """macro is, per metric, the mean over languages of the mean over each language's tasks."""
    by_metric: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for task, cell in zip(tasks, cells, strict=True):
        for metric, value in cell.summary["values"].items():
            by_metric[metric][task.lang].append(value)
    return {
        "tasks": [task.name for task in tasks],
        "languages": sorted({task.lang for task in tasks}),
        "split": settings.split,
        "items": sum(cell.summary["items"] for cell in cells),
        "harness": _harness_version(),
        "macro": {metric: fmean(fmean(values) for values in langs.values()) for metric, langs in by_metric.items()},
    }


def _harness_version() -> str:
    return f"lm-eval {importlib.metadata.version('lm_eval')}"
