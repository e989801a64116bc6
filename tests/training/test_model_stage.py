"""Stages `model` and `base_model` on Ray Train with two workers."""

import json
from pathlib import Path

import pytest
import torch

from raysel.memory_errors import MemoryShortError
from raysel.models.loading import load_causal_lm, load_tokenizer
from raysel.models.settings import BaseModelSettings
from raysel.stage import StageRun
from raysel.store import Store
from raysel.training import base_model_stage
from raysel.training.logits import logit_parts
from raysel.training.settings import LoraSettings, TokenSettings, TrainingSettings
from raysel.training.worker_group_stage import TrainingError
from tests.training.runs import (
    KilledError,
    event_scalars,
    killed_after,
    log_of,
    losses,
    train,
    worker_killed_at_a_checkpoint,
    write_corpus,
    write_tokens,
)

DATA = TokenSettings(max_tokens=128, batch_samples=5)


@pytest.mark.slow
def test_two_workers_learn_what_one_learns(cluster, progress, store: Store, tiny_llama: Path, learn) -> None:
    tokens = write_tokens(store, tiny_llama, 22, DATA, heldout=7)
    settings = TrainingSettings(
        data=DATA, zero=2, learning_rate=2e-2, workers=2, checkpoint_steps=2, trackers=["tensorboard"]
    )
    output, model = train(cluster, progress, store, tiny_llama, tokens, settings, "two")
    alone, folder = learn(tiny_llama, tokens, settings, "one")
    log = log_of(model)
    assert losses(log) == pytest.approx(losses(alone.log), abs=1e-5)
    assert [line["positions"] for line in log] == [line["positions"] for line in alone.log]
    assert log[-1]["loss"] < log[0]["loss"]
    assert {key: output.summary[key] for key in ("steps", "workers", "zero", "method", "resumed_from", "base")} == {
        "steps": 5, "workers": 2, "zero": 2, "method": "lora", "resumed_from": None, "base": str(tiny_llama),
    }  # fmt: skip
    assert output.summary["last_loss"] == log[-1]["loss"]
    measured = [alone.heldout[0]["loss"], alone.heldout[-1]["loss"]]
    assert output.summary["heldout_loss"] == pytest.approx(measured, abs=1e-5)
    shown = event_scalars(Path(store.root) / "trackers" / "two" / "tensorboard")
    assert shown["loss"] == pytest.approx({line["step"]: line["loss"] for line in log}, abs=1e-6)
    assert shown["loss_by_lang/fr"].keys() == {line["step"] for line in log if "fr" in line["loss_by_lang"]}
    assert list(shown["heldout_loss"]) == [0, 1, 3, 4]
    [shard] = model.shards("heldout_loss")
    written = store.read_bytes(f"{model.address}/{shard.path}").decode().splitlines()
    assert [json.loads(line)["steps"] for line in written] == [0, 2, 4, 5]
    found = model.local_folder("adapter", Path("/nowhere"))
    card = (found / "README.md").read_text(encoding="utf-8")
    assert f"base_model: {tiny_llama.name}\nlibrary_name: peft\n" in card
    assert str(tiny_llama) not in card
    assert f"| held-out samples | {measured[0]:.4f} | {measured[1]:.4f} |" in card
    assert f"| tokens | {tokens.fingerprint} | {tokens.manifest_digest()} |" in card
    tokenizer = load_tokenizer(found)
    prompt = torch.tensor([tokenizer("Hello", add_special_tokens=False)["input_ids"]])
    answers = [
        load_causal_lm(tiny_llama, adapter=adapter).generate(prompt, max_new_tokens=8, do_sample=False).tolist()
        for adapter in (found, folder)
    ]
    assert answers[0] == answers[1]

    # A checkpoint that two workers wrote fits one: that of the last step but one, once the last one's is gone.
    for whole in (Path(store.root) / "model" / "two").glob("*/checkpoint-00000005/whole.json*"):
        whole.unlink()
    carried_on, _ = learn(tiny_llama, tokens, settings, "two")
    assert carried_on.resumed_from == 4
    assert losses(carried_on.log) == pytest.approx(losses(log), abs=1e-5)

    # What ended before it could be published is not trained again.
    again, _ = train(cluster, progress, store, tiny_llama, tokens, settings, "two")
    assert list(again.records) == list(output.records)
    assert again.summary == output.summary


