"""What users get wrong: one clear message on stderr, exit code 2, no traceback, and nothing published."""

import gzip
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from raysel.experiment import ExperimentError, load_experiment

GOOD = [
    {"id": f"{lang}{i}", "lang": lang, "prompt": "p", "response": "r"} for lang in ("en", "sw", "th") for i in range(3)
]


@pytest.fixture
def experiment(tmp_path: Path, tiny_llama: Path) -> Path:
    write_corpus(tmp_path, GOOD)
    path = tmp_path / "e.yaml"
    content = {"storage": "store", "corpus": {"path": "c.jsonl", "heldout": 0}, "model": {"path": str(tiny_llama)}}
    path.write_text(yaml.safe_dump(content))
    return path


def write_corpus(folder: Path, rows: list[dict], *raw_lines: str) -> None:
    lines = [json.dumps(row) for row in rows] + list(raw_lines)
    (folder / "c.jsonl").write_text("".join(line + "\n" for line in lines), encoding="utf-8")


def refused(experiment: Path, *arguments: str) -> str:
    """Run the command line and give its message; fail unless it refused cleanly."""
    command = [sys.executable, "-m", "raysel.cli", "run", str(experiment), "--until", "scores", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert not list(experiment.parent.glob("store/scores/*/manifest.json"))
    return done.stderr


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("preselect.rho=0", "preselect.rho: Input should be greater than 0"),
        ("preselect.rho=1.5", "preselect.rho: Input should be less than or equal to 1 (found 1.5)"),
        ("preselect.rho=abc", "(found 'abc')"),
        ("preselect.rhoo=0.3", "unknown key 'preselect.rhoo': did you mean preselect.rho?"),
        ("max_tokens=12", "unknown key 'max_tokens': did you mean embedding.max_tokens?"),
        ("embeding.layer=2", "unknown key 'embeding': did you mean embedding?"),
        ("mixture.quota=proportional", "needs total"),
        ("model.path=null", "exactly one of path"),
        ("seed.x=1", "seed"),
        ("rho", "write it as key=value"),
        ("training.learning_rate=.inf", "finite number"),
        ("seed=4294967296", "less than 4294967296"),
        ("preselect=0.2", "preselect: this is a section"),
        ("storage=s3://key:secret@bucket/x", "holds credentials"),
    ],
)
def test_experiment_files_are_checked_before_anything_runs(experiment: Path, setting: str, message: str) -> None:
    with pytest.raises(ExperimentError) as caught:
        load_experiment(experiment, [setting])
    assert message in str(caught.value)


def test_norwegian_is_not_false_and_a_key_given_twice_is_an_error(experiment: Path) -> None:
    loaded = load_experiment(experiment, ["languages.strategy=chosen", "languages.chosen=[no, en]"])
    assert loaded.languages.chosen == ["no", "en"]
    experiment.write_text(experiment.read_text() + "storage: elsewhere\n")
    with pytest.raises(ExperimentError, match="'storage' is given twice"):
        load_experiment(experiment)


def test_settings_without_effect_are_reported(experiment: Path) -> None:
    loaded = load_experiment(experiment, ["curriculum.levels=3", "mixture.total=5"])
    text = "\n".join(loaded.warnings())
    assert "curriculum.levels" in text
    assert "mixture.total" in text


def test_relative_paths_are_relative_to_the_file_and_hub_names_stay(experiment: Path) -> None:
    loaded = load_experiment(experiment, ["model.path=org/name"])
    assert loaded.corpus.path == str(experiment.parent / "c.jsonl")
    assert loaded.storage == str(experiment.parent / "store")
    assert loaded.model.path == "org/name"


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("corpus.path=nowhere.jsonl", "no such file or folder"),
        ("model.path=./nowhere", "there is no such folder"),
        ("evaluation.tasks=./nowhere", "nowhere"),
    ],
)
def test_missing_files_are_found_before_ray_starts(experiment: Path, setting: str, message: str) -> None:
    stderr = refused(experiment, "--set", setting)
    assert message in stderr
    assert not (experiment.parent / "store" / "corpus").exists()


