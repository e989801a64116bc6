"""Checkpoints, with one worker in this process."""

import errno
import json
import subprocess
from pathlib import Path

import pytest

from raysel.models.loading import load_causal_lm
from raysel.store import Store
from raysel.training.settings import TokenSettings, TrainingSettings
from tests.training.runs import KilledError, assert_same_weights, killed_after, losses, plain_losses, write_tokens

DATA = TokenSettings(max_tokens=128, batch_samples=4)


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
    assert sorted(path.name for path in attempt.iterdir()) == ["checkpoint-00000003", "checkpoint-00000004", "trained"]
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


def folder_of(store: Store, name: str) -> Path:
    """The folder of the only attempt at model `name`."""
    [folder] = [path for path in (Path(store.root) / "model" / name).iterdir() if path.is_dir()]
    return folder


@pytest.mark.parametrize("batching", [{"batch_samples": 4}, {"batch_tokens": 150}])
def test_the_trained_order_is_written_beside_the_checkpoint(
    learn, store: Store, tiny_llama: Path, batching: dict
) -> None:
    """Each step's positions, and through the token rows their ids, are those that were planned."""
    data = TokenSettings(max_tokens=128, **batching)
    tokens = write_tokens(store, tiny_llama, 26, data)
    settings = TrainingSettings(data=data, zero=0, checkpoint_steps=2)
    with pytest.raises(KilledError):
        learn(tiny_llama, tokens, settings, "m", killed_after(4))
    whole = json.loads((folder_of(store, "m") / "checkpoint-00000004" / "whole.json").read_text())
    pieces = [Path(store.root) / "model" / "m" / piece["path"] for piece in whole["log"]]
    assert [piece.name for piece in pieces] == ["until-00000002.jsonl", "until-00000004.jsonl"]
    trained = [json.loads(line) for piece in pieces for line in piece.read_text().splitlines()]
    planned: dict[int, list[int]] = {}
    ids: dict[int, str] = {}
    for row in tokens.read("tokens").to_pylist():
        planned.setdefault(row["step"], []).extend(row["positions"])
        ids |= dict(zip(row["positions"], row["ids"], strict=True))
    assert [line["step"] for line in trained] == [0, 1, 2, 3]
    assert [line["positions"] for line in trained] == [sorted(planned[step]) for step in range(4)]
    order = store.artifact("order", f"order-{store.artifact('corpus', '26-0-20-0').fingerprint}")
    expected = {row["position"]: row["id"] for row in order.read("order").to_pylist()}
    assert all(ids[position] == expected[position] for line in trained for position in line["positions"])


