"""Running the training loop on a group of Ray Train workers: the part that every stage which trains shares."""

import errno
import json
import math
import os
import tempfile
import threading
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import ray
from ray.exceptions import NodeDiedError, OutOfMemoryError, RayActorError, WorkerCrashedError

from raysel.cluster import Moment
from raysel.errors import IncompleteError, UserError
from raysel.memory_errors import MemoryShortError, Shortage, told_shortage
from raysel.models.loading import load_tokenizer
from raysel.progress import Listener, Tracker
from raysel.stage import StageOutput, StageRun
from raysel.store import Artifact, Attempt, ShardRecord
from raysel.training.board import Board
from raysel.training.loop import Outcome, Training
from raysel.training.model_card import ModelCard, card_text
from raysel.training.queued_tokens import trained_order
from raysel.training.settings import TrainingSettings
from raysel.training.trackers import Trackers, open_trackers

POLL_SECONDS = 0.5
START_FAILURES = 5
# Ray Train runs its loop in a thread. There glibc gives memory back after every tensor and asks for it again: a tenth
# of a step's time on CPUs. One arena that keeps what it has takes that away (bytes; glibc allows 32 MiB at most).
KEEP_MEMORY = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
}
# Left free for what waits while its workers run: a trial of a sweep holds a little of a CPU.
CPU_MARGIN = 0.1
DEATHS = (RayActorError, WorkerCrashedError, NodeDiedError, OutOfMemoryError)


class TrainingError(UserError):
    """What the user gave cannot be trained as asked; found by a worker."""


@dataclass(frozen=True)
class Workers:
    """How many workers, and what each of them gets."""

    number: int
    cpus: int
    gpu: bool


@dataclass(frozen=True)
class Job:
    """All that a worker needs: `model` is a local folder, or an artifact with the model in table `model_table`;
    what comes out is written as table `table`, with a README.md where there is a `card`."""

    training: Training
    model: Artifact | str
    model_table: str
    template: str
    table: str
    workers: Workers
    card: ModelCard | None = None


def train(run: StageRun, training: Training, model: Artifact | str, **tables: Any) -> StageOutput:
    """Train, and write the result and the step metrics (table `log`, `log.jsonl`). `tables`: the other fields of `Job`.

    Where the order was found while training, it is written as table `trained_order`.

    The summary has steps, first_loss, last_loss (null where that step was skipped), skipped (steps), tokens_per_second,
    share_of_machine_rate and memory_gb (the most of a worker), workers, zero, method, merged (adapters), resumed_from
    (a step, or null where nothing had been trained before), heldout_loss (before and after, or null where nothing is
    held out), micro_batch_tokens and activation_checkpointing (as they were chosen, where they are auto) and exported
    (after how many steps the weights are).
    """
    from ray.train import WorkerGroupError

    finished = _finished_earlier(run.attempt)
    if finished is None:
        job = Job(training, model, workers=choose_workers(run, training.settings), **tables)
        board = ray.remote(Board).options(num_cpus=0, max_restarts=-1, max_task_retries=-1).remote()
        stop = threading.Event()
        with (
            run.progress.track(training.tokens.summary["steps"], "steps") as bar,
            open_trackers(training.settings.trackers, _tracker_folder(run.attempt), run.progress.note) as trackers,
        ):
            watching = (board, bar, trackers, run.progress.listen, stop)
            watcher = threading.Thread(target=_watch, args=watching, daemon=True)
            watcher.start()
            started = Moment.now()
            try:
                outcome = _fit(job, board)
            except WorkerGroupError as error:
                shortage = ray.get(board.ended.remote())
                if shortage is None and _has_lost_a_worker(error.worker_failures.values()):
                    shortage = run.cluster.memory_kill_since(started)
                if shortage is None:
                    raise
                raise _short(shortage, job.workers) from error
            finally:
                stop.set()
                watcher.join()
                ray.kill(board)
        if "full" in outcome:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), outcome["full"])
        if "short" in outcome:
            raise _short(outcome["short"], job.workers)
        if "mistake" in outcome:
            raise TrainingError(outcome["mistake"])
        finished = ShardRecord(**outcome["log"])
    records = [ShardRecord(**record) for record in finished.summary["records"]]
    return StageOutput([*records, finished], finished.summary["result"])


def _has_lost_a_worker(failures: Iterable[Exception]) -> bool:
    """Whether one died, and did not just raise. Where polling it failed, the reason is inside."""
    return any(isinstance(getattr(failure, "health_check_failure", failure), DEATHS) for failure in failures)


