"""The search spaces that ship with the project: what their head comments promise of trials and of work is so."""

import copy
import re
from pathlib import Path
from typing import Any

import pytest

from raysel.experiment import Experiment, assign, checked, parse_yaml, read_experiment
from raysel.languages import choose_languages
from raysel.pipeline import expand
from raysel.store import Store
from raysel.sweep.settings import Space, load_space
from raysel.sweep.space import Point, drawn, grid
from tests.conftest import REPOSITORY

SPACES = sorted((REPOSITORY / "tune_spaces").glob("*.yaml"))
EVERY_SPACE = pytest.mark.parametrize("path", SPACES, ids=lambda path: path.stem)
STAGES = r"\b[a-z]+(?:_[a-z]+)*\b"


def head(path: Path) -> list[str]:
    lines = path.read_text(encoding="utf-8").splitlines()
    return [line.removeprefix("#").removeprefix(" ") for line in lines if line.startswith("#")]


def promised(path: Path, label: str) -> str:
    """The sentence after `label:` in the head comment."""
    return next(line.partition(": ")[2].split(".")[0] for line in head(path) if line.startswith(f"{label}: "))


def fitting(path: Path) -> dict[str, Any]:
    """The experiment that the head comment asks for, as a mapping; without one, the experiment that is named there."""
    asked = "\n".join(line[2:] for line in head(path) if re.match(r"  [a-z]+: ", line))
    if asked:
        return {"name": "fitting", "model": {"path": "org/model"}} | parse_yaml(asked, str(path))
    named = re.search(r"experiments/\S+\.yaml", "\n".join(head(path)))
    assert named is not None
    return read_experiment(REPOSITORY / named.group())


def points_of(space: Space, experiment: Experiment) -> list[Point]:
    dump = experiment.model_dump(mode="json")

    def known(key: str) -> Any:
        value: Any = dump
        for part in key.split("."):
            value = value[part]
        return value

    if space.search == "grid":
        return grid(space, known)
    return drawn(space, known, (space.limits.trials or 0) // max(1, len(space.seeds)))


def trial(data: dict[str, Any], point: Point, seed: int) -> Experiment:
    changed = copy.deepcopy(data) | {"seed": seed}
    for key, value in copy.deepcopy(point).items():
        assign(changed, key.split("."), value, REPOSITORY, where=key)
    return checked(changed, where="trial")


def trials(space: Space, data: dict[str, Any]) -> list[Experiment]:
    experiment = checked(data, where="experiment")
    seeds = space.seeds or [experiment.seed]
    return [trial(data, point, seed) for point in points_of(space, experiment) for seed in seeds]


@EVERY_SPACE
def test_every_trial_is_an_experiment_in_which_every_setting_counts(path: Path) -> None:
    space, data = load_space(path), fitting(path)
    assert space.without_effect() == []
    assert checked(data, where="experiment").warnings() == []
    found = trials(space, data)
    assert {warning for experiment in found for warning in experiment.warnings()} == set()
    assert len(found) == int(re.match(r"\d+", promised(path, "Trials")).group())  # type: ignore[union-attr]
    if space.search == "grid":
        assert len({experiment.model_dump_json() for experiment in found}) == len(found)


@EVERY_SPACE
def test_what_is_said_to_be_made_once_is(path: Path, tmp_path: Path) -> None:
    """Over the demo's corpus, tasks and small base model, whose fingerprints tell trials apart as others' would."""
    space, data = load_space(path), fitting(path)
    data |= {"storage": str(tmp_path), "model": {"base": {"seed": 0}}}
    data["corpus"] = data.get("corpus", {}) | {"path": str(REPOSITORY / "raysel/demo/corpus"), "seed": 0}
    data["evaluation"] = {"tasks": str(REPOSITORY / "raysel/demo/eval"), "models": ["tuned"]}
    space.parameters.pop("model.path", None)  # of several models each has its vectors and scores
    different = list({experiment.model_dump_json(): experiment for experiment in trials(space, data)}.values())
    found = [
        different[place] for place in sorted({0, len(different) // 3, 2 * len(different) // 3, -1 % len(different)})
    ]
    made: dict[str, set[str]] = {}
    for experiment in found:
        for step in expand(experiment, Store(experiment.storage)):
            made.setdefault(step.stage, set()).add(step.fingerprint)
    once, anew = (
        [stage for stage in re.findall(STAGES, promised(path, label).partition(";")[0]) if stage in made]
        for label in ("Once", "Each trial")
    )
    assert {"corpus", "model"} <= {*once, *anew}
    assert {stage: len(made[stage]) for stage in once} == dict.fromkeys(once, 1)
    assert {stage: len(made[stage]) for stage in anew} == dict.fromkeys(anew, len(found))


@EVERY_SPACE
def test_no_space_says_what_is_evaluated(path: Path) -> None:
    """Trials that are scored on different items have nothing to be compared by."""
    assert not any(key.startswith("evaluation.") for key in load_space(path).parameters)


def test_the_spaces_in_the_documentation_are_spaces() -> None:
    text = (REPOSITORY / "docs" / "sweeps.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```yaml\n(.*?)```", text, flags=re.DOTALL)
    spaces = [Space.model_validate(parse_yaml(block, "docs/sweeps.md")) for block in blocks]
    assert [space.without_effect() for space in spaces] == [[], []]
    assert spaces[0] == load_space(REPOSITORY / "tune_spaces" / "demo.yaml")
    # The second shows every key there is, less what takes the place of another.
    assert spaces[1].model_fields_set == set(Space.model_fields) - {"points"}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["language_count", "language_strategy"])
def test_the_languages_of_every_trial_can_be_chosen(name: str) -> None:
    path = REPOSITORY / "tune_spaces" / f"{name}.yaml"
    for experiment in trials(load_space(path), fitting(path)):
        asked = experiment.languages
        published = {"published": True} if asked.published else {}
        chosen = choose_languages(asked.strategy, asked.k, seed=experiment.seed, **published)
        assert len(chosen) == (asked.k or 52)
        assert experiment.mixture.total == 67017
