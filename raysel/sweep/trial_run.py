"""One trial: a whole experiment, run in a process of its own that Ray Tune can stop at any time.

Tune's trainable stays in the little room that Tune gives it and starts the process outside of it, so that what the
experiment starts (tasks, actors, Ray Train's workers) finds the whole cluster. What is killed with that process is all
that belongs to the trial. Nothing but the experiment file and the artifacts in the storage carries its state.
"""

import json
import os
import queue
import time
from collections import deque
from dataclasses import asdict
from typing import Any

import ray
import yaml
from ray import tune
from ray.exceptions import RayTaskError
from rich.console import Console

from raysel.evaluation.intervals import Interval
from raysel.experiment import Experiment, checked
from raysel.progress import Progress
from raysel.report.gather_stage import read_items
from raysel.store import Artifact, Store
from raysel.sweep.objective import chosen_rows, of_heldout, of_results
from raysel.sweep.settings import Objective
from raysel.sweep.trials import differing_settings

# Other trials may have the cluster for as long as one of their stages takes.
WAIT_FOR_ROOM_SECONDS = 3600
EVENT_WAIT_SECONDS = 1.0


class ExperimentRun:
    """Runs the experiment in `<storage>/<folder>/experiment.yaml`: an actor with two threads."""

    def __init__(self) -> None:
        self.events: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()

    def run(self, storage: str, folder: str, until: str, wanted: dict[str, Any]) -> dict[str, Any]:
        """Run it, and measure the objectives. wanted: `parameters` as sampled, `objectives` (`Objective`s), `seed` of
        the sweep's intervals."""
        from raysel.cluster import Cluster
        from raysel.decisions import decide
        from raysel.pipeline import expand
        from raysel.runner import execute_all, previous_steps

        os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = str(WAIT_FOR_ROOM_SECONDS)
        started = time.monotonic()
        store = Store(storage)
        experiment = read_trial(store, folder)
        steps = expand(experiment, store, until)
        decisions = decide(steps, store, previous_steps(store, experiment.name))
        with Cluster() as cluster:
            artifacts = execute_all(experiment, store, decisions, Console(quiet=True), cluster, self._progress)
        manifests = [artifact.manifest for artifact in artifacts.values()]
        if differing := differing_settings(wanted["parameters"], manifests):
            raise RuntimeError(f"a trial was not what was sampled: {'; '.join(differing)}")
        objectives: list[Objective] = wanted["objectives"]
        measured = [measure(objective, artifacts, seed=wanted["seed"]) for objective in objectives]
        return {
            "objectives": [asdict(interval) for interval in measured],
            "curve": curve(artifacts["model"], artifacts["tokens"]),
            "artifacts": sorted({artifact_of(objective, artifacts).address for objective in objectives}),
            "seconds": round(time.monotonic() - started, 1),
        }

    def take(self) -> list[dict[str, Any]]:
        """What happened since the last time; waits a moment for something to happen."""
        found = []
        try:
            found.append(self.events.get(timeout=EVENT_WAIT_SECONDS))
            while True:
                found.append(self.events.get_nowait())
        except queue.Empty:
            return found

    def _progress(self, console: Console, step: str) -> Progress:
        self.events.put({"stage": step})
        return Progress(console, step, self._heard if step == "model" else None)

    def _heard(self, lines: list[dict[str, Any]], steps: int) -> None:
        for line in lines:
            if line.get("heldout_loss") is not None:
                percent = 100 * (line["step"] + 1) // steps
                self.events.put({"stage": "model", "percent": percent, "heldout_loss": line["heldout_loss"]})


class Trial(tune.Trainable):
    """What Tune runs. config: `number`, and what `ExperimentRun.run` is given."""

    def setup(self, config: dict[str, Any]) -> None:
        runner = ray.remote(ExperimentRun).options(num_cpus=0, max_concurrency=2, scheduling_strategy="DEFAULT")
        self.runner = runner.remote()
        self.waiting: deque[dict[str, Any]] = deque()
        given = (config["storage"], config["folder"], config["until"], config["wanted"])
        self.outcome = self.runner.run.remote(*given)

    def step(self) -> dict[str, Any]:
        """The next event; the last one is `done` and says what came out, or why nothing did."""
        while not self.waiting:
            ended, _ = ray.wait([self.outcome], timeout=0)
            self.waiting.extend(ray.get(self.runner.take.remote()))
            if ended and not self.waiting:
                try:
                    # Tune flattens what is nested.
                    return {"done": True, "outcome": json.dumps(ray.get(self.outcome))}
                except RayTaskError as error:
                    return {"done": True, "failure": f"{type(error.cause).__name__}: {error.cause}"}
        return self.waiting.popleft()

    def cleanup(self) -> None:
        ray.kill(self.runner)


def read_trial(store: Store, folder: str) -> Experiment:
    file = f"{folder}/experiment.yaml"
    return checked(yaml.safe_load(store.read_bytes(file)), where=store.shown(file))


def artifact_of(objective: Objective, artifacts: dict[str, Artifact]) -> Artifact:
    """What an objective is read from."""
    return artifacts[{"results": "results_tuned", "heldout_loss": "model", "trained_tokens": "tokens"}[objective.of]]


def measure(objective: Objective, artifacts: dict[str, Artifact], *, seed: int) -> Interval:
    """What a trial's artifacts, by the steps' names, are worth."""
    artifact = artifact_of(objective, artifacts)
    match objective.of:
        case "results":
            rows = chosen_rows(objective, artifact.read("results").to_pylist())
            return of_results(rows, read_items(artifact), seed=seed)
        case "heldout_loss":
            return of_heldout(heldout_entries(artifact), artifact.summary["exported"], objective.languages)
    return Interval(float(artifact.summary["trained_tokens"]))


def heldout_entries(model: Artifact) -> list[dict[str, Any]]:
    return [
        json.loads(line)
        for shard in model.shards("heldout_loss")
        for line in model.store.read_bytes(f"{model.address}/{shard.path}").decode().splitlines()
    ]


def curve(model: Artifact, tokens: Artifact) -> list[tuple[int, float]]:
    """(percent of the steps, held-out loss) wherever it was measured."""
    entries = heldout_entries(model)
    steps = tokens.summary["steps"]
    return [(100 * entry["steps"] // steps, entry["loss"]) for entry in entries if entry["loss"] is not None]
