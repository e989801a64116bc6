"""What a picture of chosen languages shows, and where each stands in it."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Shown:
    """A candidate. cluster: the chosen language that stands for it; place: None where its coordinates are not known."""

    lang: str
    script: str
    family: str | None
    chosen: bool
    cluster: str | None
    place: tuple[float, float] | None


@dataclass(frozen=True)
class Picture:
    """Places: (longitude, latitude) on a map, else the first two components; these hold `explained` of the variance."""

    kind: Literal["map", "components"]
    candidates: list[Shown]
    explained: tuple[float, float] = (0.0, 0.0)


def coordinates(distances_NP: NDArray[np.float64], points_P2: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n, 2) latitude and longitude, in degrees, of n places by their distances to P known ones.

    A distance is a fraction of half the Earth's circumference: its cosine is the product of two unit vectors, which
    makes the place the solution of a linear system.
    """
    latitude, longitude = np.radians(points_P2).T
    known = np.column_stack(
        [np.cos(latitude) * np.cos(longitude), np.cos(latitude) * np.sin(longitude), np.sin(latitude)]
    )
    x, y, z = np.linalg.lstsq(known, np.cos(np.pi * distances_NP).T, rcond=None)[0]
    return np.degrees(np.column_stack([np.arctan2(z, np.hypot(x, y)), np.arctan2(y, x)]))


def principal_components(features_ND: NDArray[np.float64]) -> tuple[NDArray[np.float64], tuple[float, float]]:
    """(n, 2) the first two principal components, and their shares of the variance, within [-1, 1]."""
    centred = features_ND - features_ND.mean(axis=0)
    left, singular, _ = np.linalg.svd(centred, full_matrices=False)
    points = np.zeros((len(centred), 2))
    width = min(2, len(singular))
    points[:, :width] = left[:, :width] * singular[:width]
    # The sign of a component is arbitrary: the row farthest out is on the positive side.
    points *= np.where(points[np.abs(points).argmax(axis=0), [0, 1]] < 0, -1.0, 1.0)
    shares = np.zeros(2)
    if singular.any():
        shares[:width] = (singular**2 / (singular**2).sum())[:width]
    return np.round(points / max(np.abs(points).max(), 1e-12), 4), (float(shares[0]), float(shares[1]))
