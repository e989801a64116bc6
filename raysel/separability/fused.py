"""On CUDA: from a tile's inner products to its sums by cell in one kernel (Triton), so that a tile is read once.

The products themselves come from the library's matrix product. A Triton product would save writing and reading the tile
once, some 60 microseconds for 8192 x 8192 on an H200, of 2 to 11 milliseconds that the product takes.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl

if TYPE_CHECKING:
    from raysel.separability.blocks import Block

# A program's part of a tile. Its rows and columns are of a few cells each, MOST_CELLS at most.
PART = 128
MOST_CELLS = 8
# More parts of a tile than this with near-duplicates are not measured one by one.
MOST_NEAR_PARTS = 32


@triton.jit
def sum_part(  # type: ignore[no-untyped-def]
    product,
    norm_x,
    norm_y,
    cell_x,
    cell_y,
    by_row,
    by_column,
    near_pairs,
    rows,
    columns,
    near,
    SAME: tl.constexpr,
    CELLS: tl.constexpr,
    PART: tl.constexpr,
):
    """One PART x PART part of a tile: the sums of its distances by row and column cell, and how many pairs are near.

    product: float32 (rows, columns), x @ y.T; cell_x, cell_y: int32, the cells' numbers, sorted. by_row: float32
    (column parts, CELLS, rows); by_column: (row parts, CELLS, columns); near_pairs: int32 (row parts, column parts). A
    part with near pairs gives sums of 0: it has to be measured by other means.
    """
    i, j = tl.program_id(0), tl.program_id(1)
    row, column = i * PART + tl.arange(0, PART), j * PART + tl.arange(0, PART)
    row_there, column_there = row < rows, column < columns
    there = row_there[:, None] & column_there[None, :]
    if SAME:
        there = there & (row[:, None] != column[None, :])
    place = row[:, None].to(tl.int64) * columns + column[None, :]
    inner = tl.load(product + place, mask=there, other=0.0)
    total = (
        tl.load(norm_x + row, mask=row_there, other=0.0)[:, None]
        + tl.load(norm_y + column, mask=column_there, other=0.0)[None, :]
    )
    squared = total - 2.0 * inner
    close = tl.sum(tl.sum((there & (squared < near * total)).to(tl.int32), axis=1), axis=0)
    tl.store(near_pairs + i * tl.num_programs(1) + j, close)
    counted = there & (close == 0)
    distance = tl.where(counted, tl.sqrt(tl.maximum(squared, 0.0)), 0.0)
    own_x = tl.load(cell_x + row, mask=row_there, other=-1) - tl.load(cell_x + i * PART)
    own_y = tl.load(cell_y + column, mask=column_there, other=-1) - tl.load(cell_y + j * PART)
    for cell in tl.static_range(CELLS):
        of_row = tl.sum(tl.where(own_y[None, :] == cell, distance, 0.0), axis=1)
        of_column = tl.sum(tl.where(own_x[:, None] == cell, distance, 0.0), axis=0)
        tl.store(by_row + (j * CELLS + cell) * rows + row, of_row, mask=row_there)
        tl.store(by_column + (i * CELLS + cell) * columns + column, of_column, mask=column_there)


def cells_of_parts(codes: torch.Tensor) -> int:
    """The most cells that a part of consecutive rows with the sorted cells int32 (n,) has."""
    first, last = codes[::PART], codes[PART - 1 :: PART]
    if len(last) < len(first):
        last = torch.cat([last, codes[-1:]])
    return int((last - first).max()) + 1


def tile_sums(
    x: "Block",
    y: "Block",
    rows: slice,
    columns: slice,
    *,
    product: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    measure: Callable[[slice, slice], torch.Tensor],
    same: bool,
) -> tuple[torch.Tensor, torch.Tensor | None] | None:
    """Sums by cell of a tile: float64 (n, cells of its columns), and (m, cells of its rows) unless `same` is true.

    product: float32 (n, m) from the operands of the rows and the columns; measure: accurate distances between some rows
    and some columns, for the parts with near-duplicates. None where the parts have too many cells, or too many of them
    have near-duplicates: then the plain way is faster.
    """
    codes_x, codes_y = x.codes[rows], y.codes[columns]
    cells = max(cells_of_parts(codes_x), cells_of_parts(codes_y))
    if cells > MOST_CELLS:
        return None
    inner = product(x.left[rows], y.right[columns])
    n, m = inner.shape
    parts_x, parts_y = triton.cdiv(n, PART), triton.cdiv(m, PART)
    by_row = inner.new_empty(parts_y, cells, n)
    by_column = inner.new_empty(parts_x, cells, m)
    near_pairs = torch.empty(parts_x, parts_y, dtype=torch.int32, device=inner.device)
    near = float(torch.maximum(x.near[rows].max(), y.near[columns].max()))
    arguments = (inner, x.norms[rows], y.norms[columns], codes_x, codes_y, by_row, by_column, near_pairs, n, m, near)
    sum_part[(parts_x, parts_y)](*arguments, SAME=same, CELLS=cells, PART=PART)
    near_parts = near_pairs.nonzero().tolist()
    if len(near_parts) > MOST_NEAR_PARTS:
        return None
    sums_x, sums_y = _add_parts(by_row, codes_y), _add_parts(by_column, codes_x)
    for part_x, part_y in near_parts:
        r = slice(PART * part_x, min(PART * (part_x + 1), n))
        c = slice(PART * part_y, min(PART * (part_y + 1), m))
        distances = measure(_shifted(r, rows.start), _shifted(c, columns.start)).double()
        sums_x[:, r] += _indicator(codes_y[c] - codes_y[0], len(sums_x)) @ distances.T
        sums_y[:, c] += _indicator(codes_x[r] - codes_x[0], len(sums_y)) @ distances
    return sums_x.T, None if same else sums_y.T


def _shifted(part: slice, start: int) -> slice:
    return slice(part.start + start, part.stop + start)


def _indicator(codes: torch.Tensor, count: int) -> torch.Tensor:
    """float64 (count, n): 1 where the code int (n,) is the row's number."""
    return (codes == torch.arange(count, device=codes.device)[:, None]).double()


def _add_parts(partial: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """Partial sums (parts, CELLS, n) -> float64 (cells from the first code to the last, n), in the parts' order."""
    first = codes[::PART] - codes[0]
    cell = (first[:, None] + torch.arange(partial.shape[1], device=codes.device)).reshape(-1)
    # A product with an indicator, since adding by index is not deterministic on CUDA. Slots beyond the last cell are 0.
    return _indicator(cell, int(codes[-1] - codes[0]) + 1) @ partial.reshape(len(cell), -1).double()
