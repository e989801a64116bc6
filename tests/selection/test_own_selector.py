"""The selector that the documentation shows, run as its reader would run it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from raysel.experiment import load_experiment
from raysel.pipeline import expand
from raysel.store import Store
from tests.conftest import REPOSITORY

pytestmark = pytest.mark.slow


def test_the_documented_selector_runs(tmp_path: Path, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (REPOSITORY / "docs" / "selection.md").read_text(encoding="utf-8")
    [code] = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    [settings] = re.findall(r"```yaml\n(selection:\n  method: my_selectors.*?)```", text, flags=re.DOTALL)
    assert len(code.splitlines()) <= 30
    (tmp_path / "my_selectors.py").write_text(code, encoding="utf-8")
    experiment = tmp_path / "own.yaml"
    content = {
        "storage": "store",
        "corpus": {"path": str(REPOSITORY / "raysel" / "demo" / "corpus")},
        "model": {"path": str(tiny_llama)},
        "embedding": {"token_budget": 2048},
        "mixture": {"quota": "even", "total": 60},
    }
    experiment.write_text(yaml.safe_dump(content) + settings, encoding="utf-8")
    # A Ray of its own, whose workers find the module as this process does.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")} | {"PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-m", "raysel.cli", "select", str(experiment)]

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500)

    done = run()
    assert done.returncode == 0, done.stdout + done.stderr
    monkeypatch.syspath_prepend(str(tmp_path))
    loaded = load_experiment(experiment)
    steps = {step.name: step for step in expand(loaded, Store(loaded.storage), "subset")}
    artifacts = {name: Store(loaded.storage).artifact(step.stage, step.fingerprint) for name, step in steps.items()}
    corpus = {row["id"]: len(row["response"]) for row in artifacts["corpus"].read("corpus").to_pylist()}
    pool = artifacts["pool"].read("pool").to_pylist()
    chosen = artifacts["subset"].read("subset").to_pylist()
    for lang in {row["lang"] for row in pool}:
        fitting = sorted((corpus[row["id"]] for row in pool if row["lang"] == lang), reverse=True)
        fitting = [length for length in fitting if length <= 800]
        own = [row for row in chosen if row["lang"] == lang]
        assert [row["score"] for row in own] == fitting[: len(own)]
    # The class's file counts: with another one the choice is made anew.
    (tmp_path / "my_selectors.py").write_text(code.replace("-lengths))", "lengths))"), encoding="utf-8")
    done = run()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "selector changed: my_selectors.py" in done.stdout
    experiment.write_text(yaml.safe_dump(content) + settings.replace("most:", "least:"), encoding="utf-8")
    done = run()
    assert done.returncode == 2
    assert "do not suit my_selectors:LongAnswers" in done.stderr
    assert "Traceback" not in done.stderr
