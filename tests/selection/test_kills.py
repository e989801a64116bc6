"""kill -9 of the driver in every stage of DSIR and LESS: the same choice, and nothing finished is computed twice."""

import os
import random
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
from raysel.runner import run_experiment
from raysel.store import Store
from tests.conftest import REPOSITORY

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
# In the order in which they run: after a kill the next one is still to come.
STAGES = ("warmup", "gradients", "influence", "importance", "subset")


def test_killed_in_every_stage_the_choice_is_the_same(ray_address: str, tmp_path: Path, tiny_llama: Path) -> None:
    lora = {"rank": 2, "targets": ["q_proj", "v_proj"]}
    (tmp_path / "corpus").mkdir()
    for lang in ("en", "sw", "th", "zh"):
        shutil.copy(REPOSITORY / "raysel" / "demo" / "corpus" / f"{lang}.jsonl", tmp_path / "corpus")
    content = {
        "storage": "store",
        "corpus": {"path": "corpus", "audit": {"checks": []}},
        "model": {"path": str(tiny_llama)},
        "embedding": {"token_budget": 2048},
        "preselect": {"rho": 0.5},
        "mixture": {"quota": "even", "total": 40},
        "selection": {
            "method": "less",
            "compare": ["dsir"],
            "less": {"dimensions": 128, "warmup": {"epochs": 2, "share": 0.1, "max_tokens": 1024, "lora": lora}},
        },
        "training": {"workers": 1},
    }
    experiment = tmp_path / "kills.yaml"
    experiment.write_text(yaml.safe_dump(content))
    undisturbed = f"storage={tmp_path}/undisturbed"
    run_experiment(load_experiment(experiment, [undisturbed]), until="subset")
    # What comes before is there already, in both.
    (tmp_path / "store").mkdir()
    for stage in ("corpus", "quota", "target", "vectors", "sums", "scores", "pool"):
        os.rename(tmp_path / "undisturbed" / stage, tmp_path / "store" / stage)
        os.symlink(tmp_path / "store" / stage, tmp_path / "undisturbed" / stage)
    command = [sys.executable, "-m", "raysel.cli", "select", str(experiment)]
    store, rng, kills = Store(str(tmp_path / "store")), random.Random(0), 0
    for stage in STAGES:
        driver = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while driver.poll() is None and not any(event["stage"] == stage for event in store.events()):
            time.sleep(0.01)
        time.sleep(rng.uniform(0, {"warmup": 8, "gradients": 4}.get(stage, 0.4)))
        os.kill(driver.pid, signal.SIGKILL)
        driver.wait()
        last = max(store.events(), key=lambda event: event["time"])
        kills += (last["stage"], last["event"]) == (stage, "start")
    assert kills >= 3, "so few were killed in the stage that was meant"
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr

    def subsets(*overrides: str) -> dict[str, list]:
        loaded = load_experiment(experiment, overrides)
        of = Store(loaded.storage)
        found = {step.name: of.artifact(step.stage, step.fingerprint) for step in expand(loaded, of, "subset")}
        return {name: made.read("subset").to_pylist() for name, made in found.items() if name.startswith("subset")}

    assert subsets() == subsets(undisturbed)
    ended = Counter((event["stage"], event["fingerprint"]) for event in store.events() if event["event"] == "end")
    assert set(ended.values()) == {1}
