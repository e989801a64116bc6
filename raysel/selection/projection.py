"""A random projection of gradients that keeps inner products, with a byte for each number and no matrix.

Shapes: B samples, P numbers of all matrices together, D width of the projection.
"""

import hashlib

import numpy as np
import torch

WIDTH = 8192  # as LESS projects


class BlockSketch:
    """A CountSketch (Charikar, Chen and Farach-Colton 2002) in blocks: P numbers come down to D.

    Each number is given a random sign; every matrix is cut into chunks of D numbers, each chunk is shifted cyclically
    by a random offset, and all chunks are added up. Sums over additions instead of a product with a P x D matrix: P
    operations for a sample where a dense projection takes P x D, which for 1e8 numbers is 1e12.

    Inner products are unbiased: <Sx, Sy> is <x, y> and the sum over pairs i < k that fall on the same place of
    s_i s_k (x_i y_k + x_k y_i), with signs of mean 0. Its variance is the sum of (x_i y_k + x_k y_i)^2 over the pairs,
    each with the probability that it falls on the same place. Two numbers of one chunk never do, two of different
    chunks do with probability 1/D, whatever their places, since each chunk has an offset of its own. A dense projection
    by random signs over sqrt(D) has the same sum with 1/D for every pair, which is
    (|x|^2 |y|^2 + <x, y>^2 - 2 sum x_i^2 y_i^2) / D: a sketch's variance is never above it, for no x and y.

    Signs and offsets belong to the seed and the matrix's name: the same on every device and worker, in whatever order
    the matrices come. They are kept, a byte for each number.
    """

    def __init__(self, width: int = WIDTH, *, seed: int) -> None:
        self.width, self.seed = width, seed
        self.drawn: dict[str, tuple[torch.Tensor, list[int]]] = {}
        self.sums: torch.Tensor | None = None

    def begin(self) -> None:
        """Forget what was added since the last result."""
        self.sums = None

    def add(self, name: str, numbers_BP: torch.Tensor) -> None:
        """Add the matrix `name`, float32, flattened for each of B samples."""
        samples, size = numbers_BP.shape
        signs, offsets = self._draws(name, size, numbers_BP.device)
        if self.sums is None:
            # Twice the width: what a shift moves over the edge is folded back in the end.
            self.sums = numbers_BP.new_zeros((samples, 2 * self.width))
        for offset, start in zip(offsets, range(0, size, self.width), strict=True):
            chunk = numbers_BP[:, start : start + self.width]
            place = self.sums[:, offset : offset + chunk.shape[1]]
            # One pass without a signed copy: measured on two cores, six times as fast as multiplying first.
            place.addcmul_(chunk, signs[start : start + self.width])

    def result(self) -> torch.Tensor:
        """float32 (B, D): the projection of what was added since the last result."""
        assert self.sums is not None, "nothing was added"
        folded = self.sums[:, : self.width] + self.sums[:, self.width :]
        self.sums = None
        return folded

    def _draws(self, name: str, size: int, device: torch.device) -> tuple[torch.Tensor, list[int]]:
        """Signs, int8 (size,), and the offset of each chunk."""
        if name not in self.drawn:
            own = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big")
            generator = np.random.default_rng([self.seed, own])
            offsets = generator.integers(self.width, size=-(-size // self.width)).tolist()
            signs = generator.integers(2, size=size, dtype=np.int8) * 2 - 1
            self.drawn[name] = torch.from_numpy(signs).to(device), offsets
        return self.drawn[name]
