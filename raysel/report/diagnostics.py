"""What separability might stand for, as plain data: language itself, or a source, a task, a length."""

from dataclasses import dataclass

from raysel.separability.explained import Share


@dataclass(frozen=True)
class WithinTask:
    """Mean separability of the samples of one task: among all samples, and among those of the task alone.

    `within` is None where the task's samples are of one cluster.
    """

    task: str | None
    samples: int
    among_all: float
    within: float | None


@dataclass(frozen=True)
class LanguageSimilarity:
    """Mean cosine of the pairs of a language's samples: of the selected ones, and of the rest. None under two."""

    lang: str
    selected: float | None
    rest: float | None


@dataclass(frozen=True)
class Diagnostics:
    """shares: factor -> its share of the variance of separability; explained: the share of all of them together."""

    shares: dict[str, Share]
    explained: float
    tasks: list[WithinTask]
    similarity: list[LanguageSimilarity]
