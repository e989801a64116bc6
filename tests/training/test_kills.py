"""Training whose driver or node is killed, without a word or announced: the losses are those of an undisturbed run."""

import contextlib
import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml

from raysel.experiment import load_experiment
from raysel.pipeline import expand
from raysel.runner import run_experiment
from raysel.store import Artifact, Store
from tests.conftest import REPOSITORY
from tests.training.runs import log_of, write_corpus
from tests.training.terminal import Terminal, training_workers, whole_checkpoints
from tests.training.three_nodes import CHECKPOINT_STEPS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

STEPS = 600


def model_of(experiment: Path, *overrides: str) -> Artifact:
    loaded = load_experiment(experiment, overrides)
    store = Store(loaded.storage)
    [step] = [step for step in expand(loaded, store, "model") if step.stage == "model"]
    artifact = store.artifact("model", step.fingerprint)
    assert artifact is not None
    return artifact


@pytest.fixture(scope="module")
def prepared(ray_address: str, tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an experiment: in `store` all that training needs, in `undisturbed` the trained model as well."""
    folder = tmp_path_factory.mktemp("kills")
    rows = write_corpus(Store(str(folder / "made")), 60).read("corpus").to_pylist()
    lines = [{name: row[name] for name in ("id", "lang", "prompt", "response")} for row in rows]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    content = {
        "storage": "store",
        "corpus": {"path": "corpus.jsonl", "heldout": 0},
        "model": {"path": str(tiny_llama)},
        "embedding": {"token_budget": 2048},
        "preselect": {"rho": 1.0},
        "selection": {"method": "random"},
        "training": {
            "data": {"max_tokens": 128, "batch_samples": 5, "epochs": 50},
            "method": "full",
            "learning_rate": 1e-3,
            "workers": 2,
            "checkpoint_steps": CHECKPOINT_STEPS,
        },
    }
    (folder / "e.yaml").write_text(yaml.safe_dump(content))
    run_experiment(load_experiment(folder / "e.yaml"), until="tokens")
    shutil.copytree(folder / "store", folder / "undisturbed")
    run_experiment(load_experiment(folder / "e.yaml", [f"storage={folder}/undisturbed"]), until="model")
    return folder


@pytest.fixture
def experiment(prepared: Path, tmp_path: Path) -> Path:
    shutil.copytree(prepared, tmp_path / "work", ignore=shutil.ignore_patterns("undisturbed"))
    return tmp_path / "work" / "e.yaml"


def assert_undisturbed(experiment: Path, prepared: Path) -> Artifact:
    """That the model in `experiment` was trained as the undisturbed one was; gives it."""
    model = model_of(experiment)
    expected = model_of(prepared / "e.yaml", f"storage={prepared}/undisturbed")
    log = log_of(model)
    assert [line["step"] for line in log] == list(range(STEPS))
    assert [line["loss"] for line in log] == pytest.approx([line["loss"] for line in log_of(expected)], abs=1e-6)
    return model


def without_ray() -> dict[str, str]:
    """The environment of a command that starts a Ray of its own."""
    return {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}


def test_a_killed_driver(prepared: Path, experiment: Path) -> None:
    """Killed twice: alone, and with all that it started, as when its machine goes."""
    draw, store, left = random.Random(0), experiment.parent / "store", []
    kept = 0
    for checkpoints, with_its_ray in ((1, False), (2, True)):
        drawn = CHECKPOINT_STEPS * checkpoints + draw.randrange(10, 40)
        shown = Terminal(experiment, environment=without_ray())
        # Steps are shown late: by then another checkpoint may be there.
        while shown.steps() < drawn or shown.steps() <= whole_checkpoints(store)[-1]:
            assert shown.driver.poll() is None, shown.output
            time.sleep(0.05)
        assert shown.least_steps() > kept, "it began anew"
        trained, kept = shown.steps(), whole_checkpoints(store)[-1]
        pid = shown.driver.pid
        started, workers = psutil.Process(pid).children(recursive=True), training_workers(pid)
        shown.driver.kill()
        for process in started if with_its_ray else []:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        shown.wait()
        assert len(workers) == 2
        assert 0 < kept < trained, f"nothing was lost: killed after {trained} (drawn: {drawn}), checkpoint of {kept}"
        _, alive = psutil.wait_procs(workers, timeout=60)
        assert not alive
        left += started
        kept = whole_checkpoints(store)[-1]
    last = Terminal(experiment, environment=without_ray())
    assert last.wait() == 0, last.output
    assert assert_undisturbed(experiment, prepared).summary["resumed_from"] == kept
    # The last of Ray's own processes look for their node once a minute.
    _, alive = psutil.wait_procs(left, timeout=180)
    assert not alive


def test_lost_nodes(prepared: Path, experiment: Path) -> None:
    command = [sys.executable, "-m", "tests.training.three_nodes", str(experiment), "0"]
    done = subprocess.run(command, cwd=REPOSITORY, env=without_ray(), capture_output=True, text=True)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "raysel: training waited 6 times for room for 2 workers x 1 CPU and found none" in done.stdout
    assert "The same command goes on from the newest checkpoint" in done.stdout
    assert "Traceback" not in done.stdout
    drained, killed, killed_for_good = json.loads(done.stdout.splitlines()[-1])
    for lost in (drained, killed, killed_for_good):
        assert lost["workers"] == 1
        assert lost["trained"] > lost["kept"], f"nothing was lost: {lost}"
    # For the notice, when no setting asks for a checkpoint.
    assert 0 < drained["kept"] < CHECKPOINT_STEPS
    for lost in (drained, killed):
        assert lost["after"] > lost["kept"], f"it began anew: {lost}"
    run_experiment(load_experiment(experiment), until="model")
    assert assert_undisturbed(experiment, prepared).summary["resumed_from"] == killed_for_good["kept"]
