"""The choice that an experiment asks for, among the languages of its corpus."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from raysel.languages.candidates import candidates_from
from raysel.languages.choice import Choice, choose
from raysel.languages.codes import LanguageError, normalise
from raysel.languages.files import read_numbers
from raysel.languages.picture import picture
from raysel.languages.settings import LanguagesSettings


def choose_from_corpus(settings: LanguagesSettings, rows: Mapping[str, int], *, seed: int) -> Choice:
    """rows: the corpus's languages, each with its rows."""
    if settings.strategy == "chosen":
        chosen = _of_corpus("languages.chosen", settings.chosen, rows)
        return Choice("chosen", sorted(chosen), candidates_from(sorted(rows)))
    candidates = _of_corpus("languages.candidates", settings.candidates, rows) if settings.candidates else sorted(rows)
    return choose(
        settings.strategy,
        settings.k,
        seed=seed,
        candidates=candidates,
        vectors=settings.vectors,
        weights=_weights(settings),
        rows=rows,
        shares=read_numbers(settings.pretrain) if settings.strategy == "pretrain" and settings.pretrain else None,
        cover=settings.cover,
        without_features=settings.without_features,
        published=settings.published,
    )


def _of_corpus(setting: str, names: list[str], rows: Mapping[str, int]) -> list[str]:
    codes = [normalise(name) for name in names]
    absent = [code for code in codes if code not in rows]
    if absent:
        raise LanguageError(f"{setting} names {', '.join(absent)}, which the corpus does not have: {', '.join(rows)}")
    return list(dict.fromkeys(codes))


def choice_record(choice: Choice, settings: LanguagesSettings, *, seed: int) -> dict[str, Any]:
    """What was chosen and how, as plain data; where not everything was, also what a picture of it shows."""
    how = {"strategy": choice.strategy, "k": settings.k, "seed": seed, "published": settings.published}
    facts = {**how, "chosen": choice.languages, "left_out": choice.left_out}
    if choice.strategy == "all":
        return facts
    shown = picture(choice, vectors=settings.vectors, weights=_weights(settings))
    return {**facts, "picture": asdict(shown)}


def _weights(settings: LanguagesSettings) -> dict[str, float]:
    return {str(group): weight for group, weight in settings.weights.items()}
