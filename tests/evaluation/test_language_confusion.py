import pytest

from raysel.evaluation.language_confusion import right_language

ENGLISH = "The river flows past the old mill and into the sea."
FRENCH = "La rivière passe devant le vieux moulin et se jette dans la mer."
THAI = "แม่น้ำไหลผ่านโรงสีเก่าแล้วลงสู่ทะเล"


@pytest.mark.parametrize(
    ("answer", "lang", "right"),
    [
        (ENGLISH, "en", True),
        (ENGLISH, "fr", False),
        (FRENCH, "fr", True),
        (THAI, "th", True),
        (THAI, "en", False),
        (f"{FRENCH}\n{ENGLISH}", "fr", False),
        (f"{FRENCH}\n42\nParis", "fr", True),
        ("42", "fr", None),
        ("", "fr", None),
        (ENGLISH, "zxx-none", None),
    ],
)
def test_every_line_long_enough_to_tell_is_judged(answer: str, lang: str, right: bool | None) -> None:
    assert right_language(answer, lang) is right


def test_languages_that_are_not_told_apart_count_as_one() -> None:
    croatian = "Rijeka teče pokraj starog mlina i utječe u more, a ljudi sjede na obali."
    assert right_language(croatian, "sr")
