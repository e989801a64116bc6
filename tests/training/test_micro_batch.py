"""What goes through the model at once where the settings leave it open: the search, and the trials on a real engine."""

import math
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import ValidationError

from raysel.store import Store
from raysel.training.batches import read_steps
from raysel.training.loop import Outcome
from raysel.training.micro_batch import MicroBatch, Trials, choose, expected, most_rows
from raysel.training.settings import LoraSettings, TokenSettings, TrainingSettings
from tests.training.runs import KilledError, assert_same_weights, killed_after, losses, write_tokens

ROW = 512


@given(limit=st.integers(0, 5000), most=st.integers(1, 3000))
def test_the_search_ends_within_a_doubling_of_what_fits(limit: int, most: int) -> None:
    asked: list[int] = []

    def fits(rows: int) -> bool:
        asked.append(rows)
        return rows <= limit

    rows = most_rows(fits, most)
    assert rows <= max(1, min(limit, most))
    assert 2 * rows > min(limit, most)
    assert rows == most or limit < most
    assert asked == sorted(set(asked))
    assert sum(not fits(one) for one in list(asked)) <= 1
    assert len(asked) <= 2 * (1 + math.log2(most))


costs = st.tuples(st.integers(0, 10**9), st.integers(1, 10**6), st.integers(0, 10**4))


