"""Single samples worth reading: evaluated items with the models' answers, and both ends of separability."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from raysel.seeding import draw

Item = tuple[str, str, int]


@dataclass(frozen=True)
class Answer:
    """text: what the model said; taken: what a filter took from it as the answer, where it is something else."""

    model: str
    text: str
    taken: str | None
    metric: str
    value: float


@dataclass(frozen=True)
class Example:
    """One evaluated item: what the models were asked, what each answered, what was right where it is known."""

    task: str
    lang: str
    item: int
    prompt: str
    target: str
    answers: list[Answer]


@dataclass(frozen=True)
class EndSample:
    """The sample of its language with the highest or the lowest separability (`end`: `highest` or `lowest`)."""

    end: str
    id: str
    lang: str
    nearest_lang: str
    separability: float
    prompt: str
    response: str
    history: list[dict[str, str]]


def choose_items(items: Iterable[Item], each: int, *, seed: int) -> list[Item]:
    """`each` of the items (lang, task, number) of every task and language at random: one of each language, then a
    second of each, ..."""
    drawn = sorted((draw(seed, "\0".join(map(str, item))), item) for item in set(items))
    of_cell: Counter[tuple[str, str]] = Counter()
    of_language: Counter[str] = Counter()
    ranked = []
    for chance, item in drawn:
        lang, task, _ = item
        of_cell[lang, task] += 1
        if of_cell[lang, task] <= each:
            of_language[lang] += 1
            ranked.append((of_language[lang], chance, item))
    return [item for _, _, item in sorted(ranked)]
