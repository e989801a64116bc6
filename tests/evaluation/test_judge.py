import pytest
from hypothesis import given
from hypothesis import strategies as st

from raysel.evaluation.judge import judge_prompt, rating_of


@pytest.mark.parametrize(
    ("judgement", "rating"),
    [
        ("Clear and right. Rating: [[4]]", 4),
        ("It asks for [[1]] to [[5]]. Rating: [[ 2 ]]", 2),
        ("Rating: 4", None),
        ("Rating: [[6]]", None),
        ("Rating: [[4.5]]", None),
        ("", None),
    ],
)
def test_the_rating_is_the_last_in_double_brackets(judgement: str, rating: int | None) -> None:
    assert rating_of(judgement) == rating


@given(st.text(), st.text())
def test_the_judge_is_shown_instruction_answer_and_language(instruction: str, answer: str) -> None:
    prompt = judge_prompt(instruction, answer, "sw")
    assert instruction in prompt
    assert answer in prompt
    assert "Swahili" in prompt


def test_braces_of_an_answer_stay_as_they_are() -> None:
    assert "{language} {0}" in judge_prompt("say it", "{language} {0}", "en")
