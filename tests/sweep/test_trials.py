"""A trial is an experiment file with changed keys."""

from pathlib import Path

import pytest
import yaml

from raysel.errors import UserError
from raysel.sweep.settings import SpaceError
from raysel.sweep.trials import Search, differing_settings, read_search

EXPERIMENT = {
    "name": "e",
    "seed": 7,
    "storage": "store",
    "model": {"base": {"width": 32}},
    "corpus": {"path": "corpus.jsonl"},
    "evaluation": {"tasks": "tasks"},
}


def search(folder: Path, space: dict, experiment: dict | None = None) -> Search:
    (folder / "e.yaml").write_text(yaml.safe_dump(EXPERIMENT | (experiment or {})))
    (folder / "space one.yaml").write_text(yaml.safe_dump({"objective": {"metric": "acc"}} | space))
    return read_search(folder / "e.yaml", folder / "space one.yaml", [])


def test_a_trial_changes_its_keys_and_nothing_else(tmp_path: Path) -> None:
    found = search(tmp_path, {"parameters": {"preselect.rho": {"grid": [0.1, 0.3]}}})
    assert found.name == "e-space-one"
    base, trial = found.experiment, found.trial({"preselect.rho": 0.3}, 7, name="x")
    changed = trial.model_copy(update={"name": base.name, "preselect": base.preselect, "evaluation": base.evaluation})
    assert changed == base
    assert (trial.preselect.rho, trial.evaluation.split, trial.evaluation.models) == (0.3, "dev", ["tuned"])


def test_another_seed_holds_out_the_same_rows_and_starts_from_the_same_model(tmp_path: Path) -> None:
    found = search(tmp_path, {"parameters": {"preselect.rho": {"grid": [0.1]}}, "seeds": [7, 8]})
    other = found.trial({}, 8, name="x")
    assert (other.seed, other.corpus.seed, other.model.base.seed) == (8, 7, 7)  # type: ignore[union-attr]
    same = found.trial({}, 7, name="x")
    assert (same.seed, same.corpus.seed, same.model.base.seed) == (7, None, None)  # type: ignore[union-attr]


def test_the_winner_is_scored_as_the_experiment_says(tmp_path: Path) -> None:
    found = search(tmp_path, {"parameters": {"preselect.rho": {"grid": [0.1]}}})
    data = found.trial_data({"preselect.rho": 0.1}, 7, name="best", of_trial=False)
    assert data["evaluation"] == {"tasks": str(tmp_path / "tasks")}


def test_paths_in_a_space_are_beside_it(tmp_path: Path) -> None:
    found = search(tmp_path, {"parameters": {"corpus.path": {"grid": ["a.jsonl", "b.jsonl"]}}})
    assert found.trial({"corpus.path": "a.jsonl"}, 7, name="x").corpus.path == str(tmp_path / "a.jsonl")


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"parameters": {"preselect.roh": {"grid": [0.1]}}}, "unknown key 'preselect.roh': did you mean preselect.rho"),
        ({"parameters": {"preselect.rho": {"grid": []}}}, "grid is empty: there is nothing to try"),
        (
            {"parameters": {"curriculum.levels": {"grid": [2], "when": {"curriculum.knd": "balanced"}}}},
            "a condition .when. asks for curriculum.knd, which is neither a parameter of the space nor a key",
        ),
        ({"parameters": {"preselect.rho": {"grid": [0.1, 7]}}}, "preselect.rho=7 cannot be tried.*less than or equal"),
        ({"parameters": {"seed": {"grid": [1, 2]}}}, "seed cannot be tried: write seeds"),
        ({"parameters": {"evaluation.split": {"grid": ["test"]}}}, "a sweep decides it itself"),
        (
            {"parameters": {"preselect.rho": {"grid": [0.1, 0.2]}}, "seeds": [1, 2], "limits": {"trials": 3}},
            "2 points x 2 seeds = 4 trials, and limits.trials is 3",
        ),
        ({"parameters": {"preselect.rho": {"uniform": [0.1, 0.2]}}}, "limits.trials: searcher random draws without"),
        ({"parameters": {"preselect.rho.x": {"grid": [1]}}}, "preselect.rho"),
    ],
)
def test_what_cannot_be_searched_is_refused_before_anything_runs(tmp_path: Path, space: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        search(tmp_path, space)
    assert not (tmp_path / "store").exists()


def test_an_objective_that_nothing_measures_is_refused(tmp_path: Path) -> None:
    space = {"parameters": {"preselect.rho": {"grid": [0.1]}}}
    with pytest.raises(SpaceError, match=r"objective acc needs evaluation\.tasks"):
        search(tmp_path, space, {"evaluation": {}})
    loss = space | {"objective": {"of": "heldout_loss"}}
    with pytest.raises(SpaceError, match=r"the held-out loss needs corpus\.heldout, and the experiment has 0"):
        search(tmp_path, loss, {"corpus": {"path": "corpus.jsonl", "heldout": 0}})


def test_what_was_trained_is_what_was_sampled() -> None:
    manifests = [
        {"stage": "pool", "settings": {"preselect": {"rho": 0.5, "band": "high"}}},
        {"stage": "model", "settings": {"training": {"learning_rate": 1e-4}}},
    ]
    assert differing_settings({"preselect.rho": 0.5, "training.learning_rate": 1e-4, "x.y": 1}, manifests) == []
    assert differing_settings({"preselect.rho": 0.4}, manifests) == [
        "preselect.rho was sampled as 0.4 and pool was made with 0.5"
    ]
