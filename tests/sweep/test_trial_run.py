"""When a trial's process serves the next trial too, and when it does not."""

import os
import signal
from typing import Any

import psutil
import pytest

from raysel.cluster import Cluster
from raysel.sweep import trial_run
from raysel.sweep.trial_run import Trial, TrialProcess


class ToyProcess(TrialProcess):
    """Answers with its process id, or fails where its folder says so."""

    def run(self, storage: str, folder: str, until: str, wanted: dict[str, Any]) -> dict[str, Any]:
        if folder == "broken":
            raise RuntimeError("broken")
        self.events.put({"stage": "model"})
        return {"pid": os.getpid()}


def config(folder: str) -> dict[str, Any]:
    return {"storage": "s", "folder": folder, "until": "model", "wanted": {}}


def ended(trial: Trial) -> dict[str, Any]:
    """The last thing that the trial said."""
    while True:
        said = trial.step()
        if said.get("done"):
            return said


def pid_of(trial: Trial) -> int:
    return int(ended(trial)["outcome"].partition(": ")[2].rstrip("}"))


@pytest.fixture
def trial(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(trial_run, "TrialProcess", ToyProcess)
    trial = Trial.__new__(Trial)
    trial.setup(config("first"))
    yield trial
    trial.cleanup()


def test_a_process_serves_the_next_trial_until_it_fails_or_is_lost(trial: Trial) -> None:
    first = pid_of(trial)
    assert trial.reset_config(config("second"))
    assert pid_of(trial) == first
    # Lost between two trials: nobody waits for it.
    os.kill(first, signal.SIGKILL)
    psutil.wait_procs([psutil.Process(first)] if psutil.pid_exists(first) else [], timeout=10)
    trial.reset_config(config("third"))
    third = pid_of(trial)
    assert third != first
    trial.reset_config(config("broken"))
    assert "RuntimeError: broken" in ended(trial)["failure"]
    trial.reset_config(config("after"))
    assert pid_of(trial) != third


def test_a_process_that_was_stopped_on_its_way_does_not_go_on(trial: Trial) -> None:
    assert trial.step() == {"stage": "model"}
    before = trial.process
    trial.reset_config(config("next"))
    assert trial.process is not before
    pid_of(trial)
