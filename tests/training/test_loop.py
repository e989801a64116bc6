"""The loop on one worker in this process; with several workers in test_model_stage.py."""

import errno
import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from raysel.models.loading import load_causal_lm, load_tokenizer
from raysel.store import Store
from raysel.training.engine import AdapterError, DeepSpeedKeyError
from raysel.training.loop import LossError
from raysel.training.settings import LoraSettings, TokenSettings, TrainingSettings
from tests.training.runs import KilledError, killed_after, write_tokens

DATA = TokenSettings(max_tokens=128, batch_samples=4)


def losses(log: list[dict]) -> list[float]:
    return [line["loss"] for line in log]


@pytest.mark.parametrize(
    ("zero", "method", "dtype"),
    [
        (2, "full", "float32"),
        (3, "lora", "float32"),
        pytest.param(0, "full", "float32", marks=pytest.mark.slow),
        pytest.param(2, "lora", "float32", marks=pytest.mark.slow),
        pytest.param(3, "full", "float32", marks=pytest.mark.slow),
        pytest.param(1, "full", "bfloat16", marks=pytest.mark.slow),
        pytest.param(2, "full", "bfloat16", marks=pytest.mark.slow),
        pytest.param(3, "lora", "bfloat16", marks=pytest.mark.slow),
    ],
)
def test_a_resumed_run_is_an_undisturbed_run(
    learn, store: Store, tiny_llama: Path, zero: int, method: str, dtype: str
) -> None:
    tokens = write_tokens(store, tiny_llama, 26, DATA)
    settings = TrainingSettings(
        data=DATA,
        zero=zero,
        method=method,
        dtype=dtype,
        learning_rate=1e-2,
        lora=LoraSettings(dropout=0.1),
        weight_decay=0.1,
        checkpoint_steps=2,
    )
    undisturbed, folder = learn(tiny_llama, tokens, settings, "undisturbed")
    assert undisturbed.resumed_from is None
    with pytest.raises(KilledError):
        learn(tiny_llama, tokens, settings, "killed", killed_after(4))
    resumed, again = learn(tiny_llama, tokens, settings, "killed")
    assert resumed.resumed_from == 4
    assert [line["step"] for line in resumed.log] == list(range(7))
    assert losses(resumed.log) == pytest.approx(losses(undisturbed.log), abs=1e-6)
    assert losses(resumed.log)[-1] < losses(resumed.log)[0]
    assert_same_weights(folder, again)


def assert_same_weights(one: Path, two: Path, **tolerance: float) -> None:
    from safetensors.torch import load_file

    [a], [b] = (list(folder.glob("*.safetensors")) for folder in (one, two))
    first, second = load_file(a), load_file(b)
    assert first.keys() == second.keys()
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, **(tolerance or {"atol": 1e-6, "rtol": 1e-5}))


@pytest.mark.parametrize(
    ("written", "read"),
    [(0, 3), pytest.param(3, 2, marks=pytest.mark.slow), pytest.param(2, 0, marks=pytest.mark.slow)],
)
def test_a_checkpoint_fits_any_zero_stage(learn, store: Store, tiny_llama: Path, written: int, read: int) -> None:
    tokens = write_tokens(store, tiny_llama, 16, DATA)
    settings = TrainingSettings(data=DATA, zero=written, method="full", learning_rate=1e-2, checkpoint_steps=2)
    undisturbed, folder = learn(tiny_llama, tokens, settings, "undisturbed")
    with pytest.raises(KilledError):
        learn(tiny_llama, tokens, settings, "killed", killed_after(2))
    resumed, again = learn(tiny_llama, tokens, settings.model_copy(update={"zero": read}), "killed")
    assert resumed.resumed_from == 2
    assert losses(resumed.log) == pytest.approx(losses(undisturbed.log), abs=2e-6)
    assert_same_weights(folder, again, atol=2e-5, rtol=1e-3)


def test_a_checkpoint_without_its_last_file_does_not_count(learn, store: Store, tiny_llama: Path) -> None:
    tokens = write_tokens(store, tiny_llama, 26, DATA)
    settings = TrainingSettings(data=DATA, zero=0, checkpoint_steps=1)
    with pytest.raises(KilledError):
        learn(tiny_llama, tokens, settings, "m", killed_after(4))
    attempt = next(folder for folder in (Path(store.root) / "model" / "m").iterdir() if folder.is_dir())
    assert sorted(path.name for path in attempt.iterdir()) == ["checkpoint-00000003", "checkpoint-00000004"]
    for name in ("whole.json", "whole.json.done"):
        (attempt / "checkpoint-00000004" / name).unlink()
    resumed, _ = learn(tiny_llama, tokens, settings, "m")
    assert resumed.resumed_from == 3


