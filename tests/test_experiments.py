"""The experiment files that ship with the project."""

from pathlib import Path

import pytest

from raysel.errors import UserError
from raysel.experiment import load_experiment
from raysel.pipeline import expand
from raysel.steps import STAGES
from raysel.store import Store
from tests.conftest import REPOSITORY


@pytest.mark.parametrize("path", sorted((REPOSITORY / "experiments").glob("*.yaml")), ids=lambda path: path.stem)
def test_loads_and_none_of_its_settings_is_idle(path: Path) -> None:
    experiment = load_experiment(path, ["evaluation.tasks=anywhere"])
    assert experiment.name == path.stem
    assert experiment.warnings() == []


def test_the_demo_uses_every_stage(tmp_path: Path) -> None:
    experiment = load_experiment(REPOSITORY / "experiments" / "demo.yaml", [f"storage={tmp_path}"])
    steps = expand(experiment, Store(experiment.storage))
    # Nothing is dropped there, so nothing needs to be cleaned.
    of_selectors = {"target", "importance", "warmup", "gradients", "influence"}
    assert {step.stage for step in steps} == set(STAGES) - {"clean"} - of_selectors
    beside = load_experiment(REPOSITORY / "experiments" / "selectors.yaml", [f"storage={tmp_path}"])
    assert {step.stage for step in expand(beside, Store(beside.storage))} == set(STAGES) - {"clean"}
    assert len({step.fingerprint for step in steps}) == len(steps)


def test_a_corpus_that_was_not_named_is_asked_for(tmp_path: Path) -> None:
    experiment = load_experiment(REPOSITORY / "experiments" / "real-small.yaml", [f"storage={tmp_path}"])
    with pytest.raises(UserError, match=r"corpus\.path is not set"):
        expand(experiment, Store(experiment.storage))


def test_a_fingerprint_survives_the_record_of_a_run(tmp_path: Path) -> None:
    from raysel.experiment import Experiment

    experiment = load_experiment(REPOSITORY / "experiments" / "demo.yaml", [f"storage={tmp_path}"])
    again = Experiment.model_validate(experiment.model_dump(mode="json"))
    store = Store(experiment.storage)
    assert [s.fingerprint for s in expand(experiment, store)] == [s.fingerprint for s in expand(again, store)]


@pytest.mark.parametrize(
    ("setting", "touched"),
    [
        ("preselect.rho=0.4", {"pool", "subset", "diversity", "order", "tokens", "model", "results_tuned", "report"}),
        ("curriculum.kind=random", {"order", "tokens", "model", "results_tuned", "report"}),
        ("evaluation.limit=3", {"results_base", "results_tuned", "report"}),
        ("training.learning_rate=1e-3", {"model", "results_tuned", "report"}),
        ("training.workers=1", set()),
        ("embedding.token_budget=64", set()),
        ("storage=elsewhere", set()),
        ("cluster.num_cpus=1", set()),
        ("report.map_samples=50", {"report"}),
    ],
)
def test_a_setting_touches_what_depends_on_it(tmp_path: Path, setting: str, touched: set[str]) -> None:
    path = REPOSITORY / "experiments" / "demo.yaml"
    store = Store(str(tmp_path))
    before = {step.name: step.fingerprint for step in expand(load_experiment(path), store)}
    after = {step.name: step.fingerprint for step in expand(load_experiment(path, [setting]), store)}
    assert {name for name in before if before[name] != after[name]} == touched
