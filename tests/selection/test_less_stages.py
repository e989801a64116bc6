"""LESS on Ray, from the warm-up to the scores, against plain autograd over the same checkpoints."""

import json
import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load, load_file, save
from transformers import AutoModelForCausalLM

from raysel.errors import UserError
from raysel.models.loading import load_tokenizer
from raysel.selection import gradients_stage, influence_stage
from raysel.selection.gradients_stage import GradientError, piece_bounds
from raysel.selection.projection import BlockSketch
from raysel.selection.settings import LessSettings, SelectionSettings
from raysel.store import Artifact, ShardRecord
from raysel.tables import CHOSEN
from raysel.training import warmup_stage
from raysel.training.examples import instruction_example
from raysel.training.schedule import learning_rate
from raysel.training.settings import TokenSettings, TrainingSettings
from raysel.training.tokenizer_source import TokenizerSource
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


UNSEEN = "th"


def settings(less: LessSettings = LESS) -> dict[str, Any]:
    training = TrainingSettings(workers=1)
    given = {"warmup": less.warmup, "less": less, "training": training, "unseen": [UNSEEN]}
    return given | {"template": "auto", "trust_remote_code": False}


class LessLine(SelectionLine):
    model: Path

    def stage(self, name: str, stage: Any, *inputs: str, fingerprint: str = "", as_name: str = "") -> Artifact:
        named = {made: made for made in inputs}
        return self.run(as_name or name, stage, settings(), named, fingerprint=fingerprint, model=str(self.model))


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
    seen = [row for row in less_line.rows.values() if row["lang"] != UNSEEN]
    samples = round(0.2 * len(seen))
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
    assert [position for line in lines for position in json.loads(line)["positions"]] == list(range(2 * samples))


def warmup_tokens(line: LessLine, name: str, less: LessSettings) -> tuple[ShardRecord, list[dict[str, Any]]]:
    """The last record of `prepare`, and the token rows that it made."""
    attempt = line.store.attempt("warmup", name)
    data = TokenSettings(max_tokens=less.warmup.max_tokens, batch_samples=8)
    source = TokenizerSource(str(line.model), "auto", False)
    made = warmup_stage.prepare(attempt, line.made["corpus"], source, less.warmup, data, [UNSEEN], 0)
    records = [ShardRecord(**record) for record in made.summary["records"]]
    return made, attempt.unpublished(records).read("tokens").to_pylist()


def test_every_epoch_goes_through_the_same_samples_in_an_order_of_its_own(less_line: LessLine) -> None:
    """Without the unseen languages, and as the stage `tokens` would make them."""
    made, rows = warmup_tokens(less_line, "prepared", LESS)
    [steps] = {len({row["step"] for row in rows}), made.summary["steps"]}
    epochs = [[row["ids"][0] for row in rows if row["step"] // (steps // 2) == epoch] for epoch in range(2)]
    assert sorted(epochs[0]) == sorted(epochs[1])
    assert len(set(epochs[0])) == made.summary["samples"]
    assert epochs[0] != epochs[1]
    assert {less_line.rows[name]["lang"] for name in epochs[0]} == {"en", "sw", "zh"}
    tokenizer = load_tokenizer(less_line.model, "auto")
    for row in rows:
        sample = less_line.rows[row["ids"][0]]
        example = instruction_example(tokenizer, sample["prompt"], sample["response"], 1024)
        assert (row["input_ids"], row["labels"]) == (example.input_ids.tolist(), example.labels.tolist())


def test_samples_without_a_token_to_learn_are_in_no_step(less_line: LessLine) -> None:
    """Also where whole batches of what was drawn have none."""
    less = SelectionSettings(less={"warmup": WARMUP | {"share": 1.0, "max_tokens": 64}}).less
    made, rows = warmup_tokens(less_line, "short", less)
    seen = [row for row in less_line.rows.values() if row["lang"] != UNSEEN]
    tokenizer = load_tokenizer(less_line.model, "auto")
    learned = {
        row["id"] for row in seen if instruction_example(tokenizer, row["prompt"], row["response"], 64).trained_tokens
    }
    assert 0 < len(learned) < len(seen) - 8
    assert made.summary["untrained"] == len(seen) - len(learned)
    assert {row["ids"][0] for row in rows} == learned
    steps = 2 * -(-len(learned) // 8)
    assert made.summary["steps"] == steps
    assert {row["step"] for row in rows} == set(range(steps))


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


def test_pieces_have_as_many_rows_of_the_pool_wherever_they_lie(less_line: LessLine) -> None:
    order = list(less_line.rows)
    pools = {
        "two languages": [name for name, row in less_line.rows.items() if row["lang"] in ("sw", "zh")],
        "all over": order[1::3],
        "one row": order[40:41],
    }
    for name, ids in pools.items():
        attempt = less_line.store.attempt("pool", name)
        columns = [ids, ["en"] * len(ids), range(len(ids)), [0.0] * len(ids), ["random"] * len(ids)]
        table = pa.table(dict(zip(CHOSEN.names, columns, strict=True)), schema=CHOSEN)
        pool = attempt.unpublished([attempt.write_table("pool", 0, table)])
        bounds = piece_bounds(less_line.made["corpus"], "corpus", pool, 24)
        pieces = [[row for row in order[start:stop] if row in ids] for start, stop in pairwise(bounds)]
        assert [row for piece in pieces for row in piece] == [row for row in order if row in ids]
        assert [len(piece) for piece in pieces[:-1]] == [24] * ((len(ids) - 1) // 24)
        assert 0 < len(pieces[-1]) <= 24
    assert piece_bounds(less_line.made["corpus"], "corpus", None, 100) == [*range(0, len(order), 100), len(order)]


def test_gradients_that_are_not_finite_are_refused(less_line: LessLine) -> None:
    warmup = less_line.made["warmup"]
    attempt = less_line.store.attempt("warmup", "broken")
    records = []
    for entry in warmup.summary["checkpoints"]:
        for part in warmup.shards(entry["table"]):
            state = load(less_line.store.read_bytes(f"{warmup.address}/{part.path}"))
            broken = {
                name: torch.full_like(found, torch.inf) if "lora_B" in name else found for name, found in state.items()
            }
            records.append(attempt.write_file(part.table, part.index, Path(part.path).name, save(broken)))
    less_line.made["broken"] = attempt.publish(records, settings={}, inputs={}, version=1, summary=warmup.summary)
    named = ", ".join(repr(name) for name in less_line.made["target"].read("target")["id"].to_pylist()[:5])
    with pytest.raises(GradientError, match=rf"gradients of 12 samples of the target are NaN or infinite: {named}\. "):
        less_line.run(
            "nothing",
            gradients_stage,
            settings(),
            {"target": "target", "warmup": "broken"},
            model=str(less_line.model),
        )


def test_what_has_nothing_to_learn_is_refused(less_line: LessLine, monkeypatch: pytest.MonkeyPatch) -> None:
    few = LESS.model_copy(update={"warmup": LESS.warmup.model_copy(update={"max_tokens": 2})})
    inputs = {name: name for name in ("corpus", "pool", "warmup")}
    with pytest.raises(GradientError, match="not one sample of the corpus has a token to learn"):
        less_line.run("nothing", gradients_stage, settings(few), inputs, model=str(less_line.model))
    with pytest.raises(UserError, match=r"none of the 23 samples drawn .*mixture.unseen \(th\) has a token"):
        less_line.run("nothing", warmup_stage, settings(few), {"corpus": "corpus"}, model=str(less_line.model))
