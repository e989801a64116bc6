"""A trial as an experiment file: the experiment with changed keys."""

import copy
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from raysel.experiment import Experiment, ExperimentError, assign, checked, read_experiment
from raysel.settings import counted
from raysel.sweep.settings import Space, SpaceError, load_space
from raysel.sweep.space import Point, distinct, drawn, grid

# What a sweep decides itself, beside what `Space` refuses.
OWN_KEYS = ("evaluation.split", "evaluation.models", "corpus.seed", "model.base.seed")
# Drawn points that are checked before anything runs; of TPE's, which are not known yet, random ones in their place.
CHECKED = 64


@dataclass(frozen=True)
class Search:
    """An experiment file and a space file, read and checked. data: the experiment's keys, its paths absolute."""

    data: dict[str, Any]
    experiment: Experiment
    space: Space
    experiment_file: Path
    space_file: Path
    dump: dict[str, Any] = field(repr=False)

    @property
    def name(self) -> str:
        return f"{self.experiment.name}-{re.sub(r'[^A-Za-z0-9._-]+', '-', self.space_file.stem)}"

    @property
    def seeds(self) -> list[int]:
        return self.space.seeds or [self.experiment.seed]

    @property
    def until(self) -> str:
        """The stage up to which a trial runs."""
        return "results" if any(objective.of == "results" for objective in self.space.objective) else "model"

    def known(self, key: str) -> Any:
        """What the experiment has for a key, its default included. `SpaceError` where there is no such key."""
        inner: Any = self.dump
        for part in key.split("."):
            if not isinstance(inner, dict) or part not in inner:
                raise SpaceError(
                    f"{self.space_file}: a condition (when) asks for {key}, which is neither a parameter of the space "
                    "nor a key of the experiment"
                )
            inner = inner[part]
        return inner

    def points(self) -> list[Point] | None:
        """Every point, where they are known before anything ran; None for tpe. A point that comes twice is one."""
        match self.space.search:
            case "grid":
                return grid(self.space, self.known)
            case "random":
                return distinct(drawn(self.space, self.known, self.most_points))
        return None

    def known_points(self) -> list[Point]:
        """Every point or, of a search that finds its own, some that are drawn."""
        points = self.points()
        return points if points is not None else drawn(self.space, self.known, CHECKED)

    @property
    def most_points(self) -> int:
        """How many points the limit on trials has room for."""
        assert self.space.limits.trials is not None
        return self.space.limits.trials // len(self.seeds)

    def trial_data(self, point: Point, seed: int, *, name: str, of_trial: bool = True) -> dict[str, Any]:
        """The keys of the experiment that a point and a seed make. Of a trial: scored on development items, nothing
        but the tuned model."""
        data = copy.deepcopy(self.data)
        changes: dict[str, Any] = {**point, "name": name, "seed": seed}
        if seed != self.experiment.seed:
            # What is held out, and the small base model, are the same in every trial.
            changes["corpus.seed"] = _given(self.experiment.corpus.seed, self.experiment.seed)
        for key, value in changes.items():
            self._assign(data, key, value)
        base = data["model"].get("base") if isinstance(data.get("model"), dict) else None
        if seed != self.experiment.seed and isinstance(base, dict):
            data["model"]["base"] = {**base, "seed": _given(base.get("seed"), self.experiment.seed)}
        evaluation = data.get("evaluation")
        if of_trial and isinstance(evaluation, dict):
            if evaluation.get("tasks") is not None:
                self._assign(data, "evaluation.split", "dev")
            if evaluation.get("tasks") is not None or evaluation.get("heldout_samples"):
                self._assign(data, "evaluation.models", ["tuned"])
        return data

    def _assign(self, data: dict[str, Any], key: str, value: Any) -> None:
        folder = self.space_file.parent.resolve()
        assign(data, key.split("."), copy.deepcopy(value), folder, f"{self.space_file}: {key}")

    def trial(self, point: Point, seed: int, *, name: str) -> Experiment:
        """The experiment of one trial. Raises `SpaceError` that names the point."""
        try:
            return checked(self.trial_data(point, seed, name=name), where="its experiment")
        except ExperimentError as error:
            raise SpaceError(f"{self.space_file}: {shown(point)} cannot be tried: {error}") from None

    def warnings(self) -> list[str]:
        """What is set and changes nothing at any point; what is idle at some alone is what conditions are for."""
        experiments = [self.trial(point, self.seeds[0], name="trial") for point in self.points() or []]
        return sorted(set.intersection(*(set(one.warnings()) for one in experiments))) if experiments else []

    def check(self) -> None:
        """Every point that is known, or random ones of those that are not, makes an experiment that can be read."""
        for key in self.space.parameters:
            if key in OWN_KEYS:
                raise SpaceError(f"{self.space_file}: parameters.{key}: a sweep decides it itself")
        for asked in (asked for of in self.space.parameters.values() for asked in of.when):
            if not any(asked == key or asked.startswith(f"{key}.") for key in self.space.parameters):
                self.known(asked)
        points = self.points()
        for point in self.known_points():
            for seed in self.seeds:
                self.trial(point, seed, name="trial")
        trials = len(points) * len(self.seeds) if points is not None else 0
        if self.space.search == "grid" and self.space.limits.trials is not None and trials > self.space.limits.trials:
            raise SpaceError(
                f"{self.space_file}: {len(points or [])} points x {len(self.seeds)} seeds = {trials} trials, and "
                f"limits.trials is {self.space.limits.trials}: raise it, list fewer values, or draw (searcher random)"
            )
        for objective in self.space.objective:
            if objective.of == "results" and not self.experiment.evaluation.is_asked:
                raise SpaceError(
                    f"{self.space_file}: objective {objective.label} needs evaluation.tasks or "
                    "evaluation.heldout_samples"
                )
            if objective.of == "heldout_loss" or self.space.scheduler == "asha":
                self._refuse_without_heldout()

    def _refuse_without_heldout(self) -> None:
        for value, key in (
            (self.experiment.corpus.heldout, "corpus.heldout"),
            (self.experiment.training.data.heldout_samples, "training.data.heldout_samples"),
        ):
            if not value:
                raise SpaceError(f"{self.space_file}: the held-out loss needs {key}, and the experiment has {value}")


