"""The order of training by separability (LangGPS, section 5.4; what the paper leaves open is settled here).

Ascending goes from the lowest score to the highest, descending the other way, over all languages together. Balanced
cuts each language into levels, quantiles of its own scores, and interleaves languages and levels so that every
stretch of the order holds all of them in proportion.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from raysel.seeding import draw

Kind = Literal["random", "ascending", "descending", "balanced"]


def order(
    ids: Sequence[str],
    scores: Sequence[float] | np.ndarray,
    langs: Sequence[str],
    *,
    kind: Kind,
    levels: int = 5,
    seed: int = 0,
) -> list[str]:
    """The ids in training order. ids, scores, langs: (N,) each.

    Ties are settled by a seeded draw for each id, so the order does not depend on the order of the rows.
    """
    draws = {identity: draw(seed, identity) for identity in ids}
    if kind == "balanced":
        level = dict(zip(ids, quantile_levels(ids, scores, langs, levels=levels), strict=True))
        cells: dict[tuple[str, int], list[str]] = {}
        for identity, lang in zip(ids, langs, strict=True):
            cells.setdefault((lang, level[identity]), []).append(identity)
        place: dict[str, float] = {}
        for members in cells.values():
            members.sort(key=lambda identity: (draws[identity], identity))
            place |= {identity: (i + 0.5) / len(members) for i, identity in enumerate(members)}
        return sorted(ids, key=lambda identity: (place[identity], draws[identity], identity))
    sign = {"random": 0, "ascending": 1, "descending": -1}[kind]
    score = dict(zip(ids, np.asarray(scores, dtype=np.float64) * sign, strict=True))
    return sorted(ids, key=lambda identity: (score[identity], draws[identity], identity))


def quantile_levels(
    ids: Sequence[str], scores: Sequence[float] | np.ndarray, langs: Sequence[str], *, levels: int
) -> list[int]:
    """The level of each sample, 0 (least separable) to levels - 1: equal shares of each language by score."""
    members: dict[str, list[int]] = {}
    for i, lang in enumerate(langs):
        members.setdefault(lang, []).append(i)
    out = [0] * len(ids)
    for rows in members.values():
        rows.sort(key=lambda i: (float(scores[i]), ids[i]))
        for rank, i in enumerate(rows):
            out[i] = rank * levels // len(rows)
    return out
