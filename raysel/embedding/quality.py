"""What is worth knowing of vectors before anything is computed from them."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

LEAST_SPREAD = 1e-3


def describe(vectors: np.ndarray, langs: Sequence[str], lengths: np.ndarray, truncated: np.ndarray) -> dict[str, Any]:
    """The quality of one shard, by language, as plain numbers that `merged` adds up.

    vectors: float (N, d), finite; langs: (N,); lengths: int (N,), tokens fed; truncated: bool (N,).
    """
    norms = np.linalg.norm(vectors.astype(np.float64), axis=1)
    codes = np.asarray(langs, dtype=object)
    found = {}
    for lang in sorted(set(langs)):
        own = codes == lang
        found[lang] = {
            "rows": int(own.sum()),
            "tokens": int(lengths[own].sum()),
            "truncated": int(truncated[own].sum()),
            "norm_sum": float(norms[own].sum()),
            "norm_least": float(norms[own].min()),
            "norm_most": float(norms[own].max()),
        }
    return found


def merged(shards: Iterable[Mapping[str, Mapping[str, Any]]]) -> dict[str, dict[str, Any]]:
    """The quality of all shards: by language rows, tokens, truncated, and the least, mean and largest norm."""
    total: dict[str, dict[str, Any]] = {}
    for shard in shards:
        for lang, own in shard.items():
            so_far = total.setdefault(lang, dict.fromkeys(own, 0) | {"norm_least": float("inf")})
            for name, value in own.items():
                pick = {"norm_least": min, "norm_most": max}.get(name)
                so_far[name] = pick(so_far[name], value) if pick else so_far[name] + value
    for own in total.values():
        own["norm_mean"] = own.pop("norm_sum") / own["rows"]
    return dict(sorted(total.items()))


def duplicates_by_language(hashes: np.ndarray, langs: np.ndarray) -> dict[str, int]:
    """How many samples of each language are fed the very tokens that another sample is fed too.

    hashes: uint64 (N,), of the tokens fed; langs: str (N,).
    """
    _, inverse, counts = np.unique(hashes, return_inverse=True, return_counts=True)
    return dict(sorted(Counter(langs[counts[inverse] > 1].tolist()).items()))


def concerns(quality: Mapping[str, Mapping[str, Any]], duplicates: Mapping[str, int], max_tokens: int) -> list[str]:
    """Sentences for the user about what may spoil the scores."""
    found = []
    cut = {lang: own["truncated"] / own["rows"] for lang, own in quality.items() if own["truncated"]}
    if cut:
        shares = [f"{lang} {share:.1%}" for lang, share in sorted(cut.items(), key=lambda item: -item[1])]
        more = f" and {len(shares) - 8} more languages" if len(shares) > 8 else ""
        found.append(f"samples cut at {max_tokens:,} tokens, by language: {', '.join(shares[:8])}{more}")
    if duplicates:
        rows = sum(own["rows"] for own in quality.values())
        most_of = ", ".join(f"{lang} {count:,}" for lang, count in Counter(duplicates).most_common(8))
        found.append(
            f"{sum(duplicates.values()):,} of {rows:,} samples are fed the same tokens as another one: {most_of}"
        )
    least = min(own["norm_least"] for own in quality.values())
    most = max(own["norm_most"] for own in quality.values())
    if most - least <= LEAST_SPREAD * most:
        found.append(
            f"all vectors have nearly the same length ({least:.4g} to {most:.4g}): the model may not be trained"
        )
    return found