def _short(shortage: Shortage, workers: Workers) -> MemoryShortError:
    devices: Literal["gpu", "cpu"] = "gpu" if workers.gpu else "cpu"
    return MemoryShortError(replace(shortage, workers=workers.number, devices=devices))


def choose_workers(run: StageRun, settings: TrainingSettings) -> Workers:
    """One worker per GPU, or two that share the CPUs, unless `settings` say otherwise. `UserError` where they cannot
    run together."""
    gpus, cpus = run.cluster.gpus(), run.cluster.cpus()
    number = settings.workers or gpus or min(2, cpus)
    each = settings.cpus_per_worker or (1 if gpus else run.cluster.cpus_each(number))
    run.cluster.refuse_unless_placeable("training.workers", number, num_cpus=each, num_gpus=1 if gpus else 0)
    return Workers(number, each, bool(gpus))


def _finished_earlier(attempt: Attempt) -> ShardRecord | None:
    """The log of an attempt that ended before it could be published; it is written last and names the other files."""
    log = attempt.finished().get(("log", 0))
    if log is not None:
        store = attempt.store
        for record in log.summary["records"]:
            info = store.filesystem.get_file_info(store.full(f"{attempt.address}/{record['path']}"))
            if info.size != record["bytes"]:
                return None
    return log


def _fit(job: Job, board: Any) -> dict[str, Any]:
    """Run the workers to the end; what worker 0 returned. `IncompleteError` where nodes were lost and none came."""
    from ray.train import ControllerError, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError

    attempt, settings, workers = job.training.attempt, job.training.settings, job.workers
    # Ray Train wants a place that every node can write, though no checkpoint goes through it.
    place = attempt.store.full(f"{attempt.address}/{attempt.name}")
    resources = {"CPU": workers.cpus - CPU_MARGIN} | ({"GPU": 1} if workers.gpu else {})
    trainer = TorchTrainer(
        # Not as its config: that goes to Ray Train's controller too, which would import torch and DeepSpeed to read it.
        partial(_work, job, board),
        torch_config=TorchConfig(timeout_s=math.ceil(settings.timeout_minutes * 60)),
        scaling_config=ScalingConfig(num_workers=workers.number, use_gpu=workers.gpu, resources_per_worker=resources),
        run_config=RunConfig(
            name="ray_train",
            storage_path=place,
            storage_filesystem=None if attempt.store.is_local else attempt.store.filesystem,
            worker_runtime_env={} if workers.gpu else {"env_vars": KEEP_MEMORY},
            failure_config=FailureConfig(max_failures=settings.max_failures, controller_failure_limit=START_FAILURES),
        ),
    )
    try:
        return trainer.fit().return_value
    except ControllerError as error:
        if not isinstance(error.controller_failure, WorkerGroupStartupTimeoutError):
            raise
        wanted = f"{workers.number} workers x {workers.cpus} CPU{' + 1 GPU' if workers.gpu else ''}"
        raise IncompleteError(
            f"training waited {START_FAILURES + 1} times for room for {wanted} and found none. "
            "Nodes that were lost have not come back, or others have taken the cluster. The same command goes on from "
            "the newest checkpoint; where the cluster stays smaller, set training.workers to what it holds"
        ) from error


def _work(job: Job, board: Any) -> dict[str, Any] | None:
    """What each worker runs."""
    if not job.workers.gpu:
        os.environ["DS_ACCELERATOR"] = "cpu"
    import torch

    from raysel.training.checkpoints import CheckpointError
    from raysel.training.engine import connect
    from raysel.training.loop import train as run_loop

    if (ended := ray.get(board.ended.remote())) is not None:
        return {"short": ended}
    torch.set_num_threads(job.workers.cpus)
    training = job.training
    connect(training.settings.timeout_minutes)
    first = torch.distributed.get_rank() == 0
    with tempfile.TemporaryDirectory() as scratch:
        export = Path(scratch) / "export"
        export.mkdir()
        model = job.model if isinstance(job.model, str) else job.model.local_folder(job.model_table, Path(scratch))
        report = board.put.remote
        try:
            with told_shortage():
                tokenizer = load_tokenizer(model, job.template, trust_remote_code=training.trust_remote_code)
                outcome = run_loop(training, Path(model), tokenizer, export, report, _Notices())
                return {"log": asdict(_write_result(job, outcome, export))} if first else None
        except MemoryShortError as short:
            # The others wait for this worker, or will. The group ends with it, and the next one ends as it begins.
            ray.get(board.end.remote(short.shortage))
            raise
        except UserError as mistake:
            return {"mistake": str(mistake)}
        except OSError as error:
            # No other try would mend a full disk. Alone, the first worker must not leave the others waiting.
            if error.errno != errno.ENOSPC or not (first or isinstance(error, CheckpointError)):
                raise
            return {"full": error.filename or str(error)}


