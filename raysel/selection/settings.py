"""Which selector fills the quota from the pool."""

from typing import Literal

from raysel.settings import Section


class SelectionSettings(Section):
    """`random` (seeded), or `kmc`: k-means over the stage-1 vectors with the member nearest each centroid."""

    method: Literal["random", "kmc"] = "random"
