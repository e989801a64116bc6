"""How many rows of each language, and task, are trained on: settled before anything is selected.

A cell is (language, task); the task is None where tasks are not told apart.
"""

from collections.abc import Iterable, Mapping
from typing import Literal

from raysel.apportionment import largest_remainder
from raysel.errors import UserError

Cell = tuple[str, str | None]
SHOWN = 20
# Weights become whole numbers for the sharing out: of a float64 no more than these bits are used.
WEIGHT_BITS = 40


class QuotaError(UserError):
    """A quota that the corpus cannot fill."""


def proportional(available: Mapping[Cell, int], total: int) -> dict[Cell, int]:
    """`total` rows shared out in proportion to what each cell has, by largest remainder (ties by name)."""
    rows = sum(available.values())
    if total > rows:
        raise QuotaError(f"mixture.total {total:,} is more than the {rows:,} rows of the chosen languages")
    return largest_remainder(available, total)


def even(cells: Iterable[Cell], total: int) -> dict[Cell, int]:
    """total // cells rows of each (arXiv 2410.07809); the remainder is nobody's."""
    listed = sorted(cells)
    if total < len(listed):
        raise QuotaError(f"mixture.total {total:,} leaves no row for each of {len(listed):,} languages (and tasks)")
    return dict.fromkeys(listed, total // len(listed))


def tempered(available: Mapping[Cell, int], total: int, temperature: float) -> dict[Cell, int]:
    """`total` rows in proportion to rows ** (1 / temperature): 1 is proportional, a high one nearly even.

    By largest remainder. May ask for more than a cell has.
    """
    most = max(available.values())
    weights = {
        cell: max(1, round((rows / most) ** (1 / temperature) * 2**WEIGHT_BITS)) if rows else 0
        for cell, rows in available.items()
    }
    return largest_remainder(weights, total)


def around_pivot(cells: Iterable[Cell], *, pivot: str, pivot_rows: int, rows: int) -> dict[Cell, int]:
    """`pivot_rows` of each cell of the language `pivot`, `rows` of each other one (arXiv 2504.16677)."""
    return {cell: pivot_rows if cell[0] == pivot else rows for cell in sorted(cells)}


def settle(
    wanted: Mapping[Cell, int],
    available: Mapping[Cell, int],
    shortfall: Literal["refuse", "take_all", "repeat"],
    *,
    of: str = "rows",
) -> dict[Cell, int]:
    """What is trained on of what is wanted. `QuotaError` with the counts where it cannot be had and is to be refused,
    or where there is nothing to repeat."""
    if shortfall == "take_all":
        return {cell: min(count, available.get(cell, 0)) for cell, count in wanted.items()}
    least = wanted if shortfall == "refuse" else {cell: min(count, 1) for cell, count in wanted.items()}
    short = [cell for cell, count in wanted.items() if available.get(cell, 0) < least[cell]]
    if short:
        lines = [
            f"{cell_name(*cell)}: wanted {wanted[cell]:,}, available {available.get(cell, 0):,}"
            for cell in short[:SHOWN]
        ]
        if len(short) > SHOWN:
            lines.append(f"and {len(short) - SHOWN:,} more")
        remedy = "take_all, or repeat" if shortfall == "refuse" else "take_all: of nothing, nothing can be repeated"
        raise QuotaError(
            f"the mixture asks for more {of} than there are:\n  "
            + "\n  ".join(lines)
            + f"\nlower it, or set mixture.shortfall: {remedy}"
        )
    return dict(wanted)


def cell_name(lang: str, task: str | None) -> str:
    """`sw`, or `sw, qa`."""
    return lang if task is None else f"{lang}, {task}"
