"""Silhouette scores of language separability (LangGPS, section 3): s = (b - a) / max(a, b) over plain distances.

Shapes: N samples, M other samples, d hidden units, K clusters (languages). Everything is built from *sums*: the
summed distance of a sample to each cluster, N x K in float64. Nothing of size N x N ever exists; a pair of samples is
measured once and counts for both. The scores of any subset of the clusters follow from the same sums.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

TILE = 2048
# Below this share of |x|^2 + |y|^2 the Gram form |x|^2 - 2xy + |y|^2 has lost most of its digits (its error is some
# 1e-7 of the sum in float32): such near-duplicate pairs are measured again by their difference.
NEAR_DUPLICATE = {torch.float32: 1e-3, torch.float64: 1e-6}
PAIRS_AT_ONCE = 1 << 24


@dataclass(frozen=True)
class Silhouette:
    """float64 (N,) each: the score, the mean distance to the own cluster (a) and to the nearest other one (b);
    nearest: int64 (N,), which other cluster that is."""

    score: np.ndarray
    a: np.ndarray
    b: np.ndarray
    nearest: np.ndarray


def silhouette_samples(
    X: np.ndarray | torch.Tensor, labels: Sequence[Hashable], *, metric: str = "euclidean", device: str | None = None
) -> np.ndarray:
    """float64 (N,): the silhouette score of every row of X (N, d) under `labels` (N,), as scikit-learn defines it.

    metric is "euclidean", "sqeuclidean" or "cosine"; the latter two take time linear in N. A sample alone in its
    cluster scores 0. Raises ValueError unless 2 <= clusters <= N - 1, and for NaN, infinity or a shape mismatch.
    """
    return silhouette_details(X, labels, metric=metric, device=device).score


def silhouette_details(
    X: np.ndarray | torch.Tensor, labels: Sequence[Hashable], *, metric: str = "euclidean", device: str | None = None
) -> Silhouette:
    """`silhouette_samples` with a, b and the nearest other cluster, an index into the sorted labels."""
    rows = torch.as_tensor(X)
    if rows.ndim != 2 or len(rows) != len(labels):
        raise ValueError(f"X of shape {tuple(rows.shape)} and {len(labels)} labels: X must be (N, d) with N labels")
    if not rows.is_floating_point():
        rows = rows.double()
    if not bool(torch.isfinite(rows).all()):
        raise ValueError("X holds NaN or infinity")
    own, clusters = codes_of(labels)
    if not 2 <= clusters <= len(rows) - 1:
        raise ValueError(f"{clusters} clusters for {len(rows)} samples: 2 to N - 1 are needed")
    if metric == "euclidean":
        mean = rows.double().mean(0)
        scale = float((rows.double() - mean).square().sum(1).mean().sqrt()) or 1.0
        target = torch.device(device or ("cuda" if rows.is_cuda else "cpu"))
        sums = block_sums(centre(rows, mean, scale).to(target), own, clusters)[0] * scale
    elif metric in ("sqeuclidean", "cosine"):
        sums = linear_sums(rows, own, clusters, metric)
    else:
        raise ValueError(f"metric {metric!r}: choose euclidean, sqeuclidean or cosine")
    return silhouette_from_sums(sums, own, np.bincount(own, minlength=clusters))


def codes_of(labels: Sequence[Hashable]) -> tuple[np.ndarray, int]:
    """int64 (N,) cluster numbers of the labels, in sorted order where they can be sorted, and how many there are."""
    if isinstance(labels, np.ndarray | torch.Tensor):
        labels = labels.tolist()  # a tensor's elements are hashed by identity
    distinct: list[Any] = list(dict.fromkeys(labels))
    try:
        distinct.sort()
    except TypeError:
        distinct.sort(key=repr)
    number = {label: i for i, label in enumerate(distinct)}
    return np.array([number[label] for label in labels], dtype=np.int64), len(distinct)


def silhouette_from_sums(sums: np.ndarray, own: np.ndarray, sizes: np.ndarray) -> Silhouette:
    """Scores from float64 sums (N, K), the samples' clusters int64 (N,) and the clusters' sizes int64 (K,).

    A cluster of size 0 is no cluster: that is how a subset of languages is rescored.
    """
    row = np.arange(len(own))
    mates = sizes[own] - 1
    a = np.divide(sums[row, own], mates, out=np.zeros(len(own)), where=mates > 0)
    means = np.divide(sums, sizes, out=np.full(sums.shape, np.inf), where=sizes > 0)
    means[row, own] = np.inf
    nearest = means.argmin(axis=1)
    b = means[row, nearest]
    larger = np.maximum(a, b)
    score = np.divide(b - a, larger, out=np.zeros(len(own)), where=(mates > 0) & (larger > 0))
    return Silhouette(score, a, b, nearest.astype(np.int64))


def centre(X: torch.Tensor, mean: torch.Tensor, scale: float) -> torch.Tensor:
    """(X - mean) / scale, computed in float64; float64 for float64 input, else float32.

    Distances do not change by the shift, but the Gram form keeps its digits only near the origin.
    """
    shifted = (X.double() - mean.to(X.device)) / scale
    return shifted if X.dtype == torch.float64 else shifted.float()


def block_sums(
    X: torch.Tensor,
    own_x: np.ndarray,
    clusters: int,
    Y: torch.Tensor | None = None,
    own_y: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Summed Euclidean distances between two blocks of samples, or inside one (Y left out).

    X (N, d) and Y (M, d) in float32 or float64, near the origin. Returns float64 (N, K), each row of X to the clusters
    among the rows of Y, and float64 (M, K), each row of Y to those among X; inside one block every pair of
    tiles is measured once and the second array is empty.
    """
    inside = Y is None
    other, own_other = (X, own_x) if Y is None or own_y is None else (Y, own_y)
    sums_x = torch.zeros(len(X), clusters, dtype=torch.float64, device=X.device)
    sums_y = sums_x if inside else torch.zeros(len(other), clusters, dtype=torch.float64, device=X.device)
    member_x, member_y = (_membership(own, clusters, X) for own in (own_x, own_other))
    norm_x, norm_y = X.square().sum(1), other.square().sum(1)
    for i in range(0, len(X), TILE):
        rows = slice(i, i + TILE)
        for j in range(i if inside else 0, len(other), TILE):
            columns = slice(j, j + TILE)
            distances = _distances(X[rows], other[columns], norm_x[rows], norm_y[columns])
            sums_x[rows] += distances @ member_y[columns]
            if not inside or j > i:
                sums_y[columns] += distances.T @ member_x[rows]
    empty = np.zeros((0, clusters))
    return sums_x.cpu().numpy(), empty if inside else sums_y.cpu().numpy()


