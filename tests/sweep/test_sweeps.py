"""Sweeps for real: small models, the session's Ray, processes that are killed."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
import yaml

from raysel.garbage import find_garbage
from raysel.store import Store
from raysel.sweep.orphaned_groups import free_orphaned_groups
from tests.conftest import REPOSITORY

pytestmark = pytest.mark.slow

EXPERIMENT = {
    "name": "small",
    "seed": 3,
    "corpus": {"path": str(REPOSITORY / "raysel/demo/corpus"), "audit": {"checks": []}},
    "model": {
        "base": {"vocabulary": 400, "width": 32, "layers": 1, "heads": 2, "context": 48, "steps": 2, "batch_samples": 4}
    },
    "embedding": {"max_tokens": 48, "token_budget": 512},
    "mixture": {"quota": "proportional", "total": 48},
    "training": {
        "method": "full",
        "workers": 1,
        "zero": 0,
        "checkpoint_steps": 1,
        "data": {"max_tokens": 48, "batch_samples": 16, "heldout_samples": 2},
    },
    "evaluation": {
        "tasks": str(REPOSITORY / "raysel/demo/eval"),
        "include": ["*_en", "*_sw"],
        "limit": 8,
        "workers": 1,
    },
}
RATES = [3e-3, 3e-4]
RHOS = [0.4, 1.0]


@pytest.fixture
def start(ray_address: str) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts `raysel sweep` in a session of its own, joined to the tests' Ray."""
    started: list[subprocess.Popen[str]] = []

    def run(folder: Path, space: dict[str, Any], **experiment: Any) -> subprocess.Popen[str]:
        folder.mkdir(exist_ok=True)
        (folder / "e.yaml").write_text(yaml.safe_dump(EXPERIMENT | {"storage": "store"} | experiment))
        (folder / "space.yaml").write_text(yaml.safe_dump(space))
        command = [sys.executable, "-m", "raysel.cli", "sweep", str(folder / "e.yaml"), str(folder / "space.yaml")]
        # Their loops wait for nothing that a terminal would say.
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        started.append(subprocess.Popen(command, cwd=folder, start_new_session=True, **pipes))
        return started[-1]

    yield run
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def wait_for(condition: Callable[[], Any], process: subprocess.Popen[str]) -> Any:
    while not (found := condition()):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.1)
    return found


def finished(process: subprocess.Popen[str]) -> str:
    text = process.communicate()[0]
    assert process.returncode == 0, text
    return text


def ended(folder: Path) -> list[Path]:
    return sorted(folder.glob("store/runs/small-space/trials/*/trial.json"))


def sweep_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "store/runs/small-space/sweep.json").read_text())
    return found


def ranked(folder: Path) -> list[Any]:
    return [(line["point"], line["parameters"], line["objectives"]) for line in sweep_of(folder)["ranking"]]


def executions(folder: Path, event: str) -> Counter[tuple[str, str]]:
    lines = [json.loads(line) for file in folder.glob("store/events/*.jsonl") for line in file.read_text().splitlines()]
    return Counter((line["stage"], line["fingerprint"]) for line in lines if line["event"] == event)


def free_cpus() -> float:
    return ray.available_resources().get("CPU", 0.0)


def trial_processes() -> list[psutil.Process]:
    """Those of the tests' Ray that run a trial's experiment."""
    found = []
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            if "ray::TrialProcess" in " ".join(child.cmdline()):
                found.append(child)
    return found


def all_cpus_come_back() -> bool:
    for _ in range(150):
        free_orphaned_groups()
        if free_cpus() == ray.cluster_resources()["CPU"]:
            return True
        time.sleep(0.2)
    return False


@pytest.mark.timeout(1500)
def test_a_sweep_killed_twice_ranks_as_one_left_alone_and_nothing_is_made_twice(
    tmp_path: Path, start: Callable[..., subprocess.Popen[str]]
) -> None:
    space = {
        "parameters": {
            "preselect.rho": {"grid": RHOS},
            # Three points: the third has the experiment's own rate.
            "training.learning_rate": {"grid": RATES, "when": {"preselect.rho": RHOS[0]}},
        },
        "objective": {"metric": "acc"},
        "limits": {"concurrency": 2},
    }
    alone, killed = tmp_path / "alone", tmp_path / "killed"
    text = finished(start(alone, space))
    # What was shared was made once, and whatever ran ran once.
    assert set(executions(alone, "start").values()) == {1}
    counts = Counter(stage for stage, _ in executions(alone, "end"))
    expected = {"corpus": 1, "base_model": 1, "vectors": 1, "sums": 1, "scores": 1, "quota": 1, "pool": 2, "subset": 2}
    assert {stage: counts[stage] for stage in expected} == expected
    # Three tuned models on development items; on test items one, and the base model.
    assert {stage: counts[stage] for stage in ("order", "tokens", "model", "results")} == {
        "order": 2, "tokens": 2, "model": 3, "results": 5
    }  # fmt: skip
    assert "scoring on test items" in text

    for count in (1, 2):
        process = start(killed, space)
        wait_for(lambda count=count: len(ended(killed)) >= count, process)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    kept = {path: path.read_text() for path in ended(killed)}
    finished(start(killed, space))
    assert ranked(killed) == ranked(alone)
    assert set(executions(killed, "end").values()) == {1}
    # Two at once end in any order: what had ended is named by its trial, not by its place.
    assert {path: path.read_text() for path in kept} == kept
    assert all_cpus_come_back()

    check_that_no_trial_read_test_items(alone)
    check_that_the_winner_is_an_experiment(alone)


