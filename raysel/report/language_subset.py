"""The languages that the run chose to train on, and how it chose them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from raysel.languages.layout import Picture, Shown

HOW = {
    "chosen": "as the experiment lists them",
    "random": "drawn at random",
    "fam": "of different language families, drawn at random",
    "typo": "by k-means on typological features",
    "geo": "by k-means on geographical features",
    "learn": "by k-means on features that a translation model learned",
    "sem": "by k-means on semantic vectors",
    "mixed": "by k-means on weighted groups of features",
    "resource": "those with the most rows",
    "pretrain": "by their shares of the model's pre-training data",
}


@dataclass(frozen=True)
class LanguageSubset:
    """published: the paper's printed list was taken; left_out: candidates without the features that were needed."""

    strategy: str
    seed: int
    published: bool
    left_out: list[str]
    picture: Picture

    @property
    def how(self) -> str:
        return HOW[self.strategy]

    @property
    def chosen(self) -> list[Shown]:
        return [line for line in self.picture.candidates if line.chosen]

    @property
    def clustered(self) -> bool:
        return any(line.cluster for line in self.picture.candidates)

    @property
    def drawable(self) -> bool:
        return any(line.place for line in self.picture.candidates)

    def stands_for(self, lang: str) -> list[str]:
        """The other members of a chosen language's cluster."""
        return [line.lang for line in self.picture.candidates if line.cluster == lang != line.lang]


def read_subset(summary: Mapping[str, Any]) -> LanguageSubset | None:
    """From the summary of the quota; None where every language is trained on."""
    found = summary.get("languages") or {}
    if "picture" not in found:
        return None
    drawn = found["picture"]
    candidates = [Shown(**{**line, "place": line["place"] and tuple(line["place"])}) for line in drawn["candidates"]]
    picture = Picture(drawn["kind"], candidates, tuple(drawn["explained"]))
    return LanguageSubset(found["strategy"], found["seed"], found["published"], found["left_out"], picture)
