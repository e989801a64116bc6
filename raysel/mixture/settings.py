"""How many rows of each language are trained on, and in what order."""

from typing import Literal

from pydantic import Field, NonNegativeInt, model_validator

from raysel.settings import Section


class MixtureSettings(Section):
    """The quota: `everything` in the pool, `proportional` shares of `total` rows, or `counts` per language."""

    quota: Literal["everything", "proportional", "counts"] = "everything"
    total: int | None = Field(None, ge=1)
    counts: dict[str, NonNegativeInt] = {}

    @model_validator(mode="after")
    def quota_has_what_it_needs(self) -> "MixtureSettings":
        if self.quota == "proportional" and self.total is None:
            raise ValueError("quota proportional needs total, the number of rows to train on")
        if self.quota == "counts" and not any(self.counts.values()):
            raise ValueError("quota counts needs counts, e.g. {en: 100, sw: 50}, with at least one above 0")
        return self

    def without_effect(self) -> list[str]:
        idle = []
        if self.total is not None and self.quota != "proportional":
            idle.append(f"total: the quota is {self.quota}")
        if self.counts and self.quota != "counts":
            idle.append(f"counts: the quota is {self.quota}")
        return idle


class CurriculumSettings(Section):
    """The order of training: random, by separability up or down, or balanced over per-language quantile levels."""

    kind: Literal["random", "ascending", "descending", "balanced"] = "random"
    levels: int = Field(5, ge=1)

    def without_effect(self) -> list[str]:
        given = "levels" in self.model_fields_set
        return (
            [f"levels: the kind is {self.kind}, only balanced has levels"] if given and self.kind != "balanced" else []
        )
