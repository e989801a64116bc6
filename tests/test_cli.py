"""The command itself: help, exit codes, inspect, report, gc, base-model."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from tests.conftest import REPOSITORY

DEMO_CORPUS = REPOSITORY / "raysel" / "demo" / "corpus"


def raysel(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "raysel.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd)


@pytest.fixture
def experiment(tmp_path: Path, tiny_llama: Path) -> Path:
    (tmp_path / "corpus").mkdir()
    for lang in ("en", "sw", "th"):
        (tmp_path / "corpus" / f"{lang}.jsonl").write_bytes((DEMO_CORPUS / f"{lang}.jsonl").read_bytes())
    content = {"storage": "store", "corpus": {"path": "corpus"}, "model": {"path": str(tiny_llama)}}
    path = tmp_path / "e.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_help_names_every_command_and_imports_nothing_heavy() -> None:
    done = raysel("--help")
    assert done.returncode == 0
    commands = "run score select train evaluate plan inspect base-model languages compare report gc"
    for command in commands.split():
        assert f" {command} " in done.stdout
    code = "import sys, raysel.cli; print(sorted({'ray', 'torch', 'pyarrow', 'yaml', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_a_command_that_is_not_there_is_the_users_mistake() -> None:
    assert raysel("rnu").returncode == 2


def test_inspect_shows_the_sample_and_the_token_that_is_taken(experiment: Path) -> None:
    turns = [("human", "Jambo?"), ("gpt", "Jambo sana."), ("human", "Habari?"), ("gpt", "Nzuri.")]
    chat = {"id": "chat", "lang": "sw", "system": "Jibu.", "messages": [{"from": f, "value": v} for f, v in turns]}
    (experiment.parent / "corpus" / "chat.jsonl").write_text(json.dumps(chat) + "\n")
    done = raysel("inspect", experiment, "-n", "3")
    assert done.returncode == 0, done.stderr
    assert "<|user|>Jibu.<|user|>Jambo?<|assistant|>Jambo sana.</s>" in done.stdout.replace("\n", "")
    assert "demo/en/i01 (en)" in done.stdout
    assert "demo/sw/i01 (sw)" in done.stdout
    first = json.loads((DEMO_CORPUS / "en.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert first["prompt"] in done.stdout.replace("\n", " ").replace("  ", " ")
    assert "embedded:" in done.stdout


def test_inspect_refuses_a_broken_corpus(experiment: Path) -> None:
    with open(experiment.parent / "corpus" / "en.jsonl", "a", encoding="utf-8") as file:
        file.write("{not json\n")
    done = raysel("inspect", experiment)
    assert done.returncode == 2
    assert "en.jsonl, line 45: not a JSON object" in done.stderr


def test_plan_says_what_would_run_and_touches_nothing(experiment: Path) -> None:
    done = raysel("plan", experiment)
    assert done.returncode == 0, done.stderr
    assert "not computed yet" in done.stdout
    assert "0 reused" in done.stdout
    assert not list((experiment.parent / "store").glob("*/*/manifest.json"))


@pytest.mark.slow
def test_a_report_of_half_a_run_and_what_gc_leaves(ray_address: str, experiment: Path) -> None:
    assert raysel("score", experiment).returncode == 0
    assert raysel("score", experiment, "--set", "embedding.max_tokens=64").returncode == 0
    shutil.move(experiment.parent / "store", experiment.parent / "moved")
    done = raysel("report", "runs/e", cwd=experiment.parent / "moved")
    shutil.move(experiment.parent / "moved", experiment.parent / "store")
    assert done.returncode == 0, done.stderr
    # The record names every setting; what had no effect was said when it was given.
    assert "without effect" not in done.stdout
    page = (experiment.parent / "store" / "runs" / "e" / "report.html").read_text(encoding="utf-8")
    assert "separability" in page
    listed = raysel("gc", experiment.parent / "store", "--dry-run")
    assert "would remove vectors/" in listed.stdout
    assert raysel("gc", experiment.parent / "store").returncode == 0
    again = raysel("score", experiment, "--set", "embedding.max_tokens=64")
    assert "everything is reused" in again.stdout
    assert "not the folder of a run" in raysel("report", experiment.parent).stderr


def test_a_name_that_is_taken_is_not_overwritten_by_base_model(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "keep.txt").write_text("mine")
    done = raysel("base-model", DEMO_CORPUS, tmp_path / "out", cwd=tmp_path)
    assert done.returncode == 2
    assert "not an empty folder" in done.stderr
    assert (tmp_path / "out" / "keep.txt").read_text() == "mine"


@pytest.mark.slow
def test_base_model_makes_a_folder_that_transformers_loads(ray_address: str, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    sizes = ("model.base.steps=2", "model.base.width=16", "model.base.vocabulary=400", "model.base.heads=2")
    flags = [flag for size in sizes for flag in ("--set", size)]
    done = raysel("base-model", DEMO_CORPUS, tmp_path / "out", *flags, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert tokenizer.chat_template
    assert tokenizer.decode(tokenizer("Habari ya asubuhi? 你好")["input_ids"]).endswith("Habari ya asubuhi? 你好")
    assert model.config.hidden_size == 16


def test_interrupted_it_says_how_to_carry_on_and_does(ray_address: str, experiment: Path) -> None:
    command = [sys.executable, "-m", "raysel.cli", "score", str(experiment)]
    driver = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while driver.poll() is None and not list((experiment.parent / "store").glob("events/*-vectors.jsonl")):
        time.sleep(0.02)
    driver.send_signal(signal.SIGINT)
    out, err = driver.communicate(timeout=120)
    assert driver.returncode == 1, out + err
    assert "Traceback" not in err
    assert "the same command carries on" in err
    assert raysel("score", experiment).returncode == 0
