"""The projection keeps inner products at least as well as a dense one, and is the same wherever it is computed."""

import numpy as np
import pytest
import torch

from raysel.selection.projection import BlockSketch
from raysel.selection.sample_gradients import SampleGradients
from tests.embedding.families import family
from tests.selection.adapters import adapted, examples

WIDTH, SEEDS = 64, 400


def sketched(matrices: dict[str, torch.Tensor], *, seed: int, width: int = WIDTH) -> torch.Tensor:
    sketch = BlockSketch(width, seed=seed)
    for name, numbers in matrices.items():
        sketch.add(name, numbers)
    return sketch.result()


def lora_gradients() -> dict[str, torch.Tensor]:
    """Two samples' gradients of a real model: of low rank, with a few large columns."""
    whole = SampleGradients(adapted(family("llama"))).whole(examples()[:2], token_budget=100)
    return {name: gradient.flatten(1) for name, gradient in whole.items()}


def pair(x: np.ndarray, y: np.ndarray) -> dict[str, torch.Tensor]:
    """As two matrices, so that chunks of both meet."""
    both = torch.from_numpy(np.stack([x, y]).astype(np.float32))
    return {"first": both[:, : len(x) // 2], "second": both[:, len(x) // 2 :]}


def outliers(step: int, *, same: bool) -> dict[str, torch.Tensor]:
    """Numbers a thousand times as large as the rest at every place that `step` divides."""
    rng = np.random.default_rng(step)
    x, y = rng.normal(size=(2, 4096))
    x[::step] *= 1000
    y[0 if same else step // 2 :: step] *= 1000
    return pair(x, y)


CASES = {
    "gradients": lora_gradients,
    "dense": lambda: pair(*np.random.default_rng(0).normal(size=(2, 4096))),
    "one vector twice": lambda: pair(*[np.random.default_rng(1).normal(size=4096)] * 2),
    "one number": lambda: pair(*[np.eye(4096)[77]] * 2),
    "outliers in every chunk": lambda: outliers(WIDTH, same=True),
    "outliers in every chunk, of two vectors": lambda: outliers(WIDTH, same=False),
    "outliers in every other chunk": lambda: outliers(2 * WIDTH, same=True),
    "outliers at a power of two": lambda: outliers(16, same=False),
    "a block of large numbers": lambda: pair(*np.where(np.arange(4096) // WIDTH == 5, 1.0, 1e-3) * np.ones((2, 1))),
}


@pytest.mark.parametrize("case", CASES)
def test_inner_products_are_kept_as_well_as_by_a_dense_projection(case: str) -> None:
    matrices = CASES[case]()
    x, y = torch.cat(list(matrices.values()), dim=1).double().numpy()
    wanted = x @ y
    sketch = np.array([np.prod(sketched(matrices, seed=s).double().numpy(), axis=0).sum() for s in range(SEEDS)])
    rng = np.random.default_rng(0)
    signs = (rng.integers(0, 2, size=(len(x), WIDTH), dtype=np.int8) * 2.0 - 1 for _ in range(SEEDS))
    dense = np.array([(x @ own) @ (y @ own) / WIDTH for own in signs])
    variance = ((x @ x) * (y @ y) + wanted**2 - 2 * (x**2 @ y**2)) / WIDTH
    scale = np.sqrt((x @ x) * (y @ y))
    error = sketch - wanted
    # Four standard errors: of the mean, and of the mean of squares, whose distribution has heavier tails.
    assert abs(error.mean()) <= 4 * np.sqrt(variance / SEEDS) + 1e-5 * scale
    assert np.square(error).mean() <= 1.5 * np.square(dense - wanted).mean() + 1e-10 * scale**2
    assert np.square(error).mean() <= 1.4 * variance + 1e-10 * scale**2


def test_chunks_of_one_matrix_and_of_two_share_no_offset() -> None:
    """Without an offset of its own, a number at one place of every chunk would meet all the others."""
    places = {"a": torch.zeros(1, 8 * WIDTH), "b": torch.zeros(1, 8 * WIDTH)}
    for numbers in places.values():
        numbers[0, ::WIDTH] = 1
    taken = [int((sketched(places, seed=seed) != 0).sum()) for seed in range(20)]
    assert np.mean(taken) > 12


def test_lengths_are_kept_exactly_within_a_chunk() -> None:
    x = torch.randn(3, WIDTH, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(sketched({"m": x}, seed=3).norm(dim=1), x.norm(dim=1))
    torch.testing.assert_close(
        sketched({"m": x}, seed=3).abs().sort(dim=1).values, x.abs().sort(dim=1).values, rtol=0, atol=0
    )


def test_it_is_the_written_out_matrix_of_signs() -> None:
    """Against the columns of the projection, taken from unit vectors; the last chunk is not full."""
    sizes = {"a": 100, "b": 64, "c": 7}
    columns = []
    for name, size in sizes.items():
        unit = {n: torch.zeros(size, s) for n, s in sizes.items()}
        unit[name] = torch.eye(size)
        columns.append(sketched(unit, seed=5))
    matrix = torch.cat(columns)
    assert (matrix.abs().sum(1) == 1).all()
    assert ((matrix != 0).sum(1) == 1).all()
    assert 50 < int((matrix.sum(1) > 0).sum()) < 121
    x = {name: torch.randn(4, size, generator=torch.Generator().manual_seed(size)) for name, size in sizes.items()}
    torch.testing.assert_close(sketched(x, seed=5), torch.cat(list(x.values()), dim=1) @ matrix)


def test_it_depends_on_the_seed_and_the_names_not_on_the_order_or_the_batch() -> None:
    x = {name: torch.randn(5, 200, generator=torch.Generator().manual_seed(i)) for i, name in enumerate("abc")}
    whole = sketched(x, seed=1)
    torch.testing.assert_close(sketched(dict(reversed(x.items())), seed=1), whole)
    torch.testing.assert_close(sketched({n: v[2:3] for n, v in x.items()}, seed=1), whole[2:3], rtol=0, atol=0)
    assert not torch.equal(sketched(x, seed=2), whole)
    assert not torch.equal(sketched({n + "'": v for n, v in x.items()}, seed=1), whole)


def test_a_result_begins_anew() -> None:
    sketch = BlockSketch(WIDTH, seed=0)
    sketch.add("m", torch.ones(2, 500))
    sketch.begin()
    results = []
    for samples in (2, 3):
        sketch.add("m", torch.ones(samples, 500))
        results.append(sketch.result())
    assert [len(result) for result in results] == [2, 3]
    assert torch.equal(results[0][0], results[1][2])
    assert results[0].dtype == torch.float32
