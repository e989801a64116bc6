"""The steps of an experiment as they are added: what every room's steps are made from."""

import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from raysel.experiment import Experiment
from raysel.steps import Leaf, Step
from raysel.store import Store, file_digest


class Graph:
    """The steps so far, by name. corpus: the one whose rows everything after the audit reads; base: the model that is
    made first (a step), or model_leaf: the one that is there. fetch: whether a model of known shape is fetched from the
    hub; otherwise its leaf is its name until it has been."""

    def __init__(self, experiment: Experiment, store: Store, *, fetch: bool = True) -> None:
        self.experiment, self.store, self.fetch = experiment, store, fetch
        self.steps: dict[str, Step] = {}
        self.corpus: dict[str, Step] = {}
        self.base: dict[str, Step] = {}
        self.model_leaf: dict[str, Leaf] = {}
        self.tasks: Leaf | None = None
        if experiment.evaluation.tasks is not None:
            from raysel.evaluation.tasks import check, leaf_files

            check(experiment.evaluation)
            self.tasks = self.leaf_of_tasks(leaf_files(experiment.evaluation))

    def add(
        self,
        name: str,
        stage: str,
        settings: dict[str, Any],
        *inputs: str,
        more_inputs: Mapping[str, Step] = MappingProxyType({}),
        **more: Any,
    ) -> Step:
        """inputs: names of steps that the stage knows by the same name; more_inputs: others, by the stage's name."""
        named = {**{key: self.steps[key] for key in inputs}, **more_inputs}
        self.steps[name] = Step(name, stage, settings, named, **more)
        return self.steps[name]

    def leaf(self, path: str, files: list[str]) -> Leaf:
        """Content hashes by path below the folder that holds all the files: moving that folder changes nothing."""
        names = [file.partition("?")[0] for file in files]
        common = os.path.commonpath([name.rpartition("/")[0] for name in names])
        shown = [name.removeprefix(common).lstrip("/") for name in names]
        return Leaf(path, {name: file_digest(self.store, file) for name, file in zip(shown, files, strict=True)})

    def leaf_of_tasks(self, files: list[str]) -> Leaf:
        """Task files and their data: moving either folder changes nothing."""
        evaluation = self.experiment.evaluation
        root = Path(evaluation.data or "").expanduser().resolve()
        data = [file for file in files if evaluation.data is not None and Path(file).is_relative_to(root)]
        rest = [file for file in files if file not in set(data)]
        tasks = self.leaf(str(evaluation.tasks), rest) if rest else Leaf(str(evaluation.tasks), {})
        if not data:
            return tasks
        below = {f"data/{name}": content for name, content in self.leaf("", data).files.items()}
        return Leaf(tasks.path, {**tasks.files, **below})

    def leaf_of_model(self, model: Any) -> Leaf:
        from raysel.models.loading import find_model, is_here, refuse_without_template
        from raysel.models.shape import known_shape

        if not self.fetch and known_shape(model.path) is not None and not is_here(model.path, model.revision):
            return Leaf(model.path, {model.path: "not fetched"})
        folder = find_model(model.path, revision=model.revision, trust_remote_code=model.trust_remote_code)
        refuse_without_template(folder, model.template.name)
        return self.leaf(str(folder), sorted(str(file) for file in folder.iterdir() if file.is_file()))

    @property
    def templated(self) -> dict[str, Any]:
        """What every stage that feeds samples to the model that is trained counts."""
        from raysel.models.templates import template_source

        model = self.experiment.model
        return {
            "template": template_source(model.template.name),
            "seed": self.experiment.seed,
            "trust_remote_code": model.trust_remote_code,
        }

    @property
    def trained(self) -> dict[str, Any]:
        return {key: value for key, value in self.templated.items() if key != "template"}