@pytest.mark.parametrize("kept", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_the_last_checkpoints_are_kept_and_the_best(learn, store: Store, tiny_llama: Path, kept: int) -> None:
    tokens = write_tokens(store, tiny_llama, 26, DATA, heldout=7)
    # Far too large a learning rate: the last step is not the best.
    settings = TrainingSettings(
        data=DATA, zero=2, method="full", learning_rate=3.0, schedule="constant", warmup_share=0,
        checkpoint_steps=1, checkpoints_kept=kept, export="best",
    )  # fmt: skip
    outcome, folder = learn(tiny_llama, tokens, settings)
    assert [entry["steps"] for entry in outcome.heldout] == list(range(8))
    best = min(outcome.heldout[1:], key=lambda entry: entry["loss"])["steps"]
    assert best < 8 - kept, "the last is the best: this proves nothing"
    there = {int(path.name.removeprefix("checkpoint-")) for path in folder_of(store, "m").glob("checkpoint-*")}
    assert there == {best, *range(8 - kept, 8)}
    assert outcome.exported == best
    expected, _ = plain_losses(load_causal_lm(folder), tokens.read("heldout_tokens").to_pylist())
    assert outcome.heldout[best]["loss"] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("method", ["full", pytest.param("lora", marks=pytest.mark.slow)])
def test_the_best_weights_come_out_under_zero_3_and_after_a_resume(
    learn, store: Store, tiny_llama: Path, method: str
) -> None:
    tokens = write_tokens(store, tiny_llama, 26, DATA, heldout=7)
    settings = TrainingSettings(
        data=DATA, zero=3, method=method, learning_rate=3.0, schedule="constant", warmup_share=0,
        checkpoint_steps=1, export="best",
    )  # fmt: skip
    undisturbed, folder = learn(tiny_llama, tokens, settings, "undisturbed")
    assert undisturbed.exported < 7
    with pytest.raises(KilledError):
        learn(tiny_llama, tokens, settings, "killed", killed_after(5))
    resumed, again = learn(tiny_llama, tokens, settings, "killed")
    assert resumed.exported == undisturbed.exported
    assert_same_weights(folder, again)


def test_what_ended_before_its_model_was_saved_trains_nothing_again(learn, store: Store, tiny_llama: Path) -> None:
    tokens = write_tokens(store, tiny_llama, 12, DATA)
    settings = TrainingSettings(data=DATA, zero=2, learning_rate=1e-2, checkpoint_steps=100)
    first, folder = learn(tiny_llama, tokens, settings)
    again, same = learn(tiny_llama, tokens, settings)
    assert again.resumed_from == 3
    assert losses(again.log) == losses(first.log)
    assert_same_weights(folder, same)


@pytest.mark.parametrize("zero", [2, pytest.param(0, marks=pytest.mark.slow), pytest.param(3, marks=pytest.mark.slow)])
def test_steps_without_anything_to_learn_are_passed_over(learn, store: Store, tiny_llama: Path, zero: int) -> None:
    """One on the way and the last: two resumes lose no line of the log, no update and no held-out loss."""
    data = TokenSettings(max_tokens=42, batch_samples=1)
    tokens = write_tokens(store, tiny_llama, 30, data, heldout=7)
    trained = sorted({row["step"] for row in tokens.read("tokens").to_pylist()})
    assert trained == [0, 1, 3, 4, 5, 8, 9, 10, 11, 14, 16, 18, 20, 22, 24, 27]
    settings = TrainingSettings(data=data, zero=zero, method="full", learning_rate=1e-2, checkpoint_steps=3)
    undisturbed, folder = learn(tiny_llama, tokens, settings, "undisturbed")
    assert [line["step"] for line in undisturbed.log] == trained
    assert [entry["steps"] for entry in undisturbed.heldout] == [0, 6, 9, 12, 15, 21, 28]
    for step in (10, 24):
        with pytest.raises(KilledError):
            learn(tiny_llama, tokens, settings, "killed", killed_after(step))
    resumed, again = learn(tiny_llama, tokens, settings, "killed")
    assert resumed.resumed_from == 21
    assert [line["step"] for line in resumed.log] == trained
    assert losses(resumed.log) == pytest.approx(losses(undisturbed.log), abs=1e-6)
    assert [e["loss"] for e in resumed.heldout] == pytest.approx([e["loss"] for e in undisturbed.heldout], abs=1e-6)
    assert_same_weights(folder, again)


def test_what_was_begun_and_never_ended_does_not_drive_out_a_whole_checkpoint(
    learn, store: Store, tiny_llama: Path
) -> None:
    tokens = write_tokens(store, tiny_llama, 26, DATA)
    settings = TrainingSettings(data=DATA, zero=0, checkpoint_steps=1, checkpoints_kept=1)

    def leave_half_a_checkpoint(metrics: dict) -> None:
        if metrics["step"] == 1:
            half = folder_of(store, "m") / "checkpoint-00000020"
            half.mkdir()
            (half / "00000-of-00001.safetensors").write_bytes(b"half")
        if metrics["step"] == 4:
            raise KilledError

    with pytest.raises(KilledError):
        learn(tiny_llama, tokens, settings, "m", leave_half_a_checkpoint)
    resumed, _ = learn(tiny_llama, tokens, settings, "m")
    assert resumed.resumed_from == 4
