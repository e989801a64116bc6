"""The same line over object storage: a real S3 server on loopback holds every artifact."""

from pathlib import Path

import pytest

from raysel.experiment import load_experiment
from raysel.pipeline import expand
from raysel.runner import run_experiment
from raysel.store import Store
from tests.pipeline.test_line_to_order import contents, experiment  # noqa: F401 - a fixture


@pytest.mark.slow
def test_object_storage_holds_what_a_folder_would(
    ray_address: str,
    experiment: Path,  # noqa: F811
    s3_bucket: str,
) -> None:
    both = []
    for storage in (str(experiment.parent / "local"), s3_bucket.format("line")):
        loaded = load_experiment(experiment, [f"storage={storage}"])
        run_experiment(loaded, until="order")
        store = Store(loaded.storage)
        steps = expand(loaded, store, "order")
        both.append(contents({step.name: store.artifact(step.stage, step.fingerprint) for step in steps}))
        ended = [event["step"] for event in store.events() if event["event"] == "end"]
        assert sorted(ended) == sorted(step.name for step in steps)
    assert both[0] == both[1]
