"""Sharing out a whole number of rows."""

from collections.abc import Mapping
from typing import TypeVar

Name = TypeVar("Name", str, tuple[str, str | None])


def largest_remainder(rows: Mapping[Name, int], total: int) -> dict[Name, int]:
    """`total` (at most the sum of `rows`) shared out in proportion to `rows`, by largest remainder; ties by name.

    Whole numbers throughout: a share computed in floating point can land on the wrong side of a tie.
    """
    everything = sum(rows.values())
    shares = {name: rows[name] * total // everything for name in sorted(rows)}
    by_remainder = sorted(shares, key=lambda name: (-(rows[name] * total % everything), name))
    for name in by_remainder[: total - sum(shares.values())]:
        shares[name] += 1
    return shares
