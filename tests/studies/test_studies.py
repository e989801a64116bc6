"""A study for real: small models, the session's Ray, from the question to the page."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from raysel.cli import app
from raysel.store import Store
from raysel.studies import settings
from raysel.studies.settings import names
from tests.conftest import REPOSITORY

SHARED = {
    "experiment": {
        "corpus": {"path": str(REPOSITORY / "raysel/demo/corpus"), "heldout": 0.2, "seed": 0},
        "model": {"path": "made://model/base"},
        "embedding": {"max_tokens": 48, "token_budget": 512},
        "training": {
            "method": "full", "learning_rate": 3.0e-3, "zero": 0, "workers": 1, "cpus_per_worker": 1,
            "data": {"max_tokens": 160, "heldout_samples": 0},
        },
        "evaluation": {"heldout_samples": 4, "workers": 1, "cpus_per_worker": 1},
    },
    "models": {
        "base": {
            "corpus": "confused",
            "base": {"vocabulary": 400, "width": 32, "layers": 1, "heads": 2, "context": 160, "steps": 3, "seed": 0},
        }
    },
    "corpora": {"confused": {"confused": 0.5, "languages": ["en", "sw", "th"]}},
    "controls": {},
}  # fmt: skip
STUDY = {
    "title": "Samples",
    "question": "Do more samples help?",
    "source": "a test",
    "claim": "They do.",
    "compared": {
        "reference": {"preselect.size": 60},
        "unnamed": ["preselect.rho"],
        "named": {"preselect.size": "rows"},
    },
    "small": {
        "shows": "whether they do.",
        "cannot_show": "why.",
        "seeds": [0, 1],
        "parameters": {"preselect.size": {"grid": [60, 300]}, "preselect.rho": {"grid": [None]}},
    },
    "full": {
        "experiments": ["own.yaml"],
        "shows": "whether they do.",
        "cannot_show": "why.",
        "seeds": [3],
        "measure": "acc",
        "tasks": ["*_en", "*_sw"],
        "parameters": {"preselect.size": {"grid": [60, 90]}, "preselect.rho": {"grid": [None]}},
    },
}


def test_the_studies_are_listed() -> None:
    said = CliRunner().invoke(app, ["study"])
    assert said.exit_code == 0
    assert all(name in said.stdout for name in names())


# Names its own study files in the package's place.
PROGRAM = """
import sys
from pathlib import Path
from raysel.studies import plan, settings
settings.FILES = plan.FILES = Path(sys.argv.pop(1))
from raysel.cli import main
main()
"""


@pytest.mark.slow
def test_a_study_that_is_killed_carries_on_and_answers_with_rows_of_results(ray_address: str, tmp_path: Path) -> None:
    files, store = tmp_path / "files", Store(str(tmp_path / "out"))
    files.mkdir()
    files.joinpath(settings.SHARED).write_text(yaml.safe_dump(SHARED))
    files.joinpath("samples.yaml").write_text(yaml.safe_dump(STUDY))
    command = [sys.executable, "-c", PROGRAM, str(files), "study", "samples"]
    first = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, start_new_session=True)
    ended = tmp_path / "out/runs/study-samples/trials/0000/trial.json"
    while not ended.exists():
        assert first.poll() is None
        time.sleep(0.5)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "it cannot show why." in done.stdout
    conditions = json.loads(store.read_bytes("runs/study-samples/study.json"))
    assert [of["parameters"]["preselect.size"] for of in conditions] == [60, 300]
    for of in conditions:
        assert set(of["values"]) == {"0", "1"}
        for seed, address in of["results"].items():
            artifact = store.artifact(*address.split("/"))
            assert artifact is not None
            rows = artifact.read("results").to_pylist()
            assert {row["lang"]: row["value"] for row in rows} == of["values"][seed]
            assert set(of["values"][seed]) == set(SHARED_LANGUAGES)
            assert {(row["split"], row["metric"]) for row in rows} == {("dev", "bits_per_byte")}
    few, many = (sum(sum(of["values"]["0"].values()) for of in [one]) for one in conditions)
    assert many < few  # 300 samples teach more than 60
    page = store.read_bytes("runs/study-samples/report.html").decode()
    assert "Do more samples help?" in page
    # The base model was made once, from the derived corpus, by whichever run came to it.
    ends = [json.loads(line) for log in (tmp_path / "out/events").iterdir() for line in log.read_text().splitlines()]
    assert sum(of["event"] == "end" and of["stage"] == "base_model" for of in ends) == 1


SHARED_LANGUAGES = ("ar", "de", "el", "en", "es", "fr", "hi", "ja", "ko", "ru", "sw", "th", "tr", "vi", "zh")


@pytest.mark.slow
def test_a_study_over_an_experiment_of_ones_own(ray_address: str, tmp_path: Path, tiny_llama: Path) -> None:
    """Its accuracies are those of the results: the mean of each language's tasks, of which more is better."""
    files, store = tmp_path / "files", Store(str(tmp_path / "out"))
    files.mkdir()
    files.joinpath(settings.SHARED).write_text(yaml.safe_dump(SHARED))
    files.joinpath("samples.yaml").write_text(yaml.safe_dump(STUDY))
    own = {
        "storage": str(tmp_path / "out"),
        "corpus": SHARED["experiment"]["corpus"],
        "model": {"path": str(tiny_llama), "template": "plain"},
        "embedding": SHARED["experiment"]["embedding"],
        "training": SHARED["experiment"]["training"],
        "evaluation": {"tasks": str(REPOSITORY / "raysel/demo/eval"), "limit": 4, "workers": 1, "cpus_per_worker": 1},
    }
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(own))
    command = [sys.executable, "-c", PROGRAM, str(files), "study", "samples", "own.yaml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    conditions = json.loads(store.read_bytes("runs/study-own-samples/study.json"))
    assert [of["parameters"]["preselect.size"] for of in conditions] == [60, 90]
    for of in conditions:
        artifact = store.artifact(*of["results"]["3"].split("/"))
        assert artifact is not None
        rows = [row for row in artifact.read("results").to_pylist() if row["metric"] == "acc"]
        for lang in ("en", "sw"):
            scores = [row["value"] for row in rows if row["lang"] == lang]
            assert of["values"]["3"][lang] == pytest.approx(sum(scores) / len(scores))
        assert set(of["values"]["3"]) == {"en", "sw"}
    page = store.read_bytes("runs/study-own-samples/report.html").decode()
    assert "More is better." in page
    assert "raysel study samples own.yaml<" in page
