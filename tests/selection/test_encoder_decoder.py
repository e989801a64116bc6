"""Gradients of single samples of an encoder-decoder with adapters, against plain autograd."""

from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model

from raysel.models.loading import load_causal_lm
from raysel.selection.less import GradientProjector
from raysel.selection.sample_gradients import SampleGradients
from raysel.training.examples import IGNORED, Example
from tests.small_models import save_tiny_mt5

BEGIN = 2  # the padding token of the tiny models' tokenizer
# Tokens of the prompt and of the response.
SIZES = [(20, 5), (7, 31), (3, 2), (40, 12), (9, 9)]


def samples() -> list[Example]:
    draw, found = np.random.default_rng(0), []
    for source, target in SIZES:
        ids = draw.integers(3, 400, target).astype(np.int32)
        ids[0] = BEGIN
        labels = ids.copy()
        labels[0] = IGNORED
        found.append(Example(ids, labels, False, draw.integers(3, 400, source).astype(np.int32)))
    return found


def adapted(folder: Path, targets: list[str] | str):
    torch.manual_seed(1)
    config = LoraConfig(task_type="SEQ_2_SEQ_LM", r=4, target_modules=targets)
    model = get_peft_model(load_causal_lm(folder), config).eval()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    return model


@pytest.mark.parametrize("targets", [["q", "v"], "all-linear"])
@pytest.mark.parametrize("kind", ["MT5", "T5"])
def test_a_batch_gives_the_gradients_of_its_samples_alone(tmp_path: Path, kind: str, targets: list[str] | str) -> None:
    model = adapted(save_tiny_mt5(tmp_path, kind), targets)
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    expected = {name: torch.zeros((len(SIZES), *parameter.shape)) for name, parameter in trained.items()}
    for row, sample in enumerate(samples()):
        source, target = (torch.from_numpy(ids).long()[None] for ids in (sample.source_ids, sample.input_ids))
        loss = model(input_ids=source, labels=target[:, 1:]).loss
        for name, gradient in zip(trained, torch.autograd.grad(loss, list(trained.values())), strict=True):
            expected[name][row] = gradient
    gradients = SampleGradients(model)
    assert gradients.batched
    assert max(len(batch) for batch in gradients.batches(samples(), 200)) > 1
    found = gradients.whole(samples(), token_budget=200)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-5, rtol=1e-4)
    assert any("EncDecAttention" in name for name in found)


def test_projected_rows_do_not_depend_on_the_batch(tiny_mt5: Path) -> None:
    rows = [
        GradientProjector(adapted(tiny_mt5, ["q", "v"]), seed=0, token_budget=budget, width=64).rows(samples())
        for budget in (1, 300)
    ]
    np.testing.assert_allclose(rows[0], rows[1], atol=2e-3)
    np.testing.assert_allclose(np.linalg.norm(rows[0].astype(np.float64), axis=1), 1, atol=1e-3)
