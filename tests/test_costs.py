"""What an experiment costs, and what `raysel plan` says of it before any model file or GPU is there."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from raysel.costs import gpu_hours, model_shape, refuse_warmup_that_does_not_fit, trained_rows, wall_hours, work_of
from raysel.errors import UserError
from raysel.experiment import Experiment, load_experiment
from raysel.models.settings import BaseModelSettings, ModelSettings
from raysel.planning.fitting import FitError
from raysel.planning.operations import distance_work
from raysel.runner import print_plan
from tests.test_cli import raysel

EIGHT_B = {"path": "meta-llama/Llama-3.1-8B-Instruct", "template": "llama3"}
CLUSTER = {"gpus_per_node": 8, "gpu_memory_gb": 80, "gpu": "h100"}
FULL = {"method": "full", "dtype": "bfloat16", "zero": 2, "data": {"max_tokens": 2048}}


def experiment(**sections: Any) -> Experiment:
    given = {"name": "e", "model": EIGHT_B, "corpus": {"heldout": 0}, "training": FULL, "cluster": CLUSTER}
    return Experiment.model_validate(given | sections)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    rows = "".join(json.dumps({"lang": lang, "prompt": "a", "response": "b"}) + "\n" for lang in ("en", "fr") * 4)
    (tmp_path / "corpus.jsonl").write_text(rows)
    given = {"storage": "out", "corpus": {"path": "corpus.jsonl"}, "model": EIGHT_B, "cluster": CLUSTER}
    # Of a full fine-tune the disk would have to hold more than a test machine may.
    training = {"method": "lora", "dtype": "bfloat16", "data": {"max_tokens": 2048}}
    (tmp_path / "e.yaml").write_text(yaml.safe_dump(given | {"training": training}))
    return tmp_path / "e.yaml"


def planned(file: Path, *overrides: str, **more: Any) -> str:
    console = Console(record=True, width=80, quiet=False, soft_wrap=True)
    with console.capture() as shown:
        print_plan(load_experiment(file, overrides), console, **more)
    return shown.get()


def test_gpu_hours_by_hand() -> None:
    hours = gpu_hours(experiment(preselect={"rho": 0.5}), 10_000, 500)
    assert set(hours) == {"vectors", "sums", "model"}
    assert hours["sums"] == distance_work(10_000, 4096).gpu_hours("h100")
    # 6 operations for each of 7.5e9 weights and 2.5e6 tokens, and attention; at 0.4 of 989e12 in a second.
    assert hours["model"] == pytest.approx(6 * 7.5e9 * 2.5e6 / (0.4 * 989e12) / 3600, rel=0.03)
    slower = gpu_hours(experiment(preselect={"rho": 0.5}, cluster=CLUSTER | {"gpu": "a100"}), 10_000, 500)
    assert slower["model"] / hours["model"] == pytest.approx(989 / 312)
    less = experiment(selection={"method": "less"}, corpus={"heldout": 0.05})
    assert {"warmup", "gradients"} < set(gpu_hours(less, 10_000, 500))


def test_hours_need_a_kind_of_gpu() -> None:
    with pytest.raises(UserError, match=r"set cluster\.gpu to one of a10, "):
        gpu_hours(experiment(cluster={"gpus_per_node": 8, "gpu_memory_gb": 17}), 10, 10)


@pytest.mark.parametrize(
    ("sections", "rows"),
    [
        ({}, 200),
        ({"preselect": {"size": 70}}, 70),
        ({"selection": {"candidates": "corpus"}}, 1000),
        ({"mixture": {"quota": "even", "total": 300}}, 300),
        ({"mixture": {"quota": "even", "total": 0.1}, "corpus": {"heldout": 0.05}}, 95),
        ({"mixture": {"quota": "counts", "counts": {"en": {"qa": 5}, "sw": {"qa": 2, "math": 1}}}}, 8),
        ({"mixture": {"unseen": ["ko"]}}, None),
        ({"languages": {"strategy": "chosen", "chosen": ["en", "sw"]}}, None),
        ({"mixture": {"quota": "pivot", "pivot_rows": 50, "rows_per_language": 10}}, None),
        (
            {
                "languages": {"strategy": "chosen", "chosen": ["en", "fr", "sw"]},
                "mixture": {"quota": "pivot", "pivot_rows": 50, "rows_per_language": 10, "tasks": ["qa", "math"]},
            },
            140,
        ),
        ({"selection": {"tokens": 1000}}, None),
    ],
)
def test_rows_that_are_trained_on(sections: dict[str, Any], rows: int | None) -> None:
    assert trained_rows(experiment(**sections), 1000) == rows
    assert ("model" in work_of(experiment(**sections), 1000, 100)) == (rows is not None)


def test_the_model_that_is_made_first_has_a_shape() -> None:
    shape = model_shape(ModelSettings(base=BaseModelSettings(vocabulary=400, width=64, layers=2, heads=4)))
    assert shape is not None
    assert shape.parameters == 400 * 64 + 2 * (4 * 64**2 + 3 * 64 * 168 + 2 * 64) + 64
    assert model_shape(ModelSettings(path="nobody/knows-7B")) is None


def test_the_plan_needs_no_model_file_and_no_torch(file: Path) -> None:
    shown = planned(file, rows=97_696, tokens_per_row=250)
    assert "model: lora, bfloat16, ZeRO-2, 8 GPUs, of each " in shown
    assert "GPU-hours on h100, 97,696 rows of 250 tokens:" in shown
    assert "are taken for" not in shown
    assert "(GPUs of 80 GB are taken for h100" in planned(file, "cluster.gpu=null", rows=5, tokens_per_row=5)
    assert all(len(line) <= 80 for line in shown.partition("GPU-hours")[2].splitlines())
    assert "GPU-hours: not known without --rows and --tokens-per-row" in planned(file)
    code = (
        "import sys, raysel.costs, raysel.runner; from raysel.cli import app; "
        f"app(['plan', {str(file)!r}], standalone_mode=False); print({{'torch', 'ray'}} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "set()", done.stdout + done.stderr


def test_what_cannot_fit_is_refused(file: Path) -> None:
    full = ["training.method=full", "training.zero=1"]
    with pytest.raises(FitError, match=r"each of 8 GPUs needs .* training\.zero=2 is enough"):
        planned(file, *full)
    done = raysel("plan", file, *(word for key in full for word in ("--set", key)))
    assert done.returncode == 2
    assert "training.zero=2 is enough" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_encoder_decoder_is_planned_with_a_bound(file: Path) -> None:
    mt5 = ["model.path=google/mt5-xl", "training.lora.targets=[q, v]", "training.data.max_tokens=512"]
    shown = planned(file, *mt5, rows=1000, tokens_per_row=200)
    assert "no more than a bound is known" in shown
    assert "model: lora, bfloat16, ZeRO-2, 8 GPUs, of each " in shown
    assert "no more than a bound" not in planned(file)
    asked = experiment(model={"path": "google/mt5-xl", "template": "plain"})
    shape = model_shape(asked.model)
    assert shape is not None
    # The vectors are the encoder's alone, and two operations take each token through each of its weights.
    assert work_of(asked, 1000, 200)["vectors"].operations == pytest.approx(2 * shape.encoder.matrices * 2e5, rel=0.05)


@pytest.mark.parametrize(
    ("stage", "less", "gpu_memory_gb", "message"),
    [
        (
            "warmup",
            {},
            40,
            r"^the warm-up of LESS \(selection\.less\.warmup\) does .*selection\.less\.warmup\.dtype=bfloat16",
        ),
        ("gradients", {}, 32, r"^the model whose gradients .*selection\.less\.warmup\.dtype=bfloat16 is enough$"),
        (
            "gradients",
            {"warmup": {"dtype": "bfloat16"}},
            16,
            r"^the model .*; take GPUs of at least 2\d GB, or a smaller",
        ),
    ],
)
def test_a_warmup_that_does_not_fit_is_refused(stage: str, less: Any, gpu_memory_gb: int, message: str) -> None:
    cluster = CLUSTER | {"gpu_memory_gb": gpu_memory_gb}
    asked = experiment(cluster=cluster, corpus={}, selection={"method": "less", "less": less})
    shape = model_shape(asked.model)
    with pytest.raises(FitError, match=message):
        refuse_warmup_that_does_not_fit(asked, shape, ["corpus", stage])
    refuse_warmup_that_does_not_fit(asked, shape, ["corpus", "subset"])
    large = experiment(corpus={}, selection={"method": "less", "less": less})
    refuse_warmup_that_does_not_fit(large, shape, ["warmup", "gradients"])


def test_the_warmups_targets_are_named_by_their_section() -> None:
    bloom = {"path": "bigscience/bloom-1b7", "template": "llama3"}
    asked = experiment(model=bloom, corpus={}, selection={"method": "less"})
    with pytest.raises(UserError, match=r"^selection\.less\.warmup\.lora\.targets .* a bloom model has none of them"):
        refuse_warmup_that_does_not_fit(asked, model_shape(asked.model), ["warmup"])
    with pytest.raises(UserError, match=r"^selection\.less\.warmup\.lora\.targets .* a bloom model has none of them"):
        work_of(asked, 1000, 100)


def test_the_plan_looks_at_the_warmup(file: Path) -> None:
    less = "selection.method=less"
    assert "8 GPUs, of each" in planned(file, less)
    with pytest.raises(FitError, match=r"selection\.less\.warmup\) does not fit"):
        planned(file, less, "cluster.gpu_memory_gb=32")


def test_cpu_workers_are_planned_too(file: Path) -> None:
    shown = planned(file, "cluster.gpus_per_node=0", "cluster.gpu=null")
    assert "model: lora, bfloat16, ZeRO-2, 2 CPU workers, of each " in shown
    amounts = re.findall(r"([\d.]+) ([kMG])B", shown.partition("CPU workers")[2])
    headline, *parts = [float(number) * {"k": 1e3, "M": 1e6, "G": 1e9}[unit] for number, unit in amounts]
    assert headline == pytest.approx(sum(parts), rel=0.01)
    assert "2 CPU workers" in planned(file, "cluster.gpus_per_node=0", "cluster.gpu=null", "cluster.nodes=3")
    assert "GPU-hours" not in shown
    asked = planned(file, "cluster.gpus_per_node=0", "cluster.gpu=null", rows=5)
    assert "GPU-hours: none without GPUs (cluster.gpus_per_node is 0)" in asked


def test_hours_by_the_clock_are_those_of_the_workers() -> None:
    hours = {"vectors": 8.0, "model": 8.0}
    assert wall_hours(experiment(), hours) == 2.0
    assert wall_hours(experiment(training=FULL | {"workers": 1}), hours) == 9.0


def test_one_experiments_options_are_not_a_sweeps(file: Path, tmp_path: Path) -> None:
    done = raysel("plan", file, tmp_path / "space.yaml", "--rows", 5)
    assert done.returncode == 2
    assert "leave SPACE.yaml out" in done.stderr