def _membership(own: np.ndarray, clusters: int, like: torch.Tensor) -> torch.Tensor:
    """0/1 (N, K): a product with it sums distances by cluster at the speed of a matrix product."""
    return torch.nn.functional.one_hot(torch.as_tensor(own), clusters).to(like)


def _distances(X: torch.Tensor, Y: torch.Tensor, norm_x: torch.Tensor, norm_y: torch.Tensor) -> torch.Tensor:
    """Euclidean distances (n, m) of a tile, accurate for near-duplicates too."""
    total = norm_x[:, None] + norm_y[None, :]
    squared = torch.addmm(total, X, Y.T, alpha=-2)
    close = (squared < NEAR_DUPLICATE[X.dtype] * total).nonzero()
    distances = squared.clamp_min_(0).sqrt_()
    step = max(1, PAIRS_AT_ONCE // X.shape[1])
    for start in range(0, len(close), step):
        i, j = close[start : start + step].T
        distances[i, j] = (X[i] - Y[j]).square().sum(1).sqrt()
    return distances


def linear_sums(X: torch.Tensor, own: np.ndarray, clusters: int, metric: str) -> np.ndarray:
    """float64 (N, K) summed squared Euclidean or cosine distances, from the clusters' sums alone: O(N K d)."""
    rows = X.double()
    if metric == "cosine":
        norms = rows.norm(dim=1, keepdim=True)
        rows = rows / torch.where(norms > 0, norms, 1.0)
    else:
        rows = rows - rows.mean(0)
    member = _membership(own, clusters, rows)
    centre_sums, norm = member.T @ rows, rows.square().sum(1)
    products = rows @ centre_sums.T
    if metric == "sqeuclidean":
        sums = member.sum(0) * norm[:, None] - 2 * products + (member.T @ norm)
    else:
        # A row of zeros is at distance 1 from every row; from itself it is at 0, as every row is.
        sums = member.sum(0) - products - member * (norm == 0).double()[:, None]
    return sums.clamp_min(0).cpu().numpy()
