"""Language codes as sources write them, brought to one form: ISO 639-1 where there is one, else ISO 639-3."""

import re
import unicodedata
from functools import cache
from typing import Any

import langcodes
from langcodes.data_dicts import LIKELY_SUBTAGS, MACROLANGUAGES
from langcodes.tag_parser import LanguageTagError

from raysel.errors import UserError
from raysel.languages.scripts import UNKNOWN

# What data sets write although no standard has it: XWinograd and lm-eval call Japanese "jp"; the rest are names in
# FLORES and Aya that CLDR does not know, or takes for another language.
SPELLINGS = {
    "jp": "ja",
    "eastern panjabi": "pa",
    "gelet iraqi arabic": "acm",
    "levantine arabic": "apc",
    "luba-kasai": "lua",
    "standard tibetan": "bo",
}
# CLDR does not count Cuzco and Ayacucho Quechua to the macrolanguage qu, and calls Tagalog fil.
FOLDED = {"quy": "qu", "quz": "qu", "fil": "tl"}
NO_LANGUAGE = {"mul", "mis", "zxx"}


class LanguageError(UserError):
    """A language that no standard knows, or that the corpus does not have."""


@cache
def _language(raw: str) -> Any:
    """The language tag of a code or a name."""
    text = SPELLINGS.get(raw.strip().lower(), raw.strip())
    try:
        language = langcodes.get(text)
        private_use = "qaa" <= str(language.language) <= "qtz"
        if not language.is_valid() or language.language in {None, *NO_LANGUAGE} or private_use:
            raise LookupError(text)
    except (LanguageTagError, LookupError, ValueError):
        language = _named(text)
        if language is None:
            raise LanguageError(
                f"unknown language {raw!r}: give an ISO 639 code (sw, swh, swh_Latn, zh-Hans) or an English name"
            ) from None
    return language


def _named(text: str) -> Any | None:
    """The language of a name, which may have more diacritics than its English form (`Yorùbá`)."""
    plain = "".join(part for part in unicodedata.normalize("NFD", text) if not unicodedata.combining(part))
    for name in (text, plain):
        try:
            return langcodes.find(name)
        except LookupError:
            continue
    return None


@cache
def normalise(raw: str) -> str:
    """The ISO 639-1 code of a language, else its 639-3 code; scripts, regions and macrolanguage members are folded in.

    Of a macrolanguage's members CLDR folds in the main one (`arb` is `ar`); the others stay themselves (`arz`).
    Understands BCP 47 (`zh-Hans`), ISO 639-2/3 (`zho`, `arb`), FLORES (`swh_Latn`), retired codes (`iw`) and English
    names (`Simplified Chinese`). Raises `LanguageError` for anything else.
    """
    code = _main_language(raw)
    return FOLDED.get(code, code)


def _main_language(raw: str) -> str:
    return str(_language(raw).prefer_macrolanguage().language)


def variety(raw: str) -> tuple[str, str]:
    """Language and ISO 15924 script, less folded than `normalise`: `zh-Hant` and `zh-Hans`, `quy` and `quz` differ.

    The script is the usual one where `raw` names none.
    """
    language = _language(raw)
    # CLDR takes Dari for the Persian of Afghanistan.
    dari = (language.language, language.territory) == ("fa", "AF")
    return "prs" if dari else _main_language(raw), _script(language)


def _script(language: Any) -> str:
    if language.script or language.language in LIKELY_SUBTAGS:
        return str(language.maximize().script)
    macrolanguage = MACROLANGUAGES.get(language.language)
    return str(langcodes.get(macrolanguage).maximize().script) if macrolanguage in LIKELY_SUBTAGS else UNKNOWN


def iso639_3(raw: str) -> tuple[str, ...]:
    """The ISO 639-3 codes that a table may have a language under: its own, then its macrolanguage's."""
    subtag = re.split("[-_]", raw.strip())[0].lower()
    own = subtag if len(subtag) <= 3 else str(_language(raw).language)
    code = normalise(raw)
    found = [own, variety(raw)[0]] if len(own) == 3 else []
    for known in (code, MACROLANGUAGES.get(code, code)):
        found.append(langcodes.get(known, normalize=False).to_alpha3())
    return tuple(dict.fromkeys(part for part in found if len(part) == 3))


def english_name(raw: str) -> str:
    return str(_language(raw).display_name())
