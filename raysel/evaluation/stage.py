"""Stage `results`: every task of every language is one cell, scored by lm-eval on a pool of Ray actors.

A cell is an artifact of its own (`cells`), addressed by what decides its numbers: the model, the task with its data,
the settings. A killed run loses the cells that were being scored, and whatever else asks for an equal cell finds it
there. The stage's own artifact holds the cells' rows under the model's name.
"""

import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

import pyarrow as pa

from raysel import tables
from raysel.cluster import STALL_SECONDS
from raysel.embedding.placement import gpus_per_replica
from raysel.errors import IncompleteError
from raysel.evaluation.batch_size import largest_that_fits
from raysel.evaluation.cell_stage import (
    PROBED_TOKENS,
    Cell,
    CellWorker,
    EvaluatedModel,
    data_files_of,
    harness_version,
    is_judged,
    judge_model,
    words_of,
)
from raysel.evaluation.heldout import heldout_task
from raysel.evaluation.settings import EvaluationSettings
from raysel.evaluation.task_files import TaskError
from raysel.evaluation.tasks import EvalTask, load_tasks
from raysel.memory_errors import is_out_of_memory
from raysel.models.size import model_size
from raysel.stage import StageOutput, StageRun
from raysel.store import Artifact, Attempt, ShardRecord, Store, digest, file_digest

CPU_BATCH = 16


class CellsFailedError(IncompleteError):
    """Some tasks could not be scored; those that could are kept, and the next run does only the others."""


def run(run: StageRun) -> StageOutput:
    """Evaluate one model on the chosen tasks.

    settings: `evaluation`, `trust_remote_code`, `seed`, `model_name` (what the `model` column says), `identity` (of the
    model and of this stage's version), `base_identity` (of the model under an adapter, where it is evaluated as well),
    `judge_identity` where there is a judge, `template` where prompts are put into the model's or held-out samples are
    scored, which are in the input `corpus`;
    inputs: `model` (a small base model) or the leaf `model` (a folder), and `tuned` (table `model` or `adapter`) where
    the model after training is evaluated; the leaf `judge` where answers are rated. Writes `results` and `items`.
    """
    settings: EvaluationSettings = run.settings["evaluation"]
    tasks = [*(load_tasks(settings) if settings.tasks is not None else []), *_heldout_tasks(run, settings)]
    model = EvaluatedModel(
        run.inputs.get("model") or run.leaves.get("model"),
        run.inputs.get("tuned"),
        run.settings.get("template"),
        run.settings["trust_remote_code"],
    )
    wished = {
        "batch_size": settings.batch_size,
        "gpus": settings.gpus_per_worker,
        "threads": settings.cpus_per_worker,
    }
    plan = run.attempt.plan(lambda: _plan(run, tasks, model), given=wished)
    store = run.attempt.store
    own = _cells(run, plan, tasks, run.settings["identity"], adapter=True)
    # The base model that the adapter is on, where it is evaluated too, is loaded once for both.
    base = run.settings.get("base_identity") if model.adapted else None
    beside = [] if base is None else _cells(run, plan, tasks, base, adapter=False)
    failures: dict[str, str] = {}
    todo = [cell for cell in [*own, *beside] if store.artifact("cells", cell.address) is None]
    with run.progress.track(len(own) + len(beside), "tasks", done=len(own) + len(beside) - len(todo)) as tracker:
        for done in _score_cells(run, plan, model, todo) if todo else ():
            # What fails on the base is told when the base is evaluated.
            if done["failure"] and todo[done["cell"]].adapter:
                failures[done["task"]] = done["failure"]
            tracker.advance(1, done["task"])
    if failures:
        listed = "\n".join(f"  {name}: {failures[name]}" for name in sorted(failures))
        raise CellsFailedError(
            f"{len(failures)} of {len(tasks)} evaluation tasks failed on model {run.settings['model_name']}; "
            f"the others are kept and not scored again:\n{listed}"
        )
    addresses = [cell.address for cell in own]
    records = run.cluster.run_task(_gather, run.attempt, addresses, run.settings["model_name"])
    found = [_published(store, address) for address in addresses]
    return StageOutput(records, _summary(tasks, found) | {"cells": addresses})


