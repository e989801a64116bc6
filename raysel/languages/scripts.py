"""The writing system of a text, as its ISO 15924 code."""

from collections import Counter
from functools import cache

from fontTools.unicodedata import script

UNKNOWN = "Zyyy"
# Japanese mixes three scripts; ISO 15924 has one code for the mixture.
JAPANESE = {"Hira", "Kana"}
WITHOUT_SCRIPT = {"Zyyy", "Zinh", "Zzzz"}


@cache
def _script_of_character(character: str) -> str:
    return script(character)


def script_of(text: str) -> str:
    """ISO 15924 code of the script that most letters of `text` are in; "Zyyy" (undetermined) where it has none.

    Text with kana is Japanese ("Jpan") if kana and Han together are the most; Han alone is "Hani".
    """
    counts: Counter[str] = Counter()
    for character, count in Counter(text).items():
        found = _script_of_character(character)
        if found not in WITHOUT_SCRIPT:
            counts[found] += count
    if counts.keys() & JAPANESE:
        counts["Jpan"] = sum(counts.pop(part, 0) for part in (*JAPANESE, "Hani"))
    return min(counts, key=lambda name: (-counts[name], name)) if counts else UNKNOWN
