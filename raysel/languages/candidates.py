"""The languages that a choice is made from, given in any form."""

from collections.abc import Iterable
from dataclasses import dataclass

from raysel.languages.codes import english_name, iso639_3, normalise, variety


@dataclass(frozen=True)
class Candidate:
    """label: its normalised code, or the label as given where candidates that differ share that code.

    codes: ISO 639-3, its own, then its macrolanguage's; script: ISO 15924.
    """

    label: str
    name: str
    script: str
    codes: tuple[str, ...]


def candidates_from(labels: Iterable[str]) -> list[Candidate]:
    """One candidate for each language variety among `labels`, in the order in which they first occur.

    What is the same variety (`sw`, `swh_Latn`) is merged; Standard and Egyptian Arabic, or Chinese in two scripts, are
    kept apart.
    """
    given: dict[tuple[str, str], list[str]] = {}
    for label in labels:
        given.setdefault(variety(label), []).append(label.strip())
    varieties: dict[str, int] = {}
    for same in given.values():
        varieties[normalise(same[0])] = varieties.get(normalise(same[0]), 0) + 1
    found = []
    for (_, script), same in given.items():
        # Whichever of several labels came first must not matter.
        label = min(same)
        code = normalise(label)
        found.append(Candidate(code if varieties[code] == 1 else label, english_name(label), script, iso639_3(label)))
    return found
