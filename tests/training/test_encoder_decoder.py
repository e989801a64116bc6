"""Encoder-decoders (T5, mT5): the prompt goes to the encoder, the response to the decoder; all promises hold."""

from pathlib import Path

import numpy as np
import pytest
import torch

from raysel.models.loading import load_causal_lm, load_tokenizer
from raysel.store import Store
from raysel.training.batches import Step, collate, groups, read_steps
from raysel.training.examples import IGNORED, instruction_example
from raysel.training.loss import model_inputs, token_losses
from raysel.training.settings import TokenSettings
from tests.small_models import save_tiny_mt5
from tests.training.runs import write_tokens

CPU = torch.device("cpu")
DATA = TokenSettings(max_tokens=128, batch_samples=7)
# mT5, T5 with its scaled outputs, T5 1.1 without, and uMT5.
FAMILIES = {
    "mt5": ("MT5", {}),
    "t5": ("T5", {}),
    "t5_v1_1": ("T5", {"tie_word_embeddings": False, "feed_forward_proj": "gated-gelu"}),
    "umt5": ("UMT5", {}),
}


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    kind, more = FAMILIES[request.param]
    return save_tiny_mt5(tmp_path_factory.mktemp(request.param), kind, **more)


def first_step(store: Store, model: Path) -> Step:
    return next(read_steps(write_tokens(store, model, 9, DATA), 0))


def reference(model, step: Step) -> dict[str, torch.Tensor]:
    """Samples one by one, without padding, through transformers' own loss, weighted by their learned tokens."""
    model.zero_grad()
    for row in step.rows:
        source, target = (torch.tensor(row[name])[None].long() for name in ("source_ids", "input_ids"))
        loss = model(input_ids=source, labels=target[:, 1:]).loss
        (loss * (target.shape[1] - 1) / step.trained_tokens).backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def gradient(model, step: Step, world: int, at_once: int, parts: int) -> dict[str, torch.Tensor]:
    """The mean over `world` simulated workers, as DeepSpeed averages it."""
    model.zero_grad()
    for rank in range(world):
        for rows in groups(step.share(rank, world), at_once):
            losses, _ = token_losses(model, collate(rows, step.positions, CPU), parts=parts)
            (losses.sum() / step.trained_tokens).backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize(("world", "at_once", "parts"), [(1, 1, 1), (1, 7, 1), (2, 3, 3), (5, 2, 50)])
def test_the_gradient_of_a_step_is_that_of_its_samples_alone(
    store: Store, folder: Path, world: int, at_once: int, parts: int
) -> None:
    """Whatever the workers, the padding, and the parts of the logits; one more worker than rows has nothing to learn."""
    model, step = load_causal_lm(folder).eval(), first_step(store, folder)
    expected = reference(model, step)
    found = gradient(model, step, world, at_once, parts)
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=2e-6, rtol=1e-4)
