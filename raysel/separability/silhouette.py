"""Silhouette scores of language separability (LangGPS, section 3): s = (b - a) / max(a, b) over plain distances.

Shapes: N samples, d hidden units, K clusters (languages). Everything is built from *sums*: the summed distance of a
sample to each cluster, N x K in float64. Nothing of size N x N ever exists; a pair of samples is measured once and
counts for both. The scores of any subset or merging of the clusters follow from the same sums.
"""

import warnings
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from raysel.separability.blocks import NEAR, NEAR_FLOAT64, Block, Precision, make_block, moments, origin_of
from raysel.separability.distance_sums import block_sums

METRICS = ("euclidean", "sqeuclidean", "cosine")
# Two blocks are in memory at once, besides X itself. On a GPU this share of its memory: operands in lower precision
# take up to six times as much again.
BLOCK_BYTES = 64 << 20
GPU_SHARE = 1 / 24
ROWS_AT_ONCE = 1024
# Differences below this share of a row are the rounding of its own numbers.
ROUNDING = 8 * float(np.finfo(np.float64).eps)


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

    X: float16, bfloat16, float32 or float64 (other numbers become float64), NumPy or torch, on any device. metric:
    "euclidean", or "sqeuclidean" or "cosine", which take time linear in N. device: where to compute (default: where X
    is). precision: how inner products of float32 samples are multiplied, see `blocks.operands`. A sample alone
    in its cluster scores 0. Raises ValueError unless 2 <= clusters <= N - 1, and for NaN, infinity, a shape mismatch
    or labels that are not hashable.
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
    rows = _as_tensor(X)
    own, clusters = codes_of(labels)
    if rows.ndim != 2 or len(rows) != len(own):
        raise ValueError(f"X of shape {tuple(rows.shape)} and {len(own)} labels: X must be (N, d) with N labels")
    if not 2 <= clusters <= len(rows) - 1:
        raise ValueError(f"{clusters} clusters for {len(rows)} samples: 2 to N - 1 are needed")
    if metric not in METRICS:
        raise ValueError(f"metric {metric!r}: choose {', '.join(METRICS)}")
    if precision not in NEAR:
        raise ValueError(f"precision {precision!r}: choose {', '.join(NEAR)}")
    target = torch.device(device or rows.device)
    # The bits hang on the input alone, not on what the caller computes in.
    with torch.no_grad(), torch.autocast(target.type, enabled=False):
        if metric == "euclidean":
            sums, unit = euclidean_sums(rows, own, clusters, device=target, precision=precision)
        else:
            sums, unit = linear_sums(rows, own, clusters, metric=metric, device=target)
    # The sums are in units near the samples' spread, where nothing overflows; the score has none.
    found = silhouette_from_sums(sums, own, np.bincount(own, minlength=clusters))
    return Silhouette(found.score, found.a * unit, found.b * unit, found.nearest)


def _as_tensor(X: Any) -> torch.Tensor:
    """X in float16, bfloat16, float32 or float64; everything else that is a number becomes float64."""
    if not isinstance(X, torch.Tensor):
        array = np.asarray(X)
        if array.dtype.kind == "c":
            raise ValueError("X holds complex numbers")
        try:
            kept = array.dtype.kind == "f" and array.dtype.itemsize <= 8
            array = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("=") if kept else np.float64)
        except (TypeError, ValueError) as error:
            raise ValueError(f"X holds something that is no number: {error}") from error
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # a read-only array is only read
            X = torch.from_numpy(array)
    if X.is_complex():
        raise ValueError("X holds complex numbers")
    return X.detach() if X.is_floating_point() else X.double()


def codes_of(labels: Sequence[Hashable]) -> tuple[NDArray[np.int64], int]:
    """int64 (N,) cluster numbers of the labels, in sorted order where they can be sorted, and how many there are."""
    if isinstance(labels, np.ndarray | torch.Tensor):
        if labels.ndim != 1:
            raise ValueError(f"labels of shape {tuple(labels.shape)}: one label for each sample is needed")
        labels = labels.tolist()  # a tensor's elements are hashed by identity
    try:
        labels = list(labels)
        distinct: list[Any] = list(dict.fromkeys(labels))
    except TypeError as error:
        raise ValueError(f"labels must be a sequence of hashable values: {error}") from error
    if any(label != label for label in distinct):
        raise ValueError("a label is NaN")
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
) -> tuple[NDArray[np.float64], float]:
    """float64 (N, K), the summed Euclidean distances of every row of X (N, d) to the members of each cluster, and the
    unit they are in."""
    threads = 1 if device.type == "cuda" else torch.get_num_threads()
    order = np.argsort(own, kind="stable")
    origin = origin_of(moments(X, threads=threads), len(X))
    width = 8 if X.dtype == torch.float64 else 4
    block_bytes = BLOCK_BYTES
    if device.type == "cuda":
        block_bytes = int(torch.cuda.get_device_properties(device).total_memory * GPU_SHARE)
    blocks = max(1, round(len(X) * X.shape[1] * width / block_bytes))
    cuts = np.linspace(0, len(X), blocks + 1).astype(np.int64)
    sums, sizes = np.zeros((len(X), clusters)), np.bincount(own, minlength=clusters)

    def block(k: int) -> tuple[NDArray[np.int64], Block]:
        rows = order[cuts[k] : cuts[k + 1]]
        how: dict[str, Any] = {"device": device, "precision": precision, "sizes": sizes, "threads": threads}
        return rows, make_block(X, rows, own[rows], origin, **how)

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
    return sums, origin.scale


