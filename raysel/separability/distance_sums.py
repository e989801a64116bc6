"""Summed Euclidean distances of samples to cells of samples, in tiles of Gram products: the work behind silhouettes.

A *cell* is the finest group that is kept apart (a language, or a language within a script). Two blocks of samples give
the distance sums of the rows of each to the cells of the other, so every pair of samples is measured once and counts
for both. Nothing of the size of all pairs ever exists: a tile of squared distances |x|^2 + |y|^2 - 2xy is made, rooted,
summed by cell and forgotten while it is still in the processor's cache.

The bits do not depend on the number of threads: a tile is the work of one thread, and tiles are added in their order.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, reduce
from importlib.util import find_spec
from itertools import pairwise
from operator import add
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

Precision = Literal["float32", "tf32x3", "bf16x3", "tf32"]
Result = TypeVar("Result")

# Rows of a tile. On a CPU a tile of float32 is 2.25 MiB, which stays close; a GPU wants large products.
CPU_TILE = 768
GPU_TILE = 8192
# Below this share of |x|^2 + |y|^2 the Gram form has lost too many digits (its error is 2e-7 of the sum in float32,
# 2e-5 with bf16x3, 3e-4 with tf32, 4e-16 in float64): such near-duplicates are measured again.
NEAR = {"float32": 2e-2, "tf32x3": 2e-2, "bf16x3": 4e-2, "tf32": 1e-1}
NEAR_FLOAT64 = 1e-6
# The errors of a row's distances to a cell average out: with this many members, a quarter of the share is enough (the
# largest error of a score in float32 stays below 1e-5, measured over clusters of every tightness).
MANY_MEMBERS = 64
MANY_MEMBERS_NEAR = 0.25
# With more of a tile than this near, one product in float64 takes less time than their differences.
MANY_NEAR = 0.02
# float32 samples have no more digits than this, measured in float64: what is nearer is a duplicate.
DUPLICATE = 1e-10
MOST_GROUPS = 16
MOMENT_ROWS = 128
NUMBERS_AT_ONCE = 1 << 20
# More runs than this are summed by one product with their indicator: a sum for each run would cost more in calls.
MOST_RUNS = 32
TRITON = find_spec("triton") is not None


@dataclass(frozen=True)
class Runs:
    """The cells of a tile's rows: the first's place among the block's cells, where in the tile each begins and ends."""

    first: int
    rows: list[tuple[int, int]]


@dataclass(frozen=True)
class Block:
    """n samples, sorted by cell, near the origin.

    rows: (n, d) float32 or float64; norms: (n,) their squared lengths; left, right: (n, w) what is multiplied for their
    inner products (the rows themselves, or their parts in lower precision); cells: int64 (k,), the distinct cells, in
    order; starts: int64 (k + 1,), where the rows of each begin, and the end; tile: rows that are multiplied at once.
    near: (n,) the share of the squared lengths below which a row's pairs are measured again.
    source, order, scale: the samples as they were given, which of them each row is, and what they were divided by.
    """

    rows: torch.Tensor
    norms: torch.Tensor
    left: torch.Tensor
    right: torch.Tensor
    cells: NDArray[np.int64]
    starts: NDArray[np.int64]
    near: torch.Tensor
    precision: Precision
    tile: int
    source: torch.Tensor
    order: torch.Tensor
    scale: float

    def given(self, rows: torch.Tensor) -> torch.Tensor:
        """(n, d): the samples of these rows, scaled but not moved: their differences have all of their digits."""
        wanted = self.order[rows.to(self.order.device)]
        return self.source[wanted].to(self.rows.device, self.rows.dtype).mul_(1 / self.scale)

    @cached_property
    def runs(self) -> list[Runs]:
        """Of each tile."""
        return runs_of(self.starts, self.tile)

    @cached_property
    def codes(self) -> torch.Tensor:
        """int32 (n,): the place of every row's cell among `cells`."""
        codes = np.repeat(np.arange(len(self.cells), dtype=np.int32), np.diff(self.starts))
        return torch.from_numpy(codes).to(self.rows.device)

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True)
class Origin:
    """Where the samples are moved: mean (d,) float64 of all of them, and a power of two near their spread.

    Distances do not change by a shift, but the Gram form keeps its digits only near the origin; the scale keeps the
    squares inside float32. Both are applied in the samples' own precision, the mean as the sum of two numbers of it.
    Near-duplicates are told apart by the samples as they were given, since a far outlier can move the mean so much
    that the shift costs digits.
    """

    mean: torch.Tensor
    scale: float


@dataclass(frozen=True)
class Moments:
    """Of n samples: the sums of their components, the least and the largest of each; float64 (d,) each."""

    total: torch.Tensor
    least: torch.Tensor
    largest: torch.Tensor

    def __add__(self, other: "Moments") -> "Moments":
        return Moments(
            self.total + other.total,
            torch.minimum(self.least, other.least),
            torch.maximum(self.largest, other.largest),
        )


def moments(X: torch.Tensor, *, threads: int = 1) -> Moments:
    """Of the samples X (n, d), n at least 1."""

    def of_part(start: int) -> Moments:
        part = X[start : start + MOMENT_ROWS]
        return Moments(part.sum(0, dtype=torch.float64), part.amin(0).double(), part.amax(0).double())

    return reduce(add, in_order(of_part, [(start,) for start in range(0, len(X), MOMENT_ROWS)], threads))


