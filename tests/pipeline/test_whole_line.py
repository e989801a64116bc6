"""The whole line for real, from the demo's corpus to its report: run, run again, changed, killed in every stage."""

import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import yaml

from raysel.experiment import load_experiment
from raysel.pipeline import expand
from raysel.store import Artifact, Store
from tests.conftest import REPOSITORY

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

SMALL = {
    "embedding.token_budget": 512,
    "model.base.steps": 20,
    "model.base.width": 32,
    "model.base.vocabulary": 600,
    "mixture.total": 60,
    "training.checkpoint_steps": 1,
    "evaluation.include": "[choice_en, choice_sw, choice_th]",
}


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's experiment on three languages, with a smaller model."""
    folder = tmp_path_factory.mktemp("line")
    (folder / "corpus").mkdir()
    for lang in ("en", "sw", "th"):
        source = REPOSITORY / "raysel" / "demo" / "corpus" / f"{lang}.jsonl"
        (folder / "corpus" / source.name).write_bytes(source.read_bytes())
    content = yaml.safe_load((REPOSITORY / "experiments" / "demo.yaml").read_text(encoding="utf-8"))
    content["storage"] = "store"
    content["corpus"]["path"] = "corpus"
    content["evaluation"]["tasks"] = str(REPOSITORY / "raysel" / "demo" / "eval")
    path = folder / "e.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.fixture(scope="module")
def shown(ray_address: str, experiment: Path) -> str:
    """What the first run, an undisturbed one, says."""
    return run(experiment)


def command(experiment: Path, *overrides: str) -> list[str]:
    settings = [*(f"{key}={value}" for key, value in SMALL.items()), *overrides]
    flags = [flag for setting in settings for flag in ("--set", setting)]
    return [sys.executable, "-m", "raysel.cli", "run", str(experiment), *flags]


def run(experiment: Path, *overrides: str) -> str:
    done = subprocess.run(command(experiment, *overrides), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def artifacts(experiment: Path, *overrides: str) -> dict[str, Artifact]:
    loaded = load_experiment(experiment, [*(f"{key}={value}" for key, value in SMALL.items()), *overrides])
    store = Store(loaded.storage)
    found = {step.name: store.artifact(step.stage, step.fingerprint) for step in expand(loaded, store)}
    return {name: artifact for name, artifact in found.items() if artifact}


def finished_stages(store: Store) -> Counter:
    return Counter(event["step"] for event in store.events() if event["event"] == "end")


def test_run_again_and_changed(shown: str, experiment: Path) -> None:
    store = Store(str(experiment.parent / "store"))
    report = experiment.parent / "store" / "runs" / "demo" / "report.html"
    assert shown.splitlines()[-1] == f"report: {report}"
    assert report.stat().st_size > 10_000
    first = finished_stages(store)
    assert set(first.values()) == {1}
    assert {"base_model", "model", "results_base", "results_tuned", "report"} <= set(first)
    check_model_card(artifacts(experiment))

    assert "everything is reused" in run(experiment)
    assert finished_stages(store) == first

    run(experiment, "preselect.rho=0.6")
    again = finished_stages(store) - first
    assert set(again) == {"pool", "subset", "diversity", "order", "tokens", "model", "results_tuned", "report"}


def check_model_card(made: dict[str, Artifact]) -> None:
    """The card names the languages, and of every step that the model descends from the manifest in the store."""
    model = made["model"]
    card = (model.local_folder("model", Path("/nowhere")) / "README.md").read_text(encoding="utf-8")
    facts = yaml.safe_load(card.split("---\n")[1])
    assert (facts["base_model"], facts["language"]) == (made["base_model"].address, ["en", "sw", "th"])
    beside = ("audit", "contamination", "diversity", "results_base", "results_tuned", "report")
    before = [artifact for name, artifact in made.items() if name not in ("model", *beside)]
    assert {artifact.address for artifact in model.lineage()} == {artifact.address for artifact in before}
    named = re.findall(r"^\| (\w+) \| ([0-9a-f]{24}) \| ([0-9a-f]{64}) \|", card, flags=re.MULTILINE)
    assert sorted(named) == sorted(
        (
            item.stage,
            item.fingerprint,
            hashlib.sha256(item.store.read_bytes(f"{item.address}/manifest.json")).hexdigest(),
        )
        for item in before
    )
    for setting in ("preselect.rho", "preselect.band", "selection.method", "curriculum.kind", "corpus.source"):
        assert f" | {setting} | " in card


def test_killed_in_every_later_stage_it_gives_the_same_results(shown: str, experiment: Path) -> None:
    """The earlier ones are there; the tests of training kill it in the stage between, `model`."""
    undisturbed, root = experiment.parent / "store", experiment.parent / "killed"
    later = {"base_model", "tokens", "model", "results", "cells", "report", "runs", "events"}
    shutil.copytree(undisturbed, root, ignore=lambda folder, names: later if folder == str(undisturbed) else ())
    killed, store, rng = f"storage={root}", Store(str(root)), random.Random(0)
    for step in ("base_model", "tokens", "results_tuned", "report"):
        driver = subprocess.Popen(command(experiment, killed), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while driver.poll() is None and not any(event["step"] == step for event in store.events()):
            time.sleep(0.02)
        time.sleep(rng.uniform(0.0, 8.0) if step == "base_model" else rng.uniform(0.0, 2.0))
        if driver.poll() is None:
            os.kill(driver.pid, signal.SIGKILL)
        driver.wait()
    run(experiment, killed)
    ended = finished_stages(store)
    assert set(ended) == {"base_model", "tokens", "model", "results_base", "results_tuned", "report"}
    assert set(ended.values()) == {1}
    found, expected = artifacts(experiment, killed), artifacts(experiment)
    for name in ("results_base", "results_tuned"):
        assert found[name].read("results").equals(expected[name].read("results"))
    for name in ("base_model", "model"):
        assert losses(found[name]) == pytest.approx(losses(expected[name]), abs=1e-6)


def losses(artifact: Artifact) -> list[float]:
    (record,) = artifact.shards("log")
    lines = artifact.store.read_bytes(f"{artifact.address}/{record.path}").splitlines()
    return [json.loads(line)["loss"] for line in lines]
