"""Blocks of samples whose distances are to be summed: near the origin, sorted by cell; and threads to share them."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, reduce
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
MOMENT_ROWS = 128


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
