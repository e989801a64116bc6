"""Language codes as data sets write them."""

import pytest

from raysel.languages.codes import LanguageError, normalise


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        ("sw", "sw"), ("swh", "sw"), ("swh_Latn", "sw"), ("zho", "zh"), ("zh-Hans", "zh"), ("Simplified Chinese", "zh"),
        ("arb", "ar"), ("iw", "he"), ("jp", "ja"), ("quy", "qu"), ("als", "sq"), ("tl", "tl"), ("no", "no"),
        ("pes_Arab", "fa"), ("Swahili", "sw"), ("yor_Latn", "yo"), (" en ", "en"),
    ],
)  # fmt: skip
def test_brought_to_one_form(raw: str, code: str) -> None:
    assert normalise(raw) == code
    assert normalise(code) == code


@pytest.mark.parametrize("raw", ["", "xx", "qqq", "mul", "und", "no language at all", "123"])
def test_what_no_standard_knows_is_refused(raw: str) -> None:
    with pytest.raises(LanguageError, match="unknown language"):
        normalise(raw)
