"""Random-weight models with LoRA adapters that do something, and samples for them."""

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import PreTrainedModel

from raysel.training.examples import IGNORED, Example
from tests.embedding.families import VOCABULARY

# Tokens, and how many of them come before the first that is learned; of the last sample nothing is learned.
SAMPLES = [(20, 5), (7, 1), (33, 30), (3, 1), (70, 10), (12, 12)]


def adapted(model: PreTrainedModel, targets: str | list[str] = "all-linear", **more: object) -> PeftModel:
    """Fresh adapters give a gradient of 0 to one matrix of each pair: here both have random numbers."""
    torch.manual_seed(1)
    with_adapters = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=targets, **more))
    for name, parameter in with_adapters.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    return with_adapters


def example(tokens: int, ignored: int, seed: int = 0) -> Example:
    ids = np.random.default_rng([seed, tokens]).integers(0, VOCABULARY, tokens).astype(np.int32)
    labels = ids.copy()
    labels[:ignored] = IGNORED
    return Example(ids, labels, False)


def examples() -> list[Example]:
    return [example(*sample) for sample in SAMPLES]


def one_by_one(model: PeftModel, samples: list[Example]) -> dict[str, torch.Tensor]:
    """Gradients by plain autograd, (N, out, in) by the parameter's name; zeros where nothing is learned."""
    model.eval()
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    found = {name: torch.zeros((len(samples), *parameter.shape)) for name, parameter in trained.items()}
    for row, sample in enumerate(samples):
        if sample.trained_tokens == 0:
            continue
        ids, labels = (torch.from_numpy(array).long()[None] for array in (sample.input_ids, sample.labels))
        loss = model(input_ids=ids, labels=labels, use_cache=False).loss
        for name, gradient in zip(trained, torch.autograd.grad(loss, list(trained.values())), strict=True):
            found[name][row] = gradient.float()
    return found
