"""The experiment file: YAML in, a typed and checked `Experiment` out.

Relative paths in the file are relative to the file's folder; those given with `--set` to the current one.
"""

import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args, get_origin

import yaml
from pydantic import BaseModel, Field, ValidationError, model_validator

from raysel.corpus.settings import CorpusSettings
from raysel.embedding.settings import EmbeddingSettings
from raysel.errors import UserError
from raysel.evaluation.settings import EvaluationSettings
from raysel.evaluation.suites.expand import suites
from raysel.languages.settings import LanguagesSettings
from raysel.mixture.settings import CurriculumSettings, MixtureSettings
from raysel.models.settings import JINJA_FILES, ModelSettings
from raysel.planning.operations import Gpu
from raysel.report.settings import ReportSettings
from raysel.selection.settings import SelectionSettings
from raysel.separability.settings import PreselectSettings, SeparabilitySettings
from raysel.settings import Section, execution
from raysel.training.settings import TrainingSettings

# These may also be a name on the Hugging Face hub: they are paths only where such a file or folder exists.
MODELS = (("model",), ("embedding", "model"), ("evaluation", "judge"))
NAME_OR_PATH = (("corpus", "path"), *((*keys, "path") for keys in MODELS))
TEMPLATES = tuple((*keys, "template", *more) for keys in MODELS for more in ((), ("name",)))
FILES = (
    ("evaluation", "tasks"),
    ("evaluation", "data"),
    ("selection", "target", "path"),
    ("languages", "vectors"),
    ("languages", "pretrain"),
    ("curriculum", "trained_order"),
    ("training", "deepspeed"),
)
PATH_KEYS = (("storage",), *FILES, *TEMPLATES, *NAME_OR_PATH)


class ExperimentError(UserError):
    """An experiment file that cannot be used: says which key, what it holds and what it may hold."""


class ClusterSettings(Section):
    """Which Ray to use, and what machines `raysel plan` plans for; a run asks the cluster itself what it has.

    address: a running cluster, as `auto` or `host:port`; left open, the one that RAY_ADDRESS names, else a local Ray.
    num_cpus: CPUs of the local Ray (left open: all).
    nodes: machines to plan for.
    gpus_per_node: GPUs of each of them.
    gpu_memory_gb: memory of each GPU, in GB; needed beside gpus_per_node.
    gpu: which GPUs they are, for the hours that are planned (left open: told by gpu_memory_gb, where that is common).
    """

    address: str | None = None
    num_cpus: int | None = Field(None, ge=1)
    nodes: int = Field(1, ge=1)
    gpus_per_node: int = Field(0, ge=0)
    gpu_memory_gb: float | None = Field(None, gt=0)
    gpu: Gpu | None = None

    def without_effect(self) -> list[str]:
        both = self.address is not None and self.num_cpus is not None
        idle = ["num_cpus: the cluster at address has its own CPUs"] if both else []
        if self.gpus_per_node and self.gpu_memory_gb is None:
            idle.append("gpus_per_node: without gpu_memory_gb nothing can be planned for them")
        if self.gpu is not None and not self.gpus_per_node:
            idle.append("gpu: gpus_per_node is 0, so nothing is planned for GPUs")
        return idle


