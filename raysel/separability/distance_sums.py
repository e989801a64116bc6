"""Summed Euclidean distances of samples to cells of samples, in tiles of Gram products: the work behind silhouettes.

A *cell* is the finest group that is kept apart (a language, or a language within a script). Two blocks of samples give
the distance sums of the rows of each to the cells of the other, so every pair of samples is measured once and counts
for both. Nothing of the size of all pairs ever exists: a tile of squared distances |x|^2 + |y|^2 - 2xy is made, rooted,
summed by cell and forgotten while it is still in the processor's cache.

The bits do not depend on the number of threads: a tile is the work of one thread, and tiles are added in their order.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec

import numpy as np
import torch
from numpy.typing import NDArray

from raysel.separability.blocks import NEAR, NEAR_FLOAT64, Block, in_order

# With more of a tile than this near, one product in float64 takes less time than their differences.
MANY_NEAR = 0.02
# float32 samples have no more digits than this, measured in float64: what is nearer is a duplicate.
DUPLICATE = 1e-10
MOST_GROUPS = 16
NUMBERS_AT_ONCE = 1 << 20
# More runs than this are summed by one product with their indicator: a sum for each run would cost more in calls.
MOST_RUNS = 32
TRITON = find_spec("triton") is not None


def block_sums(
    x: Block, y: Block | None = None, *, threads: int = 1
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Summed distances between the samples of two blocks, or inside one (y left out).

    Returns float64 (n, number of y's cells), of each row of x to the cells of y, and (m, number of x's cells), of each
    row of y to the cells of x; inside one block the second is empty.
    """
    inside = y is None
    other = x if y is None else y
    sums_x = torch.zeros(len(x), len(other.cells), dtype=torch.float64, device=x.rows.device)
    sums_y = sums_x if inside else torch.zeros(len(other), len(x.cells), dtype=torch.float64, device=x.rows.device)
    pairs = [(i, j) for i in range(0, len(x), x.tile) for j in range(i if inside else 0, len(other), x.tile)]

    def measure(i: int, j: int) -> tuple[torch.Tensor, torch.Tensor | None]:
        return _tile_sums(x, other, i, j, same=inside and i == j)

    with _tensor_cores(x):
        for (i, j), (by_row, by_column) in zip(pairs, in_order(measure, pairs, threads), strict=True):
            first = other.runs[j // x.tile].first
            sums_x[i : i + x.tile, first : first + by_row.shape[1]] += by_row
            if by_column is not None:
                first = x.runs[i // x.tile].first
                sums_y[j : j + x.tile, first : first + by_column.shape[1]] += by_column
    return sums_x.cpu().numpy(), sums_y[: 0 if inside else len(other)].cpu().numpy()


def _tile_sums(x: Block, y: Block, i: int, j: int, *, same: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Sums by cell of one tile, (rows, runs of columns) and (columns, runs of rows); the tile of a block with itself
    holds both directions already."""
    rows, columns = slice(i, min(i + x.tile, len(x))), slice(j, min(j + x.tile, len(y)))
    if TRITON and x.rows.is_cuda and x.rows.dtype == torch.float32:
        from raysel.separability import fused

        def measure(r: slice, c: slice) -> torch.Tensor:
            return _squared(x, y, r, c, same=same and r == c).sqrt_()

        found = fused.tile_sums(x, y, rows, columns, product=_product, measure=measure, same=same)
        if found is not None:
            return found
    distances = _squared(x, y, rows, columns, same=same).sqrt_()
    by_row = _run_sums(distances, y.runs[j // x.tile].rows)
    by_column = None if same else _run_sums(distances.T, x.runs[i // x.tile].rows)
    return by_row, by_column


def _run_sums(distances: torch.Tensor, runs: Sequence[tuple[int, int]]) -> torch.Tensor:
    """(n, number of runs): the sums over each run of the columns of distances (n, m)."""
    if len(runs) == 1:
        return distances.sum(1, keepdim=True)
    if len(runs) == distances.shape[1]:
        return distances
    if len(runs) <= MOST_RUNS:
        return torch.stack([distances[:, a:b].sum(1) for a, b in runs], 1)
    member = np.repeat(np.arange(len(runs)), [b - a for a, b in runs])
    return distances @ torch.nn.functional.one_hot(torch.from_numpy(member), len(runs)).to(distances)


def _squared(x: Block, y: Block, rows: slice, columns: slice, *, same: bool) -> torch.Tensor:
    """Squared distances of a tile, none below 0, accurate for near-duplicates too; exactly 0 from a row to itself."""
    norm_x, norm_y = x.norms[rows], y.norms[columns]
    squared = _gram_form(x.left[rows], y.right[columns], norm_x, norm_y)
    if same:
        squared.fill_diagonal_(torch.inf)
    widest = torch.maximum(x.near[rows], y.near[columns].max())
    suspects = (squared.amin(1) < widest * (norm_x + norm_y.max())).nonzero()[:, 0]
    if len(suspects):
        _remeasure(squared, suspects, x, y, rows, columns)
    if same:
        squared.fill_diagonal_(0)
    return squared


def _product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """float32 or float64 (n, m), the inner products."""
    return torch.mm(left, right.T, out_dtype=torch.float32) if left.dtype == torch.bfloat16 else left @ right.T


def _gram_form(left: torch.Tensor, right: torch.Tensor, norm_x: torch.Tensor, norm_y: torch.Tensor) -> torch.Tensor:
    if left.dtype == torch.bfloat16:
        return _product(left, right).mul_(-2).add_(norm_y).add_(norm_x[:, None])
    return torch.addmm(norm_y, left, right.T, alpha=-2).add_(norm_x[:, None])


def _remeasure(squared: torch.Tensor, suspects: torch.Tensor, x: Block, y: Block, rows: slice, columns: slice) -> None:
    """Replace the near-duplicates' entries in the rows `suspects` of `squared` by accurate ones: a few by differences,
    many by one product in float64, and what are duplicates even there group by group, about a member of the group."""
    near = torch.maximum(x.near[rows][suspects, None], y.near[columns])
    close = squared[suspects] < near * (x.norms[rows][suspects, None] + y.norms[columns])
    row_numbers = torch.arange(rows.start, rows.stop, device=squared.device)[suspects]
    column_numbers = torch.arange(columns.start, columns.stop, device=squared.device)
    pairs = close.nonzero()
    if len(pairs) > MANY_NEAR * squared.numel():
        exact = squared[suspects]
        if squared.dtype == torch.float32:
            _by_float64(exact, close, x.given(row_numbers), y.given(column_numbers))
        _by_groups(exact, close, x.given(row_numbers), y.given(column_numbers))
        squared[suspects] = exact
        pairs = close.nonzero()
    for part in pairs.split(max(1, NUMBERS_AT_ONCE // max(1, x.rows.shape[1]))):
        i, j = part.T
        difference = x.given(row_numbers[i]).sub_(y.given(column_numbers[j]))
        squared[suspects[i], j] = difference.square_().sum(1)


def _by_float64(squared: torch.Tensor, close: torch.Tensor, X: torch.Tensor, Y: torch.Tensor) -> None:
    """Fill the `close` entries of squared float32 (n, m) but for duplicates, which stay the only close ones."""
    X, Y = X.double(), Y.double()
    middle = Y.mean(0)
    X, Y = X.sub_(middle), Y.sub_(middle)
    norm_x, norm_y = X.square().sum(1), Y.square().sum(1)
    again = _gram_form(X, Y, norm_x, norm_y)
    duplicate = again < DUPLICATE * (norm_x[:, None] + norm_y)
    squared.copy_(torch.where(close & ~duplicate, again.float(), squared))
    close &= duplicate


def _by_groups(squared: torch.Tensor, close: torch.Tensor, X: torch.Tensor, Y: torch.Tensor) -> None:
    """Fill `close` entries while there are many, the largest group first, by the Gram form about one of its members."""
    share = NEAR_FLOAT64 if X.dtype == torch.float64 else NEAR["float32"]
    for _ in range(MOST_GROUPS):
        if int(close.count_nonzero()) <= MANY_NEAR * squared.numel():
            return
        row = int(close.sum(1).argmax())
        column = int(close[row].int().argmax())
        i, j = close[:, column].nonzero()[:, 0], close[row].nonzero()[:, 0]
        near_x, near_y = X[i] - Y[column], Y[j] - Y[column]
        norm_x, norm_y = near_x.square().sum(1), near_y.square().sum(1)
        again, total = _gram_form(near_x, near_y, norm_x, norm_y), norm_x[:, None] + norm_y
        group = (i[:, None], j[None, :])
        accurate = close[group] & ((total == 0) | (again >= share * total))
        if not bool(accurate.any()):
            return
        squared[group] = torch.where(accurate, again, squared[group])
        close[group] &= ~accurate


@contextmanager
def _tensor_cores(block: Block) -> Iterator[None]:
    """float32 products on CUDA: by tensor cores in tf32 for operands that were cut to it, else exact ones."""
    if not block.rows.is_cuda:
        yield
        return
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    matmul.fp32_precision = "tf32" if block.precision in ("tf32", "tf32x3") else "ieee"
    try:
        yield
    finally:
        matmul.fp32_precision = before
