"""The 2-D map of the vectors: which samples are drawn, where they fall, where the labels stand."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

MARGIN = 0.06
# Last-token states have a few samples far from all others, which would press the rest into a dot.
SHOWN_QUANTILES = (0.003, 0.997)
# Around a dot: directions, and distances in pixels, in which a label may stand.
DIRECTIONS, RINGS = 12, (5.0, 9.0, 14.0, 20.0, 28.0)
LINE_STEPS = 12
# A label over a dot or a point of a line is as bad as one over so many square pixels of another label.
DOT_COST, LINE_COST = 60, 6


def share_out(counts: Mapping[str, int], total: int) -> dict[str, int]:
    """About `total` samples over the languages in proportion to their `counts`: of each at least one, at most all."""
    rows = sum(counts.values())
    share = min(1.0, total / rows) if rows else 0.0
    return {lang: min(count, max(1, round(count * share))) for lang, count in counts.items() if count}


def choose_rows(counts: Mapping[str, int], total: int, *, seed: int) -> dict[str, NDArray[np.int64]]:
    """Per language the numbers (0 to its count - 1, sorted) of the samples to draw: `share_out` of them, at random."""
    chosen = {}
    for lang, count in share_out(counts, total).items():
        generator = np.random.default_rng([seed, crc32(lang.encode())])
        chosen[lang] = np.sort(generator.choice(counts[lang], size=count, replace=False))
    return chosen


@dataclass(frozen=True)
class VectorMap:
    """points: (n, 2), scaled into [0, 1]; langs: (n,); explained: the share of variance along each axis;
    samples: of how many the vectors are; at_the_edge: how many were moved to the frame."""

    points: NDArray[np.float64]
    langs: list[str]
    explained: tuple[float, float]
    samples: int
    at_the_edge: int

    def centres(self) -> dict[str, tuple[float, float]]:
        """The median point of each language."""
        langs = np.array(self.langs)
        medians = {lang: np.median(self.points[langs == lang], axis=0) for lang in sorted(set(self.langs))}
        return {lang: (float(x), float(y)) for lang, (x, y) in medians.items()}


def project(vectors: NDArray[np.float32], langs: Sequence[str], *, samples: int) -> VectorMap:
    """The first two principal components of (n, d) vectors, n >= 3, d >= 2."""
    from sklearn.decomposition import PCA

    pca = PCA(n_components=2, svd_solver="full")
    points = pca.fit_transform(vectors.astype(np.float64))
    low, high = np.quantile(points, SHOWN_QUANTILES, axis=0)
    span = np.maximum(high - low, 1e-12)
    low, span = low - MARGIN * span, span * (1 + 2 * MARGIN)
    scaled = (points - low) / span
    outside = int(((scaled < 0) | (scaled > 1)).any(axis=1).sum())
    first, second = (float(share) for share in pca.explained_variance_ratio_)
    return VectorMap(np.clip(scaled, 0, 1), list(langs), (first, second), samples, outside)


def spread_labels(
    centres: NDArray[np.float64], width: float, height: float, *, rounds: int = 300
) -> NDArray[np.float64]:
    """Where labels of `width` x `height` stand, near `centres` (K, 2) and within [0, 1], apart from each other.

    Overlapping pairs push each other apart along the axis of the smaller overlap.
    """
    places = centres.astype(np.float64).copy()
    room = np.array([width, height])
    for _ in range(rounds):
        moved = False
        for i in range(len(places)):
            for j in range(i + 1, len(places)):
                apart = places[j] - places[i]
                overlap = room - np.abs(apart)
                if (overlap > 1e-9).all():
                    axis = int(overlap[1] / height < overlap[0] / width)
                    push = (overlap[axis] / 2 + 1e-6) * (1.0 if apart[axis] >= 0 else -1.0)
                    places[i, axis] -= push
                    places[j, axis] += push
                    moved = True
        np.clip(places, room / 2, 1 - room / 2, out=places)
        if not moved:
            break
    return places


def place_labels(
    dots: NDArray[np.float64],
    joined_to: NDArray[np.float64],
    widths: Sequence[float],
    height: float,
    size: tuple[float, float],
    order: Sequence[int],
) -> dict[int, NDArray[np.float64]]:
    """The middle of a label for each of (n, 2) dots, within (0, 0) and `size`; each beside its dot where there is room.

    One after the other, in `order`, takes the place around its dot that covers least of the labels placed before it,
    of the dots and of the lines from each dot to the point in `joined_to`; of equally free ones the nearest.
    """
    steps = np.linspace(0, 1, LINE_STEPS)[:, None, None]
    on_lines = (dots + steps * (joined_to - dots)).reshape(-1, 2)
    angles = np.arange(DIRECTIONS) * (2 * np.pi / DIRECTIONS) + np.pi / 2
    placed: dict[int, NDArray[np.float64]] = {}
    for row in order:
        half = np.array([widths[row], height]) / 2
        best: tuple[float, NDArray[np.float64]] | None = None
        for ring in RINGS:
            for angle in angles:
                centre = dots[row] + (half + ring) * [np.cos(angle), np.sin(angle)]
                if (centre < half).any() or (centre > np.array(size) - half).any():
                    continue
                cost = ring / 10
                for other, at in placed.items():
                    room = half + np.array([widths[other], height]) / 2 - np.abs(centre - at)
                    cost += float(np.prod(room)) if (room > 0).all() else 0.0
                cost += DOT_COST * int((np.abs(dots - centre) < half + 4).all(axis=1).sum())
                cost += LINE_COST * int((np.abs(on_lines - centre) < half).all(axis=1).sum())
                if best is None or cost < best[0]:
                    best = cost, centre
        placed[row] = dots[row] if best is None else best[1]
    return placed
