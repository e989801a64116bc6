"""How separable and how diverse each selector's choice is, as plain data."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Measured:
    """Of a choice in one language, or over all. None where there is no such number: of one row there are no pairs."""

    n: int
    mean_tokens: float | None
    separability: float | None
    similarity: float | None
    distinct_1: float | None
    distinct_2: float | None
    coverage: float | None


@dataclass(frozen=True)
class DiversityLine:
    """candidates: `pool`, `corpus`, or `everything` for the corpus itself, with which the choices are compared."""

    name: str
    candidates: str
    is_random: bool
    is_trained: bool
    over_all: Measured
    languages: dict[str, Measured]

    @property
    def place(self) -> tuple[float, float] | None:
        """Mean separability, and 1 less the mean similarity."""
        found = self.over_all
        if found.separability is None or found.similarity is None:
            return None
        return found.separability, 1 - found.similarity


@dataclass(frozen=True)
class Diversity:
    """lines: the corpus first; sampled: languages of which not every row was looked at; bigrams: of how many, the
    least and the most over the languages, distinct-2 is the share."""

    lines: list[DiversityLine]
    sampled: list[str]
    bigrams: tuple[int, int] | None

    @property
    def selectors(self) -> list[DiversityLine]:
        return [line for line in self.lines if line.candidates != "everything"]

    @property
    def front(self) -> list[DiversityLine]:
        """The selectors than which no other is as separable and as diverse, and more so in one; the first first."""
        placed = [(line, line.place) for line in self.selectors if line.place is not None]
        best = pareto_front([place for _, place in placed if place is not None])
        return [placed[number][0] for number in best]


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Numbers of the points that no other dominates (as much of both, and more of one), by what they have of the first,
    the most last."""
    best = [
        number
        for number, (x, y) in enumerate(points)
        if not any(u >= x and v >= y and (u > x or v > y) for u, v in points)
    ]
    return sorted(best, key=lambda number: points[number])
