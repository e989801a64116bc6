import pytest
from pydantic import ValidationError

from raysel.settings import counted
from raysel.training.settings import TrainingSettings


def test_bfloat16_without_zero_is_refused_with_both_names() -> None:
    with pytest.raises(ValidationError, match=r"dtype bfloat16 needs zero 1, 2 or 3"):
        TrainingSettings(dtype="bfloat16", zero=0)


def test_lora_has_no_effect_in_a_full_fine_tune() -> None:
    assert TrainingSettings(method="full", lora={"rank": 4}).without_effect() == [
        "lora: the method is full, which trains every weight"
    ]
    assert TrainingSettings(method="full").without_effect() == []


def test_how_it_runs_is_no_part_of_the_fingerprint() -> None:
    given = TrainingSettings(workers=4, checkpoint_steps=1, max_failures=0, timeout_minutes=1)
    assert counted(given) == counted(TrainingSettings())
    assert counted(given) != counted(TrainingSettings(zero=3))
