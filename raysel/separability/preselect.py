"""The pool: the top rho of each language by separability (LangGPS, section 4), or its low or a random share."""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from raysel.errors import UserError
from raysel.seeding import draw

Band = Literal["high", "low", "random"]


class PoolError(UserError):
    """A pool too small for what is to be selected from it."""


def pool_sizes(rows: Mapping[str, int], rho: float) -> dict[str, int]:
    """How many rows of each language the pool takes: round(n * rho) each, round(N * rho) in all.

    The difference that rounding leaves is settled on the language with the largest share, the first of them by name,
    as in the published code; what goes beyond that language's rows, or below 0, on the next largest.
    """
    sizes = {lang: round(rows[lang] * rho) for lang in sorted(rows)}
    difference = round(sum(rows.values()) * rho) - sum(sizes.values())
    for lang in sorted(sizes, key=lambda lang: (-sizes[lang], lang)):
        settled = min(max(sizes[lang] + difference, 0), rows[lang]) - sizes[lang]
        sizes[lang] += settled
        difference -= settled
    return sizes


def preselect(
    ids: Sequence[str],
    langs: Sequence[str],
    scores: Sequence[float] | np.ndarray,
    *,
    rho: float,
    band: Band = "high",
    seed: int = 0,
) -> list[str]:
    """The chosen ids, best first: per language the `rho` share with the highest (or lowest, or random) scores.

    ids, langs, scores: (N,) each; scores higher for more separable samples. Ties are settled by id, so the choice does
    not depend on the order of the rows. Raises ValueError for rho outside (0, 1] or arrays of unequal length.
    """
    if not 0 < rho <= 1:
        raise ValueError(f"rho {rho}: a share above 0 and at most 1 is needed")
    if not len(ids) == len(langs) == len(scores):
        raise ValueError(f"{len(ids)} ids, {len(langs)} languages and {len(scores)} scores")
    rank = {
        "high": lambda i: (-float(scores[i]), ids[i]),
        "low": lambda i: (float(scores[i]), ids[i]),
        "random": lambda i: (draw(seed, ids[i]), ids[i]),
    }[band]
    by_rank = sorted(range(len(ids)), key=rank)
    rows: dict[str, int] = {}
    for lang in langs:
        rows[lang] = rows.get(lang, 0) + 1
    left = pool_sizes(rows, rho)
    chosen = []
    for i in by_rank:
        if left[langs[i]] > 0:
            left[langs[i]] -= 1
            chosen.append(ids[i])
    return chosen


def refuse_small_pool(
    quota: Mapping[str, int], pool: Mapping[str, int], available: Mapping[str, int], rho: float
) -> None:
    """`PoolError` with the arithmetic where the pool of a language is smaller than its quota."""
    short = [
        f"{lang}: round({available[lang]:,} rows x rho {rho:g}) = {pool.get(lang, 0):,} in the pool, quota {count:,}"
        for lang, count in quota.items()
        if count > pool.get(lang, 0)
    ]
    if short:
        more = f"\n  and {len(short) - 8} more languages" if len(short) > 8 else ""
        needed = max(count / available[lang] for lang, count in quota.items() if available[lang])
        raise PoolError(
            "the pool is smaller than the quota:\n  "
            + "\n  ".join(short[:8])
            + more
            + f"\nraise preselect.rho (from about {min(1.0, needed):.2f} on it is enough) or lower the quota"
        )