class Experiment(Section):
    """One run: everything that decides its results, and where they go.

    name: of the run: its folder below `runs/` in the storage, and the report's title; letters, digits and `._-`. Left
    out, it is the name of the file.
    seed: of everything that is drawn. Some sections may have a seed of their own.
    storage: where everything is written: a folder, or e.g. `s3://bucket/prefix`; every node must see it.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    seed: int = Field(0, ge=0, lt=2**32)
    storage: str = execution("out")
    model: ModelSettings
    corpus: CorpusSettings = CorpusSettings()
    embedding: EmbeddingSettings = EmbeddingSettings()
    separability: SeparabilitySettings = SeparabilitySettings()
    languages: LanguagesSettings = LanguagesSettings()
    mixture: MixtureSettings = MixtureSettings()
    preselect: PreselectSettings = PreselectSettings()
    selection: SelectionSettings = SelectionSettings()
    curriculum: CurriculumSettings = CurriculumSettings()
    training: TrainingSettings = TrainingSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    report: ReportSettings = ReportSettings()
    cluster: ClusterSettings = execution(ClusterSettings())

    @model_validator(mode="after")
    def base_model_is_one(self) -> "Experiment":
        for name, model in (("embedding.model", self.embedding.model), ("evaluation.judge", self.evaluation.judge)):
            if model is not None and model.base is not None:
                raise ValueError(f"{name}.base: a small base model can only be made as the experiment's model")
        return self

    @model_validator(mode="after")
    def a_loss_aware_curriculum_knows_its_steps(self) -> "Experiment":
        if self.curriculum.kind == "loss_aware" and self.training.data.batch_tokens is not None:
            raise ValueError(
                "training.data.batch_tokens with curriculum.kind loss_aware: the samples of a step are not known "
                "beforehand, so their tokens cannot be counted; use training.data.batch_samples"
            )
        return self

    @model_validator(mode="after")
    def one_budget(self) -> "Experiment":
        selection, mixture = self.selection, self.mixture
        if selection.tokens is not None and mixture.quota != "everything":
            raise ValueError(
                f"selection.tokens beside mixture.quota {mixture.quota}: a budget is in tokens or rows; leave one out"
            )
        if selection.stratify == "none":
            if mixture.shortfall == "repeat":
                raise ValueError(
                    "selection.stratify none keeps no language's count, so mixture.shortfall cannot repeat"
                )
            if mixture.parallel:
                raise ValueError("selection.stratify none would take other items in each language: not with parallel")
        return self

    @model_validator(mode="after")
    def a_target_is_there(self) -> "Experiment":
        selection = self.selection
        if selection.methods & {"dsir", "less"} and selection.target.of == "heldout" and not self.corpus.heldout:
            raise ValueError(
                "selection.target.of heldout needs samples that are held out: corpus.heldout is 0; raise it, or take "
                "the target from evaluation or files"
            )
        return self

    @model_validator(mode="after")
    def something_is_held_out_where_it_is_scored(self) -> "Experiment":
        if self.evaluation.heldout_samples and not self.corpus.heldout:
            raise ValueError("evaluation.heldout_samples scores what is held out, and corpus.heldout is 0: raise it")
        return self

    @model_validator(mode="after")
    def language_is_identified_for_its_band(self) -> "Experiment":
        if self.preselect.band == "lid_clean" and "language_mismatch" not in self.corpus.audit.checks:
            raise ValueError("preselect.band lid_clean needs language_mismatch among corpus.audit.checks")
        return self

    def warnings(self) -> list[str]:
        """Settings that were given but change nothing in this run, one sentence each."""
        idle = [f"{path}.{reason}" for path, section in _sections("", self) for reason in section.without_effect()]
        selects = self.mixture.quota != "everything" or self.selection.tokens is not None
        if not selects and "method" in self.selection.model_fields_set:
            idle.append("selection.method: with mixture.quota everything the whole pool is trained on; it only ranks")
        for name in ("compare", "stratify"):
            if not selects and name in self.selection.model_fields_set:
                idle.append(f"selection.{name}: with mixture.quota everything there is nothing to choose from")
        if (
            self.selection.candidates == "corpus"
            and "preselect" in self.model_fields_set
            and not self.selection.compare
        ):
            idle.append("preselect: selection.candidates corpus chooses from all rows")
        if self.mixture.parallel:
            sections = [name for name in ("preselect", "selection") if name in self.model_fields_set]
            idle += [
                f"{name}: mixture.parallel draws the items, and nothing is left to choose from" for name in sections
            ]
        epochs = self.training.data.epochs
        if self.curriculum.kind == "replay" and epochs > 1:
            idle.append("training.data.epochs: curriculum.kind replay goes through what was recorded, epochs and all")
        if self.curriculum.repetition == "reshuffled" and epochs == 1:
            idle.append("curriculum.repetition: there is one epoch")
        if "contamination" in self.corpus.audit.drop and self.evaluation.tasks is None:
            idle.append("corpus.audit.drop: contamination is looked for only where evaluation.tasks is set")
        return [f"setting without effect: {reason}" for reason in idle]


def _sections(path: str, section: Section) -> list[tuple[str, Section]]:
    found = []
    for name in type(section).model_fields:
        value = getattr(section, name)
        if isinstance(value, Section):
            inner = f"{path}.{name}".lstrip(".")
            found += [(inner, value), *_sections(inner, value)]
    return found


def load_experiment(path: str | Path, overrides: Sequence[str] = ()) -> Experiment:
    """Read an experiment file and apply `key=value` overrides. Raises `ExperimentError`."""
    return checked(read_experiment(path, overrides), where=str(path))


def read_experiment(path: str | Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """What an experiment file and `key=value` overrides say, its paths absolute, not checked yet."""
    file = Path(path)
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ExperimentError(f"experiment file {str(path)!r} cannot be read: {error}") from error
    data = parse_yaml(text, str(file))
    if not isinstance(data, dict):
        found = "nothing" if data is None else f"a {type(data).__name__}"
        raise ExperimentError(f"{file}: an experiment is a mapping of sections, and this file holds {found}")
    data.setdefault("name", re.sub(r"[^A-Za-z0-9._-]+", "-", file.stem).strip("-._") or "experiment")
    resolve_paths(data, file.parent.resolve(), overrides)
    return data


def resolve_paths(data: dict[str, Any], folder: Path, overrides: Sequence[str] = ()) -> None:
    """Make the relative paths in `data` absolute, relative to `folder`, and apply overrides, whose are relative to the
    current one."""
    _resolve_paths(data, folder)
    for override in overrides:
        keys, value = _override(override)
        assign(data, keys, value, Path.cwd(), f"--set {override!r}")


def assign(data: dict[str, Any], keys: Sequence[str], value: Any, folder: Path, where: str) -> None:
    """Set one key of `data`; a relative path in the value is relative to `folder`."""
    inner = data
    for depth, key in enumerate(keys[:-1]):
        if inner.get(key) is None:
            inner[key] = {}
        inner = inner[key]
        if not isinstance(inner, dict):
            raise ExperimentError(f"{where}: {'.'.join(keys[: depth + 1])} is a value, not a section")
    inner[keys[-1]] = value
    _resolve_paths(data, folder, only=tuple(keys))


def checked(data: dict[str, Any], *, where: str) -> Experiment:
    """The experiment that `data` says, with absolute paths. Raises `ExperimentError`."""
    try:
        return Experiment.model_validate(data)
    except ValidationError as error:
        raise ExperimentError(explain(error, where, Experiment)) from None


class _Loader(yaml.SafeLoader):
    """Safe YAML in which `no` is Norwegian, not false, and a key given twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a key must be a plain value", key_node.start_mark)
            if key_node.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key_node.value!r} is given twice", key_node.start_mark
                )
            seen.add(key_node.value)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool" or first in "tTfF"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def parse_yaml(text: str, where: str) -> Any:
    """Safe YAML. Raises `ExperimentError`."""
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - _Loader is a SafeLoader
    except yaml.YAMLError as error:
        raise ExperimentError(f"{where} is not YAML: {error}") from error


