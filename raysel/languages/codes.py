"""Language codes as sources write them, brought to one form: ISO 639-1 where there is one, else ISO 639-3."""

from functools import cache

import langcodes
from langcodes.tag_parser import LanguageTagError

from raysel.errors import UserError

# What data sets write although no standard has it: XWinograd and lm-eval call Japanese "jp".
# CLDR does not count Cuzco and Ayacucho Quechua to the macrolanguage qu, and calls Tagalog fil.
ALIASES = {"jp": "ja", "quy": "qu", "quz": "qu", "fil": "tl"}
NO_LANGUAGE = {"mul", "mis", "zxx"}


class LanguageError(UserError):
    """A language that no standard knows, or that the corpus does not have."""


@cache
def normalise(raw: str) -> str:
    """The ISO 639-1 code of a language, else its 639-3 code; scripts, regions and macrolanguage members are folded in.

    Understands BCP 47 (`zh-Hans`), ISO 639-2/3 (`zho`, `arb`), FLORES (`swh_Latn`), retired codes (`iw`) and English
    names (`Simplified Chinese`). Raises `LanguageError` for anything else.
    """
    text = raw.strip()
    if text.lower() in ALIASES:
        return ALIASES[text.lower()]
    try:
        language = langcodes.get(text)
        private_use = "qaa" <= str(language.language) <= "qtz"
        if not language.is_valid() or language.language in {None, *NO_LANGUAGE} or private_use:
            raise LookupError(text)
    except (LanguageTagError, LookupError, ValueError):
        try:
            language = langcodes.find(text)
        except LookupError:
            raise LanguageError(
                f"unknown language {raw!r}: give an ISO 639 code (sw, swh, swh_Latn, zh-Hans) or an English name"
            ) from None
    code = language.prefer_macrolanguage().language
    return str(ALIASES.get(code, code))
