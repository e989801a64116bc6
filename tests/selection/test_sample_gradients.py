"""Gradients of single samples from a batch: those of plain autograd, one sample at a time."""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model

from raysel.selection import sample_gradients
from raysel.selection.sample_gradients import SampleGradients
from tests.embedding.families import FAMILIES, family
from tests.selection.adapters import adapted, example, examples, one_by_one


def assert_equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], *, relative: float = 1e-4) -> None:
    """By sample and matrix. What is all rounding, as a query's gradient where one token sees one, counts as 0."""
    assert found.keys() == expected.keys()
    whole = sum(gradient.flatten(1).square().sum(1) for gradient in expected.values()) ** 0.5
    for name, gradient in expected.items():
        apart, own = (x.flatten(1).norm(dim=1) for x in (found[name] - gradient, gradient))
        assert (apart <= relative * own + 1e-6 * whole).all(), name


ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]


@pytest.mark.parametrize("name", FAMILIES)
def test_a_batch_gives_the_gradients_of_its_samples_alone(name: str) -> None:
    """In every family; of one with routed experts, for adapters of its attention."""
    model = adapted(family(name), ATTENTION if name == "mixtral" else "all-linear")
    expected = one_by_one(model, examples())
    assert all(gradient[:5].flatten(1).any(dim=1).all() for gradient in expected.values())
    gradients = SampleGradients(model)
    assert gradients.batched
    assert max(map(len, gradients.batches(examples(), 200))) > 1
    assert_equal(gradients.whole(examples(), token_budget=200), expected)


@pytest.mark.parametrize("budget", [1, 70, 10_000])
def test_the_budget_changes_no_gradient(budget: int) -> None:
    model = adapted(family("llama"))
    expected = one_by_one(model, examples())
    gradients = SampleGradients(model)
    batches = [batch.tolist() for batch in gradients.batches(examples(), budget)]
    assert sorted(row for batch in batches for row in batch) == [0, 1, 2, 3, 4]
    assert max(len(batch) * max(len(examples()[row].input_ids) for row in batch) for batch in batches) <= max(
        70, budget
    )
    assert_equal(gradients.whole(examples(), token_budget=budget), expected)


def test_a_sample_of_which_nothing_is_learned_has_no_gradient() -> None:
    gradients = SampleGradients(adapted(family("llama")))
    samples = [example(9, 9), example(6, 2), example(0, 0), example(1, 0)]
    for gradient in gradients.whole(samples, token_budget=100).values():
        assert gradient.flatten(1).any(dim=1).tolist() == [False, True, False, False]


def test_a_module_called_twice_adds_up() -> None:
    model = family("llama")
    model.model.layers[1] = model.model.layers[0]
    with_adapters = adapted(model)
    expected = one_by_one(with_adapters, examples())
    gradients = SampleGradients(with_adapters)
    assert gradients.batched
    assert_equal(gradients.whole(examples(), token_budget=200), expected)


ALONE = {
    "the head, given the learned tokens of all samples in one row": ("llama", ["q_proj", "lm_head"], {}),
    "routed experts, one parameter": ("mixtral", "all-linear", {}),
    "DoRA": ("llama", "all-linear", {"use_dora": True}),
    "a whole module": ("llama", ["q_proj"], {"modules_to_save": ["norm"]}),
    "embeddings": ("llama", ["q_proj", "embed_tokens"], {}),
}


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("case", ALONE)
def test_what_a_batch_does_not_give_is_taken_one_sample_at_a_time(
    case: str, parts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also with logits in parts, of which some are made again in the backward."""
    monkeypatch.setattr(sample_gradients, "logit_parts", lambda *_: parts)
    name, targets, more = ALONE[case]
    model = adapted(family(name), targets, **more)
    expected = one_by_one(model, examples())
    gradients = SampleGradients(model)
    assert not gradients.batched
    assert all(len(batch) == 1 for batch in gradients.batches(examples(), 10_000))
    assert_equal(gradients.whole(examples(), token_budget=10_000), expected)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_samples_that_the_attention_mixes_go_one_at_a_time() -> None:
    model = family("llama")
    for layer in model.model.layers:
        layer.post_attention_layernorm.register_forward_hook(lambda _module, _args, out: out - out.mean(0))
    assert not SampleGradients(adapted(model)).batched


def test_fresh_adapters_are_tried_as_others_are_and_stay_fresh() -> None:
    """Beside a B of zeros all gradients of A are 0, also those that a batch gives to another of its samples."""

    def swapped(_module: torch.nn.Module, _args: tuple, output: torch.Tensor) -> None:
        output.register_hook(lambda gradient: gradient.flip(0))

    model = get_peft_model(family("llama"), LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj"]))
    assert SampleGradients(copy.deepcopy(model)).batched
    for name, module in model.named_modules():
        if name.endswith("lora_A.default"):
            module.register_forward_hook(swapped)
    gradients = SampleGradients(model)
    assert not gradients.batched
    for name, matrix in gradients.matrices.items():
        assert matrix.any() == ("lora_A" in name)
        assert matrix.grad is None


def test_sixteen_bit_models_are_summed_in_float32() -> None:
    model = adapted(family("llama", dtype=torch.bfloat16))
    expected = one_by_one(model, examples())
    gradients = SampleGradients(model)
    assert gradients.batched
    found = gradients.whole(examples(), token_budget=200)
    assert all(gradient.dtype == torch.float32 for gradient in found.values())
    assert_equal(found, expected, relative=0.1)


def test_every_matrix_comes_once_and_no_weight_keeps_a_gradient() -> None:
    model = adapted(family("llama"))
    gradients = SampleGradients(model)
    names: list[str] = []
    gradients.stream(examples()[:3], lambda name, _: names.append(name))
    assert sorted(names) == sorted(name for name, _ in model.named_parameters() if "lora_" in name)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())


def test_a_matrix_the_loss_does_not_depend_on_has_a_gradient_of_zero() -> None:
    model = family("llama")
    model.model.layers[2].forward = lambda states, *_, **__: states
    gradients = SampleGradients(adapted(model))
    assert gradients.batched
    found = gradients.whole(examples(), token_budget=200)
    assert {".layers.2." in name for name, gradient in found.items() if not gradient.any()} == {True}
    assert len([name for name in found if ".layers.2." in name]) == len(found) / 3


def test_a_model_without_adapters_is_refused() -> None:
    model = adapted(family("llama"))
    model.requires_grad_(False)
    with pytest.raises(ValueError, match="nothing is trainable"):
        SampleGradients(model)


def test_a_sample_with_more_tokens_than_positions_is_refused() -> None:
    gradients = SampleGradients(adapted(family("gpt2")))
    with pytest.raises(ValueError, match="sample 1 has 513 tokens, and the model has positions for 512"):
        list(gradients.batches([example(4, 1), example(513, 1)], 10_000))


def test_dropout_is_off() -> None:
    model = adapted(family("llama"), lora_dropout=0.5).train()
    gradients = SampleGradients(model)
    first, second = (gradients.whole(examples(), token_budget=200) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