def _override(text: str) -> tuple[list[str], Any]:
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ExperimentError(f"--set {text!r}: write it as key=value, e.g. --set preselect.rho=0.4")
    return key.strip().split("."), parse_yaml(value, f"--set {text!r}")


def _resolve_paths(data: dict[str, Any], folder: Path, only: tuple[str, ...] | None = None) -> None:
    for keys in PATH_KEYS:
        if only is not None and keys[: len(only)] != only:
            continue
        inner: Any = data
        for key in keys[:-1]:
            inner = inner.get(key) if isinstance(inner, dict) else None
        if not isinstance(inner, dict) or not isinstance(inner.get(keys[-1]), str):
            continue
        value = inner[keys[-1]]
        if keys in TEMPLATES and not value.endswith(JINJA_FILES):
            continue
        if "://" in value and ("@" in value or "_key=" in value):
            raise ExperimentError(
                f"{'.'.join(keys)} holds credentials, which would be written into the run's record: put them into the "
                "environment instead (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY)"
            )
        if "://" in value or Path(value).expanduser().is_absolute():
            continue
        resolved = (folder / value).resolve()
        if keys == ("evaluation", "tasks") and value in suites() and not resolved.exists():
            continue
        slashes = (1,) if keys[0] == "corpus" else (0, 1)
        hub_name = keys in NAME_OR_PATH and value.count("/") in slashes and value[:1] not in ("", ".", "/", "~")
        hub_name = hub_name and not resolved.exists()
        if not hub_name or Path(value).suffix in (".jsonl", ".parquet", ".json", ".gz"):
            inner[keys[-1]] = str(resolved)


def explain(error: ValidationError, where: str, root: type[BaseModel]) -> str:
    """What is wrong with a file that holds a `root`: one line for each key."""
    lines = []
    for problem in error.errors():
        keys = [str(part) for part in problem["loc"]]
        key = ".".join(keys)
        if problem["type"] == "extra_forbidden":
            lines.append(f"unknown key {key!r}{_nearest(keys, root)}")
        elif problem["type"] == "missing":
            lines.append(f"{key}: is needed and not given")
        else:
            found = problem["input"]
            shown = "" if isinstance(found, (dict, BaseModel)) else f" (found {found!r})"
            message = problem["msg"].removeprefix("Value error, ")
            if problem["type"] in ("model_type", "dict_type", "model_attributes_type"):
                message = "this is a section of keys and values, e.g. {key: value}"
            lines.append(f"{key}: {message}{shown}" if key else message)
    return f"{where}: " + "\n  ".join(lines)


def _nearest(keys: list[str], root: type[BaseModel]) -> str:
    model: Any = root
    inner = iter(keys[:-1])
    for key in inner:
        field = model.model_fields.get(key)
        options = [field.annotation, *get_args(field.annotation)] if field else []
        model = next((o for o in options if isinstance(o, type) and issubclass(o, BaseModel)), None)
        if model is None:
            return ""
        if get_origin(options[0]) in (dict, list):
            next(inner, None)  # which of them
    prefix = "".join(f"{key}." for key in keys[:-1])
    names = [field.alias or name for name, field in model.model_fields.items()]
    close = [prefix + name for name in difflib.get_close_matches(keys[-1], names, n=1, cutoff=0.5)]
    elsewhere = [f"{path}.{keys[-1]}" for path, known in _sections_of(root).items() if keys[-1] in known]
    # At the top a key of a section is likelier than another key that looks like it.
    meant = close + elsewhere if prefix else elsewhere + close
    return f": did you mean {meant[0]}?" if meant else f"; known here: {', '.join(names)}"


def _sections_of(root: type[BaseModel]) -> dict[str, set[str]]:
    sections = {}
    for name, field in root.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            sections[name] = set(field.annotation.model_fields)
    return sections
