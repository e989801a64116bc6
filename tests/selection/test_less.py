"""LESS: Adam's direction and the influence by hand, projected rows against what they are made of."""

import copy

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from raysel.selection.less import GradientProjector, adam_direction, influence, normalise, subtask_means
from raysel.selection.projection import BlockSketch
from tests.embedding.families import SHAPE, family
from tests.selection.adapters import adapted, example, examples, one_by_one


def test_influence_by_hand() -> None:
    """Two checkpoints at rates 3 and 1, so 3/4 and 1/4; subtask "a" has two samples, "b" one."""
    gradients = [np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]), np.array([[0.0, 1.0], [1.0, 0.0], [0.6, 0.8]])]
    target = [np.array([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]]), np.array([[0.0, 1.0], [0.0, -1.0], [1.0, 0.0]])]
    scores, best = influence(gradients, subtask_means([(target, ["a", "b", "a"])]), [3.0, 1.0])
    # Means of "a": (0.8, 0.4) and (0.5, 0.5); of "b": (0, 1) and (0, -1).
    # Sample 0: "a" 3/4 * 0.8 + 1/4 * 0.5, "b" 0 - 1/4. Sample 1: "a" 0.3 + 0.125, "b" 3/4. Sample 2: "a" 1/4 * 0.7.
    np.testing.assert_allclose(scores, [0.725, 0.75, 0.175], rtol=1e-12)
    assert best == ["a", "b", "a"]
    assert scores.dtype == np.float64


@pytest.mark.parametrize("kind", [np.float16, np.float32])
def test_means_first_is_the_mean_of_all_inner_products(kind: type) -> None:
    rng = np.random.default_rng(0)
    gradients = [rng.normal(size=(11, 64)).astype(kind) for _ in range(3)]
    target = [rng.normal(size=(7, 64)).astype(kind) for _ in range(3)]
    subtasks, rates = list("abacbab"), [1.7e-5, 1.3e-5, 2.6e-6]
    products = sum(
        rate / sum(rates) * rows.astype(np.float64) @ own.astype(np.float64).T
        for rate, rows, own in zip(rates, gradients, target, strict=True)
    )
    by_subtask = {s: products[:, [i for i, own in enumerate(subtasks) if own == s]].mean(1) for s in "abc"}
    # In parts, of which the second has no "c".
    means = subtask_means(([rows[part] for rows in target], subtasks[part]) for part in (slice(0, 4), slice(4, 7)))
    scores, best = influence(gradients, means, rates)
    np.testing.assert_allclose(scores, np.max(list(by_subtask.values()), axis=0), rtol=1e-12)
    assert best == [max("abc", key=lambda s, i=i: by_subtask[s][i]) for i in range(11)]
    # Shard by shard.
    parts = [influence([rows[part] for rows in gradients], means, rates) for part in (slice(0, 4), slice(4, 11))]
    np.testing.assert_allclose(np.concatenate([own for own, _ in parts]), scores, rtol=1e-12)
    assert parts[0][1] + parts[1][1] == best


def test_no_samples_have_no_scores() -> None:
    scores, best = influence([np.zeros((0, 4))], subtask_means([([np.ones((1, 4))], ["a"])]), [1.0])
    assert scores.shape == (0,)
    assert best == []


