"""Which of the corpus's languages are trained on."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from raysel.settings import Section, execution

Strategy = Literal["all", "chosen", "random", "fam", "typo", "geo", "learn", "sem", "mixed", "resource", "pretrain"]
Group = Literal["syntax", "phonology", "inventory", "geo", "learned", "semantic"]
Cover = Literal["most", "least", "spread"]
WithoutFeatures = Literal["refuse", "leave_out"]
# strategy: the settings that it alone, or with few others, has a use for.
USES = {
    "chosen": ("chosen",),
    "sem": ("vectors",),
    "mixed": ("weights", "vectors"),
    "pretrain": ("pretrain", "cover"),
}
NEEDS = {
    "chosen": ("chosen", "the list of languages"),
    "sem": ("vectors", "a file of vectors in word2vec's text form"),
    "pretrain": ("pretrain", "a CSV or JSON file of each language's share of the model's pre-training data"),
}
WITH_DATA = ("fam", "typo", "geo", "learn", "sem", "mixed", "pretrain")
WITH_PUBLISHED_LISTS = ("typo", "geo", "learn", "sem", "fam", "random")


class LanguagesSettings(Section):
    """Which languages are trained on; the others keep counting as clusters of separability (docs/languages.md).

    strategy: which of them: `all`; those in `chosen`; or k of the candidates, by one of the others. `random`: drawn at
    random. `fam`: of different language families. `typo`, `geo`, `learn`, `sem`: by k-means on typological,
    geographical, learned or semantic features; `mixed`: on several groups of features with weights. `resource`: those
    with the most rows. `pretrain`: by their shares of the model's pre-training data.
    chosen: the languages of strategy chosen.
    k: how many languages the other strategies take.
    candidates: what they choose from (none: all of the corpus's languages).
    vectors: a file of semantic vectors in word2vec's text form, by ISO 639-3 code, for sem and mixed.
    pretrain: a CSV or JSON file of each language's share of the model's pre-training data, for strategy pretrain.
    cover: which of the ranking by these shares are taken: the most covered, the least, or evenly spread.
    weights: of each group of features, for mixed (none: every group weighs 1).
    without_features: what happens where a candidate has no features: it is an error that names it, or it is left out.
    published: the list as arXiv 2410.07809 prints it, with its seeds.
    """

    strategy: Strategy = "all"
    chosen: list[str] = []
    k: int | None = Field(None, ge=1)
    candidates: list[str] = []
    # Where the files lie changes nothing; their contents count, as leaves of the step.
    vectors: str | None = execution(None)
    pretrain: str | None = execution(None)
    cover: Cover = "spread"
    weights: dict[Group, Annotated[float, Field(gt=0)]] = {}
    without_features: WithoutFeatures = "refuse"
    published: bool = False

    @model_validator(mode="after")
    def strategy_has_what_it_needs(self) -> "LanguagesSettings":
        key, what = NEEDS.get(self.strategy, ("", ""))
        if key and not getattr(self, key) and not self.published:
            raise ValueError(f"strategy {self.strategy} needs {key}, {what}")
        if self.strategy not in ("all", "chosen") and self.k is None:
            raise ValueError(f"strategy {self.strategy} needs k, the number of languages")
        if self.strategy == "mixed" and "semantic" in self.weights and self.vectors is None:
            raise ValueError("the weight of semantic needs vectors, a file of vectors in word2vec's text form")
        if self.published and self.strategy not in WITH_PUBLISHED_LISTS:
            raise ValueError(f"published lists are those of {', '.join(WITH_PUBLISHED_LISTS)}, not of {self.strategy}")
        return self

    def without_effect(self) -> list[str]:
        idle = [key for keys in USES.values() for key in keys if key not in USES.get(self.strategy, ())]
        if self.strategy in ("all", "chosen"):
            idle += ["k", "candidates"]
        if self.strategy not in WITH_DATA:
            idle.append("without_features")
        given = [key for key in type(self).model_fields if key in idle and key in self.model_fields_set]
        reasons = [f"{key}: the strategy is {self.strategy}" for key in given if getattr(self, key)]
        if self.strategy == "mixed" and self.vectors and self.weights and "semantic" not in self.weights:
            reasons.append("vectors: weights has no semantic")
        if self.published:
            unused = [key for key in ("vectors", "without_features") if key in self.model_fields_set]
            reasons += [f"{key}: the published list is taken as it is printed" for key in unused if key not in idle]
        return reasons
