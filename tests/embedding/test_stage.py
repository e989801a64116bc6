"""The stage `vectors` on a real Ray: what is fed, its quality, shards that fail, workers and nodes that are killed."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import psutil
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from raysel.embedding import LastTokenEncoder
from raysel.experiment import load_experiment
from raysel.pipeline import expand
from raysel.runner import run_experiment
from raysel.store import Artifact, ShardRecord, Store, overlapping

ROWS = 48
LANGS = {"en": "hello how are you", "fr": "bonjour à tous", "zh": "你好世界", "ar": "مرحبا بكم"}


def write_corpus(path: Path, rows: int) -> None:
    """Four languages of so many rows each; the first three of `en` are the same, `zh-0` is long."""
    with open(path, "w", encoding="utf-8") as file:
        for lang, text in LANGS.items():
            for i in range(rows):
                said = f"{text} {max(i, 2) if lang == 'en' else i}" * (300 if (lang, i) == ("zh", 0) else 1)
                row = {"id": f"{lang}-{i}", "lang": lang, "prompt": "?", "response": said}
                file.write(json.dumps(row, ensure_ascii=False) + "\n")


def write_experiment(folder: Path, model: Path, rows: int = ROWS, shard_rows: int = 32) -> Path:
    write_corpus(folder / "corpus.jsonl", rows)
    content = {
        "storage": "store",
        "corpus": {"path": "corpus.jsonl", "heldout": 0},
        "model": {"path": str(model)},
        "embedding": {"shard_rows": shard_rows, "token_budget": 512, "max_tokens": 400},
    }
    (folder / "e.yaml").write_text(yaml.safe_dump(content))
    return folder / "e.yaml"


@pytest.fixture
def experiment(tmp_path: Path, tiny_llama: Path) -> Path:
    """192 rows in six shards."""
    return write_experiment(tmp_path, tiny_llama)


def vectors_of(experiment: Path, *overrides: str) -> Artifact:
    loaded = load_experiment(experiment, overrides)
    store = Store(loaded.storage)
    step = next(step for step in expand(loaded, store) if step.stage == "vectors")
    artifact = store.artifact("vectors", step.fingerprint)
    assert artifact is not None
    return artifact


def run_to_vectors(experiment: Path, *overrides: str) -> Artifact:
    run_experiment(load_experiment(experiment, overrides), until="vectors")
    return vectors_of(experiment, *overrides)


@pytest.mark.parametrize(
    ("overrides", "text"),
    [
        ((), "<s><|user|>?<|assistant|>{}"),
        (("embedding.token=end_of_turn",), "<s><|user|>?<|assistant|>{}</s>"),
        (("model.template=mine.jinja",), "<s>Q ?\nA {}"),
        (("model.template=alpaca",), "<s>### Instruction:\n?\n\n### Response:\n{}"),
        (("model.template.name=llama3", "model.template.legacy_bos=true"), None),
    ],
)
def test_what_is_fed(
    ray_address: str, experiment: Path, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch,
    overrides: tuple[str, ...], text: str | None,
) -> None:  # fmt: skip
    monkeypatch.chdir(experiment.parent)
    Path("mine.jinja").write_text(
        "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'assistant' %}A {{ m['content'] }}\n"
        "{% else %}Q {{ m['content'] }}\n{% endif %}{% endfor %}{% if add_generation_prompt %}A {% endif %}"
    )
    rows = run_to_vectors(experiment, *overrides).read("vectors").to_pylist()
    text = text or (
        "<s><|start_header_id|>user<|end_header_id|>\n\n?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n{}"
    )
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    model = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype="float32")
    encoder = LastTokenEncoder(model, tokenizer, max_tokens=400)
    expected = encoder.encode([text.format(f"{LANGS['fr']} {i}") for i in range(ROWS)])
    found = {row["id"]: row for row in rows}
    np.testing.assert_allclose([found[f"fr-{i}"]["vector"] for i in range(ROWS)], expected, rtol=1e-5, atol=1e-5)


def test_what_was_said_before_is_fed(ray_address: str, experiment: Path, tiny_llama: Path) -> None:
    answered = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "yes"}]
    told = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "ok"}, *answered[1:], *answered]
    fed = {
        "a": ({"messages": answered}, "<s><|user|>?<|assistant|>yes"),
        "b": ({"messages": told}, "<s><|user|>be brief<|user|>ok<|assistant|>yes</s><|user|>?<|assistant|>yes"),
        "c": ({"prompt": "?", "response": "yes", "system": "be brief"},
              "<s><|user|>be brief<|user|>?<|assistant|>yes"),
    }  # fmt: skip
    rows = [{"id": f"{lang}-{name}", "lang": lang, **row} for name, (row, _) in fed.items() for lang in ("en", "fr")]
    (experiment.parent / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = {row["id"]: row["vector"] for row in run_to_vectors(experiment).read("vectors").to_pylist()}
    model = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype="float32")
    encoder = LastTokenEncoder(model, AutoTokenizer.from_pretrained(tiny_llama), max_tokens=400)
    expected = encoder.encode([text for _, text in fed.values()])
    for lang in ("en", "fr"):
        np.testing.assert_allclose([found[f"{lang}-{name}"] for name in fed], expected, rtol=1e-5, atol=1e-5)
    assert np.abs(expected[:, None] - expected[None]).max(axis=2)[np.triu_indices(3, 1)].min() > 0.01


def test_the_quality_of_the_vectors_is_reported(ray_address: str, experiment: Path) -> None:
    artifact = run_to_vectors(experiment)
    rows = artifact.read("vectors").to_pandas()
    norms = np.linalg.norm(np.stack(rows["vector"]).astype(np.float64), axis=1)
    for lang, own in artifact.summary["quality"].items():
        mask = (rows["lang"] == lang).to_numpy()
        assert own["rows"] == ROWS
        assert own["tokens"] == rows["n_tokens"][mask].sum()
        assert own["norm_least"] == pytest.approx(norms[mask].min())
        assert own["norm_mean"] == pytest.approx(norms[mask].mean())
        assert own["norm_most"] == pytest.approx(norms[mask].max())
    assert artifact.summary["truncated"] == {"zh": 1}
    assert artifact.summary["duplicates"] == {"en": 3}
    assert artifact.summary["way"] == "padded, only the last tokens in the last block"
    warnings = " ".join(artifact.summary["warnings"])
    assert "cut at 400 tokens, by language: zh 2.1%" in warnings
    assert "3 of 192 samples are fed the same tokens as another one: en 3" in warnings


@given(st.lists(st.integers(0, 9), min_size=1, max_size=8), st.integers(1, 30))
def test_shards_cover_every_row_of_the_corpus_once(rows: list[int], size: int) -> None:
    records = [ShardRecord(f"part-{i}", "corpus", i, count, 0, "", "") for i, count in enumerate(rows)]
    covered = [
        (record.path, row)
        for start in range(0, sum(rows), size)
        for record, first, count in overlapping(records, start, min(start + size, sum(rows)))
        for row in range(first, first + count)
    ]
    assert covered == [(f"part-{i}", row) for i, count in enumerate(rows) for row in range(count)]


def test_a_large_corpus_has_larger_shards_instead_of_more(
    ray_address: str, experiment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a shard of vectors may then hold rows of several of the corpus' shards."""
    expected = run_to_vectors(experiment).read("vectors")
    monkeypatch.setattr("raysel.embedding.stage.SHARD_ROWS", 1)
    monkeypatch.setattr("raysel.embedding.stage.MOST_SHARDS", 5)
    overrides = (f"storage={experiment.parent / 'other'}", "corpus.shard_rows=16", "embedding.shard_rows=null")
    vectors = run_to_vectors(experiment, *overrides)
    assert [shard.rows for shard in vectors.shards("vectors")] == [39, 39, 39, 39, 36]
    found = vectors.read("vectors")
    assert found["id"].to_pylist() == expected["id"].to_pylist()
    pairs = [np.stack(table["vector"].to_numpy()) for table in (found, expected)]
    np.testing.assert_allclose(*pairs, rtol=1e-4, atol=1e-5)


