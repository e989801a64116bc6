"""Experiment trackers."""

from pathlib import Path

import pytest

from raysel.training.settings import TrainingSettings
from raysel.training.trackers import open_trackers, scalars_of
from tests.training.runs import event_scalars


def test_steps_that_come_again_are_shown_as_they_were_last(tmp_path: Path) -> None:
    with open_trackers(["tensorboard"], tmp_path) as [tracker]:
        for step in range(5):
            tracker.log(step, {"loss": 9.0 - step})
        for step in range(3, 7):
            tracker.log(step, {"loss": 1.0 + step})
    assert event_scalars(tmp_path / "tensorboard") == {"loss": {0: 9.0, 1: 8.0, 2: 7.0, 3: 4.0, 4: 5.0, 5: 6.0, 6: 7.0}}


def test_the_numbers_of_a_line_of_the_log() -> None:
    line = {"step": 3, "loss": None, "tokens": 12, "positions": [1, 2], "skipped": "nan", "loss_by_lang": {"fr": 2.5}}
    assert scalars_of(line | {"grad_norm": 0.5}) == {"tokens": 12, "loss_by_lang/fr": 2.5, "grad_norm": 0.5}


def test_a_tracker_that_is_not_installed_is_refused() -> None:
    with pytest.raises(ValueError, match=r"there is no tracker 'wandb' here; there are tensorboard, and any that an"):
        TrainingSettings(trackers=["wandb"])
