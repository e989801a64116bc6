"""Real public instruction data in 12 languages, through the line."""

from pathlib import Path

import pyarrow as pa
import pyarrow.json
import pytest
import yaml

from raysel.experiment import load_experiment
from raysel.pipeline import expand
from raysel.runner import run_experiment
from raysel.store import Store
from tests.conftest import REPOSITORY


def test_every_real_row_is_scored_exactly_once(
    ray_address: str, shared_data: Path, tiny_llama: Path, tmp_path: Path
) -> None:
    source = shared_data / "quickstart.jsonl"
    content = {
        "storage": "store",
        "corpus": {"path": str(source), "heldout": 0},
        "embedding": {"max_tokens": 128},
        "model": {"path": str(tiny_llama)},
    }
    (tmp_path / "real.yaml").write_text(yaml.safe_dump(content))
    experiment = load_experiment(tmp_path / "real.yaml")
    run_experiment(experiment, until="scores")
    store = Store(experiment.storage)
    step = next(step for step in expand(experiment, store) if step.name == "scores")
    scores = store.artifact("scores", step.fingerprint).read("scores")
    rows = pyarrow.json.read_json(source)
    assert sorted(scores["id"].to_pylist()) == sorted(rows["id"].to_pylist())
    assert pa.compute.min_max(scores["separability"]).as_py()["min"] >= -1
    assert set(scores["lang"].to_pylist()) == set(rows["lang"].to_pylist())


@pytest.mark.slow
def test_the_real_experiment_file_runs_to_its_report(ray_address: str, shared_data: Path, tmp_path: Path) -> None:
    overrides = [
        f"storage={tmp_path}",
        f"corpus.path={shared_data / 'quickstart.jsonl'}",
        f"evaluation.tasks={shared_data / 'eval' / 'lm_eval_tasks'}",
        "evaluation.include=[local_xcopa_sw, local_sib200_tha_Thai]",
        "evaluation.limit=10",
        "embedding.token_budget=8192",
        "model.base.steps=10",
        "mixture.total=64",
        "preselect.rho=0.5",
    ]
    experiment = load_experiment(REPOSITORY / "experiments" / "real-small.yaml", overrides)
    run_experiment(experiment)
    store = Store(experiment.storage)
    steps = {step.name: step for step in expand(experiment, store)}
    for name in ("results_base", "results_tuned"):
        results = store.artifact("results", steps[name].fingerprint).read("results").to_pylist()
        assert {row["lang"] for row in results} == {"sw", "th"}
        assert all(row["n"] == 10 and row["ci_low"] <= row["value"] <= row["ci_high"] for row in results)
    assert (tmp_path / "runs" / "real-small" / "report.html").stat().st_size > 10_000
