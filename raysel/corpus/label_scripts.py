"""Which scripts a language's label allows, and how much of a text is in them."""

from collections import Counter
from functools import cache

import langcodes
from fontTools.unicodedata import script
from langcodes.tag_parser import LanguageTagError

from raysel.languages.codes import normalise
from raysel.languages.scripts import WITHOUT_SCRIPT

# Languages that are written in several scripts, by region or by habit; the others have CLDR's likely one.
SEVERAL = {
    "az": {"Latn", "Cyrl", "Arab"}, "bs": {"Latn", "Cyrl"}, "ff": {"Latn", "Adlm"}, "ha": {"Latn", "Arab"},
    "iu": {"Cans", "Latn"}, "jv": {"Latn", "Java"}, "kk": {"Cyrl", "Latn", "Arab"}, "ks": {"Arab", "Deva"},
    "ku": {"Latn", "Arab", "Cyrl"}, "ky": {"Cyrl", "Arab", "Latn"}, "lah": {"Arab", "Guru"},
    "mn": {"Cyrl", "Mong"}, "mni": {"Beng", "Mtei"}, "ms": {"Latn", "Arab"}, "pa": {"Guru", "Arab"},
    "sat": {"Olck", "Deva", "Beng"}, "sd": {"Arab", "Deva"}, "sr": {"Cyrl", "Latn"},
    "tg": {"Cyrl", "Arab", "Latn"}, "tk": {"Latn", "Cyrl", "Arab"}, "tt": {"Cyrl", "Latn"},
    "ug": {"Arab", "Cyrl", "Latn"}, "uz": {"Latn", "Cyrl", "Arab"}, "zgh": {"Tfng", "Latn", "Arab"},
}  # fmt: skip
# ISO 15924 has codes for mixtures and variants; a character has one plain script.
PARTS = {
    "Hans": {"Hani", "Bopo"}, "Hant": {"Hani", "Bopo"}, "Hani": {"Hani", "Bopo"}, "Jpan": {"Hani", "Hira", "Kana"},
    "Hrkt": {"Hira", "Kana"}, "Kore": {"Hang", "Hani"}, "Aran": {"Arab"},
}  # fmt: skip
LEAST_SHARE = 0.1
LEAST_LETTERS = 20


@cache
def scripts_of_label(raw: str) -> frozenset[str]:
    """Scripts of characters that a text labelled `raw` may be in; empty where none is known.

    The label's own script (`zh-Hant`, `swh_Latn`), else those of its language.
    """
    try:
        own = langcodes.get(raw.strip()).script
    except (LanguageTagError, ValueError):
        own = None
    language = normalise(raw)
    if own is None and language in SEVERAL:
        return frozenset(SEVERAL[language])
    found = own or langcodes.get(language).maximize().script
    return frozenset(PARTS.get(found, {found}) if found else ())


def script_mismatch(text: str, label: str) -> tuple[str, float] | None:
    """Why `text` is not in a script of its label, and the share of its letters that are; None where it is, where there
    are few letters, and where no script is known.

    A line that is mostly in a script of the label is enough: a short answer below a long question in English, say.
    """
    allowed, counts = scripts_of_label(label), letters_by_script(text)
    if not allowed or counts.total() < LEAST_LETTERS:
        return None
    share = _share(counts, allowed)
    if share >= LEAST_SHARE or any(_share(letters_by_script(line), allowed) > 0.5 for line in text.splitlines()):
        return None
    most = min(counts, key=lambda name: (-counts[name], name))
    return f"{share:.0%} of {counts.total():,} letters are {' or '.join(sorted(allowed))}, most are {most}", share


def _share(counts: Counter[str], scripts: frozenset[str]) -> float:
    return sum(counts[name] for name in scripts) / max(1, counts.total())


@cache
def _script_of_character(character: str) -> str:
    return script(character)


def letters_by_script(text: str) -> Counter[str]:
    """Letters of `text` by the script of each."""
    counts: Counter[str] = Counter()
    for character, count in Counter(text).items():
        found = _script_of_character(character)
        if found not in WITHOUT_SCRIPT:
            counts[found] += count
    return counts