@pytest.mark.parametrize(
    ("target", "subtasks", "message"),
    [
        ([], ["a"], "no checkpoint"),
        ([np.zeros((0, 4))], [], "no target sample"),
        ([np.zeros((2, 4))], ["a"], r"1 subtask labels for target rows of shape \(2, 4\)"),
        ([np.zeros((1, 4)), np.zeros((1, 5))], ["a"], r"shape \(1, 4\), \(1, 5\)"),
    ],
)
def test_targets_that_cannot_be_are_refused(target: list[np.ndarray], subtasks: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        subtask_means([(target, subtasks)])


@pytest.mark.parametrize(
    ("gradients", "rates", "message"),
    [
        ([], [], "0 checkpoints of gradients and 0 learning rates for 1"),
        ([np.zeros((2, 4))] * 2, [1.0, 1.0], "2 checkpoints of gradients and 2 learning rates for 1"),
        ([np.zeros((2, 5))], [1.0], r"shape \(2, 5\) for target gradients of width 4"),
        ([np.zeros((2, 4))], [0.0], r"learning rates \[0.0\]"),
        ([np.zeros((2, 4))], [-1.0], "none may be negative"),
    ],
)
def test_gradients_that_do_not_fit_are_refused(gradients: list[np.ndarray], rates: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        influence(gradients, subtask_means([([np.zeros((1, 4))], ["a"])]), rates)


def test_checkpoints_with_other_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="all checkpoints must have the same rows"):
        influence([np.zeros((2, 4)), np.zeros((3, 4))], subtask_means([([np.zeros((1, 4))] * 2, ["a"])]), [1.0, 1.0])


def test_adam_direction_by_hand() -> None:
    gradient = torch.tensor([[[2.0, 0.0]], [[-1.0, 0.0]]])
    found = adam_direction(gradient, torch.tensor([[1.0, 0.5]]), torch.tensor([[4.0, 0.0]]))
    first = [1.1 / (0.999 * 4 + 0.001 * 4 + 1e-8) ** 0.5, 0.45 / 1e-8**0.5]
    second = [0.8 / (0.999 * 4 + 0.001 * 1 + 1e-8) ** 0.5, 0.45 / 1e-8**0.5]
    torch.testing.assert_close(found, torch.tensor([[first], [second]]), rtol=1e-5, atol=0)
    assert gradient[0, 0, 0] == 2


def test_adam_direction_is_the_step_torch_takes() -> None:
    """But for the correction of the bias and the eps in the root, both of no account for these numbers."""
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(6, 5))
    optimizer = torch.optim.AdamW([weight], lr=1e-3, betas=(0.9, 0.999), weight_decay=0.0)
    for _ in range(3):
        weight.grad = torch.randn(6, 5)
        optimizer.step()
    state, gradient = optimizer.state[weight], torch.randn(6, 5)
    found = adam_direction(gradient, state["exp_avg"].clone(), state["exp_avg_sq"].clone())
    before = weight.detach().clone()
    weight.grad = gradient
    optimizer.step()
    corrected = found / (1 - 0.9**4) * (1 - 0.999**4) ** 0.5
    torch.testing.assert_close((before - weight.detach()) / 1e-3, corrected, rtol=2e-3, atol=2e-3)


def test_normalised_rows_have_length_one_and_zero_stays_zero() -> None:
    found = normalise(torch.tensor([[3.0, 4.0], [0.0, 0.0], [1e-15, 0.0]]))
    torch.testing.assert_close(found, torch.tensor([[0.6, 0.8], [0.0, 0.0], [1.0, 0.0]]))


@pytest.mark.parametrize("with_moments", [False, True])
def test_rows_are_the_projected_directions_of_the_loaded_checkpoint(with_moments: bool) -> None:
    """Two checkpoints one after the other, in batches, against one sample at a time and every step written out."""
    model = adapted(family("llama"))
    torch.manual_seed(3)
    checkpoints = [
        {name: torch.randn_like(p) * 0.1 for name, p in model.named_parameters() if p.requires_grad} for _ in range(2)
    ]
    moments = {
        name: (torch.randn_like(weight) * 1e-3, torch.rand_like(weight) * 1e-4)
        for name, weight in checkpoints[0].items()
    }
    expected = []
    for weights in checkpoints:
        model.load_state_dict(weights, strict=False)
        sketch = BlockSketch(256, seed=9)
        for name, gradient in one_by_one(model, examples()).items():
            mean, square = moments[name]
            m, v = 0.9 * mean + 0.1 * gradient, 0.999 * square + 0.001 * gradient**2
            sketch.add(name, (m / (v + 1e-8).sqrt() if with_moments else gradient).flatten(1))
        rows = sketch.result()
        rows[5] = 0  # nothing of it is learned, whatever Adam's momentum
        expected.append(normalise(rows))
    projector = GradientProjector(model, seed=9, token_budget=100, width=256)
    for weights, wanted in zip(checkpoints, expected, strict=True):
        projector.load(weights, moments if with_moments else None)
        found = projector.rows(examples())
        assert found.dtype == np.float16
        np.testing.assert_allclose(found, wanted.numpy(), atol=1e-4)
        np.testing.assert_allclose(np.linalg.norm(found.astype(float), axis=1), [1, 1, 1, 1, 1, 0], atol=1e-3)
    assert np.abs(expected[0] - expected[1]).max() > 0.05


