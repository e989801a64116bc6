"""Experiment trackers."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from raysel.training.settings import TrainingSettings
from raysel.training.trackers import TensorBoard, Trackers, open_trackers, scalars_of
from tests.training.runs import event_scalars


def test_steps_that_come_again_are_shown_as_they_were_last(tmp_path: Path) -> None:
    with open_trackers(["tensorboard"], tmp_path, print) as trackers:
        trackers.log([{"step": step, "loss": 9.0 - step} for step in range(5)])
        trackers.log([{"step": step, "loss": 1.0 + step} for step in range(3, 7)])
    assert event_scalars(tmp_path / "tensorboard") == {"loss": {0: 9.0, 1: 8.0, 2: 7.0, 3: 4.0, 4: 5.0, 5: 6.0, 6: 7.0}}


def test_a_tracker_that_fails_is_left_out_and_the_others_go_on(tmp_path: Path) -> None:
    class Unreachable:
        def log(self, step: int, scalars: Mapping[str, float]) -> None:
            raise ConnectionError("no route")

        def close(self) -> None:
            raise AssertionError("closed though it is left out")

    notes: list[str] = []
    trackers = Trackers({"far": Unreachable(), "tensorboard": TensorBoard(tmp_path / "t")}, notes.append)
    trackers.log([{"step": 0, "loss": 2.0}, {"step": 1, "loss": 1.0}])
    trackers.close()
    assert notes == ["tracker far is left out from here on: no route"]
    assert event_scalars(tmp_path / "t") == {"loss": {0: 2.0, 1: 1.0}}


def test_the_numbers_of_a_line_of_the_log() -> None:
    line = {"step": 3, "loss": None, "tokens": 12, "positions": [1, 2], "skipped": "nan", "loss_by_lang": {"fr": 2.5}}
    assert scalars_of(line | {"grad_norm": 0.5}) == {"tokens": 12, "loss_by_lang/fr": 2.5, "grad_norm": 0.5}


def test_a_tracker_that_is_not_installed_is_refused() -> None:
    with pytest.raises(ValueError, match=r"there is no tracker 'wandb' here; there are tensorboard, and any that an"):
        TrainingSettings(trackers=["wandb"])
