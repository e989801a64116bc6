"""Separability scores in a space that does not grow with their number: a histogram per language, and who is nearest."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BINS = 2000  # over [-1, 1]: a quantile is right to 0.001
KERNEL = 0.015  # standard deviation of the smoothing, in units of the score, of the narrowest curves


@dataclass(frozen=True)
class Nearest:
    """The other language that `share` of a language's samples are nearest to."""

    lang: str
    share: float


class ScoreSummary:
    """Adds up scores batch by batch. languages: K codes, in the order of every (K, ...) array here."""

    def __init__(self, languages: Sequence[str]) -> None:
        self.languages = list(languages)
        self.row = {lang: k for k, lang in enumerate(self.languages)}
        self.histogram = np.zeros((len(self.languages), BINS), dtype=np.int64)
        self.totals = np.zeros(len(self.languages))
        self.negative = np.zeros(len(self.languages), dtype=np.int64)
        self.nearest: list[Counter[str]] = [Counter() for _ in self.languages]

    def add(self, langs: Sequence[str], scores: NDArray[np.float64], nearest: Sequence[str] | None = None) -> None:
        """langs: (N,) own language; scores: (N,) in [-1, 1]; nearest: (N,) the nearest other language."""
        own = np.array([self.row[lang] for lang in langs], dtype=np.int64)
        bins = np.clip(((scores + 1) / 2 * BINS).astype(np.int64), 0, BINS - 1)
        np.add.at(self.histogram, (own, bins), 1)
        self.totals += np.bincount(own, weights=scores, minlength=len(self.languages))
        self.negative += np.bincount(own[scores < 0], minlength=len(self.languages))
        if nearest is not None:
            for (lang, other), count in Counter(zip(langs, nearest, strict=True)).items():
                self.nearest[self.row[lang]][other] += count

    @property
    def counts(self) -> NDArray[np.int64]:
        """(K,) samples of each language."""
        counts: NDArray[np.int64] = self.histogram.sum(axis=1)
        return counts

    @property
    def mean(self) -> float | None:
        """Over all samples; None where there are none."""
        rows = int(self.counts.sum())
        return float(self.totals.sum()) / rows if rows else None

    def mean_of(self, lang: str) -> float | None:
        k = self.row.get(lang)
        if k is None or not self.counts[k]:
            return None
        return float(self.totals[k] / self.counts[k])

    def count_of(self, lang: str) -> int:
        return int(self.counts[self.row[lang]]) if lang in self.row else 0

    def negative_share(self, lang: str) -> float:
        """The share of samples that are nearer to another language than to their own."""
        return float(self.negative[self.row[lang]]) / max(1, self.count_of(lang))

    def nearest_to(self, lang: str, how_many: int) -> list[Nearest]:
        """The languages that its samples are most often nearest to, most frequent first (ties by code)."""
        counted = self.nearest[self.row[lang]]
        total = max(1, sum(counted.values()))
        ranked = sorted(counted.items(), key=lambda pair: (-pair[1], pair[0]))
        return [Nearest(other, count / total) for other, count in ranked[:how_many]]

    def by_mean(self) -> list[str]:
        """The languages that have samples, the most separable first (ties by code)."""
        present = [lang for lang in self.languages if self.count_of(lang)]
        return sorted(present, key=lambda lang: (-(self.mean_of(lang) or 0.0), lang))

    def quantile(self, lang: str, q: float) -> float:
        """The centre of the bin that holds quantile `q` of a language's scores."""
        cumulative = np.cumsum(self.histogram[self.row[lang]])
        return float(bin_centres()[int(np.searchsorted(cumulative, q * cumulative[-1]))])

    def kernel_width(self, lang: str) -> float:
        """The standard deviation of a language's smoothing: Silverman's rule (1986, eq. 3.31), not under KERNEL."""
        k = self.row[lang]
        count = max(1, self.count_of(lang))
        centres = bin_centres()
        mean = self.totals[k] / count
        spread = float(np.sqrt((self.histogram[k] * (centres - mean) ** 2).sum() / count))
        robust = (self.quantile(lang, 0.75) - self.quantile(lang, 0.25)) / 1.34
        return max(KERNEL, 0.9 * min(spread, robust or spread) * count**-0.2)

    def density(self, lang: str, width: float) -> NDArray[np.float64]:
        """(BINS,) samples per unit of score, smoothed with a Gaussian of standard deviation `width`: area = count."""
        reach = min(int(4 * width * BINS / 2), BINS // 2 - 1)
        offsets = np.arange(-reach, reach + 1) * (2 / BINS)
        kernel = np.exp(-0.5 * (offsets / width) ** 2)
        counts = self.histogram[self.row[lang]].astype(np.float64)
        return np.convolve(counts, kernel / kernel.sum(), mode="same") * (BINS / 2)


def bin_centres() -> NDArray[np.float64]:
    """(BINS,) from -1 to 1."""
    return np.linspace(-1, 1, BINS, endpoint=False) + 1 / BINS
