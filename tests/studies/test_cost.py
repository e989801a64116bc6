"""What `raysel plan EXPERIMENT --study NAME` says."""

from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from raysel.cli import app
from raysel.costs import gpu_hours
from raysel.studies.cost import study_hours
from raysel.studies.plan import read_plan

OWN = {
    "corpus": {"path": "corpus.jsonl", "heldout": 0.1},
    "model": {"path": "meta-llama/Llama-3.1-8B", "template": "llama3"},
    "preselect": {"rho": 0.2},
    "training": {"method": "full", "dtype": "bfloat16", "zero": 3},
    "evaluation": {"tasks": "langgps", "dev_share": 0.1},
    "cluster": {"nodes": 1, "gpus_per_node": 8, "gpu_memory_gb": 80},
}
ROWS, TOKENS = 10_000, 250.0


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "own.yaml"
    file.write_text(yaml.safe_dump(OWN))
    return file


def test_what_trials_share_is_counted_once_and_the_rest_in_each(file: Path, tmp_path: Path) -> None:
    plan = read_plan("rho", [f"storage={tmp_path}"], file)
    hours = study_hours(plan, ROWS, TOKENS)
    # The corpus and the one with the planted fault; five shares and four arms of controls with three seeds each.
    assert {stage: runs for stage, (runs, _) in hours.items()} == {"vectors": 2, "sums": 2, "model": 27}
    search = plan.search(plan.made.supposed())
    each = [
        gpu_hours(search.trial(point, seed, name="t"), ROWS, TOKENS)
        for point in search.points() or []
        for seed in (0, 1, 2)
    ]
    assert hours["vectors"][1] == pytest.approx(2 * each[0]["vectors"])
    assert hours["model"][1] == pytest.approx(sum(of["model"] for of in each))


def test_less_is_warmed_up_once_for_each_seed(file: Path, tmp_path: Path) -> None:
    hours = study_hours(read_plan("selectors", [f"storage={tmp_path}"], file), ROWS, TOKENS)
    assert hours["warmup"][0] == 3
    assert hours["gradients"][0] == 6  # of the whole corpus, and of the pool


def test_a_base_model_that_is_made_first_has_a_shape(file: Path, tmp_path: Path) -> None:
    plan = read_plan("pretrain-controlled", [f"storage={tmp_path}"], file)
    hours = study_hours(plan, ROWS, TOKENS)
    assert hours["model"][0] == 3 * len(plan.conditions)
    assert hours["vectors"][0] == 3  # of each of the models that are made first


def test_what_trains_nothing_has_no_hours_of_training(file: Path, tmp_path: Path) -> None:
    assert set(study_hours(read_plan("pareto", [f"storage={tmp_path}"], file), ROWS, TOKENS)) == {"vectors", "sums"}


def test_it_is_said(file: Path, tmp_path: Path) -> None:
    asked = ["plan", str(file), "--study", "rho", "--set", f"storage={tmp_path}"]
    said = CliRunner().invoke(app, [*asked, "--rows", str(ROWS), "--tokens-per-row", str(TOKENS)])
    assert said.exit_code == 0, said.output
    assert "9 conditions x 3 seeds = 27 trials" in said.output
    total = sum(of for _, of in study_hours(read_plan("rho", [f"storage={tmp_path}"], file), ROWS, TOKENS).values())
    assert f"{total:,.2f}" in said.output
    assert "not known: results" in said.output
    assert "GPU-hours on h100 (taken for that by 80 GB: cluster.gpu)" in said.output
    without = CliRunner().invoke(app, asked)
    assert "not known without --rows and --tokens-per-row" in without.output


def test_what_does_not_fit_is_refused(file: Path, tmp_path: Path) -> None:
    asked = ["plan", str(file), "--study", "rho", "--set", f"storage={tmp_path}", "--set", "cluster.gpu_memory_gb=16"]
    refused = CliRunner().invoke(app, asked)
    assert "does not fit" in str(refused.exception)


def test_what_a_selector_needs_is_refused_too(file: Path, tmp_path: Path) -> None:
    """Adapters in bfloat16 fit, the warm-up of LESS in float32 does not."""
    small = ["training.method=lora", "cluster.gpu_memory_gb=32", "cluster.gpu=a100"]
    changes = [word for key in (f"storage={tmp_path}", *small) for word in ("--set", key)]
    assert CliRunner().invoke(app, ["plan", str(file), "--study", "rho", *changes]).exit_code == 0
    refused = CliRunner().invoke(app, ["plan", str(file), "--study", "selectors", *changes])
    assert "selection.less.warmup" in str(refused.exception)
