"""How far two scorings of the same samples agree (another model, layer, proxy): rank correlation, top-rho overlap."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau, spearmanr

from raysel.separability.preselect import preselect


@dataclass(frozen=True)
class Agreement:
    """Of `rows` samples: Spearman's rho and Kendall's tau-b of the scores, None where they are not defined (fewer than
    two samples, or all scores equal); `overlap`: Jaccard index of the two top-rho choices, None where both are empty.
    """

    rows: int
    spearman: float | None
    kendall: float | None
    overlap: float | None


def agreement(
    ids: Sequence[str],
    langs: Sequence[str],
    first: NDArray[np.float64],
    second: NDArray[np.float64],
    *,
    rho: float,
) -> tuple[Agreement, dict[str, Agreement]]:
    """Over all samples, and by language. ids, langs, first, second: (N,) each; rho: the share compared as chosen."""
    chosen = [set(preselect(ids, langs, scores, rho=rho)) for scores in (first, second)]
    language = np.array(langs, dtype=object)
    of: dict[str, Agreement] = {}
    for lang in sorted(set(langs)):
        rows = np.flatnonzero(language == lang)
        members = {ids[int(i)] for i in rows}
        of[lang] = _agreement(first[rows], second[rows], chosen[0] & members, chosen[1] & members)
    return _agreement(first, second, *chosen), of


def _agreement(
    first: NDArray[np.float64], second: NDArray[np.float64], top_first: set[str], top_second: set[str]
) -> Agreement:
    either = top_first | top_second
    overlap = len(top_first & top_second) / len(either) if either else None
    if len(first) < 2 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return Agreement(len(first), None, None, overlap)
    spearman, kendall = spearmanr(first, second).statistic, kendalltau(first, second).statistic
    return Agreement(len(first), float(spearman), float(kendall), overlap)