def memory(constant: int, of_token: int, of_pair: int) -> Callable[[int], int]:
    """Bytes of so many tokens: rows of at most `ROW`, whose attention has a square mask."""

    def taken(tokens: int) -> int:
        rows, row = (tokens // ROW, ROW) if tokens > ROW else (1, tokens)
        return constant + rows * (of_token * row + of_pair * row * row)

    return taken


@given(cost=costs, room=st.integers(0, 10**12))
def test_nothing_is_tried_that_does_not_fit_but_the_smallest(cost: tuple[int, int, int], room: int) -> None:
    """And the most that fits, in doublings, is found: twice as many rows would be beyond."""
    taken, tried = memory(*cost), list[int]()

    def peak(tokens: int) -> int:
        tried.append(tokens)
        return taken(tokens)

    trials = Trials(peak, room, ROW, lambda fits: fits)
    if not trials.row_fits():
        assert taken(ROW) > room
        assert [t for t in tried if taken(t) > room] == [t for t in tried if t <= ROW // 16 and taken(t) > room]
        return
    assert taken(ROW) <= room
    rows = most_rows(trials.rows_fit, 256)
    assert all(taken(tokens) <= room for tokens in tried)
    # The constant is counted twice before two batches of whole rows are known.
    assert rows == 256 or taken(2 * rows * ROW) + (cost[0] if rows == 1 else 0) > room


@given(cost=costs, doublings=st.integers(0, 6))
def test_what_is_expected_is_exact_for_rows_and_within_them(cost: tuple[int, int, int], doublings: int) -> None:
    taken = memory(*cost)
    parts = {ROW // part: taken(ROW // part) for part in (64, 32, 16, 8, 4, 2)}
    assert expected(parts, ROW, ROW) == taken(ROW)
    known = parts | {ROW: taken(ROW), 2 * ROW: taken(2 * ROW)}
    assert expected(known, ROW << (2 + doublings), ROW) == taken(ROW << (2 + doublings))


@hypothesis_settings(max_examples=30)
@given(
    costs=st.lists(costs, min_size=2, max_size=4),
    room=st.integers(10**6, 10**12),
    tokens=st.sampled_from([None, 4096]),
)
def test_workers_agree_and_run_the_same_trials(
    costs: list[tuple[int, int, int]], room: int, tokens: int | None
) -> None:
    """Each in a thread of its own, where rows take otherwise much; one that asked anything else would wait in vain."""
    votes, all_there = [True] * len(costs), threading.Barrier(len(costs), timeout=60)

    def work(rank: int) -> tuple[MicroBatch, list[int]]:
        tried: list[int] = []

        def peak(length: int) -> int:
            tried.append(length)
            return memory(*costs[rank])(length)

        def agreed(fits: bool) -> bool:
            votes[rank] = fits
            all_there.wait()
            every = all(votes)
            all_there.wait()
            return every

        def begin(_: bool) -> Trials:
            return Trials(peak, room, ROW, agreed)

        return choose(tokens=tokens, checkpointing=None, row=ROW, most=64, trials=begin), tried

    with ThreadPoolExecutor(len(costs)) as pool:
        (found, tried), *others = pool.map(work, range(len(costs)))
    assert all(one == (found, tried) for one in others)
    if tokens is None:
        assert found.rows == 1 or all(memory(*cost)(found.rows * ROW) <= room for cost in costs)


@pytest.mark.parametrize(
    ("room", "tokens", "checkpointing", "found"),
    [
        (16_000, None, None, MicroBatch(16, False)),  # 1,000 bytes a row
        (15_999, None, None, MicroBatch(8, False)),
        (999, None, None, MicroBatch(8, True)),  # 100 bytes a row with checkpoints
        (99, None, None, MicroBatch(1, True)),
        (999, None, False, MicroBatch(1, False)),
        (3_000, None, True, MicroBatch(16, True)),
        (2_999, 3 * ROW, None, MicroBatch(3, True)),
        (3_000, 3 * ROW, None, MicroBatch(3, False)),
        (10, 3 * ROW, None, MicroBatch(3, True)),
    ],
)
def test_what_is_left_open_is_chosen(room: int, tokens: int | None, checkpointing: Any, found: MicroBatch) -> None:
    def begin(checkpoints: bool) -> Trials:
        row = 100 if checkpoints else 1000
        return Trials(lambda tokens: row * tokens // ROW, room, ROW, lambda fits: fits)

    assert choose(tokens=tokens, checkpointing=checkpointing, row=ROW, most=16, trials=begin) == found


DATA = TokenSettings(max_tokens=128, batch_samples=8)
LEFT_OPEN = {"micro_batch_tokens": "auto", "activation_checkpointing": "auto"}


def as_found(settings: TrainingSettings, outcome: Outcome) -> TrainingSettings:
    found = outcome.micro_batch
    told = {"micro_batch_tokens": found.rows * DATA.max_tokens, "activation_checkpointing": found.checkpointing}
    return settings.model_copy(update=told)


@pytest.mark.parametrize(
    ("zero", "method", "dtype"),
    [
        (3, "lora", "float32"),
        pytest.param(2, "full", "float32", marks=pytest.mark.slow),
        pytest.param(0, "full", "float32", marks=pytest.mark.slow),
        pytest.param(1, "lora", "bfloat16", marks=pytest.mark.slow),
        pytest.param(2, "full", "bfloat16", marks=pytest.mark.slow),
        pytest.param(3, "full", "bfloat16", marks=pytest.mark.slow),
    ],
)
def test_what_is_found_by_trial_trains_to_the_same_bits_as_the_number_itself(
    learn, store: Store, tiny_llama: Path, zero: int, method: str, dtype: str
) -> None:
    tokens = write_tokens(store, tiny_llama, 16, DATA)
    settings = TrainingSettings(
        data=DATA, zero=zero, method=method, dtype=dtype, learning_rate=1e-2, weight_decay=0.1, **LEFT_OPEN
    )
    found, folder = learn(tiny_llama, tokens, settings, "found")
    told, again = learn(tiny_llama, tokens, as_found(settings, found), "told")
    assert found.micro_batch == told.micro_batch == MicroBatch(8, False)
    assert losses(found.log) == losses(told.log)
    assert [line["grad_norm"] for line in found.log] == [line["grad_norm"] for line in told.log]
    assert_same_weights(folder, again, rtol=0, atol=0)


def test_too_little_room_for_a_row_checkpoints_activations_and_changes_no_loss(
    learn, store: Store, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = write_tokens(store, tiny_llama, 16, DATA)
    settings = TrainingSettings(data=DATA, zero=2, method="full", learning_rate=1e-2, **LEFT_OPEN)
    monkeypatch.setattr("raysel.training.memory_trials.SHARE_OF_AVAILABLE", -1.0)
    short, _ = learn(tiny_llama, tokens, settings, "short")
    assert short.micro_batch == MicroBatch(1, True)
    plain, _ = learn(tiny_llama, tokens, TrainingSettings(data=DATA, zero=2, method="full", learning_rate=1e-2), "p")
    assert plain.micro_batch == MicroBatch(16, False)
    assert losses(short.log) == pytest.approx(losses(plain.log), abs=2e-6)


def test_a_resumed_run_takes_what_was_found(
    learn, store: Store, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = write_tokens(store, tiny_llama, 24, DATA)
    settings = TrainingSettings(data=DATA, zero=2, learning_rate=1e-2, checkpoint_steps=1, **LEFT_OPEN)
    with pytest.raises(KilledError):
        learn(tiny_llama, tokens, settings, "killed", killed_after(1))
    monkeypatch.setattr("raysel.training.memory_trials.SHARE_OF_AVAILABLE", -1.0)
    resumed, _ = learn(tiny_llama, tokens, settings, "killed")
    assert resumed.resumed_from == 1
    assert resumed.micro_batch == MicroBatch(8, False)
    # With other settings it is found anew.
    other, _ = learn(tiny_llama, tokens, settings.model_copy(update={"offload": "optimizer"}), "killed")
    assert other.micro_batch == MicroBatch(1, True)


def test_a_trial_whose_loss_is_not_finite_changes_no_weight(alone: None, store: Store, tiny_llama: Path) -> None:
    """0 times such a loss is NaN, and what is not sharded has nothing that looks at its gradients before an update."""
    import torch

    from raysel.training.engine import start_engine, trainable_model
    from raysel.training.memory_trials import _EngineTrials

    [row, *_] = next(read_steps(write_tokens(store, tiny_llama, 8, DATA), 0)).rows
    settings = TrainingSettings(data=DATA, zero=0, method="full", **LEFT_OPEN)
    with trainable_model(tiny_llama, settings, seed=0, trust_remote_code=False, section="training") as model:
        with torch.no_grad():
            model.get_input_embeddings().weight[int(row["input_ids"][1])] = float("inf")
        before = {name: weight.clone() for name, weight in model.named_parameters()}
        engine = start_engine(model, settings)
        _EngineTrials(engine, row, DATA.max_tokens, learned=1.0)._run(2, DATA.max_tokens)
        assert all(torch.equal(weight, before[name]) for name, weight in engine.module.named_parameters())
        engine.destroy()


def test_what_drops_out_goes_row_by_row_without_a_trial(
    learn, store: Store, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = write_tokens(store, tiny_llama, 8, DATA)
    settings = TrainingSettings(data=DATA, lora=LoraSettings(dropout=0.1), micro_batch_tokens="auto")
    monkeypatch.setattr("raysel.training.memory_trials.choose", None)
    outcome, _ = learn(tiny_llama, tokens, settings)
    assert outcome.micro_batch == MicroBatch(1, False)


def test_the_settings_take_auto_or_what_they_took() -> None:
    assert TrainingSettings(**LEFT_OPEN).micro_batch_tokens == "auto"
    assert TrainingSettings(micro_batch_tokens=7, activation_checkpointing=True).micro_batch_tokens == 7
    for wrong in ({"micro_batch_tokens": 0}, {"micro_batch_tokens": "all"}, {"activation_checkpointing": "maybe"}):
        with pytest.raises(ValidationError):
            TrainingSettings(**wrong)
