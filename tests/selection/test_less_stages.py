"""LESS on Ray, from the warm-up to the scores, against plain autograd over the same checkpoints."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from raysel.errors import UserError
from raysel.models.loading import load_tokenizer
from raysel.selection import gradients_stage, influence_stage
from raysel.selection.gradients_stage import GradientError
from raysel.selection.projection import BlockSketch
from raysel.selection.settings import SelectionSettings
from raysel.store import Artifact
from raysel.training import warmup_stage
from raysel.training.examples import instruction_example
from raysel.training.schedule import learning_rate
from tests.selection.line import SelectionLine

pytestmark = pytest.mark.slow
WARMUP = {
    "share": 0.2,
    "epochs": 2,
    "batch_samples": 8,
    "learning_rate": 1e-3,
    "max_tokens": 1024,
    "lora": {"rank": 2, "alpha": 8, "targets": ["q_proj", "v_proj"]},
}
LESS = SelectionSettings(less={"dimensions": 256, "warmup": WARMUP}).less


class LessLine(SelectionLine):
    model: Path

    def stage(self, name: str, stage: Any, *inputs: str, fingerprint: str = "", as_name: str = "") -> Artifact:
        settings = {"warmup": LESS.warmup, "less": LESS, "template": "auto", "trust_remote_code": False, "workers": 1}
        named = {made: made for made in inputs}
        return self.run(as_name or name, stage, settings, named, fingerprint=fingerprint, model=str(self.model))


@pytest.fixture(scope="module")
def less_line(cluster: Any, tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path) -> Iterator[LessLine]:
    from rich.console import Console

    from raysel.progress import Progress

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(gradients_stage, "SHARD_ROWS", 24)
        line = LessLine(cluster, Progress(Console(quiet=True), "test"), tmp_path_factory.mktemp("less"))
        line.model = tiny_llama
        line.pool(rho=0.4, quota="even", total=12)
        line.target(samples=3)
        line.stage("warmup", warmup_stage, "corpus")
        line.stage("gradients", gradients_stage, "corpus", "pool", "warmup", fingerprint="whole")
        line.stage("gradients", gradients_stage, "target", "warmup", as_name="target_gradients")
        line.stage("influence", influence_stage, "gradients", "target_gradients", "warmup")
        yield line


def plain_rows(line: LessLine, table: str, rows: dict[str, dict], *, adam: bool) -> dict[str, np.ndarray]:
    """By id the normalised projected gradient at one checkpoint: one sample at a time, plain autograd."""
    lora = WARMUP["lora"]
    config = LoraConfig(r=lora["rank"], lora_alpha=lora["alpha"], target_modules=lora["targets"])
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(line.model, dtype="float32"), config).eval()
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    warmup = line.made["warmup"]
    state: dict[str, torch.Tensor] = {}
    for part in warmup.shards(table):
        state |= load_file(line.store.full(f"{warmup.address}/{part.path}"))
    with torch.no_grad():
        for name, parameter in named.items():
            parameter.copy_(state[f"weight/{name}"])
    tokenizer = load_tokenizer(line.model, "auto")
    found = {}
    for identity, row in rows.items():
        example = instruction_example(tokenizer, row["prompt"], row["response"], WARMUP["max_tokens"])
        batch = torch.from_numpy(example.input_ids).long()[None], torch.from_numpy(example.labels).long()[None]
        model(input_ids=batch[0], labels=batch[1]).loss.backward()
        sketch = BlockSketch(LESS.dimensions, seed=0)
        for name, parameter in named.items():
            gradient = parameter.grad
            if adam:
                first = 0.9 * state[f"exp_avg/{name}"] + 0.1 * gradient
                second = 0.999 * state[f"exp_avg_sq/{name}"] + 0.001 * gradient**2
                gradient = first / torch.sqrt(second + 1e-8)
            sketch.add(name, gradient.flatten()[None])
            parameter.grad = None
        projected = sketch.result()[0]
        found[identity] = (projected / projected.norm()).numpy()
    return found


def test_the_warm_up_keeps_every_epoch_with_its_learning_rate(less_line: LessLine) -> None:
    summary = less_line.made["warmup"].summary
    samples = round(0.2 * len(less_line.rows))
    per_epoch = -(-samples // 8)
    assert summary["samples"] == samples
    assert summary["steps"] == 2 * per_epoch
    for epoch, checkpoint in enumerate(summary["checkpoints"]):
        steps = range(epoch * per_epoch, (epoch + 1) * per_epoch)
        rates = [learning_rate(s, 2 * per_epoch, peak=1e-3, schedule="linear", warmup_share=0.03) for s in steps]
        assert checkpoint["learning_rate"] == pytest.approx(np.mean(rates))
        assert checkpoint["table"] == f"checkpoint-{(epoch + 1) * per_epoch:08d}"
    [log] = less_line.made["warmup"].shards("log")
    lines = less_line.store.read_bytes(f"{less_line.made['warmup'].address}/{log.path}").splitlines()
    assert len(lines) == 2 * per_epoch
    # Every epoch goes through the same samples once, in an order of its own.
    assert sum(len(json.loads(line)["positions"]) for line in lines) == 2 * samples


def test_scores_are_those_of_plain_autograd(less_line: LessLine) -> None:
    chosen = less_line.made["pool"].read("pool")["id"].to_pylist()
    pool = {identity: less_line.rows[identity] for identity in chosen}
    target = {row["id"]: row for row in less_line.made["target"].read("target").to_pylist()}
    checkpoints = less_line.made["warmup"].summary["checkpoints"]
    rates = np.array([checkpoint["learning_rate"] for checkpoint in checkpoints])
    expected: dict[str, dict[str, float]] = {identity: {} for identity in pool}
    for checkpoint, rate in zip(checkpoints, rates / rates.sum(), strict=True):
        own = plain_rows(less_line, checkpoint["table"], pool, adam=True)
        wanted = plain_rows(less_line, checkpoint["table"], target, adam=False)
        for identity, row in own.items():
            for lang in {row["subtask"] for row in target.values()}:
                members = [wanted[name] for name, sample in target.items() if sample["subtask"] == lang]
                mean = float(np.mean([row @ member for member in members]))
                expected[identity][lang] = expected[identity].get(lang, 0.0) + rate * mean
    found = {row["id"]: row for row in less_line.made["influence"].read("influence").to_pylist()}
    assert found.keys() == expected.keys()
    for identity, by_lang in expected.items():
        assert found[identity]["score"] == pytest.approx(max(by_lang.values()), abs=2e-3)
        assert by_lang[found[identity]["subtask"]] == pytest.approx(max(by_lang.values()), abs=2e-3)


def test_the_best_scores_are_chosen_in_each_language(less_line: LessLine) -> None:
    score = {row["id"]: row["score"] for row in less_line.made["influence"].read("influence").to_pylist()}
    chosen = less_line.subset(method="less")
    for lang in {row["lang"] for row in less_line.rows.values()}:
        own = [identity for identity in score if less_line.rows[identity]["lang"] == lang]
        best = sorted(own, key=lambda identity: (-score[identity], identity))[:3]
        assert [row["id"] for row in chosen if row["lang"] == lang] == best


def test_what_is_stored_is_not_computed_again(less_line: LessLine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gradients_stage, "SHARD_ROWS", 24)
    whole = less_line.made["gradients"]
    assert whole.summary["pieces"] > 2
    root = Path(less_line.store.root) / "gradients"
    shutil.copytree(root / "whole", root / "killed")
    (root / "killed" / "manifest.json").unlink()
    checkpoints = whole.summary["checkpoints"]
    # Killed within the second piece: the shard of its last checkpoint is not marked.
    lost = next((root / "killed").glob(f"*/gradients-{2 * checkpoints - 1:05d}-*.done"))
    lost.unlink()
    before = {path: path.stat().st_mtime_ns for path in (root / "killed").rglob("*.parquet")}
    again = less_line.stage("gradients", gradients_stage, "corpus", "pool", "warmup", fingerprint="killed")
    written = {path.name.rsplit("-", 1)[0] for path in (root / "killed").rglob("*.parquet") if path not in before}
    assert written == {f"gradients-{index:05d}" for index in (2 * checkpoints - 2, 2 * checkpoints - 1)}
    assert [shard.sha256 for shard in again.shards("gradients")] == [s.sha256 for s in whole.shards("gradients")]


def test_what_has_nothing_to_learn_is_refused(less_line: LessLine, monkeypatch: pytest.MonkeyPatch) -> None:
    few = LESS.model_copy(update={"warmup": LESS.warmup.model_copy(update={"max_tokens": 2})})
    settings = {"less": few, "warmup": few.warmup, "template": "auto", "trust_remote_code": False, "workers": 1}
    inputs = {name: name for name in ("corpus", "pool", "warmup")}
    with pytest.raises(GradientError, match="not one sample of the corpus has a token to learn"):
        less_line.run("nothing", gradients_stage, settings, inputs, model=str(less_line.model))
    with pytest.raises(UserError, match=r"none of the .* samples drawn has a token to learn"):
        less_line.run("nothing", warmup_stage, settings, {"corpus": "corpus"}, model=str(less_line.model))