def check_that_no_trial_read_test_items(folder: Path) -> None:
    sweep, store = sweep_of(folder), Store(str(folder / "store"))
    for trial in sweep["trials"]:
        for address in trial["artifacts"]:
            results = store.artifact(*address.split("/"))
            assert results is not None
            assert set(results.read("results")["split"].to_pylist()) == {"dev"}
            assert set(results.read("items")["split"].to_pylist()) == {"dev"}
    splits: Counter[tuple[str, str]] = Counter()
    for path in (folder / "store/results").iterdir():
        results = store.artifact("results", path.name)
        assert results is not None
        splits[results.summary["split"], results.read("results")["model"][0].as_py()] += 1
    assert splits == {("dev", "tuned"): 3, ("test", "tuned"): 1, ("test", "base"): 1}
    best = sweep["ranking"][0]
    assert [(test["point"], test["metric"].partition(",")[0]) for test in sweep["tests"]] == [(best["point"], "acc")]


def check_that_the_winner_is_an_experiment(folder: Path) -> None:
    """`best.yaml` reruns it: nothing is to run but what a report wants besides; gc removes nothing of the ranked."""
    best = folder / "store/runs/small-space/best.yaml"
    parameters = sweep_of(folder)["ranking"][0]["parameters"]
    written = yaml.safe_load(best.read_text())
    assert written["preselect"]["rho"] == parameters["preselect.rho"]
    command = [sys.executable, "-m", "raysel.cli", "plan", str(best)]
    planned = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    to_run = {line.split()[0] for line in planned.splitlines() if line.split()[1:2] == ["run"]}
    assert to_run <= {"diversity", "report", "contamination"}
    assert (folder / "store/runs/small-space/report.html").stat().st_size > 10_000
    assert find_garbage(Store(str(folder / "store"))).artifacts == []


def test_trials_that_fail_are_stopped_or_lose_their_process_do_not_end_a_sweep(
    tmp_path: Path, start: Callable[..., subprocess.Popen[str]]
) -> None:
    space = {
        "parameters": {
            "training.learning_rate": {"grid": [3e-3, 1e-6]},
            "mixture.total": {"grid": [48, 90_000]},
        },
        "objective": {"of": "heldout_loss"},
        "scheduler": "asha",
        "asha": {"first_percent": 30, "reduction_factor": 2},
        "limits": {"concurrency": 1},
        "tensorboard": True,
    }
    process = start(tmp_path, space)
    wait_for(lambda: trial_processes() and list(tmp_path.glob("store/vectors/*/manifest.json")), process)
    for child in trial_processes():
        child.kill()
    text = finished(process)
    sweep = sweep_of(tmp_path)
    assert [trial["status"] for trial in sweep["trials"]] == ["finished", "stopped", "failed", "failed"], text
    assert "stopped by asha after" in sweep["trials"][1]["reason"]
    # The loss at which it was stopped is on record: later trials are compared with it.
    assert sweep["trials"][1]["curve"][-1][0] == 33
    assert sweep["trials"][1]["curve"][-1][1] > sweep["trials"][0]["curve"][1][1]
    assert "mixture.total 90,000 is more than the 621 rows" in sweep["trials"][2]["reason"]
    assert [line["point"] for line in sweep["ranking"]] == [0]
    # Its process was killed while it ran; nothing that was published was made again.
    assert set(executions(tmp_path, "end").values()) == {1}
    assert all_cpus_come_back()
    assert list(tmp_path.glob("store/runs/small-space/tensorboard/trial-0000/**/events*"))
    assert sweep["tests"] != []

    # The same command tries the failed ones again, and leaves the others.
    stopped = (tmp_path / "store/runs/small-space/trials/0001/trial.json").read_text()
    models = executions(tmp_path, "start")
    again = finished(start(tmp_path, space))
    assert "2 trials had ended before and are kept" in again
    assert (tmp_path / "store/runs/small-space/trials/0001/trial.json").read_text() == stopped
    trained = {key: count for key, count in models.items() if key[0] == "model"}
    assert {key: count for key, count in executions(tmp_path, "start").items() if key[0] == "model"} == trained


def test_a_controller_that_is_killed_gives_its_workers_room_back(cluster: Any) -> None:
    before = free_cpus()

    class Holder:
        def take(self) -> None:
            self.group = ray.util.placement_group([{"CPU": 0.9}])
            ray.get(self.group.ready())

    class Trial:
        def begin(self) -> None:
            self.holder = ray.remote(Holder).options(num_cpus=0).remote()
            ray.get(self.holder.take.remote())

    trial = ray.remote(Trial).options(num_cpus=0).remote()
    ray.get(trial.begin.remote())
    assert free_orphaned_groups() == 0
    ray.kill(trial)
    for _ in range(100):
        if free_orphaned_groups():
            break
        time.sleep(0.1)
    for _ in range(100):
        if free_cpus() == before:
            break
        time.sleep(0.1)
    assert free_cpus() == before
