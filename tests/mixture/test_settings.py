"""What a mixture and a curriculum need, and which settings do nothing."""

import pytest
from pydantic import ValidationError

from raysel.experiment import Experiment
from raysel.mixture.settings import CurriculumSettings, MixtureSettings


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"quota": "proportional"}, "quota proportional needs total"),
        ({"quota": "temperature", "total": 5}, "quota temperature needs temperature"),
        ({"quota": "pivot", "pivot_rows": 5}, "quota pivot needs rows_per_language"),
        ({"quota": "pivot", "pivot_rows": 0, "rows_per_language": 0}, "trains on nothing"),
        ({"quota": "counts", "counts": {"en": {"qa": 0}}}, "at least one above 0"),
        ({"quota": "counts", "counts": {"en": 1, "sw": {"qa": 1}}}, "choose one form"),
        ({"quota": "counts", "counts": {"en": 1}, "tasks": ["qa"]}, "name the tasks in counts"),
        ({"quota": "everything", "parallel": True}, "parallel items need counts"),
        ({"quota": "even", "total": 5, "tasks": []}, "at least 1 item"),
    ],
)
def test_a_mixture_says_what_it_lacks(given: dict, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        MixtureSettings(**given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"kind": "staged", "levels": 3, "stages": [[0], [2]]}, r"each level from 0 to 2 once, e.g. \[\[0\], \[1\]"),
        ({"kind": "replay"}, "kind replay needs trained_order"),
        ({"kind": "loss_aware", "repetition": "reshuffled"}, "an order of its own in every epoch"),
        ({"mix_in": 1.0}, "less than 1"),
    ],
)
def test_a_curriculum_says_what_it_lacks(given: dict, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        CurriculumSettings(**given)


@pytest.mark.parametrize(
    ("given", "idle"),
    [
        ({"quota": "even", "total": 5, "temperature": 2.0}, ["temperature: the quota is even"]),
        ({"quota": "everything", "shortfall": "repeat"}, ["shortfall: the quota is everything there is"]),
        ({"quota": "pivot", "pivot": "fr", "pivot_rows": 3, "rows_per_language": 1}, []),
    ],
)
def test_settings_of_another_quota_are_reported(given: dict, idle: list[str]) -> None:
    assert MixtureSettings(**given).without_effect() == idle


@pytest.mark.parametrize(
    ("given", "idle"),
    [
        ({"kind": "random", "levels": 3}, ["levels: the kind is random"]),
        ({"kind": "ascending", "levels": 3}, ["levels: the kind is ascending"]),
        ({"kind": "ascending", "levels": 3, "within_level": "shuffled"}, []),
        ({"kind": "balanced", "mix_in": 0.1}, ["mix_in: the kind is balanced"]),
        ({"kind": "staged", "levels": 2, "stages": [[1], [0]], "mix_in": 0.1, "repetition": "reshuffled"}, []),
        ({"kind": "ascending", "repetition": "reshuffled"}, ["repetition: the kind is ascending"]),
        ({"kind": "random", "loss_aware": {"strength": 1.0}}, ["loss_aware: the kind is random"]),
    ],
)
def test_settings_of_another_kind_are_reported(given: dict, idle: list[str]) -> None:
    assert CurriculumSettings(**given).without_effect() == idle


def test_steps_by_tokens_need_an_order_beforehand() -> None:
    given = {"name": "x", "model": {"path": "m"}, "curriculum": {"kind": "loss_aware"}}
    with pytest.raises(ValidationError, match="batch_tokens with curriculum"):
        Experiment(**given, training={"data": {"batch_tokens": 4096}})


def test_a_selector_with_nothing_to_choose_is_reported() -> None:
    mixture = {"quota": "even", "total": 10, "parallel": True}
    found = Experiment(name="x", model={"path": "m"}, mixture=mixture, selection={"method": "kmc"}).warnings()
    assert found == [
        "setting without effect: selection: mixture.parallel draws the items, and nothing is left to choose from"
    ]
