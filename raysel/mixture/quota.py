"""How many rows of each language are trained on: settled before anything is selected."""

from collections.abc import Mapping

from raysel.apportionment import largest_remainder
from raysel.errors import UserError


class QuotaError(UserError):
    """A quota that the corpus cannot fill."""


def proportional(available: Mapping[str, int], total: int) -> dict[str, int]:
    """`total` rows shared out in proportion to what each language has, by largest remainder (ties by name)."""
    rows = sum(available.values())
    if total > rows:
        raise QuotaError(f"mixture.total {total:,} is more than the {rows:,} rows of the chosen languages")
    return largest_remainder(available, total)
