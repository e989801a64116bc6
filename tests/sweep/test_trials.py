"""A trial is an experiment file with changed keys."""

from pathlib import Path

import pytest
import yaml

from raysel.errors import UserError
from raysel.sweep.command import refuse_what_is_not_evaluated
from raysel.sweep.settings import SpaceError
from raysel.sweep.trials import Search, differing_settings, read_search, sampled_settings
from tests.conftest import REPOSITORY

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


def test_what_was_trained_is_what_was_sampled(tmp_path: Path) -> None:
    found = search(tmp_path, {"parameters": {"preselect.rho": {"grid": [0.5]}}})
    experiment = found.trial({"preselect.rho": 0.5, "training.learning_rate": "1e-4"}, 7, name="x")
    sampled = sampled_settings(experiment, ["preselect.rho", "training.learning_rate"])
    assert sampled == {"preselect.rho": 0.5, "training.learning_rate": 1e-4}
    asked = {"preselect": experiment.preselect}
    of_all = {"preselect": experiment.preselect.model_copy(update={"rho": 1.0})}

    def pool(rho: float) -> dict[str, object]:
        return {"stage": "pool", "settings": {"preselect": {"rho": rho, "band": "high"}}}

    # A selector without a pool has one of all rows, which is no mistake.
    assert differing_settings(sampled, experiment, [(asked, pool(0.5)), (of_all, pool(1.0))]) == []
    assert differing_settings(sampled, experiment, [(asked, pool(0.4))]) == [
        "preselect.rho was sampled as 0.5, and pool was made with 0.4"
    ]
    assert differing_settings({"preselect.rho": 0.3}, experiment, []) == [
        "preselect.rho was sampled as 0.3, and read as 0.5"
    ]


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        ({"metric": "accc"}, "objective accc: the experiment evaluates tasks .* in .*, by acc"),
        ({"metric": "acc", "tasks": ["xcopa_*"]}, "evaluates tasks choice_ar"),
        ({"metric": "acc", "languages": ["qu"]}, "evaluates tasks choice_ar"),
    ],
)
def test_an_objective_that_no_task_has_is_refused_before_anything_runs(
    tmp_path: Path, objective: dict, message: str
) -> None:
    given = {"evaluation": {"tasks": str(REPOSITORY / "raysel/demo/eval")}}
    found = search(tmp_path, {"parameters": {"preselect.rho": {"grid": [0.5]}}, "objective": objective}, given)
    with pytest.raises(SpaceError, match=message):
        refuse_what_is_not_evaluated(found, found.trial({"preselect.rho": 0.5}, 7, name="x"))


@pytest.mark.parametrize(
    ("evaluation", "objective", "message"),
    [
        ({"heldout_samples": 4}, {"tasks": ["heldout_*"]}, None),
        ({"heldout_samples": 4}, {"languages": ["sw"]}, None),
        ({"heldout_samples": 4, "tasks": str(REPOSITORY / "raysel/demo/eval")}, {"tasks": ["heldout_sw"]}, None),
        ({}, {"tasks": ["heldout_*"]}, r"needs evaluation\.tasks or evaluation\.heldout_samples"),
        ({"heldout_samples": 4}, {"tasks": ["xcopa_*"]}, "evaluates only the tasks heldout_<lang>, by bits_per_byte"),
        ({"heldout_samples": 4}, {"metric": "acc"}, "objective acc: the experiment evaluates only the tasks heldout_"),
        ({"tasks": str(REPOSITORY / "raysel/demo/eval")}, {"tasks": ["heldout_*"]}, "evaluates tasks choice_ar"),
    ],
)
def test_a_search_by_held_out_samples_needs_them(
    tmp_path: Path, evaluation: dict, objective: dict, message: str | None
) -> None:
    def checked() -> Search:
        space = {"parameters": {"preselect.rho": {"grid": [0.5]}}, "objective": {"metric": "bits_per_byte"} | objective}
        found = search(tmp_path, space, {"evaluation": evaluation})
        refuse_what_is_not_evaluated(found, found.trial({"preselect.rho": 0.5}, 7, name="x"))
        return found

    if message is not None:
        with pytest.raises(SpaceError, match=message):
            checked()
        return
    found = checked()
    assert not found.space.objective[0].is_maximized
    trial = found.trial({"preselect.rho": 0.5}, 7, name="x").evaluation
    assert trial.models == ["tuned"]
    assert trial.split == ("dev" if "tasks" in evaluation else "test")


def test_every_condition_is_looked_up_and_sections_are_looked_into(tmp_path: Path) -> None:
    mixture = {"grid": [{"quota": "even", "total": 100}, {"quota": "proportional", "total": 100}]}
    kind = {"grid": ["random", "balanced"], "when": {"mixture.quota": "even"}}
    found = search(tmp_path, {"parameters": {"curriculum.kind": kind, "mixture": mixture}})
    points = found.points() or []
    assert [(point["mixture"]["quota"], point.get("curriculum.kind")) for point in points] == [
        ("even", "random"),
        ("proportional", None),
        ("even", "balanced"),
    ]
    wrong = {"grid": [2], "when": {"mixture.quota": "even", "curriculum.knd": 1}}
    with pytest.raises(SpaceError, match=r"asks for curriculum\.knd"):
        search(tmp_path, {"parameters": {"curriculum.levels": wrong}})


def test_a_null_or_a_model_in_the_place_of_a_base_is_no_traceback(tmp_path: Path) -> None:
    space = {"parameters": {"model": {"grid": [{"base": {}}, {"path": "/m"}]}}, "seeds": [7, 8]}
    found = search(tmp_path, space)
    assert found.trial({"model": {"path": "/m"}}, 8, name="x").model.base is None
    with pytest.raises(SpaceError, match="evaluation"):
        search(tmp_path, {"parameters": {"evaluation": {"grid": [None]}}})
