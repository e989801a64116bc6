"""A study, small or over an experiment of the user's, read and checked: its conditions as points of a sweep."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raysel.evaluation.heldout import METRIC
from raysel.experiment import checked, read_experiment, resolve_paths
from raysel.store import Store, digest
from raysel.studies.made import READING, SCHEME, Made, named_in, replaced, with_paths, with_reading
from raysel.studies.results import COVERAGE, Condition
from raysel.studies.settings import (
    FILES,
    Compared,
    Control,
    Form,
    SharedSettings,
    Study,
    StudyError,
    load_shared,
    load_study,
)
from raysel.sweep.settings import Space
from raysel.sweep.space import Point, grid
from raysel.sweep.trials import Search, value_at


@dataclass(frozen=True)
class Plan:
    """A form of a study, read: its experiment as data (which may name what is still to be made), the conditions, still
    without values, and what is made first. file: the user's experiment; None of the small form."""

    name: str
    study: Study
    file: Path | None
    data: dict[str, Any]
    conditions: list[Condition]
    controls: dict[str, Control]
    made: Made

    @property
    def run_name(self) -> str:
        """Of the folder, which no sweep and no study with other settings has."""
        return f"{self.data['name']}-{self.name}"

    @property
    def form(self) -> Form:
        return self.study.small if self.file is None else self.study.full

    @property
    def compared(self) -> Compared:
        return self.study.compared_over(self.file is not None)

    @property
    def seeds(self) -> list[int]:
        return self.form.seeds

    def space(self, points: Sequence[Point]) -> Space:
        # Nothing is trained for a coverage, nor looked up in the results.
        of_results = {"metric": self.form.measure, "tasks": self.form.tasks}
        objective = {"of": "trained_tokens"} if self.form.measure == COVERAGE else of_results
        return Space.model_validate({"points": points, "seeds": self.seeds, "objective": objective})

    def wanted(self) -> set[str]:
        """What is to be made."""
        return set(named_in(self.data)) | {name for of in self.conditions for name in named_in(of.parameters)}

    def search(self, paths: Mapping[str, str]) -> Search:
        """The trials, once it is known where everything is that was made."""
        data = with_paths(self.data, paths)
        experiment = checked(data, where=f"study {self.name}")
        space = self.space([with_paths(with_reading(of.parameters), paths) for of in self.conditions])
        dump = experiment.model_dump(mode="json")
        search = Search(data, experiment, space, Path(self.name), Path(str(FILES)) / f"{self.name}.yaml", dump)
        search.check()
        return search


def read_plan(name: str, overrides: Sequence[str] = (), file: Path | None = None) -> Plan:
    """Read and check a study, its small form or the full one over the experiment in `file`. Raises `StudyError`,
    `ExperimentError`, `SpaceError`."""
    study, shared = load_study(name), load_shared()
    form = study.small if file is None else study.full
    models = form.models if file is not None else shared.models | form.models
    _refuse_other_groups(name, study.compared_over(file is not None), overrides)
    data = _data(shared, form, file, overrides)
    if "://" in data["storage"]:
        raise StudyError(
            f"study {name}: storage {data['storage']!r} is no folder, and the models that it makes need one"
        )
    store = Store(data["storage"])
    made = Made(name, data, store, shared.corpora | form.corpora, models)
    if form.corpus is not None:
        data = replaced(data, {**READING, "corpus.path": f"{SCHEME}corpus/{form.corpus}"})
    experiment = checked(with_paths(data, made.supposed()), where=f"study {name}")
    controls = {key: shared.controls[key] for key in form.shared_controls} | form.controls
    asked: list[tuple[str, Point, str | None]] = [
        (name, point, None) for name, point in _points(form, experiment.model_dump(mode="json"))
    ]
    _refuse_what_the_study_decides(name, [point for _, point, _ in asked], overrides)
    asked += [("", dict(point), key) for key, of in controls.items() for point in (of.first, of.second)]
    conditions = [Condition(number, *of, values={}) for number, of in enumerate(asked)]
    plan = Plan(name, study, file, data, conditions, controls, made)
    plan.search(made.supposed())
    return plan


def _data(shared: SharedSettings, form: Form, file: Path | None, overrides: Sequence[str]) -> dict[str, Any]:
    """The experiment that all conditions share. What the user set comes last."""
    changes = [override for override in overrides if not override.startswith("storage=")]
    own = [digest(changes)[:8]] if changes else []
    if file is not None:
        data = merged({"storage": str(Path.cwd() / "out")} | read_experiment(file, overrides), form.experiment)
        data["name"] = "-".join(["study", file.stem, *own])
        resolve_paths(data, file.parent, overrides)
        return data
    data = merged(shared.experiment, form.experiment) | {"storage": str(Path.cwd() / "out")}
    data["name"] = "-".join(["study", *own])
    resolve_paths(data, Path(str(FILES)), overrides)
    return data


def _refuse_what_the_study_decides(name: str, points: Sequence[Point], overrides: Sequence[str]) -> None:
    for override in overrides:
        key = override.partition("=")[0].strip()
        varied = any(_overlap(key, other) for point in points for other in point)
        if varied or key in ("name", "seed"):
            why = "its conditions are made of it" if varied else "it has a name and seeds of its own"
            raise StudyError(f"--set {override!r}: study {name} decides {key} itself, {why}; a sweep can vary anything")


def _refuse_other_groups(name: str, compared: Compared, overrides: Sequence[str]) -> None:
    for override in overrides:
        key = override.partition("=")[0].strip()
        if any(_overlap(key, other) for other in compared.groups_follow):
            raise StudyError(
                f"--set {override!r}: study {name} compares {' and '.join(compared.groups)}, which {key} decides: with "
                "another one these names would be wrong; a sweep can vary anything"
            )


def _overlap(key: str, other: str) -> bool:
    """Whether one of two dotted keys is, or holds, the other."""
    return f"{key}.".startswith(f"{other}.") or f"{other}.".startswith(f"{key}.")


def _points(form: Form, dump: Mapping[str, Any]) -> list[tuple[str, Point]]:
    """The names (where they have any) and keys of what is asked."""
    if form.points:
        return [(name, dict(point)) for name, point in form.points.items()]
    space = Space.model_validate({"parameters": form.parameters, "objective": {"metric": METRIC}})
    return [("", point) for point in grid(space, lambda key: value_at(dump, key))]


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Two mappings of sections as one; what `above` says counts."""
    found = dict(below)
    for key, value in above.items():
        both = isinstance(value, Mapping) and isinstance(found.get(key), Mapping)
        found[key] = merged(found[key], value) if both else value
    return found
