"""Silhouette scores of language separability (LangGPS, section 3): s = (b - a) / max(a, b) over plain distances.

Shapes: N samples, d hidden units, K clusters (languages). Everything is built from *sums*: the summed distance of a
sample to each cluster, N x K in float64. Nothing of size N x N ever exists; a pair of samples is measured once and
counts for both. The scores of any subset or merging of the clusters follow from the same sums.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from raysel.separability.distance_sums import Block, Precision, block_sums, make_block, moments, origin_of

METRICS = ("euclidean", "sqeuclidean", "cosine")
# Two blocks are in memory at once, besides X itself. On a GPU this share of its memory: operands in lower precision
# take up to six times as much again.
BLOCK_BYTES = 64 << 20
GPU_SHARE = 1 / 24
ROWS_AT_ONCE = 1024


@dataclass(frozen=True)
class Silhouette:
    """float64 (N,) each: the score, the mean distance to the own cluster (a) and to the nearest other one (b);
    nearest: int64 (N,), which other cluster that is."""

    score: NDArray[np.float64]
    a: NDArray[np.float64]
    b: NDArray[np.float64]
    nearest: NDArray[np.int64]


def silhouette_samples(
    X: np.ndarray | torch.Tensor,
    labels: Sequence[Hashable],
    *,
    metric: str = "euclidean",
    device: str | None = None,
    precision: Precision = "float32",
) -> NDArray[np.float64]:
    """float64 (N,): the silhouette score of every row of X (N, d) under `labels` (N,), as scikit-learn defines it.

    X: float16, float32 or float64 (integers become float64), NumPy or torch, on any device. metric: "euclidean", or
    "sqeuclidean" or "cosine", which take time linear in N. device: where to compute (default: where X is). precision:
    how inner products of float32 samples are multiplied, see `distance_sums.operands`. A sample alone in its cluster
    scores 0. Raises ValueError unless 2 <= clusters <= N - 1, and for NaN, infinity or a shape mismatch.
    """
    return silhouette_details(X, labels, metric=metric, device=device, precision=precision).score


def silhouette_details(
    X: np.ndarray | torch.Tensor,
    labels: Sequence[Hashable],
    *,
    metric: str = "euclidean",
    device: str | None = None,
    precision: Precision = "float32",
) -> Silhouette:
    """`silhouette_samples` with a, b and the nearest other cluster, an index into the sorted labels."""
    rows = torch.as_tensor(X)
    if rows.ndim != 2 or len(rows) != len(labels):
        raise ValueError(f"X of shape {tuple(rows.shape)} and {len(labels)} labels: X must be (N, d) with N labels")
    if not rows.is_floating_point():
        rows = rows.double()
    own, clusters = codes_of(labels)
    if not 2 <= clusters <= len(rows) - 1:
        raise ValueError(f"{clusters} clusters for {len(rows)} samples: 2 to N - 1 are needed")
    if metric not in METRICS:
        raise ValueError(f"metric {metric!r}: choose {', '.join(METRICS)}")
    target = torch.device(device or rows.device)
    if metric == "euclidean":
        sums = euclidean_sums(rows, own, clusters, device=target, precision=precision)
    else:
        sums = linear_sums(rows, own, clusters, metric=metric, device=target)
    return silhouette_from_sums(sums, own, np.bincount(own, minlength=clusters))


def codes_of(labels: Sequence[Hashable]) -> tuple[NDArray[np.int64], int]:
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


def silhouette_from_sums(sums: NDArray[np.float64], own: NDArray[np.int64], sizes: NDArray[np.int64]) -> Silhouette:
    """Scores from sums (N, K), the samples' clusters (N,) and the clusters' sizes (K,).

    A cluster of size 0 is no cluster: that is how a subset of languages is rescored. Where a sample has no other
    cluster, b is infinite and the score 0.
    """
    row = np.arange(len(own))
    mates = sizes[own] - 1
    a = np.divide(sums[row, own], mates, out=np.zeros(len(own)), where=mates > 0)
    means = np.divide(sums, sizes, out=np.full(sums.shape, np.inf), where=sizes > 0)
    means[row, own] = np.inf
    nearest = means.argmin(axis=1)
    b = means[row, nearest]
    larger = np.maximum(a, b)
    scored = (mates > 0) & (larger > 0) & np.isfinite(b)
    score = np.divide(b - a, larger, out=np.zeros(len(own)), where=scored)
    return Silhouette(score, a, b, nearest.astype(np.int64))


def euclidean_sums(
    X: torch.Tensor,
    own: NDArray[np.int64],
    clusters: int,
    *,
    device: torch.device,
    precision: Precision = "float32",
) -> NDArray[np.float64]:
    """float64 (N, K): the summed Euclidean distances of every row of X (N, d) to the members of each cluster."""
    threads = 1 if device.type == "cuda" else torch.get_num_threads()
    order = np.argsort(own, kind="stable")
    origin = origin_of(moments(X, threads=threads), len(X))
    width = 8 if X.dtype == torch.float64 else 4
    block_bytes = BLOCK_BYTES
    if device.type == "cuda":
        block_bytes = int(torch.cuda.get_device_properties(device).total_memory * GPU_SHARE)
    blocks = max(1, round(len(X) * X.shape[1] * width / block_bytes))
    cuts = np.linspace(0, len(X), blocks + 1).astype(np.int64)
    sums = np.zeros((len(X), clusters))

    def block(k: int) -> tuple[NDArray[np.int64], Block]:
        rows = order[cuts[k] : cuts[k + 1]]
        return rows, make_block(X, rows, own[rows], origin, device=device, precision=precision, threads=threads)

    rows_x, x = block(0)
    for i in range(blocks):
        sums[np.ix_(rows_x, x.cells)] += block_sums(x, threads=threads)[0]
        partner = None
        # Backwards, so that the last partner is the next block itself.
        for j in range(blocks - 1, i, -1):
            partner = y = None  # let go of one before the next is made
            partner = rows_y, y = block(j)
            forth, back = block_sums(x, y, threads=threads)
            sums[np.ix_(rows_x, y.cells)] += forth
            sums[np.ix_(rows_y, x.cells)] += back
        if partner is not None:
            rows_x, x = partner
    return sums * origin.scale


def linear_sums(
    X: torch.Tensor, own: NDArray[np.int64], clusters: int, *, metric: str, device: torch.device
) -> NDArray[np.float64]:
    """float64 (N, K) summed squared Euclidean or cosine distances, from the clusters' sums alone: O(N K d)."""
    starts = range(0, len(X), ROWS_AT_ONCE)
    mean = origin_of(moments(X), len(X)).mean.to(device)
    codes = torch.from_numpy(own).to(device)

    def prepared(start: int) -> tuple[torch.Tensor, torch.Tensor]:
        rows = X[start : start + ROWS_AT_ONCE].to(device, torch.float64)
        if metric == "sqeuclidean":
            return rows - mean, codes[start : start + ROWS_AT_ONCE]
        norms = rows.norm(dim=1, keepdim=True)
        return rows / torch.where(norms > 0, norms, 1.0), codes[start : start + ROWS_AT_ONCE]

    centres = torch.zeros(clusters, X.shape[1], dtype=torch.float64, device=device)
    squares = torch.zeros(clusters, dtype=torch.float64, device=device)
    for start in starts:
        rows, code = prepared(start)
        centres.index_add_(0, code, rows)
        squares.index_add_(0, code, rows.square().sum(1))
    sizes = torch.from_numpy(np.bincount(own, minlength=clusters)).to(device, torch.float64)
    sums = np.empty((len(X), clusters))
    for start in starts:
        rows, code = prepared(start)
        norm, products = rows.square().sum(1), rows @ centres.T
        if metric == "sqeuclidean":
            part = sizes * norm[:, None] - 2 * products + squares
        else:
            # A row of zeros is at distance 1 from every row; from itself it is at 0, as every row is.
            part = sizes - products
            part[torch.arange(len(rows)), code] -= (norm == 0).double()
        sums[start : start + ROWS_AT_ONCE] = part.clamp_min_(0).cpu().numpy()
    return sums
