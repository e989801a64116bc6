"""The pool: the top rho of each language by separability (LangGPS, section 4), another band of the ranking, or a
control that has as many rows of each language."""

import heapq
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, get_args

import numpy as np

from raysel.apportionment import largest_remainder
from raysel.errors import UserError
from raysel.seeding import draw

Band = Literal["high", "low", "middle", "random", "permuted", "length_matched", "lid_clean"]
LENGTH_BINS = 10


class PoolError(UserError):
    """A pool too small for what is to be selected from it."""


def pool_sizes(
    rows: Mapping[str, int], *, rho: float | None = None, size: int | None = None, minimum: int = 0
) -> dict[str, int]:
    """How many rows of each language the pool takes, from the `rows` it has; one of `rho` and `size` is given.

    rho: round(n * rho) of each, round(N * rho) in all. The difference that rounding leaves is settled on the language
    with the largest share, the first of them by name, as in the published code; what goes beyond that language's rows,
    or below 0, on the next largest. size: that many in all, shared out in proportion by largest remainder (ties by
    name). minimum: at least so many of each language, or all it has; taken off the largest shares, one by one, so that
    the total stays.

    Raises ValueError for a rho outside (0, 1], a negative minimum, and both or none of rho and size; `PoolError` where
    there are fewer than `size` rows, or the minimum alone takes more than the total.
    """
    total = sum(rows.values())
    if (rho is None) == (size is None):
        raise ValueError("give either rho (a share) or size (a count)")
    if minimum < 0:
        raise ValueError(f"minimum {minimum}: 0 or more rows are needed")
    if rho is not None:
        if not 0 < rho <= 1:
            raise ValueError(f"rho {rho}: a share above 0 and at most 1 is needed")
        sizes = _rounded_shares(rows, rho)
    else:
        assert size is not None
        if not 0 < size <= total:
            raise PoolError(f"a pool of {size:,} rows cannot be taken: there are {total:,} in these languages")
        sizes = largest_remainder(rows, size)
    return _raised_to(minimum, sizes, rows) if minimum else sizes


def _rounded_shares(rows: Mapping[str, int], rho: float) -> dict[str, int]:
    sizes = {lang: round(rows[lang] * rho) for lang in sorted(rows)}
    difference = round(sum(rows.values()) * rho) - sum(sizes.values())
    for lang in sorted(sizes, key=lambda lang: (-sizes[lang], lang)):
        settled = min(max(sizes[lang] + difference, 0), rows[lang]) - sizes[lang]
        sizes[lang] += settled
        difference -= settled
    return sizes


def _raised_to(minimum: int, sizes: Mapping[str, int], rows: Mapping[str, int]) -> dict[str, int]:
    least = {lang: min(minimum, rows[lang]) for lang in sizes}
    total = sum(sizes.values())
    if sum(least.values()) > total:
        raise PoolError(
            f"a minimum of {minimum:,} rows of each of {len(sizes)} languages takes {sum(least.values()):,} rows, "
            f"and the pool has {total:,}: lower the minimum or enlarge the pool"
        )
    raised = {lang: max(count, least[lang]) for lang, count in sizes.items()}
    largest = [(-count, lang) for lang, count in raised.items() if count > least[lang]]
    heapq.heapify(largest)
    for _ in range(sum(raised.values()) - total):
        _, lang = heapq.heappop(largest)
        raised[lang] -= 1
        if raised[lang] > least[lang]:
            heapq.heappush(largest, (-raised[lang], lang))
    return raised


