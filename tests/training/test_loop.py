"""The loop on one worker in this process; with several workers in test_model_stage.py."""

import json
from pathlib import Path

import pytest
import torch
import transformers

from raysel.models.loading import load_causal_lm, load_tokenizer
from raysel.store import Store
from raysel.training.engine import AdapterError, DeepSpeedKeyError, draws_at_random
from raysel.training.learner import LossError
from raysel.training.settings import LoraSettings, TokenSettings, TrainingSettings
from tests.training.runs import KilledError, assert_same_weights, killed_after, losses, plain_losses, write_tokens

DATA = TokenSettings(max_tokens=128, batch_samples=4)


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
    monkeypatch.setattr("raysel.training.logits.LOGITS_AT_ONCE", 20 * 400)
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
    assert "lower training.learning_rate, or let training.skipped_steps" in str(error.value)
    with pytest.raises(LossError, match=r"or lower selection\.less\.warmup\.learning_rate$"):
        learn(tmp_path / "broken", tokens, TrainingSettings(data=DATA, method=method), section="selection.less.warmup")


@pytest.mark.parametrize(
    ("zero", "broken"),
    [
        (0, "inf"),
        (2, "nan"),
        pytest.param(1, "nan", marks=pytest.mark.slow),
        pytest.param(2, "inf", marks=pytest.mark.slow),
        pytest.param(3, "nan", marks=pytest.mark.slow),
        pytest.param(3, "inf", marks=pytest.mark.slow),
    ],
)
def test_steps_whose_loss_is_no_number_can_be_skipped(
    learn, store: Store, tiny_llama: Path, tmp_path: Path, zero: int, broken: str
) -> None:
    """They change no weight and do not count as updates, also over a kill and a resume; one more ends the run."""
    tokens = write_tokens(store, tiny_llama, 26, DATA)
    rows = tokens.read("tokens").to_pylist()
    steps_of: dict[int, set[int]] = {}
    for row in rows:
        for token in row["input_ids"]:
            steps_of.setdefault(token, set()).add(row["step"])
    token, bad = next((token, steps) for token, steps in sorted(steps_of.items()) if len(steps) == 2 and 6 not in steps)
    model = load_causal_lm(tiny_llama)
    with torch.no_grad():
        model.model.embed_tokens.weight[token] = float(broken)
    model.save_pretrained(tmp_path / "broken")
    load_tokenizer(tiny_llama).save_pretrained(tmp_path / "broken")
    settings = TrainingSettings(
        data=DATA, zero=zero, method="lora", learning_rate=1e-2, checkpoint_steps=1, skipped_steps=2
    )
    outcome, folder = learn(tmp_path / "broken", tokens, settings, "undisturbed")
    assert {line["step"] for line in outcome.log if "skipped" in line} == bad
    for line in outcome.log:
        assert (line["loss"] is None) == (line["step"] in bad)
        assert 0 < line["share_of_machine_rate"] < 1
        assert line["memory_gb"] > 0.1
        json.dumps(line, allow_nan=False)
    with pytest.raises(KilledError):
        learn(tmp_path / "broken", tokens, settings, "killed", killed_after(max(bad) + 1))
    resumed, again = learn(tmp_path / "broken", tokens, settings, "killed")
    assert resumed.resumed_from == max(bad) + 1
    assert losses(resumed.log)[max(bad) + 1 :] == pytest.approx(losses(outcome.log)[max(bad) + 1 :], abs=1e-6)
    assert_same_weights(folder, again)
    one_less = settings.model_copy(update={"skipped_steps": 1})
    with pytest.raises(LossError, match=rf"step {max(bad)}: .* 1 before it were skipped \(training.skipped_steps\)"):
        learn(tmp_path / "broken", tokens, one_less, "stopped")