def _heldout_tasks(run: StageRun, settings: EvaluationSettings) -> list[EvalTask]:
    if not settings.heldout_samples:
        return []
    corpus = run.inputs["corpus"]
    langs = run.cluster.run_task(_heldout_languages, corpus)
    if not langs:
        raise TaskError("evaluation.heldout_samples: the corpus holds nothing out; raise corpus.heldout")
    return [heldout_task(lang, corpus.fingerprint, settings.heldout_samples) for lang in langs]


def _heldout_languages(corpus: Artifact) -> list[str]:
    """Ray task."""
    langs = (corpus.read_shard(shard, ["lang"])["lang"].unique().to_pylist() for shard in corpus.shards("heldout"))
    return sorted({lang for of in langs for lang in of})


def _cells(run: StageRun, plan: dict[str, Any], tasks: list[EvalTask], identity: str, *, adapter: bool) -> list[Cell]:
    return [Cell(task, _address(run, plan, task, identity), identity, adapter, _template(run, task)) for task in tasks]


def _template(run: StageRun, task: EvalTask) -> str | None:
    """What the task's prompts are put into."""
    asked = task.is_heldout or run.settings["evaluation"].chat_template
    return run.settings.get("template") if asked else None


def _plan(run: StageRun, tasks: list[EvalTask], model: EvaluatedModel) -> dict[str, Any]:
    settings: EvaluationSettings = run.settings["evaluation"]
    names = [task.name for task in tasks]
    if not run.cluster.gpus():
        # The number of threads decides the last bits: it must not depend on how many cells are left.
        threads = settings.cpus_per_worker or run.cluster.cpus_each(settings.workers or min(2, run.cluster.cpus()))
        return {"tasks": names, "batch_size": settings.batch_size or CPU_BATCH, "threads": threads, "gpus": 0}
    gpus = settings.gpus_per_worker
    if gpus is None:
        gpu_bytes = run.cluster.run_task(_gpu_bytes, num_gpus=1)
        with tempfile.TemporaryDirectory() as scratch:
            gpus = gpus_per_replica(
                model_size(model.folder(Path(scratch))), gpu_bytes=gpu_bytes, max_tokens=PROBED_TOKENS
            )
    judge = judge_model(run.leaves["judge"], settings) if "judge" in run.leaves else None
    batch = settings.batch_size or run.cluster.run_task(_fitting_batch, model, judge, gpus, num_gpus=gpus)
    return {"tasks": names, "batch_size": batch, "threads": 1, "gpus": gpus}


def _gpu_bytes() -> int:
    """Ray task: the memory of its GPU."""
    import torch

    return int(torch.cuda.get_device_properties(0).total_memory)


def _fitting_batch(model: EvaluatedModel, judge: EvaluatedModel | None, gpus: int) -> int:
    """Ray task: the largest batch of long prompts that the GPUs hold with the model, logits included, and the judge."""
    import torch

    # Held while the batches are tried.
    beside = judge.load_for_harness(1, gpus) if judge is not None else None
    lm = model.load_for_harness(1, gpus)
    tokens = min(lm.max_length, PROBED_TOKENS)

    def fits(batch: int) -> bool:
        try:
            texts = torch.ones((batch, tokens), dtype=torch.long, device=lm.device)
            # As many tokens for the decoder behind an encoder.
            answers = {"attn_mask": texts, "labels": texts} if lm.backend == "seq2seq" else {}
            lm._model_call(texts, **answers).float().log_softmax(-1)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            torch.cuda.empty_cache()
            return False
        return True

    batch = largest_that_fits(fits)
    del beside
    return batch