def test_the_budget_is_measured_once_and_kept(ray_address: str, experiment: Path) -> None:
    experiment.write_text(experiment.read_text().replace("  token_budget: 512\n", ""))
    experiment.write_text(experiment.read_text().replace("shard_rows: 32", "shard_rows: 8"))
    artifact = run_to_vectors(experiment)
    measured = next(Path(artifact.store.full(artifact.address)).glob("token-budget*.json"))
    stored = json.loads(measured.read_text())
    assert {shard.summary["token_budget"] for shard in artifact.shards("vectors")} == {stored["token_budget"]}


@pytest.mark.slow
def test_shards_that_fail_every_time_are_set_aside_and_tried_again_by_the_same_command(
    ray_address: str, experiment: Path
) -> None:
    """A template that cannot render one sample: not a user's mistake that raysel foresees."""
    template = experiment.parent / "mine.jinja"
    template.write_text(
        "{% for m in messages %}{{ 1 // ('fr-9' != m['content']) | int }}{{ m['content'] }}{% endfor %}"
    )
    corpus = experiment.parent / "corpus.jsonl"
    corpus.write_text(
        corpus.read_text().replace('"fr-9", "lang": "fr", "prompt": "?"', '"fr-9", "lang": "fr", "prompt": "fr-9"')
    )
    command = [sys.executable, "-m", "raysel.cli", "run", str(experiment), "--until", "vectors"]
    command += ["--set", f"model.template={template}"]
    kept: dict[Path, int] = {}
    for _ in range(2):
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 1, done.stderr
        assert "vectors: 1 of 6 shards failed 3 times and were set aside; the other 5 are stored" in done.stderr
        assert "The same command tries just those again" in done.stderr
        assert re.search(r"\(32 rows from row 32 of \S+corpus-00000\S+\): ZeroDivisionError", done.stderr), done.stderr
        assert "Traceback" not in done.stderr
        shards = {p: p.stat().st_mtime_ns for p in (experiment.parent / "store" / "vectors").rglob("*.parquet")}
        assert len(shards) == 5
        kept = kept or shards
        assert shards == kept