def read_search(experiment_file: Path, space_file: Path, overrides: Sequence[str]) -> Search:
    """Read and check both files. Raises `ExperimentError` or `SpaceError`."""
    data = read_experiment(experiment_file, overrides)
    experiment = checked(data, where=str(experiment_file))
    space = load_space(space_file)
    search = Search(data, experiment, space, experiment_file, space_file, experiment.model_dump(mode="json"))
    search.check()
    return search


def shown(point: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in point.items()) or "the experiment as it is"


def trial_name(of: str, number: int) -> str:
    """What a trial is called as a run."""
    return f"{of}-{number:04d}"


def trial_folder(of: str, number: int) -> str:
    """Where a trial's record is, below the folder of what it belongs to."""
    return f"{of}/trials/{number:04d}"


def value_at(data: Any, key: str) -> Any:
    """What a mapping of sections has for a dotted key; None where it has nothing."""
    for part in key.split("."):
        data = data.get(part) if isinstance(data, dict) else None
    return data


def sampled_settings(experiment: Experiment, parameters: Iterable[str]) -> dict[str, Any]:
    """What the sampled keys are in a trial's experiment, as it was checked: 0.001 where a space says `1e-3`."""
    dump = counted(experiment)
    return {key: value_at(dump, key) for key in parameters}


def differing_settings(
    sampled: Mapping[str, Any], experiment: Experiment, artifacts: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]
) -> list[str]:
    """Where a trial was another than what was sampled: its experiment, or the manifest of an artifact.

    sampled: as `sampled_settings` has it; artifacts: the settings that a step asked for, and its artifact's manifest. A
    step that asks for something else by itself (the pool of all rows, for a selector without one) is passed over.
    """
    read = sampled_settings(experiment, sampled)
    found = [
        f"{key} was sampled as {value}, and read as {read[key]}" for key, value in sampled.items() if read[key] != value
    ]
    for asked, manifest in artifacts:
        for key, value in sampled.items():
            made = value_at(manifest["settings"], key)
            if made is not None and value_at(counted(dict(asked)), key) == value and made != value:
                found.append(f"{key} was sampled as {value}, and {manifest['stage']} was made with {made}")
    return found


def _given(value: int | None, default: int) -> int:
    return default if value is None else value
