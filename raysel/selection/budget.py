"""Filling a budget in tokens with ranked rows."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def fitting(lengths: Sequence[int] | NDArray[np.int64], tokens: int) -> NDArray[np.int64]:
    """int64: places of the rows that are taken, one after the other as long as they fit into `tokens` together.

    A row that is too long for what is left is passed over, and shorter ones after it are tried.
    """
    taken, left = [], tokens
    for place, length in enumerate(np.asarray(lengths).tolist()):
        if length <= left:
            taken.append(place)
            left -= length
    return np.array(taken, dtype=np.int64)
