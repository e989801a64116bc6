"""The gradient of a step is that of the mean over its learned tokens, whatever the rows and the workers."""

from pathlib import Path

import pytest
import torch
import transformers
from torch.utils._python_dispatch import TorchDispatchMode

from raysel.models.loading import load_causal_lm
from raysel.store import Store
from raysel.training.batches import Step, collate, groups, read_steps
from raysel.training.examples import IGNORED
from raysel.training.logits import logit_parts
from raysel.training.loss import token_losses
from raysel.training.settings import TokenSettings
from tests.embedding.families import FAMILIES, SHAPE, VOCABULARY, family
from tests.training.runs import write_tokens


def first_step(store: Store, model: Path, *, packing: bool, samples: int = 7) -> Step:
    data = TokenSettings(max_tokens=128, batch_samples=samples, packing=packing)
    return next(read_steps(write_tokens(store, model, max(9, samples), data), 0))


def gradient(model, step: Step, world: int, *, at_once: int = 1) -> dict[str, torch.Tensor]:
    """The mean over `world` simulated workers, as DeepSpeed averages it."""
    model.zero_grad()
    for rank in range(world):
        for rows in groups(step.share(rank, world), at_once):
            batch = collate(rows, step.positions, torch.device("cpu"))
            losses, _ = token_losses(model, batch)
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


@pytest.mark.parametrize("at_once", [1, 2, 9])
@pytest.mark.parametrize("world", [1, 2, 3, 5])
def test_packed_rows_on_any_number_of_workers_give_the_reference_gradient(
    store: Store, tiny_llama: Path, world: int, at_once: int
) -> None:
    model = load_causal_lm(tiny_llama)
    packed, apart = (first_step(store, tiny_llama, packing=packing) for packing in (True, False))
    assert len(packed.rows) < len(apart.rows) == 7
    assert packed.trained_tokens == apart.trained_tokens
    expected = reference(model, apart)
    for step in (packed, apart):
        found = gradient(model, step, world, at_once=at_once)
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, atol=2e-6, rtol=1e-4)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("parts", [1, 2, 7, 100])
def test_logits_in_parts_give_the_loss_and_gradient_of_all_of_them(name: str, parts: int) -> None:
    """Also in more parts than there are positions; with scaled and capped logits, tied heads and routed experts."""
    model = family(name)
    ids = torch.randint(3, VOCABULARY, (2, 30), generator=torch.Generator().manual_seed(0))
    labels = ids.clone()
    labels[:, :9], labels[0, 20:] = IGNORED, IGNORED
    plain = model(input_ids=ids, labels=labels, use_cache=False).loss * (labels[:, 1:] != IGNORED).sum()
    plain.backward()
    expected = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    model.zero_grad()
    batch = {"input_ids": ids, "labels": labels, "position_ids": torch.arange(30)[None].expand(2, 30)}
    losses, (rows, columns) = token_losses(model, batch, parts=parts)
    assert rows.tolist() == [0] * 11 + [1] * 21
    assert columns.tolist() == [*range(9, 20), *range(9, 30)]
    torch.testing.assert_close(losses.sum(), plain, rtol=1e-6, atol=0)
    losses.sum().backward()
    assert expected
    for name, gradient in expected.items():
        torch.testing.assert_close(model.get_parameter(name).grad, gradient, rtol=1e-5, atol=1e-5)
    assert "forward" not in vars(model)
    assert model(input_ids=ids).logits.shape == (2, 30, VOCABULARY)


@pytest.mark.parametrize("name", ["Llama4Text", "ModernBertDecoder"])
def test_families_that_name_their_body_otherwise(name: str) -> None:
    """One says that the model itself is its decoder, one that its head is."""
    torch.manual_seed(0)
    shape = {"head_dim": 8, "num_local_experts": 2, "intermediate_size_mlp": 64} if name == "Llama4Text" else {}
    config = getattr(transformers, f"{name}Config")(**SHAPE | {"pad_token_id": 2} | shape)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    ids = torch.randint(3, VOCABULARY, (1, 30), generator=torch.Generator().manual_seed(0))
    plain = model(input_ids=ids, labels=ids, use_cache=False).loss
    batch = {"input_ids": ids, "labels": ids, "position_ids": torch.arange(30)[None]}
    losses, _ = token_losses(model, batch, parts=3)
    torch.testing.assert_close(losses.mean(), plain, rtol=1e-5, atol=0)


def test_logits_never_exist_whole() -> None:
    model, largest = family("llama"), 0
    ids = torch.randint(3, VOCABULARY, (1, 300), generator=torch.Generator().manual_seed(0))
    batch = {"input_ids": ids, "labels": ids, "position_ids": torch.arange(300)[None]}

    class Largest(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            nonlocal largest
            made = function(*args, **(kwargs or {}))
            for tensor in made if isinstance(made, tuple | list) else [made]:
                if isinstance(tensor, torch.Tensor) and VOCABULARY in tensor.shape[-1:] and tensor.shape[0] != 32:
                    largest = max(largest, tensor.numel() // VOCABULARY)
            return made

    with Largest():
        token_losses(model, batch, parts=10)[0].sum().backward()
    assert 0 < largest <= 30


def test_long_rows_and_large_vocabularies_are_made_in_parts() -> None:
    assert logit_parts(512, 128_256) == 1
    assert logit_parts(4096, 256_000) == 16


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
