"""The script of a text, in every writing system that the corpora have."""

import pytest

from raysel.languages.scripts import script_of


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("Habari ya asubuhi?", "Latn"),
        ("Доброе утро, world", "Cyrl"),
        ("صباح الخير", "Arab"),
        ("おはようございます、東京都千代田区霞が関", "Jpan"),
        ("早上好，世界", "Hani"),
        ("좋은 아침", "Hang"),
        ("सुप्रभात। ABC", "Deva"),
        ("สวัสดีตอนเช้า", "Thai"),
        ("123 + 456 = 579!", "Zyyy"),
        ("", "Zyyy"),
    ],
)
def test_the_script_of_most_letters(text: str, script: str) -> None:
    assert script_of(text) == script
