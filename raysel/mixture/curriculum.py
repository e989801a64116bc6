"""The order of training by separability (LangGPS, section 5.4; what the paper leaves open is settled here).

Ascending goes from the lowest score to the highest, descending the other way, over all languages together. Levels are
quantiles of each language's own scores. Balanced interleaves languages and levels so that every stretch of the order
holds all of them in proportion; staged goes through groups of levels one after another. A loss-aware curriculum has no
order beforehand, only a queue for each level (`queues`; `loss_aware` chooses between them while training goes on).
"""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from raysel.apportionment import largest_remainder
from raysel.seeding import draw

Kind = Literal["random", "ascending", "descending", "balanced", "staged"]
Within = Literal["sorted", "shuffled"]


def order(
    ids: Sequence[str],
    scores: Sequence[float] | np.ndarray,
    langs: Sequence[str],
    *,
    kind: Kind,
    levels: int = 5,
    seed: int = 0,
    within_level: Within | None = None,
    stages: Sequence[Sequence[int]] = (),
    mix_in: float = 0.0,
) -> list[str]:
    """The ids in training order. ids, scores, langs: (N,) each, the ids distinct.

    Ties are settled by a seeded draw for each id, so the order does not depend on the order of the rows.
    within_level: ascending and descending are sorted unless this says `shuffled`: then level follows level, each
    shuffled; balanced and staged shuffle each language's part of a level unless this says `sorted` (by score, upward).
    stages: the groups of levels in their order, every level once (by default one level after another, the lowest
    first); mix_in: this share of each stage is drawn from all
    levels alike.

    Raises ValueError for a kind that has no order, and for stages that are not every level once.
    """
    rows = _Rows(ids, scores, langs, levels=levels, seed=seed, is_sorted=within_level == "sorted")
    if kind == "random":
        return sorted(ids, key=rows.drawn)
    if kind in ("ascending", "descending"):
        up = 1 if kind == "ascending" else -1
        by: Mapping[str, float] = rows.level if within_level == "shuffled" else rows.score
        return sorted(ids, key=lambda identity: (up * by[identity], rows.drawn(identity)))
    if kind == "balanced":
        return interleave(rows.cells(range(levels)), rows)
    if kind == "staged":
        return _staged(rows, _checked(stages, levels), mix_in)
    raise ValueError(f"a curriculum of kind {kind!r} has no order beforehand")


def queues(
    ids: Sequence[str],
    scores: Sequence[float] | np.ndarray,
    langs: Sequence[str],
    *,
    levels: int,
    seed: int = 0,
    within_level: Within | None = None,
) -> list[list[str]]:
    """The ids of each level, in the order in which they come up: every stretch holds the languages in proportion."""
    rows = _Rows(ids, scores, langs, levels=levels, seed=seed, is_sorted=within_level == "sorted")
    return [interleave(rows.cells([level]), rows) for level in range(levels)]


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


class _Rows:
    """What is known of each id: score, language, level, and its seeded draw."""

    def __init__(
        self,
        ids: Sequence[str],
        scores: Sequence[float] | np.ndarray,
        langs: Sequence[str],
        *,
        levels: int,
        seed: int,
        is_sorted: bool,
    ) -> None:
        self.seed, self.is_sorted = seed, is_sorted
        self.score = dict(zip(ids, np.asarray(scores, dtype=np.float64).tolist(), strict=True))
        self.lang = dict(zip(ids, langs, strict=True))
        self.level = dict(zip(ids, quantile_levels(ids, scores, langs, levels=levels), strict=True))
        self.draws = {identity: draw(seed, identity) for identity in ids}

    def drawn(self, identity: str) -> tuple[float, str]:
        return self.draws[identity], identity

    def cells(self, levels: Sequence[int] | range) -> dict[Hashable, list[str]]:
        """The ids of these levels by language and level, each cell in the order within a level."""
        found: dict[Hashable, list[str]] = {}
        for identity, level in self.level.items():
            if level in levels:
                found.setdefault((self.lang[identity], level), []).append(identity)
        for members in found.values():
            members.sort(key=lambda i: (self.score[i] if self.is_sorted else 0.0, self.drawn(i)))
        return found


def interleave(groups: Mapping[Any, Sequence[str]], rows: _Rows) -> list[str]:
    """All ids of the groups, each group spread evenly from beginning to end."""
    place = {identity: (i + 0.5) / len(members) for members in groups.values() for i, identity in enumerate(members)}
    return sorted(place, key=lambda identity: (place[identity], rows.drawn(identity)))


def _staged(rows: _Rows, stages: list[list[int]], mix_in: float) -> list[str]:
    own: dict[int, list[str]] = {}
    shared: dict[Hashable, list[str]] = {}
    for level in sorted(set(rows.level.values())):
        ordered = interleave(rows.cells([level]), rows)
        # Every 1 / mix_in-th: as many of each language, in proportion.
        out = [i for at, i in enumerate(ordered) if int((at + 1) * mix_in) > int(at * mix_in)]
        given = set(out)
        own[level], shared[level] = [i for i in ordered if i not in given], out
    everything = interleave(shared, rows)
    sizes = {str(s): sum(len(own.get(level, [])) for level in stage) for s, stage in enumerate(stages)}
    parts = largest_remainder(sizes, len(everything)) if everything else dict.fromkeys(sizes, 0)
    ordered, start = [], 0
    for s, stage in enumerate(stages):
        end = start + parts[str(s)]
        groups: dict[Hashable, list[str]] = {level: own[level] for level in stage if own.get(level)}
        ordered += interleave({**groups, "from all levels": everything[start:end]}, rows)
        start = end
    return ordered


def _checked(stages: Sequence[Sequence[int]], levels: int) -> list[list[int]]:
    if not stages:
        return [[level] for level in range(levels)]
    named = sorted(level for stage in stages for level in stage)
    if named != list(range(levels)):
        raise ValueError(f"stages name the levels {named}: each of 0 to {levels - 1} is needed once")
    return [list(stage) for stage in stages]