def _write_result(job: Job, outcome: Outcome, export: Path) -> ShardRecord:
    """Write what was trained and, last, the log."""
    attempt, settings, log = job.training.attempt, job.training.settings, outcome.log
    steps = job.training.tokens.summary["steps"]
    result = {
        "steps": steps,
        "first_loss": log[0]["loss"],
        "last_loss": log[-1]["loss"],
        "skipped": sum("skipped" in line for line in log),
        "tokens_per_second": round(_over_all_steps(log, "tokens_per_second"), 1),
        "share_of_machine_rate": round(_over_all_steps(log, "share_of_machine_rate"), 4),
        "memory_gb": max(line["memory_gb"] for line in log),
        "workers": job.workers.number,
        "zero": settings.zero,
        "method": settings.method,
        "merged": settings.method == "lora" and settings.lora.merge,
        "resumed_from": outcome.resumed_from,
        "heldout_loss": [outcome.heldout[at]["loss"] for at in (0, -1)] if outcome.heldout else None,
        # The last steps may have had nothing to learn.
        "micro_batch_tokens": outcome.micro_batch.rows * outcome.row_tokens,
        "activation_checkpointing": outcome.micro_batch.checkpointing,
        "exported": steps if outcome.exported == log[-1]["step"] + 1 else outcome.exported,
    }
    if job.card is not None:
        (export / "README.md").write_text(card_text(job.card, result, outcome.heldout), encoding="utf-8")
    records = attempt.write_folder(job.table, export)
    if outcome.heldout:
        losses = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in outcome.heldout)
        records = [*records, attempt.write_file("heldout_loss", 0, "heldout_loss.jsonl", losses.encode())]
    if "loss_aware" in job.training.tokens.summary:
        records = [*records, attempt.write_table("trained_order", 0, trained_order(job.training.tokens, log))]
    lines = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in log)
    summary = {"records": [asdict(record) for record in records], "result": result}
    return attempt.write_file("log", 0, "log.jsonl", lines.encode(), summary=summary)


def _over_all_steps(log: list[dict[str, Any]], rate: str) -> float:
    """The mean of `rate` over the time that the steps took."""
    seconds = [line["tokens"] / line["tokens_per_second"] for line in log]
    return sum(line[rate] * took for line, took in zip(log, seconds, strict=True)) / sum(seconds)


class _Notices:
    """Tells a worker, once for each notice, that the node of one of the group's workers is about to be taken away.

    Ray Train looks for such nodes every five seconds and leaves what it found in each worker. Its public
    `get_preemption_info` is a barrier of all workers: too dear for every step, and one more place to wait for the dead.
    """

    def __init__(self) -> None:
        from ray.train.v2._internal.execution.context import get_train_context

        self.left = get_train_context().preemption_context
        self.told: Any = None

    def __call__(self) -> bool:
        found = self.left.preemption_info
        is_new = found is not None and found is not self.told
        self.told = found
        return is_new


def _watch(board: Any, bar: Tracker, trackers: Trackers, listen: Listener | None, stop: threading.Event) -> None:
    """Show and pass on what comes until `stop` is set, and what is there then."""
    is_last = False
    while not is_last:
        is_last = stop.wait(POLL_SECONDS)
        try:
            lines = ray.get(board.take.remote())
        except RayActorError:  # lost with its node: it starts again on another
            continue
        trackers.log(lines)
        if listen is not None:
            listen(lines, int(bar.total))
        steps = [metrics for metrics in lines if "tokens_per_second" in metrics]
        if steps:
            loss = "skipped" if steps[-1]["loss"] is None else f"loss {steps[-1]['loss']:.4f}"
            detail = f"{loss}, {steps[-1]['tokens_per_second']:,.0f} tokens/s"
            bar.advance(steps[-1]["step"] + 1 - bar.done, detail)


def _tracker_folder(attempt: Attempt) -> Path:
    """Below the storage; below the current folder where that is no local one."""
    store = attempt.store
    return Path(store.full("trackers") if store.is_local else "trackers") / attempt.fingerprint