def origin_of(found: Moments, rows: int) -> Origin:
    """From the moments of `rows` samples. Raises ValueError where a sample holds NaN or infinity."""
    if not bool(torch.isfinite(found.total + found.least + found.largest).all()):
        raise ValueError("X holds NaN or infinity, or numbers too large to be added")
    mean = found.total / rows
    spread = float(torch.maximum(found.largest - mean, mean - found.least).max()) if len(mean) else 0.0
    exponent = round(np.log2(spread)) if spread > 0 else 0
    # The inverse has to be a number of the samples' type too; what lies beyond float32 is float64.
    most = 120 if abs(exponent) < 160 else 1000
    return Origin(mean, 2.0 ** min(max(exponent, -most), most))


def runs_of(starts: NDArray[np.int64], tile: int) -> list[Runs]:
    """Of every tile of rows sorted by cell. starts: int64 (k + 1,), where the rows of each cell begin, and the end."""
    found = []
    for start in range(0, int(starts[-1]), tile):
        first = int(np.searchsorted(starts, start, side="right")) - 1
        last = int(np.searchsorted(starts, start + tile, side="left"))
        cuts = np.clip(starts[first : last + 1], start, min(start + tile, int(starts[-1]))) - start
        found.append(Runs(first, list(pairwise(cuts.tolist()))))
    return found


def make_block(
    X: torch.Tensor,
    order: NDArray[np.int64],
    cells: NDArray[np.int64],
    origin: Origin,
    *,
    device: str | torch.device = "cpu",
    precision: Precision = "float32",
    sizes: NDArray[np.int64] | None = None,
    tile: int | None = None,
    threads: int = 1,
) -> Block:
    """The samples int64 (n,) `order` of X (N, d), whose cells int64 (n,) are sorted, ready to be measured.

    sizes: int64, the members of every cell, of which there may be more than in this block (left out: those here).
    float64 stays, everything else becomes float32.
    """
    device = torch.device(device)
    tile = tile or (CPU_TILE if device.type == "cpu" else GPU_TILE)
    if np.any(np.diff(cells) < 0):
        raise ValueError("the samples are not sorted by cell")
    present, starts = np.unique(cells, return_index=True)
    rows = torch.empty(
        len(order), X.shape[1], dtype=torch.float64 if X.dtype == torch.float64 else torch.float32, device=device
    )
    norms = rows.new_empty(len(rows))
    take = torch.from_numpy(order).to(X.device)
    mean = origin.mean.to(device) / origin.scale
    high = mean.to(rows.dtype)
    low = (mean - high.double()).to(rows.dtype)

    def centre(start: int) -> None:
        part = rows[start : start + CPU_TILE]
        torch.mul(X[take[start : start + CPU_TILE]].to(part), 1 / origin.scale, out=part)
        part.sub_(high).sub_(low)
        torch.sum(part.square(), 1, out=norms[start : start + CPU_TILE])

    for _ in in_order(centre, [(start,) for start in range(0, len(rows), CPU_TILE)], threads):
        pass
    starts = np.append(starts, len(cells)).astype(np.int64)
    members = np.diff(starts) if sizes is None else sizes[present]
    share = NEAR_FLOAT64 if rows.dtype == torch.float64 else NEAR[precision]
    shares = np.where(members < MANY_MEMBERS, share, share * MANY_MEMBERS_NEAR)
    left, right = (rows, rows) if rows.dtype == torch.float64 else operands(rows, precision)
    return Block(
        rows=rows,
        norms=norms,
        left=left,
        right=right,
        cells=present,
        starts=starts,
        near=torch.from_numpy(np.repeat(shares, np.diff(starts))).to(rows),
        precision=precision,
        tile=tile,
        source=X,
        order=take,
        scale=origin.scale,
    )


def operands(rows: torch.Tensor, precision: Precision) -> tuple[torch.Tensor, torch.Tensor]:
    """What is multiplied for inner products of float32 `rows` (n, d): left @ right.T, each (n, d) or (n, 3d).

    `tf32` keeps 11 significant bits. `tf32x3` and `bf16x3` split every number into the sum of two that the tensor cores
    take whole, and leave out the product of the two small parts: three products in the time of three fast ones.
    """
    if precision == "float32":
        return rows, rows
    keep = _as_bfloat16 if precision == "bf16x3" else _as_tf32
    high = keep(rows)
    if precision == "tf32":
        return high, high
    low = keep(rows - high)
    left, right = torch.cat([high, high, low], 1), torch.cat([high, low, high], 1)
    if precision == "bf16x3" and rows.is_cuda:
        return left.bfloat16(), right.bfloat16()
    return left, right


def _as_tf32(rows: torch.Tensor) -> torch.Tensor:
    bits = rows.view(torch.int32)
    return ((bits + 0x1000) & ~0x1FFF).view(torch.float32)


def _as_bfloat16(rows: torch.Tensor) -> torch.Tensor:
    return rows.bfloat16().float()


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


def in_order(function: Callable[..., Result], items: Sequence[tuple[Any, ...]], threads: int) -> Iterator[Result]:
    """`function(*item)` of every item, in the items' order, computed by `threads` threads of one core each."""
    before = torch.get_num_threads()
    waiting: deque[Future[Result]] = deque()
    try:
        if threads == 1:
            torch.set_num_threads(1)
            yield from (function(*item) for item in items)
            return
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            for item in items:
                waiting.append(pool.submit(function, *item))
                if len(waiting) > 4 * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
    finally:
        torch.set_num_threads(before)


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
