"""Which of the corpus's languages are trained on."""

from typing import Literal

from pydantic import Field, model_validator

from raysel.settings import Section


class LanguagesSettings(Section):
    """`all`, the languages in `chosen`, or `k` drawn at random (seeded); the others keep counting as clusters."""

    strategy: Literal["all", "chosen", "random"] = "all"
    chosen: list[str] = []
    k: int | None = Field(None, ge=1)

    @model_validator(mode="after")
    def strategy_has_what_it_needs(self) -> "LanguagesSettings":
        if self.strategy == "chosen" and not self.chosen:
            raise ValueError("strategy chosen needs the list chosen")
        if self.strategy == "random" and self.k is None:
            raise ValueError("strategy random needs k, the number of languages")
        return self

    def without_effect(self) -> list[str]:
        idle = []
        if self.chosen and self.strategy != "chosen":
            idle.append(f"chosen: the strategy is {self.strategy}")
        if self.k is not None and self.strategy != "random":
            idle.append(f"k: the strategy is {self.strategy}")
        return idle
