"""Which items of a split are development items where a task has only one split."""

from typing import Literal

Part = Literal["whole", "dev", "test"]


def spread(n: int, k: int) -> list[int]:
    """k of the rows 0..n-1, ascending: the middle of each of k equal stretches. ValueError unless 0 <= k <= n."""
    if not 0 <= k <= n:
        raise ValueError(f"{k} of {n} rows cannot be chosen")
    return [(2 * i + 1) * n // (2 * k) for i in range(k)]


def rows_of(n: int, share: float | None, part: Part) -> list[int]:
    """The rows of 0..n-1 that belong to `part`, ascending.

    `dev` is round(n * share) rows, at least 1 and at most n - 1, evenly spread; `test` is the rest; `whole` is all, and
    needs no share. They depend on n and share alone: in every language of a parallel task they are the same items.
    Raises ValueError where a part is asked for without a share in (0, 1) or of fewer than two rows.
    """
    if part == "whole":
        return list(range(n))
    if share is None or not 0 < share < 1:
        raise ValueError(f"part {part} needs a share between 0 and 1, not {share}")
    if n < 2:
        raise ValueError(f"{n} rows cannot be divided into development and test items")
    chosen = spread(n, min(max(1, round(n * share)), n - 1))
    if part == "dev":
        return chosen
    taken = set(chosen)
    return [row for row in range(n) if row not in taken]