def linear_sums(
    X: torch.Tensor, own: NDArray[np.int64], clusters: int, *, metric: str, device: torch.device
) -> tuple[NDArray[np.float64], float]:
    """float64 (N, K), summed squared Euclidean or cosine distances, and the unit they are in: O(N K d).

    The squared distances of x to the n members of a cluster add up to n |x - c|^2 + SS, with c their mean and SS their
    squared distances from it. The cosine distance is half the squared distance of the unit vectors.
    """
    origin = origin_of(moments(X), len(X))
    mean, codes = (origin.mean / origin.scale).to(device), torch.from_numpy(own).to(device)
    starts = range(0, len(X), ROWS_AT_ONCE)

    def part(start: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Rows, their clusters, and which of them have a direction (all of them, where it does not matter)."""
        rows = X[start : start + ROWS_AT_ONCE].to(device, torch.float64)
        there = torch.ones(len(rows), dtype=torch.bool, device=device)
        if metric == "sqeuclidean":
            rows = rows / origin.scale - mean
        elif rows.shape[1]:
            largest = rows.abs().amax(1, keepdim=True)
            there = largest[:, 0] > 0
            rows = rows / torch.where(largest > 0, largest, 1.0)
            rows = rows / rows.norm(dim=1, keepdim=True).clamp_min(1.0)
        return rows, codes[start : start + ROWS_AT_ONCE], there

    sizes = torch.zeros(clusters, dtype=torch.float64, device=device)
    centres = torch.zeros(clusters, X.shape[1], dtype=torch.float64, device=device)
    for start in starts:
        rows, code, there = part(start)
        sizes.index_add_(0, code[there], torch.ones(int(there.sum()), dtype=torch.float64, device=device))
        centres.index_add_(0, code[there], rows[there])
    centres /= sizes.clamp_min(1)[:, None]
    squares = torch.zeros(clusters, dtype=torch.float64, device=device)
    for start in starts:
        rows, code, there = part(start)
        squares.index_add_(0, code[there], _beyond_rounding(rows - centres[code], rows)[there])
    absent = torch.from_numpy(np.bincount(own, minlength=clusters)).to(device) - sizes
    sums = np.empty((len(X), clusters))
    for start in starts:
        rows, code, there = part(start)
        squared = _to_centres(rows, centres)
        found = sizes * squared + squares
        if metric == "cosine":
            # A row of zeros is at distance 1 from every row; from itself it is at 0, as every row is.
            found = found / 2 + absent
            found[~there] = sizes + absent
            found[torch.arange(len(rows), device=device), code] -= (~there).double()
        sums[start : start + ROWS_AT_ONCE] = found.cpu().numpy()
    return sums, 1.0 if metric == "cosine" else origin.scale * origin.scale


def _to_centres(rows: torch.Tensor, centres: torch.Tensor) -> torch.Tensor:
    """float64 (n, K) squared distances, by their difference where the Gram form has lost its digits."""
    norm_x, norm_y = rows.square().sum(1), centres.square().sum(1)
    total = norm_x[:, None] + norm_y
    squared = total - 2 * rows @ centres.T
    close = (squared < NEAR_FLOAT64 * total).nonzero()
    for pairs in close.split(ROWS_AT_ONCE):
        i, j = pairs.T
        squared[i, j] = _beyond_rounding(rows[i] - centres[j], rows[i])
    return squared


def _beyond_rounding(difference: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """(n,) squared lengths of differences (n, d); 0 where they are no more than the rounding of the rows."""
    squared = difference.square().sum(1)
    return torch.where(squared > ROUNDING**2 * rows.square().sum(1), squared, 0.0)