@pytest.mark.slow
@pytest.mark.parametrize(("zero", "max_tokens"), [(0, 128), (3, 200_000)])
def test_two_workers_carry_on_what_one_began(
    cluster, progress, store: Store, tiny_llama: Path, learn, zero: int, max_tokens: int
) -> None:
    """With rows of up to 200,000 tokens the logits come in parts, while one of the workers has next to none."""
    data = TokenSettings(max_tokens=max_tokens, batch_samples=5)
    assert logit_parts(max_tokens, 400) == (1 if zero == 0 else 2)
    tokens = write_tokens(store, tiny_llama, 22, data)
    settings = TrainingSettings(data=data, zero=zero, method="full", learning_rate=5e-3, workers=2, checkpoint_steps=2)
    alone, folder = learn(tiny_llama, tokens, settings, "one")
    # Begun by one worker that stops after the third step, ended by two.
    with pytest.raises(KilledError):
        learn(tiny_llama, tokens, settings, "two", killed_after(2))
    output, model = train(cluster, progress, store, tiny_llama, tokens, settings, "two")
    assert output.summary["resumed_from"] == 2
    assert losses(log_of(model)) == pytest.approx(losses(alone.log), abs=1e-5)
    assert not [shard for shard in model.shards("model") if shard.path.endswith((".bin", ".pt", ".pkl"))]
    two, one = load_causal_lm(model.local_folder("model", Path("/nowhere"))), load_causal_lm(folder)
    for (name, a), (_, b) in zip(two.named_parameters(), one.named_parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-3, msg=name)


@pytest.mark.slow
def test_a_worker_killed_on_the_way_changes_no_loss(cluster, progress, store: Store, tiny_llama: Path, learn) -> None:
    """In ZeRO-3; the loss-aware curriculum is trained through the same in ZeRO-2."""
    tokens = write_tokens(store, tiny_llama, 60, TokenSettings(max_tokens=128, batch_samples=5, epochs=8))
    settings = TrainingSettings(data=DATA, zero=3, method="full", learning_rate=1e-3, workers=2, checkpoint_steps=10)
    undisturbed, _ = learn(tiny_llama, tokens, settings, "undisturbed")
    with worker_killed_at_a_checkpoint(store, "killed") as killed:
        output, model = train(cluster, progress, store, tiny_llama, tokens, settings, "killed")
    assert killed
    log = log_of(model)
    assert output.summary["resumed_from"] >= 10
    assert [line["step"] for line in log] == list(range(96))
    assert losses(log) == pytest.approx(losses(undisturbed.log), abs=1e-5)


@pytest.mark.slow
def test_a_worker_that_runs_out_of_memory_ends_the_run(cluster, progress, store: Store, tiny_llama: Path) -> None:
    """No machine holds these adapters; one group of workers finds out, and the next one does not try."""
    tokens = write_tokens(store, tiny_llama, 8, DATA)
    settings = TrainingSettings(data=DATA, workers=2, lora=LoraSettings(rank=1 << 40))
    with pytest.raises(MemoryShortError, match=r"tried to allocate .* TB on node") as caught:
        train(cluster, progress, store, tiny_llama, tokens, settings, "short")
    assert caught.value.shortage.workers == 2


@pytest.mark.slow
def test_mistakes_found_by_a_worker_reach_the_user_at_once(
    cluster, progress, store: Store, tiny_llama: Path, tmp_path: Path
) -> None:
    model = load_causal_lm(tiny_llama)
    with torch.no_grad():
        model.model.norm.weight[0] = float("inf")
    model.save_pretrained(tmp_path / "broken")
    load_tokenizer(tiny_llama).save_pretrained(tmp_path / "broken")
    tokens = write_tokens(store, tiny_llama, 8, DATA)
    with pytest.raises(TrainingError, match=r"training stopped at step 0: the loss is nan\. Its samples are s0"):
        train(cluster, progress, store, tmp_path / "broken", tokens, TrainingSettings(data=DATA, workers=2), "nan")


@pytest.mark.slow
def test_a_base_model_is_made_from_the_corpus_alone(cluster, progress, store: Store) -> None:
    corpus = write_corpus(store, 40)
    base = BaseModelSettings(vocabulary=320, width=32, layers=2, heads=2, context=128, steps=12, batch_samples=8)
    attempt = store.attempt("base_model", "b")
    settings = {"base": base, "seed": 3, "workers": 2, "cpus_per_worker": None}
    output = base_model_stage.run(StageRun(settings, {"corpus": corpus}, {}, attempt, cluster, progress))
    artifact = attempt.publish(output.records, settings={}, inputs={}, version=1, summary=output.summary)
    assert set(artifact.manifest["rows"]) == {"model", "log"}
    log = log_of(artifact)
    assert len(log) == 12
    assert log[-1]["loss"] < log[0]["loss"]
    folder = artifact.local_folder("model", Path("/nowhere"))
    model, tokenizer = load_causal_lm(folder), load_tokenizer(folder)
    assert model.config.tie_word_embeddings
    assert json.loads((folder / "config.json").read_text())["max_position_embeddings"] == 128
    prompt = tokenizer("Hello", add_special_tokens=False, return_tensors="pt")["input_ids"]
    assert model.generate(prompt, max_new_tokens=4).shape[1] > prompt.shape[1]