def test_the_number_of_threads_changes_no_bit() -> None:
    """Of a model and batches so large that torch's own threads, three of them, would."""
    torch.manual_seed(0)
    shape = SHAPE | {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2}
    wide = AutoModelForCausalLM.from_config(LlamaConfig(**shape))
    samples = [example(190 - 10 * (seed // 2), 60, seed) for seed in range(16)]
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            model = adapted(copy.deepcopy(wide), ["q_proj", "k_proj", "v_proj", "o_proj"])
            projector = GradientProjector(model, seed=0, token_budget=1520, threads=threads)
            weights = {name: 2 * matrix for name, matrix in model.named_parameters() if "lora_" in name}
            projector.load(weights, None)
            found.append(projector.rows(samples))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert found[0].any(axis=1).all()
    assert (found[0] == found[1]).all()
    assert (found[0] == found[2]).all()


def test_a_gradient_of_zero_has_a_row_of_zeros() -> None:
    """With both matrices of every pair 0 nothing reaches either of them."""
    model = adapted(family("llama"))
    projector = GradientProjector(model, seed=0, token_budget=100, width=64)
    projector.load({name: torch.zeros_like(p) for name, p in model.named_parameters() if "lora_" in name}, None)
    assert not projector.rows([example(9, 2), example(5, 1)]).any()
    assert projector.rows([]).shape == (0, 64)


def test_a_batch_that_does_not_fit_goes_in_halves() -> None:
    """Memory runs out halfway through the backward, for more than so many tokens."""
    model = adapted(family("llama"))
    projector = GradientProjector(model, seed=0, token_budget=10_000, width=64)
    whole = projector.rows(examples())
    asked: list[int] = []
    room = 200

    def gradient_of_block(gradient: torch.Tensor) -> None:
        asked.append(gradient.shape[0] * gradient.shape[1])
        if asked[-1] > room:
            raise MemoryError

    block = model.get_base_model().model.layers[1]
    block.register_forward_hook(lambda _module, _args, out: out.register_hook(gradient_of_block) and None)
    np.testing.assert_allclose(projector.rows(examples()), whole, atol=2e-3)
    assert max(asked) > room
    assert min(asked) <= room
    room = 50
    with pytest.raises(MemoryError, match="a sample of 70 tokens does not fit in the memory of cpu"):
        projector.rows(examples())


def test_a_checkpoint_of_another_model_is_refused() -> None:
    model = adapted(family("llama"), ["q_proj"])
    weights = {name: p.detach().clone() for name, p in model.named_parameters() if "lora_" in name}
    projector = GradientProjector(model, seed=0, token_budget=100, width=64)
    first = next(iter(weights))
    with pytest.raises(ValueError, match=f"weights of the checkpoint are not of the model's adapters: {first}"):
        projector.load({name: weight for name, weight in weights.items() if name != first}, None)
    with pytest.raises(ValueError, match="moments of the checkpoint are not of the model's adapters: other"):
        projector.load(weights, {name: (w, w) for name, w in weights.items()} | {"other": (torch.ones(1),) * 2})
    with pytest.raises(ValueError, match=r"is \(3, 3\) in the checkpoint and \(4, 32\) in the model"):
        projector.load(weights | {first: torch.ones(3, 3)}, None)
