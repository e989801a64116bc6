"""Numbers, languages and texts as the report writes them."""

import math
import re
from functools import cache
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import langcodes
from langcodes.tag_parser import LanguageTagError

MINUS = "−"
NOTHING = "–"
# What the run should have and does not; NOTHING is what there cannot be.
MISSING = "missing"
METRICS = {
    "acc": "accuracy",
    "acc_norm": "length-normalised accuracy",
    "exact_match": "exact match",
    "f1": "F1",
    "bits_per_byte": "bits per byte",
}
# Invisible characters that hide or reorder what stands beside them: controls but tab and newline, zero-width
# spaces, separators of lines and paragraphs, embeddings, overrides and isolates of direction, invisible operators,
# surrogates, tags.
# Joiners and direction marks stay: Persian, Hindi and Hebrew are written with them.
HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
)
PRIVATE_USE = re.compile(r"q[a-t][a-z]\b")
SECRET = re.compile(r"key|secret|token|password|credential|signature", re.IGNORECASE)


def integer(value: float | None) -> str:
    """`12,345`."""
    return NOTHING if value is None else f"{value:,.0f}".replace("-", MINUS)


def decimal(value: float | None, digits: int = 3, *, sign: bool = False) -> str:
    """A fixed number of digits, with a real minus sign; `sign` writes the plus too."""
    if value is None or not math.isfinite(value):
        return NOTHING
    text = f"{value:+.{digits}f}" if sign else f"{value:.{digits}f}"
    # What rounds to nothing has no sign.
    if not float(text):
        text = text.lstrip("+-")
    return text.replace("-", MINUS)


def percent(value: float | None, digits: int = 1, *, sign: bool = False) -> str:
    """A share as a percentage: `0.1234` is `12.3%`."""
    return NOTHING if value is None or not math.isfinite(value) else f"{decimal(100 * value, digits, sign=sign)}%"


def probability(value: float | None) -> str:
    """A p: `0.012`, `< 0.001`."""
    return "< 0.001" if value is not None and value < 0.001 else decimal(value)


def scientific(value: float | None) -> str:
    """A learning rate: `2e-4`, `1.5e-5`."""
    if value is None or not math.isfinite(value):
        return NOTHING
    if value == 0:
        return "0"
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}".replace("-", MINUS)


def duration(seconds: float | None) -> str:
    """`< 0.1 s`, `0.4 s`, `12 s`, `3 min 05 s`, `2 h 04 min`."""
    if seconds is None:
        return NOTHING
    if seconds < 0.05:
        return "< 0.1 s"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def size(number: float) -> str:
    """Bytes in decimal units: `1.2 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "B" or number >= 100 else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} TB"


@cache
def language_name(code: str) -> str:
    """The English name of a language code; the code itself where no name is known."""
    try:
        language = langcodes.get(code)
        # Codes for private use are valid, and have no name.
        return language.display_name() if language.is_valid() and not PRIVATE_USE.match(code) else code
    except (LanguageTagError, ValueError):
        return code


def metric_name(metric: str) -> str:
    """lm-eval's name of a metric in words, less the name of its filter."""
    name = metric.partition(",")[0]
    return METRICS.get(name, name)


def metric_digits(metric: str) -> int:
    """How many digits a metric that is no share is written with: a hundredth of a bit per byte is a difference."""
    return 3 if metric.partition(",")[0] == "bits_per_byte" else 2


def counted(number: int, noun: str) -> str:
    """`1 row`, `12,345 rows`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def visible(text: str) -> str:
    """`text` with a sign for every hidden character: `⟨U+001B⟩` for an escape, `⟨U+202E⟩` for an override."""
    return HIDDEN.sub(lambda found: f"⟨U+{ord(found[0]):04X}⟩", text)


def shorten(text: str, length: int) -> str:
    """At most `length` characters, with an ellipsis where something is left out."""
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"


def both_ends(text: str, length: int) -> str:
    """At most `length` characters, from the beginning and the end: of a prompt with shots, the question comes last."""
    half = (length - 3) // 2
    return text if len(text) <= length else f"{text[:half].rstrip()} … {text[-half:].lstrip()}"


def without_secrets(value: Any) -> Any:
    """Plain data in which the addresses (`s3://key:secret@bucket?...`) have lost what gives access to them."""
    if isinstance(value, dict):
        return {key: without_secrets(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_secrets(item) for item in value]
    if isinstance(value, str) and "://" in value:
        parts = urlsplit(value)
        query = urlencode([pair for pair in parse_qsl(parts.query) if not SECRET.search(pair[0])], safe=":/")
        return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query=query))
    return value
