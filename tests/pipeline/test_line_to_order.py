"""The line from a corpus to an order of training, for real: against plain computations, reused, changed, killed."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import yaml
from sklearn.metrics import silhouette_samples as sklearn_silhouette
from transformers import AutoModelForCausalLM, AutoTokenizer

from raysel.embedding import LastTokenEncoder
from raysel.experiment import load_experiment
from raysel.languages import choose_languages
from raysel.models.templates import sample_text
from raysel.pipeline import expand
from raysel.runner import run_experiment
from raysel.store import Artifact, Store

STAGES = ("corpus", "quota", "vectors", "sums", "scores", "pool", "subset", "order")


@pytest.fixture
def experiment(tmp_path: Path, tiny_llama: Path) -> Path:
    """240 rows in 6 languages, cut into many small shards and blocks."""
    words = {
        "en": "hello world",
        "fr": "bonjour monde",
        "ru": "привет мир",
        "zh": "你好世界",
        "ar": "مرحبا",
        "hi": "नमस्ते",
    }
    rng = random.Random(0)
    (tmp_path / "corpus").mkdir()
    for lang, text in words.items():
        with open(tmp_path / "corpus" / f"{lang}.jsonl", "w", encoding="utf-8") as file:
            for i in range(40):
                said = " ".join(rng.choices(text.split() + list(text), k=rng.randint(2, 12)))
                row = {"id": f"{lang}-{i}", "lang": lang, "prompt": f"{text} {i}?", "response": said, "task": "chat"}
                if i % 2:
                    row["system"] = text
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
    content = {
        "storage": "store",
        "corpus": {"path": "corpus", "heldout": 0, "shard_rows": 16},
        "model": {"path": str(tiny_llama)},
        "embedding": {"shard_rows": 8, "token_budget": 256},
        "separability": {"block_rows": 48},
        "preselect": {"rho": 0.5},
        "mixture": {"quota": "proportional", "total": 60},
        "selection": {"method": "kmc"},
        "curriculum": {"kind": "balanced"},
    }
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def artifacts(experiment: Path, *overrides: str) -> dict[str, Artifact]:
    loaded = load_experiment(experiment, overrides)
    store = Store(loaded.storage)
    found = {step.name: store.artifact(step.stage, step.fingerprint) for step in expand(loaded, store, "order")}
    return {name: artifact for name, artifact in found.items() if artifact}


def contents(found: dict[str, Artifact]) -> dict[str, dict]:
    """Every table that reaches another stage, by step: what must be the same after any kill."""
    return {
        f"{name}/{table}": artifact.read(table).to_pydict()
        for name, artifact in found.items()
        for table in {entry["table"] for entry in artifact.manifest["files"]}
    }


def executions(experiment: Path, *overrides: str) -> Counter:
    store = Store(load_experiment(experiment, overrides).storage)
    return Counter(event["stage"] for event in store.events() if event["event"] == "end")


def test_every_row_is_scored_once_as_a_plain_computation_scores_it(
    ray_address: str, experiment: Path, tiny_llama: Path
) -> None:
    run_experiment(load_experiment(experiment), until="order")
    found = artifacts(experiment)
    rows = {row["id"]: row for row in found["corpus"].read("corpus").to_pylist()}
    scores = found["scores"].read("scores")
    assert sorted(scores["id"].to_pylist()) == sorted(rows)
    assert len(rows) == 240

    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    encoder = LastTokenEncoder(AutoModelForCausalLM.from_pretrained(tiny_llama, dtype="float32"), tokenizer)
    ids = scores["id"].to_pylist()
    texts = [sample_text(tokenizer, rows[i]["prompt"], rows[i]["response"], rows[i]["history"]) for i in ids]
    expected = sklearn_silhouette(encoder.encode(texts).astype(np.float64), scores["lang"].to_pylist())
    np.testing.assert_allclose(scores["separability"].to_numpy(), expected, atol=1e-5)

    value = dict(zip(ids, expected, strict=True))
    pool = found["pool"].read("pool").to_pylist()
    assert Counter(row["lang"] for row in pool) == dict.fromkeys(("ar", "en", "fr", "hi", "ru", "zh"), 20)
    for lang in ("en", "zh"):
        best = sorted((i for i in ids if rows[i]["lang"] == lang), key=lambda i: -value[i])[:20]
        assert {row["id"] for row in pool if row["lang"] == lang} == set(best)
    subset = found["subset"].read("subset").to_pylist()
    assert Counter(row["lang"] for row in subset) == dict.fromkeys(("ar", "en", "fr", "hi", "ru", "zh"), 10)
    assert {row["id"] for row in subset} <= {row["id"] for row in pool}
    order = found["order"].read("order").to_pylist()
    assert [row["position"] for row in order] == list(range(60))
    assert {row["id"] for row in order} == {row["id"] for row in subset}


def test_only_what_a_change_touches_runs_again(ray_address: str, experiment: Path) -> None:
    def run(*overrides: str) -> Counter:
        before = executions(experiment)
        run_experiment(load_experiment(experiment, overrides), until="order")
        return executions(experiment) - before

    assert run() == dict.fromkeys(STAGES, 1)
    assert run() == {}
    assert run("preselect.rho=0.6") == dict.fromkeys(("pool", "subset", "order"), 1)
    assert run("curriculum.kind=ascending") == {"order": 1}
    assert run("embedding.workers=1", "embedding.shard_rows=64", "separability.block_rows=4096") == {}
    # Other labels and other clusters are rescored from the same sums.
    rescored = ("scores", "pool", "subset", "order")
    assert run("separability.label=lang_script") == dict.fromkeys(rescored, 1)
    chosen = ("languages.strategy=chosen", "languages.chosen=[en, zh, ru]", "separability.clusters=chosen")
    assert run(*chosen) == dict.fromkeys(("quota", *rescored), 1)
    assert run("preselect.rho=null", "preselect.size=90") == dict.fromkeys(("pool", "subset", "order"), 1)
    corpus = experiment.parent / "corpus" / "en.jsonl"
    corpus.write_text(corpus.read_text().replace("hello world 0?", "hello again 0?"))
    assert run() == dict.fromkeys(STAGES, 1)


def test_the_languages_to_train_on_are_chosen_among_the_corpuss(ray_address: str, experiment: Path) -> None:
    def quota(*overrides: str) -> tuple[list[str], dict, int]:
        before = executions(experiment)["quota"]
        run_experiment(load_experiment(experiment, overrides), until="quota")
        found = artifacts(experiment, *overrides)["quota"]
        rerun = executions(experiment)["quota"] - before
        return found.read("quota")["lang"].to_pylist(), found.summary["languages"], rerun

    corpus = ["ar", "en", "fr", "hi", "ru", "zh"]
    chosen, how, _ = quota("languages.strategy=geo", "languages.k=3", "seed=5")
    assert chosen == how["chosen"] == choose_languages("geo", 3, seed=5, candidates=corpus)
    assert (how["strategy"], how["k"], how["seed"]) == ("geo", 3, 5)
    assert [line["lang"] for line in how["picture"]["candidates"]] == corpus
    assert {line["cluster"] for line in how["picture"]["candidates"]} == set(chosen)
    among = ("languages.strategy=typo", "languages.k=2", "languages.candidates=[Arabic, zho, hi]")
    assert quota(*among)[0] == choose_languages("typo", 2, seed=0, candidates=["ar", "hi", "zh"])
    assert quota("languages.strategy=chosen", "languages.chosen=[English, fra]")[0] == ["en", "fr"]

    shares = experiment.parent / "shares.csv"
    shares.write_text("lang,share\nen,60\nfr,8\nru,9\nzh,7\nar,2\nhi,1\n")
    covered = ("languages.strategy=pretrain", "languages.k=2", "languages.cover=most")
    assert quota(*covered, f"languages.pretrain={shares}")[::2] == (["en", "ru"], 1)
    (experiment.parent / "elsewhere").mkdir()
    moved = shares.rename(experiment.parent / "elsewhere" / "shares.csv")
    assert quota(*covered, f"languages.pretrain={moved}")[::2] == (["en", "ru"], 0)
    moved.write_text(moved.read_text().replace("hi,1", "hi,99"))
    assert quota(*covered, f"languages.pretrain={moved}")[::2] == (["en", "hi"], 1)


def test_the_plan_names_the_setting_that_changed(ray_address: str, experiment: Path) -> None:
    from raysel.decisions import decide
    from raysel.runner import previous_steps

    run_experiment(load_experiment(experiment), until="order")
    changed = load_experiment(experiment, ["embedding.max_tokens=512"])
    store = Store(changed.storage)
    decisions = {d.step.name: d for d in decide(expand(changed, store, "order"), store, previous_steps(store, "small"))}
    assert decisions["corpus"].artifact is not None
    assert decisions["vectors"].reason == "embedding.max_tokens changed from 1024 to 512"
    assert decisions["sums"].reason == "vectors changed"


@pytest.mark.slow
def test_one_worker_and_two_give_the_same_bits(ray_address: str, experiment: Path) -> None:
    both = []
    for workers in (1, 2):
        overrides = (f"embedding.workers={workers}", f"storage={experiment.parent}/store{workers}")
        run_experiment(load_experiment(experiment, overrides), until="order")
        both.append(contents(artifacts(experiment, *overrides)))
    assert both[0] == both[1]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_killed_in_every_stage_it_carries_on_to_the_same_result(ray_address: str, experiment: Path) -> None:
    undisturbed = f"storage={experiment.parent}/undisturbed"
    run_experiment(load_experiment(experiment, [undisturbed]), until="order")
    rng = random.Random(0)
    command = [sys.executable, "-m", "raysel.cli", "run", str(experiment), "--until", "order"]
    store = Store(str(experiment.parent / "store"))
    kills = 0
    for stage in STAGES:
        driver = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while driver.poll() is None and not any(e["stage"] == stage for e in store.events()):
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.4))
        if driver.poll() is None:
            os.kill(driver.pid, signal.SIGKILL)
            kills += 1
        driver.wait()
    assert kills > 0
    finished = {path: path.stat().st_mtime_ns for path in (experiment.parent / "store" / "vectors").rglob("*.parquet")}
    assert subprocess.run(command, capture_output=True).returncode == 0
    assert contents(artifacts(experiment)) == contents(artifacts(experiment, undisturbed))
    kept = {path: path.stat().st_mtime_ns for path in finished if path.exists()}
    assert kept == {path: finished[path] for path in kept}
    # A driver killed right after it published has no "end"; what it published is never computed again.
    ended = Counter(event["stage"] for event in store.events() if event["event"] == "end")
    assert set(ended.values()) == {1}
    assert subprocess.run(command, capture_output=True, text=True).stdout.count("everything is reused") == 1
