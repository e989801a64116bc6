"""One trial: a whole experiment, in a process of its own. Knows no Ray but what the pipeline brings.

Nothing but the experiment file and the artifacts in the storage carries its state.
"""

import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import yaml
from rich.console import Console

from raysel.cluster import Cluster
from raysel.decisions import decide
from raysel.evaluation.intervals import Interval
from raysel.experiment import Experiment, checked
from raysel.pipeline import expand
from raysel.progress import Progress
from raysel.report.gather_stage import read_items
from raysel.runner import execute_all, previous_steps
from raysel.store import Artifact, Store
from raysel.sweep.objective import chosen_rows, of_heldout, of_results
from raysel.sweep.settings import Objective
from raysel.sweep.trials import differing_settings

# Other trials may have the cluster for as long as one of their stages takes.
WAIT_FOR_ROOM_SECONDS = 3600


def run_trial(
    storage: str, folder: str, until: str, wanted: dict[str, Any], tell: Callable[[dict[str, Any]], None]
) -> dict[str, Any]:
    """Run the experiment in `<storage>/<folder>/experiment.yaml` up to the stage `until`, and measure its objectives.

    wanted: `sampled` (`sampled_settings`), `objectives` (as `Objective` has them), `seed` of their intervals. tell:
    is called with every stage that begins and every held-out loss.
    """
    os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = str(WAIT_FOR_ROOM_SECONDS)
    started = time.monotonic()
    store = Store(storage)
    experiment = read_trial(store, folder)
    steps = expand(experiment, store, until)
    decisions = decide(steps, store, previous_steps(store, experiment.name))

    def progress_of(console: Console, step: str) -> Progress:
        tell({"stage": step})
        return Progress(console, step, heard if step == "model" else None)

    def heard(lines: list[dict[str, Any]], steps: int) -> None:
        for line in lines:
            # A trial that is at its end has nothing more to lose.
            if line.get("heldout_loss") is not None and line["step"] + 1 < steps:
                percent = 100 * (line["step"] + 1) // steps
                tell({"stage": "model", "percent": percent, "heldout_loss": line["heldout_loss"]})

    with Cluster() as cluster:
        artifacts = execute_all(experiment, store, decisions, Console(quiet=True), cluster, progress_of)
    made = [(step.settings, artifacts[step.name].manifest) for step in steps]
    if differing := differing_settings(wanted["sampled"], experiment, made):
        raise RuntimeError(f"a trial was not what was sampled: {'; '.join(differing)}")
    objectives = [Objective.model_validate(objective) for objective in wanted["objectives"]]
    measured = [measure(objective, artifacts, seed=wanted["seed"]) for objective in objectives]
    return {
        "objectives": [asdict(interval) for interval in measured],
        "curve": curve(artifacts["model"], artifacts["tokens"]),
        "artifacts": sorted({artifacts[objective.step].address for objective in objectives}),
        "seconds": round(time.monotonic() - started, 1),
    }


def read_trial(store: Store, folder: str) -> Experiment:
    file = f"{folder}/experiment.yaml"
    return checked(yaml.safe_load(store.read_bytes(file)), where=store.shown(file))


def measure(objective: Objective, artifacts: dict[str, Artifact], *, seed: int) -> Interval:
    """What a trial's artifacts, by the steps' names, are worth."""
    artifact = artifacts[objective.step]
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