def embedders(driver: int) -> list[psutil.Process]:
    """Processes below `driver` in which an actor of the stage is at work."""
    found = []
    for process in psutil.Process(driver).children(recursive=True):
        try:
            if "MapWorker" in " ".join(process.cmdline()):
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


def same_bits(found: Artifact, expected: Artifact) -> bool:
    rows = [artifact.read("vectors").to_pylist() for artifact in (found, expected)]
    assert Counter(row["id"] for row in rows[0]) == Counter(row["id"] for row in rows[1])
    return rows[0] == rows[1]


@pytest.fixture(scope="module")
def undisturbed(ray_address: str, tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """The vectors of 6,000 rows in 375 shards: time enough for a kill."""
    folder = tmp_path_factory.mktemp("undisturbed")
    return run_to_vectors(write_experiment(folder, tiny_llama, rows=1500, shard_rows=16))


@pytest.fixture
def long_experiment(tmp_path: Path, tiny_llama: Path) -> Path:
    return write_experiment(tmp_path, tiny_llama, rows=1500, shard_rows=16)


@pytest.mark.slow
def test_a_worker_killed_in_the_middle_of_its_shard(undisturbed: Artifact, long_experiment: Path) -> None:
    command = [sys.executable, "-m", "raysel.cli", "run", str(long_experiment), "--until", "vectors"]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    driver = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    shards = long_experiment.parent / "store" / "vectors"
    while driver.poll() is None and not list(shards.rglob("*.parquet.done")):
        time.sleep(0.01)
    victims = embedders(driver.pid)
    assert victims, "no actor was at work, so this proves nothing"
    victims[0].send_signal(signal.SIGKILL)
    assert len(list(shards.rglob("*.parquet.done"))) < 375, "everything was done before the kill"
    _, errors = driver.communicate()
    assert driver.returncode == 0, errors
    assert same_bits(vectors_of(long_experiment), undisturbed)


THREE_NODES = """
import os, subprocess, sys, time
from pathlib import Path
import ray
from raysel.cluster import use_private_token
from ray.cluster_utils import Cluster
use_private_token()
# A node that does not answer five times in a row is given up: every half a second instead of every 3.
config = {"health_check_period_ms": 500}
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "_system_config": config})
victim = cluster.add_node(num_cpus=2)
experiment, shards = Path(sys.argv[1]), Path(sys.argv[2])
command = [sys.executable, "-m", "raysel.cli", "run", str(experiment), "--until", "vectors"]
driver = subprocess.Popen(command, env=os.environ | {"RAY_ADDRESS": cluster.address})
while driver.poll() is None and len(list(shards.rglob("*.parquet.done"))) < 3:
    time.sleep(0.02)
# Only the victim has CPUs: the actors are there, and at work.
assert driver.poll() is None, driver.returncode
cluster.add_node(num_cpus=2)
before = len(list(shards.rglob("*.parquet.done")))
assert before < 375, "everything was done before the kill"
cluster.remove_node(victim, allow_graceful=False)
print("killed with", before, "shards done", flush=True)
sys.exit(driver.wait())
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_node_killed_while_its_actors_work(undisturbed: Artifact, long_experiment: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    done = subprocess.run(
        [sys.executable, "-c", THREE_NODES, str(long_experiment), str(long_experiment.parent / "store" / "vectors")],
        env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "killed with" in done.stdout
    assert same_bits(vectors_of(long_experiment), undisturbed)