def test_a_full_disk_costs_only_what_came_after_the_last_checkpoint(
    learn, store: Store, tiny_llama: Path, tmp_path: Path
) -> None:
    small = tmp_path / "store"
    small.mkdir(exist_ok=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1400k", "tmpfs", small], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"needs the right to mount a small disk: {mounted.stderr.strip()}")
    try:
        tokens = write_tokens(store, tiny_llama, 36, DATA)
        settings = TrainingSettings(data=DATA, zero=2, method="full", learning_rate=1e-2, checkpoint_steps=2)
        with pytest.raises(OSError, match="No space left") as error:
            learn(tiny_llama, tokens, settings)
        assert error.value.errno == errno.ENOSPC
        subprocess.run(["mount", "-o", "remount,size=50m", small], check=True)
        resumed, _ = learn(tiny_llama, tokens, settings)
        assert resumed.resumed_from is not None
        undisturbed, _ = learn(tiny_llama, tokens, settings, "undisturbed")
        assert losses(resumed.log) == pytest.approx(losses(undisturbed.log), abs=1e-6)
    finally:
        subprocess.run(["umount", small], check=True)


def test_a_checkpoint_is_written_when_its_minutes_have_gone(learn, store: Store, tiny_llama: Path) -> None:
    tokens = write_tokens(store, tiny_llama, 26, DATA)
    settings = TrainingSettings(data=DATA, zero=0, checkpoint_steps=1000, checkpoint_minutes=1e-9)
    with pytest.raises(KilledError):
        learn(tiny_llama, tokens, settings, "m", killed_after(4))
    resumed, _ = learn(tiny_llama, tokens, settings, "m")
    assert resumed.resumed_from == 4


def test_a_checkpoint_is_written_after_the_step_in_which_it_is_asked_for(learn, store: Store, tiny_llama: Path) -> None:
    tokens = write_tokens(store, tiny_llama, 26, DATA)
    settings = TrainingSettings(data=DATA, zero=0, checkpoint_steps=1000)
    answers = iter([False, False, True, False, False, False])
    with pytest.raises(KilledError):
        learn(tiny_llama, tokens, settings, "m", killed_after(4), lambda: next(answers))
    assert [path.parent.name for path in Path(store.root).rglob("whole.json")] == ["checkpoint-00000003"]
    resumed, _ = learn(tiny_llama, tokens, settings, "m")
    assert resumed.resumed_from == 3


def test_every_sample_is_trained_on_in_its_planned_step(learn, store: Store, tiny_llama: Path) -> None:
    data = TokenSettings(max_tokens=128, batch_samples=4, epochs=2)
    tokens = write_tokens(store, tiny_llama, 10, data)
    outcome, _ = learn(tiny_llama, tokens, TrainingSettings(data=data, zero=0))
    assert [line["positions"] for line in outcome.log] == [list(range(s, s + 4)) for s in range(0, 20, 4)]
    assert all(set(line["loss_by_lang"]) <= {"en", "fr", "ru"} for line in outcome.log)
    assert sum(line["trained_tokens"] for line in outcome.log) == tokens.summary["trained_tokens"]


def test_the_logged_loss_is_the_mean_over_learned_tokens(learn, store: Store, tiny_llama: Path) -> None:
    data = TokenSettings(max_tokens=128, batch_samples=30)
    tokens = write_tokens(store, tiny_llama, 9, data)
    outcome, _ = learn(tiny_llama, tokens, TrainingSettings(data=data, zero=0, method="full"))
    expected, by_lang = plain_losses(load_causal_lm(tiny_llama), tokens.read("tokens").to_pylist())
    assert outcome.log[0]["loss"] == pytest.approx(expected, abs=1e-5)
    assert outcome.log[0]["loss_by_lang"] == pytest.approx(by_lang, abs=1e-5)
    assert outcome.log[0]["trained_tokens"] == tokens.summary["trained_tokens"]


@pytest.mark.parametrize(("zero", "method"), [(3, "lora"), pytest.param(2, "full", marks=pytest.mark.slow)])
def test_logits_in_parts_change_no_loss(
    learn, store: Store, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch, zero: int, method: str
) -> None:
    tokens = write_tokens(store, tiny_llama, 16, DATA)
    settings = TrainingSettings(data=DATA, zero=zero, method=method, learning_rate=1e-2)
    whole, _ = learn(tiny_llama, tokens, settings, "whole")
    monkeypatch.setattr("raysel.training.loss.LOGITS_AT_ONCE", 20 * 400)
    parts, _ = learn(tiny_llama, tokens, settings, "parts")
    assert losses(parts.log) == pytest.approx(losses(whole.log), abs=2e-6)


@pytest.mark.parametrize(("zero", "offload"), [(2, "optimizer"), pytest.param(3, "all", marks=pytest.mark.slow)])
def test_offloading_changes_no_loss(learn, store: Store, tiny_llama: Path, zero: int, offload: str) -> None:
    """Also over a kill and a resume."""
    tokens = write_tokens(store, tiny_llama, 16, DATA)
    settings = TrainingSettings(data=DATA, zero=zero, method="full", learning_rate=1e-2, checkpoint_steps=2)
    expected, _ = learn(tiny_llama, tokens, settings, "here")
    there = settings.model_copy(update={"offload": offload})
    with pytest.raises(KilledError):
        learn(tiny_llama, tokens, there, "there", killed_after(2))
    found, _ = learn(tiny_llama, tokens, there, "there")
    assert found.resumed_from == 2
    assert losses(found.log) == pytest.approx(losses(expected.log), abs=1e-5)


@pytest.mark.parametrize("zero", [2, pytest.param(3, marks=pytest.mark.slow)])
@pytest.mark.parametrize("more", [{"rslora": True}, {"dora": True, "dropout": 0.1}])
def test_kinds_of_adapters_learn_and_load(learn, store: Store, tiny_llama: Path, zero: int, more: dict) -> None:
    tokens = write_tokens(store, tiny_llama, 16, DATA)
    lora = LoraSettings(rank=4, **more)
    outcome, folder = learn(tiny_llama, tokens, TrainingSettings(data=DATA, zero=zero, lora=lora, learning_rate=5e-2))
    assert outcome.log[-1]["loss"] < outcome.log[0]["loss"]
    config = json.loads((folder / "adapter_config.json").read_text())
    assert (config["use_rslora"], config["use_dora"]) == (lora.rslora, lora.dora)
    tuned, base = load_causal_lm(tiny_llama, adapter=folder), load_causal_lm(tiny_llama)
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        assert not torch.allclose(tuned(ids).logits, base(ids).logits, atol=1e-3)


@pytest.mark.parametrize("zero", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_the_loss_of_what_is_held_out_is_followed(learn, store: Store, tiny_llama: Path, zero: int) -> None:
    """Before training, with every checkpoint and after it, by language, also over a kill and a resume."""
    tokens = write_tokens(store, tiny_llama, 24, DATA, heldout=7)
    settings = TrainingSettings(data=DATA, zero=zero, method="full", learning_rate=1e-2, checkpoint_steps=2)
    undisturbed, folder = learn(tiny_llama, tokens, settings, "undisturbed")
    assert [entry["steps"] for entry in undisturbed.heldout] == [0, 2, 4, 6]
    for entry, trained in ((undisturbed.heldout[0], tiny_llama), (undisturbed.heldout[-1], folder)):
        expected, by_lang = plain_losses(load_causal_lm(trained), tokens.read("heldout_tokens").to_pylist())
        assert entry["loss"] == pytest.approx(expected, abs=1e-5)
        assert entry["loss_by_lang"] == pytest.approx(by_lang, abs=1e-5)
    with pytest.raises(KilledError):
        learn(tiny_llama, tokens, settings, "killed", killed_after(4))
    resumed, _ = learn(tiny_llama, tokens, settings, "killed")
    assert [e["loss"] for e in resumed.heldout] == pytest.approx([e["loss"] for e in undisturbed.heldout], abs=1e-6)
    untouched, _ = learn(tiny_llama, write_tokens(store, tiny_llama, 24, DATA), settings, "without")
    assert untouched.heldout == []
    assert losses(untouched.log) == pytest.approx(losses(undisturbed.log), abs=1e-6)


def plain_losses(model: torch.nn.Module, rows: list[dict]) -> tuple[float, dict[str, float]]:
    """The mean over the learned tokens of all rows and of each language, one sample at a time."""
    sums: dict[str, list[float]] = {}
    for row in rows:
        start = 0
        for lang, length in zip(row["langs"], row["segment_lengths"], strict=True):
            ids, labels = (torch.tensor(row[key][start : start + length])[None] for key in ("input_ids", "labels"))
            learned = int((labels != -100).sum())
            entry = sums.setdefault(lang, [0.0, 0])
            entry[0] += model(input_ids=ids, labels=labels.long()).loss.item() * learned
            entry[1] += learned
            start += length
    means = {lang: loss / count for lang, (loss, count) in sums.items()}
    return sum(loss for loss, _ in sums.values()) / sum(count for _, count in sums.values()), means


@pytest.mark.parametrize("zero", [0, 2, 3])
def test_a_learning_rate_of_0_leaves_the_weights(learn, store: Store, tiny_llama: Path, zero: int) -> None:
    tokens = write_tokens(store, tiny_llama, 8, DATA)
    settings = TrainingSettings(data=DATA, zero=zero, method="full", learning_rate=0, weight_decay=0.1)
    _, folder = learn(tiny_llama, tokens, settings)
    assert_same_weights(tiny_llama, folder, atol=0, rtol=0)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_loss_that_is_no_number_stops_the_run_and_names_the_samples(
    learn, store: Store, tiny_llama: Path, tmp_path: Path, method: str
) -> None:
    model = load_causal_lm(tiny_llama)
    with torch.no_grad():
        model.lm_head.weight[5] = float("nan")
    model.save_pretrained(tmp_path / "broken")
    load_tokenizer(tiny_llama).save_pretrained(tmp_path / "broken")
    tokens = write_tokens(store, tiny_llama, 8, DATA)
    with pytest.raises(LossError, match=r"step 0: the loss is nan") as error:
        learn(tmp_path / "broken", tokens, TrainingSettings(data=DATA, method=method))
    row = tokens.read("tokens", filters=[("step", "==", 0)]).to_pylist()[0]
    assert all(name in str(error.value) for name in row["ids"])


def test_a_key_that_deepspeed_does_not_know_is_refused(learn, store: Store, tiny_llama: Path) -> None:
    tokens = write_tokens(store, tiny_llama, 4, DATA)
    settings = TrainingSettings(data=DATA, deepspeed={"zero_optimization": {"overlap": True}})
    with pytest.raises(DeepSpeedKeyError, match=r"training\.deepspeed, zero_optimization: overlap: Extra inputs"):
        learn(tiny_llama, tokens, settings)


def test_targets_that_the_model_has_not_are_refused(learn, store: Store, tiny_llama: Path) -> None:
    tokens = write_tokens(store, tiny_llama, 4, DATA)
    settings = TrainingSettings(data=DATA, lora=LoraSettings(targets=["query_key_value"]))
    with pytest.raises(AdapterError, match=r"query_key_value.*q_proj"):
        learn(tiny_llama, tokens, settings)


@pytest.mark.parametrize("zero", [2, 3])
def test_an_adapter_loads_on_its_base_and_answers_the_same(learn, store: Store, tiny_llama: Path, zero: int) -> None:
    tokens = write_tokens(store, tiny_llama, 16, DATA)
    outcome, folder = learn(tiny_llama, tokens, TrainingSettings(data=DATA, zero=zero, learning_rate=5e-2))
    assert outcome.log[-1]["loss"] < outcome.log[0]["loss"]
    assert "adapter_model.safetensors" in {path.name for path in folder.iterdir()}
    assert not list(folder.glob("*.bin"))
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["peft_type"] == "LORA"
    tuned, base = load_causal_lm(tiny_llama, adapter=folder), load_causal_lm(tiny_llama)
    tokenizer = load_tokenizer(folder)
    prompt = torch.tensor([tokenizer("Hello, how", add_special_tokens=False)["input_ids"]])
    with torch.no_grad():
        assert not torch.allclose(tuned(prompt).logits, base(prompt).logits, atol=1e-3)
    assert tokenizer.chat_template == load_tokenizer(tiny_llama).chat_template


def test_a_whole_model_loads_and_has_learned(learn, store: Store, tiny_llama: Path) -> None:
    tokens = write_tokens(store, tiny_llama, 16, TokenSettings(max_tokens=128, batch_samples=16, epochs=8))
    settings = TrainingSettings(data=DATA, zero=3, method="full", learning_rate=5e-3, activation_checkpointing=True)
    outcome, folder = learn(tiny_llama, tokens, settings)
    names = {path.name for path in folder.iterdir()}
    assert {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json"} <= names
    model = load_causal_lm(folder)
    row = tokens.read("tokens", filters=[("step", "==", 0)]).to_pylist()[0]
    length = row["segment_lengths"][0]
    ids, labels = (torch.tensor(row[key][:length])[None].long() for key in ("input_ids", "labels"))
    with torch.no_grad():
        after = float(model(input_ids=ids, labels=labels).loss)
        before = float(load_causal_lm(tiny_llama)(input_ids=ids, labels=labels).loss)
    assert after < before - 0.5
    assert np.all(np.diff([line["learning_rate"] for line in outcome.log][1:]) < 0)
