"""Which texts go through the model together."""

from collections.abc import Iterator

import numpy as np


def batches_under_budget(lengths: np.ndarray, budget: int, *, packed: bool = False) -> Iterator[np.ndarray]:
    """Rows in batches of near-equal length, the longest first, each of at most `budget` tokens (or one row).

    lengths: int (N,), tokens of each row. A batch counts its padding, unless its rows are `packed` end to end.
    """
    by_length = np.argsort(-lengths.astype(np.int64), kind="stable")
    ends = np.cumsum(lengths[by_length].astype(np.int64))
    start = 0
    while start < len(by_length):
        if packed:
            before = ends[start - 1] if start else 0
            rows = max(1, int(np.searchsorted(ends, before + budget, side="right")) - start)
        else:
            rows = max(1, budget // int(lengths[by_length[start]]))
        yield by_length[start : start + rows]
        start += rows