def _address(run: StageRun, plan: dict[str, Any], task: EvalTask, identity: str) -> str:
    """What a cell's numbers depend on, hashed; where the files lie does not count."""
    settings: EvaluationSettings = run.settings["evaluation"]
    reading = {key: value for key, value in (task.config.get("dataset_kwargs") or {}).items() if key != "data_files"}
    return digest(
        {
            "model": identity,
            "task": words_of(task) | {"lang": task.lang, "item": task.item},
            "part": None if task.part == "whole" else [task.part, task.dev_share],
            "judge": run.settings.get("judge_identity") if is_judged(task) else None,
            "reading": reading,
            "data": {
                split: [file_digest(run.attempt.store, file) for file in files]
                for split, files in data_files_of(task).items()
            },
            "split": task.split,
            "limit": None if task.is_heldout else settings.limit,
            "template": _template(run, task),
            "seed": run.settings["seed"],
            "batch": [plan["batch_size"], plan["threads"], plan["gpus"]],
            "harness": harness_version(),
        }
    )


def _score_cells(
    run: StageRun,
    plan: dict[str, Any],
    model: EvaluatedModel,
    cells: list[Cell],
) -> Iterator[dict[str, Any]]:
    settings: EvaluationSettings = run.settings["evaluation"]
    gpus, threads = plan["gpus"], plan["threads"]
    # Half a CPU less than a CPU actor computes with: what else runs on the node (a trial) must find room.
    each = {"num_cpus": settings.cpus_per_worker or 1 if gpus else threads - 0.5, "num_gpus": gpus}
    room = run.cluster.places(**each) if gpus else min(2, run.cluster.cpus() // threads)
    workers = min(settings.workers or max(1, room), len(cells))
    run.cluster.refuse_unless_placeable("evaluation.workers", workers, **each)
    arguments = {
        "store": run.attempt.store,
        "plan": plan,
        "cells": cells,
        "model": model,
        "corpus": run.inputs.get("corpus"),
        "judge": run.leaves.get("judge"),
        "evaluation": settings,
        "seed": run.settings["seed"],
    }
    return run.cluster.map_actors(
        CellWorker,
        arguments,
        [{"cell": i} for i in range(len(cells))],
        workers=workers,
        **each,
        stall_seconds=STALL_SECONDS + 60 * settings.cell_timeout_minutes,
    )


def _published(store: Store, address: str) -> Artifact:
    cell = store.artifact("cells", address)
    if cell is None:
        raise FileNotFoundError(f"{store.shown(f'cells/{address}')} was published and is gone")
    return cell


def _gather(attempt: Attempt, addresses: list[str], model_name: str) -> list[ShardRecord]:
    """Ray task: the rows of all cells, under the model's name."""
    records = []
    for index, address in enumerate(addresses):
        cell = _published(attempt.store, address)
        for table in ("results", "items"):
            rows = cell.read(table)
            names = pa.array([model_name] * rows.num_rows, pa.string())
            place = rows.column_names.index("model")
            named = rows.set_column(place, tables.SCHEMAS[table].field("model"), names)
            records.append(attempt.write_table(table, index, named))
    return records


def _summary(tasks: list[EvalTask], cells: list[Artifact]) -> dict[str, Any]:
    """macro is, per metric, the mean over languages of the mean over each language's tasks."""
    by_metric: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for task, cell in zip(tasks, cells, strict=True):
        for metric, value in cell.summary["values"].items():
            by_metric[metric][task.lang].append(value)
    return {
        "tasks": [task.name for task in tasks],
        "languages": sorted({task.lang for task in tasks}),
        "split": " and ".join(sorted({task.split for task in tasks})),
        "items": sum(cell.summary["items"] for cell in cells),
        "harness": harness_version(),
        "macro": {metric: fmean(fmean(values) for values in langs.values()) for metric, langs in by_metric.items()},
    }
