"""The gradient of a step is that of the mean over its learned tokens, whatever the rows and the workers."""

from pathlib import Path

import pytest
import torch

from raysel.models.loading import load_causal_lm
from raysel.store import Store
from raysel.training.batches import Step, collate, read_steps
from raysel.training.examples import IGNORED
from raysel.training.loss import token_losses
from raysel.training.settings import TokenSettings
from tests.training.runs import write_tokens


def first_step(store: Store, model: Path, *, packing: bool) -> Step:
    data = TokenSettings(max_tokens=128, batch_samples=7, packing=packing)
    return next(read_steps(write_tokens(store, model, 9, data), 0))


def gradient(model, step: Step, world: int, *, only_learned: bool = True) -> dict[str, torch.Tensor]:
    """The mean over `world` simulated workers, as DeepSpeed averages it."""
    model.zero_grad()
    for rank in range(world):
        for row in step.share(rank, world):
            batch = collate(row, ["en", "fr", "ru"], torch.device("cpu"))
            losses, _ = token_losses(model, batch, only_learned=only_learned)
            (losses.sum() * (world / step.trained_tokens) / world).backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def reference(model, step: Step) -> dict[str, torch.Tensor]:
    """Samples one by one through the model's own loss, weighted by their learned tokens."""
    model.zero_grad()
    for row in step.rows:
        start = 0
        for length in row["segment_lengths"]:
            ids, labels = (
                torch.from_numpy(row[name][start : start + length].copy()).long()[None]
                for name in ("input_ids", "labels")
            )
            start += length
            loss = model(input_ids=ids, labels=labels).loss
            (loss * (labels != IGNORED).sum() / step.trained_tokens).backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("world", [1, 2, 3, 5])
def test_packed_rows_on_any_number_of_workers_give_the_reference_gradient(
    store: Store, tiny_llama: Path, world: int
) -> None:
    model = load_causal_lm(tiny_llama)
    packed, apart = (first_step(store, tiny_llama, packing=packing) for packing in (True, False))
    assert len(packed.rows) < len(apart.rows) == 7
    assert packed.trained_tokens == apart.trained_tokens
    expected = reference(model, apart)
    for step in (packed, apart):
        found = gradient(model, step, world)
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, atol=2e-6, rtol=1e-4)


def test_logits_of_the_learned_positions_are_enough(store: Store, tiny_llama: Path) -> None:
    model, step = load_causal_lm(tiny_llama), first_step(store, tiny_llama, packing=True)
    some, every = (gradient(model, step, 1, only_learned=chosen) for chosen in (True, False))
    for name, value in every.items():
        torch.testing.assert_close(some[name], value, atol=1e-6, rtol=1e-5)


def test_workers_share_the_rows_of_a_step(store: Store, tiny_llama: Path) -> None:
    step = first_step(store, tiny_llama, packing=False)
    shares = [step.share(rank, 3) for rank in range(3)]
    assert {len(share) for share in shares} == {3}
    assert sorted(p for share in shares for row in share for p in row["positions"]) == step.positions


def test_steps_can_be_read_from_any_step_on(store: Store, tiny_llama: Path) -> None:
    tokens = write_tokens(store, tiny_llama, 22, TokenSettings(batch_samples=4, epochs=2))
    steps = list(read_steps(tokens, 0))
    assert [step.positions for step in steps] == [list(range(s, s + 4)) for s in range(0, 44, 4)]
    for first in range(1, 11):
        rest = list(read_steps(tokens, first))
        assert [step.step for step in rest] == list(range(first, 11))
        assert [step.ids for step in rest] == [step.ids for step in steps[first:]]
    by_position = {p: i for step in steps for p, i in zip(step.positions, range(99), strict=False)}
    assert len(by_position) == 44