@pytest.mark.parametrize("zero", [2, pytest.param(1, marks=pytest.mark.slow), pytest.param(3, marks=pytest.mark.slow)])
def test_the_first_step_can_be_skipped_in_bfloat16_with_the_optimizer_offloaded(
    learn, store: Store, tiny_llama: Path, tmp_path: Path, zero: int
) -> None:
    """Also where a checkpoint follows before the first update; the gradient of the next step is its own."""
    tokens = write_tokens(store, tiny_llama, 26, DATA)
    rows = tokens.read("tokens").to_pylist()
    first = {token for row in rows if row["step"] == 0 for token in row["input_ids"]}
    rest = {token for row in rows if row["step"] > 0 for token in row["input_ids"]}
    assert first - rest, "no token of the first step is its own"
    model = load_causal_lm(tiny_llama)
    with torch.no_grad():
        model.model.embed_tokens.weight[min(first - rest)] = float("nan")
    model.save_pretrained(tmp_path / "broken")
    load_tokenizer(tiny_llama).save_pretrained(tmp_path / "broken")
    settings = TrainingSettings(
        data=DATA,
        zero=zero,
        dtype="bfloat16",
        offload="optimizer",
        learning_rate=1e-2,
        checkpoint_steps=1,
        skipped_steps=1,
    )
    outcome, folder = learn(tmp_path / "broken", tokens, settings, "undisturbed")
    assert [line["step"] for line in outcome.log if "skipped" in line] == [0]
    assert losses(outcome.log)[-1] is not None
    with pytest.raises(KilledError):
        learn(tmp_path / "broken", tokens, settings, "killed", killed_after(1))
    resumed, again = learn(tmp_path / "broken", tokens, settings, "killed")
    assert resumed.resumed_from == 1
    assert losses(resumed.log)[1:] == pytest.approx(losses(outcome.log)[1:], abs=1e-4)
    assert_same_weights(folder, again, atol=1e-4, rtol=1e-2)


def test_dropout_is_seen_wherever_a_family_says_it() -> None:
    shape = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    for name, settings, expected in (
        ("OPT", {"ffn_dim": 16, "word_embed_proj_dim": 16, "dropout": 0.1}, True),
        ("OPT", {"ffn_dim": 16, "word_embed_proj_dim": 16, "dropout": 0.0}, False),
        ("Bloom", {"hidden_dropout": 0.1}, True),
        ("Llama", {"intermediate_size": 16}, False),
        ("Llama", {"intermediate_size": 16, "attention_dropout": 0.1}, True),
    ):
        config = getattr(transformers, f"{name}Config")(**shape, **settings)
        assert draws_at_random(transformers.AutoModelForCausalLM.from_config(config)) is expected, (name, settings)


def test_the_loss_is_known_by_language_task_and_level(learn, store: Store, tiny_llama: Path) -> None:
    data = TokenSettings(max_tokens=128, batch_samples=30)
    tokens = write_tokens(store, tiny_llama, 9, data)
    outcome, _ = learn(tiny_llama, tokens, TrainingSettings(data=data, zero=0, method="full"))
    for by in ("lang", "task", "level"):
        _, expected = plain_losses(load_causal_lm(tiny_llama), tokens.read("tokens").to_pylist(), by=f"{by}s")
        assert len(expected) > 1
        assert outcome.log[0][f"loss_by_{by}"] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"zero_optimization": {"overlap": True}},
            r"\(DeepSpeedZeroConfig\): overlap: Extra inputs",
        ),
        ({"bf16": {"immediate": True}}, r"deepspeed \(DeepSpeedBF16Config\): immediate: Extra inputs"),
        ({"communication_data_type": "fp7"}, r"training\.deepspeed: Invalid communication_data_type.*Got: fp7"),
    ],
)
def test_what_deepspeed_does_not_take_is_refused(
    learn, store: Store, tiny_llama: Path, given: dict, message: str
) -> None:
    tokens = write_tokens(store, tiny_llama, 4, DATA)
    settings = TrainingSettings(data=DATA, deepspeed=given)
    with pytest.raises(DeepSpeedKeyError, match=message):
        learn(tiny_llama, tokens, settings)


def test_targets_that_the_model_has_not_are_refused(learn, store: Store, tiny_llama: Path) -> None:
    tokens = write_tokens(store, tiny_llama, 4, DATA)
    settings = TrainingSettings(data=DATA, lora=LoraSettings(targets=["query_key_value"]))
    with pytest.raises(AdapterError, match=r"^training\.lora\.targets .*query_key_value.*q_proj"):
        learn(tiny_llama, tokens, settings)
    with pytest.raises(AdapterError, match=r"^selection\.less\.warmup\.lora\.targets .*query_key_value.*q_proj"):
        learn(tiny_llama, tokens, settings, section="selection.less.warmup")