def test_languages_that_cannot_be_chosen_are_refused_before_anything_is_embedded(experiment: Path) -> None:
    arguments = ("languages.strategy=sem", "languages.k=2", "languages.vectors=nowhere.txt")
    stderr = refused(experiment, *(part for setting in arguments for part in ("--set", setting)))
    assert "languages.vectors" in stderr
    assert "there is no such file" in stderr
    assert not (experiment.parent / "store" / "corpus").exists()
    stderr = refused(experiment, "--until", "pool", "--set", "languages.strategy=geo", "--set", "languages.k=4")
    assert "k 4 is more than the 3 candidates" in stderr
    assert not (experiment.parent / "store" / "vectors").exists()


def test_a_model_folder_without_weights_is_refused(experiment: Path) -> None:
    folder = experiment.parent / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    assert "no *.safetensors weights" in refused(experiment, "--set", f"model.path={folder}")
    (folder / "pytorch_model.bin").write_text("x")
    assert "is a pickle" in refused(experiment, "--set", f"model.path={folder}")


def test_damaged_files_are_named(ray_address: str, experiment: Path) -> None:
    folder = experiment.parent / "model"
    shutil.copytree(yaml.safe_load(experiment.read_text())["model"]["path"], folder)
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:100])
    assert "model.safetensors is damaged" in refused(experiment, "--set", f"model.path={folder}")
    (folder / "config.json").write_text("{")
    assert "config.json is not JSON" in refused(experiment, "--set", f"model.path={folder}")
    whole = gzip.compress((experiment.parent / "c.jsonl").read_bytes() * 50)
    (experiment.parent / "cut.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    assert "cut.jsonl.gz is damaged" in refused(experiment, "--set", f"corpus.path={experiment.parent}/cut.jsonl.gz")


def test_a_layer_that_is_not_there_is_refused(ray_address: str, experiment: Path) -> None:
    assert "layer 99 is not one of the model's 3" in refused(experiment, "--set", "embedding.layer=99")


def test_storage_that_is_a_file_is_refused(experiment: Path) -> None:
    assert "no folder" in refused(experiment, "--set", f"storage={experiment}")


def test_an_empty_pool_is_refused_before_anything_is_embedded(ray_address: str, experiment: Path) -> None:
    stderr = refused(experiment, "--until", "pool", "--set", "preselect.rho=0.01")
    assert "the pool is empty: round(9 rows x rho 0.01) = 0" in stderr
    assert not (experiment.parent / "store" / "vectors").exists()


def test_an_unknown_stage_is_refused(experiment: Path) -> None:
    assert "there is no such stage" in refused(experiment, "--until", "scoers")


@pytest.mark.parametrize(
    ("rows", "raw_lines", "message"),
    [
        (GOOD, ["{not json"], "c.jsonl, line 10: not a JSON object"),
        (
            [*GOOD, {"id": "x", "lang": "en", "text": "t"}],
            [],
            "missing column 'prompt', 'response' (found: id, lang, text",
        ),
        ([*GOOD, GOOD[0], GOOD[1]], [], "duplicate ids: 'en0' x 2; 'en1' x 2"),
        ([*GOOD, {**GOOD[0], "id": "x", "response": ""}], [], "1 x empty prompt or response"),
        ([*GOOD, {**GOOD[0], "id": "x", "lang": "xx"}], [], "unknown language 'xx'"),
        (GOOD[:3], [], "only one language (en)"),
        ([], [""], "there is not one row in it"),
    ],
)
def test_corpora_that_cannot_be_used(
    ray_address: str, experiment: Path, rows: list[dict], raw_lines: list[str], message: str
) -> None:
    write_corpus(experiment.parent, rows, *raw_lines)
    assert message in refused(experiment)


def test_a_small_pool_is_refused_before_anything_is_embedded(ray_address: str, experiment: Path) -> None:
    stderr = refused(
        experiment, "--until", "pool", "--set", "mixture.quota=proportional", "--set", "mixture.total=9",
        "--set", "preselect.rho=0.4",
    )  # fmt: skip
    assert "round(3 rows x rho 0.4) = 1, settled to 2, in the pool, quota 3" in stderr
    assert not (experiment.parent / "store" / "vectors").exists()


def test_a_language_with_one_sample_is_a_warning(ray_address: str, experiment: Path) -> None:
    write_corpus(experiment.parent, [*GOOD, {**GOOD[0], "id": "x", "lang": "fi"}])
    command = [sys.executable, "-m", "raysel.cli", "run", str(experiment), "--until", "corpus"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "languages with a single sample, which scores 0: fi" in done.stdout
