"""How separability is scored and how the pool is taken from the scores."""

from typing import Literal

from pydantic import Field

from raysel.settings import Section, execution


class SeparabilitySettings(Section):
    """Silhouette of language separability over plain Euclidean distances (LangGPS, section 3)."""

    block_rows: int = execution(8192, ge=1)


class PreselectSettings(Section):
    """The pool: a share rho of each language's rows, from the high or low end of separability, or at random."""

    rho: float = Field(0.2, gt=0, le=1)
    band: Literal["high", "low", "random"] = "high"