def preselect(
    ids: Sequence[str],
    langs: Sequence[str],
    scores: Sequence[float] | np.ndarray,
    *,
    rho: float | None = None,
    size: int | None = None,
    minimum: int = 0,
    band: Band = "high",
    seed: int = 0,
    lengths: Sequence[int] | None = None,
    label_probabilities: Sequence[float | None] | None = None,
) -> list[str]:
    """The chosen ids, best first: of each language as many rows as `pool_sizes` says, the same in every band.

    ids, langs, scores: (N,) each; scores higher for more separable samples. Ties are settled by id, so the choice does
    not depend on the order of the rows. Bands:

    - `high`, `low`, `middle`: that part of the language's ranking; `middle` leaves as many above it as below;
    - `random`: drawn from the whole language;
    - `permuted`: the highest after the scores were shuffled within the language, a control whose scores have the same
      distribution and mean nothing;
    - `length_matched`: drawn so that each tenth of the language's lengths gives as many rows as it gives to `high`, a
      control for choosing by length; needs `lengths` (N,), e.g. in tokens;
    - `lid_clean`: those that language identification is surest are in their language, a control for choosing by what a
      look at the text alone would say; needs `label_probabilities` (N,), None drawn at random after all others.

    Raises ValueError for an unknown band, arrays of unequal length, lengths or probabilities missing, ids that are not
    unique, NaN among the scores, and what `pool_sizes` refuses.
    """
    if band not in get_args(Band):
        raise ValueError(f"band {band!r}: choose {', '.join(get_args(Band))}")
    if not len(ids) == len(langs) == len(scores):
        raise ValueError(f"{len(ids)} ids, {len(langs)} languages and {len(scores)} scores")
    if len(set(ids)) < len(ids):
        raise ValueError(f"{len(ids) - len(set(ids)):,} ids occur more than once")
    if any(score != score for score in scores):
        raise ValueError("a score is NaN")
    if band == "length_matched" and (lengths is None or len(lengths) != len(ids)):
        raise ValueError("band length_matched needs the length of every row")
    if band == "lid_clean" and (label_probabilities is None or len(label_probabilities) != len(ids)):
        raise ValueError("band lid_clean needs the label probability of every row, or None for it")
    rows_of: dict[str, list[int]] = {}
    for i in sorted(range(len(ids)), key=lambda i: ids[i]):
        rows_of.setdefault(langs[i], []).append(i)
    counts = pool_sizes({lang: len(rows) for lang, rows in rows_of.items()}, rho=rho, size=size, minimum=minimum)

    rank = {i: (-float(score), ids[i]) for i, score in enumerate(scores)}
    if band == "low":
        rank = {i: (-negated, identity) for i, (negated, identity) in rank.items()}
    elif band == "lid_clean":
        assert label_probabilities is not None
        # A draw is above every negated probability.
        rank = {
            i: (draw(seed, ids[i]) if probability is None else -probability, ids[i])
            for i, probability in enumerate(label_probabilities)
        }
    elif band in ("random", "length_matched"):
        rank = {i: (draw(seed, ids[i]), ids[i]) for i in rank}
    elif band == "permuted":
        for rows in rows_of.values():
            drawn = sorted(rows, key=lambda i: draw(seed, f"permuted\0{ids[i]}"))
            values = [-float(scores[i]) for i in rows]
            rank.update({i: (value, ids[i]) for i, value in zip(drawn, values, strict=True)})
    chosen: list[int] = []
    for lang, rows in rows_of.items():
        ranked, count = sorted(rows, key=rank.__getitem__), counts[lang]
        if band == "length_matched":
            assert lengths is not None
            high = sorted(rows, key=lambda i: (-float(scores[i]), ids[i]))[:count]
            chosen += _length_matched(ranked, high, key=lambda i: (lengths[i], ids[i]))
        else:
            start = (len(rows) - count) // 2 if band == "middle" else 0
            chosen += ranked[start : start + count]
    return [ids[i] for i in sorted(chosen, key=rank.__getitem__)]


def _length_matched(drawn: list[int], high: list[int], *, key: Callable[[int], tuple[int, str]]) -> list[int]:
    """From `drawn`, in its order, as many rows of each bin of lengths as `high` has there."""
    bin_of = {i: place * LENGTH_BINS // len(drawn) for place, i in enumerate(sorted(drawn, key=key))}
    left = [0] * LENGTH_BINS
    for i in high:
        left[bin_of[i]] += 1
    chosen = []
    for i in drawn:
        if left[bin_of[i]]:
            left[bin_of[i]] -= 1
            chosen.append(i)
    return chosen


def refuse_small_pool(
    quota: Mapping[str, int],
    pool: Mapping[str, int],
    available: Mapping[str, int],
    *,
    rho: float | None = None,
    minimum: int = 0,
) -> None:
    """`PoolError` with the arithmetic where the pool of a language is smaller than its quota.

    rho, minimum: what the pool was made with; rho None means by size.
    """
    short = {lang: count for lang, count in quota.items() if count > pool.get(lang, 0)}
    if not short:
        return
    lines = []
    for lang, count in list(short.items())[:8]:
        rows, taken = available[lang], pool.get(lang, 0)
        how = f"{taken:,} of {rows:,} rows"
        if rho is not None:
            # The last rows of the rounding, and a minimum elsewhere, are settled on the largest shares.
            share = round(rows * rho)
            how = (
                f"round({rows:,} rows x rho {rho:g}) = {share:,}{f', settled to {taken:,},' if taken != share else ''}"
            )
        lines.append(f"{lang}: {how} in the pool, quota {count:,}")
    if len(short) > len(lines):
        lines.append(f"and {len(short) - len(lines)} more languages")
    remedy = (
        "preselect.size" if rho is None else f"preselect.rho ({_enough_for(quota, available, minimum):g} is enough)"
    )
    raise PoolError(
        "the pool is smaller than the quota:\n  " + "\n  ".join(lines) + f"\nraise {remedy} or lower the quota"
    )


def _enough_for(quota: Mapping[str, int], available: Mapping[str, int], minimum: int) -> float:
    """The smallest rho, in whole hundredths, whose pool has at least `quota` rows of each language."""
    for hundredths in range(1, 100):
        try:
            sizes = pool_sizes(available, rho=hundredths / 100, minimum=minimum)
        except PoolError:
            continue
        if all(count <= sizes.get(lang, 0) for lang, count in quota.items()):
            return hundredths / 100
    return 1.0
