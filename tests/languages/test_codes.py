"""Language codes as data sets write them."""

import pytest

from raysel.languages import BACTRIAN_X
from raysel.languages.codes import LanguageError, iso639_3, normalise, variety

# The 31 languages of LangGPS, as Aya names them.
AYA = {
    "Basque": "eu", "Bengali": "bn", "Egyptian Arabic": "arz", "English": "en", "French": "fr", "German": "de",
    "Greek": "el", "Haitian": "ht", "Hindi": "hi", "Indonesian": "id", "Italian": "it", "Japanese": "ja",
    "Korean": "ko", "Moroccan Arabic": "ary", "Najdi Arabic": "ars", "Portuguese": "pt", "Russian": "ru",
    "Simplified Chinese": "zh", "South Levantine Arabic": "ajp", "Spanish": "es", "Standard Arabic": "ar",
    "Swahili": "sw", "Ta'izzi-Adeni Arabic": "acq", "Tamil": "ta", "Telugu": "te", "Thai": "th", "Turkish": "tr",
    "Ukrainian": "uk", "Urdu": "ur", "Vietnamese": "vi", "Yoruba": "yo",
}  # fmt: skip
# The other codes and names of Aya's 65 languages and their dialects.
AYA_MORE = {
    "Amharic": "am", "Burmese": "my", "Cebuano": "ceb", "Central Kurdish": "ckb", "Danish": "da", "Dutch": "nl",
    "Filipino": "tl", "Finnish": "fi", "Gujarati": "gu", "Hausa": "ha", "Hungarian": "hu", "Igbo": "ig",
    "Iranian Persian": "fa", "Irish": "ga", "Javanese": "jv", "Kannada": "kn", "Kyrgyz": "ky", "Lithuanian": "lt",
    "Malayalam": "ml", "Marathi": "mr", "Nepali": "ne", "North Levantine Arabic": "apc", "Northern Kurdish": "ku",
    "Northern Sotho": "nso", "Nyanja": "ny", "Panjabi": "pa", "Plateau Malagasy": "mg", "Polish": "pl", "Serbian": "sr",
    "Shona": "sn", "Sindhi": "sd", "Sinhala": "si", "Somali": "so", "Southern Pashto": "pbt", "Standard Malay": "ms",
    "Sundanese": "su", "Swedish": "sv", "Tosk Albanian": "sq", "Traditional Chinese": "zh", "Wolof": "wo",
    "Xhosa": "xh", "Yorùbá": "yo", "Zulu": "zu",
}  # fmt: skip
BACTRIAN_X_3 = (
    "afr ara aze ben ces deu eng spa est fas fin fra glg guj heb hin hrv ind ita jpn kat kaz khm kor lit lav mkd mal "
    "mon mar mya nep nld pol pus por ron rus sin slv swe swa tam tel tha tgl tur ukr urd vie xho zho"
)


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        ("sw", "sw"), ("swh", "sw"), ("swh_Latn", "sw"), ("zho", "zh"), ("zh-Hans", "zh"), ("Simplified Chinese", "zh"),
        ("arb", "ar"), ("iw", "he"), ("jp", "ja"), ("quy", "qu"), ("als", "sq"), ("tl", "tl"), ("no", "no"),
        ("pes_Arab", "fa"), ("Swahili", "sw"), ("yor_Latn", "yo"), (" en ", "en"), ("chi", "zh"), ("ger", "de"),
        ("baq", "eu"), ("per", "fa"), ("in", "id"), ("ji", "yi"), ("mo", "ro"), ("sh", "sr"), ("scr", "hr"),
        ("zh_TW", "zh"), ("pt_BR", "pt"), ("prs_Arab", "fa"), ("azb_Arab", "azb"), ("kmr_Latn", "ku"),
        ("Eastern Panjabi", "pa"), ("Standard Tibetan", "bo"), ("Luba-Kasai", "lua"), *AYA.items(), *AYA_MORE.items(),
    ],
)  # fmt: skip
def test_brought_to_one_form(raw: str, code: str) -> None:
    assert normalise(raw) == code
    assert normalise(code) == code


@pytest.mark.parametrize("raw", ["", "xx", "qqq", "mul", "und", "no language at all", "123"])
def test_what_no_standard_knows_is_refused(raw: str) -> None:
    with pytest.raises(LanguageError, match="unknown language"):
        normalise(raw)


def test_every_language_of_bactrian_x_is_itself_and_has_its_639_3_code() -> None:
    assert [normalise(code) for code in BACTRIAN_X] == list(BACTRIAN_X)
    assert " ".join(iso639_3(code)[0] for code in BACTRIAN_X) == BACTRIAN_X_3
    assert [normalise(code) for code in BACTRIAN_X_3.split()] == list(BACTRIAN_X)


@pytest.mark.parametrize(
    ("raw", "codes"),
    [
        ("sw", ("swa",)), ("swh_Latn", ("swh", "swa")), ("Egyptian Arabic", ("arz", "ara")), ("arb", ("arb", "ara")),
        ("ar", ("ara",)), ("zh-Hant", ("zho",)), ("pbt", ("pbt", "pus")), ("fil", ("fil", "tgl")), ("tl", ("tgl",)),
        ("iw", ("heb",)), ("prs", ("prs", "fas")), ("Ayacucho Quechua", ("quy", "que")),
    ],
)  # fmt: skip
def test_a_language_is_looked_up_as_itself_then_as_its_macrolanguage(raw: str, codes: tuple[str, ...]) -> None:
    assert iso639_3(raw) == codes


def test_varieties_differ_by_language_and_script_but_not_by_spelling() -> None:
    assert variety("sw") == variety("swh_Latn") == variety("Swahili") == ("sw", "Latn")
    assert variety("zho") == variety("zh-Hans") == variety("Simplified Chinese") == ("zh", "Hans")
    assert variety("zh-TW") == variety("zho_Hant") == ("zh", "Hant")
    assert variety("quy") != variety("quz")
    assert variety("prs") != variety("pes")
    # No likely script is known of these: their macrolanguage's.
    assert variety("acq") == ("acq", "Arab")
    assert variety("pbt") == ("pbt", "Arab")
