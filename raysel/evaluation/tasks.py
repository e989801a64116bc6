"""lm-eval task files: finding them, reading them safely, and everything that can be wrong with them.

Nothing here imports lm-eval, so that a wrong folder or a missing data file is reported before a model is loaded.
Task files are data: `!function` tags, `class` tasks and whatever else would run code is refused, not executed.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

import yaml

from raysel.errors import UserError
from raysel.evaluation.data_files import absolute_data_files, split_names
from raysel.evaluation.settings import EvaluationSettings
from raysel.languages.codes import normalise

# `local_xcopa_sw`, `sib200_swh_Latn`, `belebele_zho-Hans`, `mmmlu_pt_BR`
LANGUAGE_SUFFIX = re.compile(r"[_-]([a-z]{2,3}(?:[_-](?:[A-Z][a-z]{3}|[A-Z]{2}))*)$")
RUNS_CODE = {"class": "a Python class", "unsafe_code": "code execution", "use_prompt": "a prompt from another package"}
NOT_FOR_LM_EVAL = {"tag", "group", "task_list"}


class TaskError(UserError):
    """A task file that cannot be used as it is."""


@dataclass(frozen=True)
class EvalTask:
    """One task of one language. config is what lm-eval gets; files are all the files it was read and reads from."""

    name: str
    lang: str
    config: dict[str, Any]
    files: tuple[str, ...]
    item: str | None = None
    part: Literal["whole", "dev", "test"] = "whole"
    dev_share: float = 0.0


@dataclass(frozen=True)
class _Function:
    """Where a `!function` tag stood: an error only if the task is chosen."""

    name: str


class _Loader(yaml.SafeLoader):
    """SafeLoader that reads past `!function` without importing anything."""


_Loader.add_constructor("!function", lambda loader, node: _Function(str(node.value)))


def check(settings: EvaluationSettings) -> None:
    """Raise `TaskError` for anything that can be known to be wrong before a model is loaded."""
    load_tasks(settings)


def leaf_files(settings: EvaluationSettings) -> list[str]:
    """Every file that the chosen tasks read (task files, what they include, data), sorted: absolute paths."""
    return sorted({file for task in load_tasks(settings) for file in task.files})


def development_tasks(settings: EvaluationSettings) -> list[EvalTask]:
    """Those of the chosen tasks that have a `validation_split`. `TaskError` where none has."""
    chosen = [task for task in load_tasks(settings) if task.config.get("validation_split")]
    if not chosen:
        raise TaskError(f"none of the tasks in {settings.tasks} has development items (a validation_split)")
    return chosen


def development_files(settings: EvaluationSettings) -> list[str]:
    """The task files of `development_tasks`, what they include, and the data of their validation splits, sorted."""
    files: set[str] = set()
    for task in development_tasks(settings):
        data = (task.config.get("dataset_kwargs") or {}).get("data_files") or {}
        own = data.get(task.config["validation_split"], [])
        elsewhere = {file for split in data.values() for file in split} - set(own)
        files |= set(task.files) - elsewhere
    return sorted(files)


def load_tasks(settings: EvaluationSettings) -> list[EvalTask]:
    """The chosen tasks, sorted by name, ready for lm-eval: data files absolute, the wanted split the one it scores.

    `test` scores `test_split` and `dev` scores `validation_split`. A task that has only a validation split is a dev
    task: it is never passed off as a test.
    """
    if settings.tasks is None:
        raise TaskError("evaluation.tasks is not set: give a folder with lm-eval task files (*.yaml)")
    folder = Path(settings.tasks).expanduser().resolve()
    found = find_tasks(folder)
    chosen = sorted(
        name
        for name in found
        if any(fnmatchcase(name, glob) for glob in settings.include)
        and not any(fnmatchcase(name, glob) for glob in settings.exclude)
    )
    if not chosen:
        raise TaskError(
            f"evaluation.include {settings.include} less exclude {settings.exclude} matches none of the {len(found)} "
            f"tasks in {folder}: {_some(sorted(found))}"
        )
    key = "test_split" if settings.split == "test" else "validation_split"
    without = [name for name in chosen if not found[name][1].get(key)]
    if without:
        other = "dev" if settings.split == "test" else "test"
        raise TaskError(
            f"evaluation.split is {settings.split}, but {len(without)} of {len(chosen)} chosen tasks have no {key}: "
            f"{_some(without)}; leave them out (evaluation.exclude) or evaluate split {other}"
        )
    return [_prepared(name, *found[name], settings) for name in chosen]


def find_tasks(folder: Path) -> dict[str, tuple[list[Path], dict[str, Any]]]:
    """Task name -> (the YAML files it was read from, its raw config), of every task file in `folder` and below.

    A file without a `task` name (a template for `include`) or with a `group` is no task.
    """
    if not folder.is_dir():
        raise TaskError(f"evaluation.tasks {str(folder)!r}: there is no such folder")
    found: dict[str, tuple[list[Path], dict[str, Any]]] = {}
    for file in sorted(folder.rglob("*.yaml")):
        files: list[Path] = []
        config = _read(file, files)
        name = config.get("task")
        if not isinstance(name, str) or "group" in config:
            continue
        if name in found:
            raise TaskError(f"task {name!r} is defined twice: in {found[name][0][0]} and in {file}")
        found[name] = (files, config)
    if not found:
        raise TaskError(f"evaluation.tasks {str(folder)!r} holds no lm-eval task file (*.yaml with a `task` name)")
    return found


def language(name: str, config: dict[str, Any]) -> str:
    """The task's language: `metadata.lang`, else the code at the end of its name. ISO 639-1, else 639-3."""
    metadata = config.get("metadata")
    given = metadata.get("lang") if isinstance(metadata, dict) else None
    if given is not None and not isinstance(given, str):
        raise TaskError(f"task {name}: metadata.lang is {given!r}, not a string; quote it (YAML reads no as false)")
    suffix = LANGUAGE_SUFFIX.search(name)
    if given is None and suffix is None:
        raise TaskError(f"task {name}: its name does not end in a language code; set metadata.lang in its file")
    try:
        return normalise(given if given is not None else suffix.group(1))  # type: ignore[union-attr]
    except UserError as error:
        raise TaskError(f"task {name}: {error}; set metadata.lang in its file") from error


def _read(file: Path, seen: list[Path]) -> dict[str, Any]:
    """The YAML mapping in `file` over those it includes; `seen` collects the files."""
    if file in seen:
        raise TaskError(f"task file {file} includes itself")
    seen.append(file)
    try:
        config = yaml.load(file.read_text(encoding="utf-8"), Loader=_Loader)  # noqa: S506 (a SafeLoader)
    except FileNotFoundError as error:
        raise TaskError(f"task file {seen[-2]} includes {file}, which is not there") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise TaskError(f"task file {file} is not readable YAML: {error}") from error
    if not isinstance(config, dict):
        raise TaskError(f"task file {file} is not a mapping of keys to values but a {type(config).__name__}")
    merged: dict[str, Any] = {}
    includes = config.pop("include", [])
    for include in includes if isinstance(includes, list) else [includes]:
        merged |= _read((file.parent / str(include)).resolve(), seen)
    return merged | config


def _prepared(name: str, files: list[Path], raw: dict[str, Any], settings: EvaluationSettings) -> EvalTask:
    config = {key: value for key, value in raw.items() if key not in NOT_FOR_LM_EVAL}
    _refuse_code(name, files[0], config)
    if settings.split == "dev":
        config.pop("test_split", None)
    if settings.shots is not None:
        config["num_fewshot"] = settings.shots
    few_shot = config.get("fewshot_config")
    own_source = config.get("fewshot_split") or (isinstance(few_shot, dict) and few_shot.keys() & {"split", "samples"})
    if config.get("num_fewshot") and not (own_source or config.get("training_split") or config.get("validation_split")):
        raise TaskError(
            f"task {name}: {config['num_fewshot']} shots asked for, and only a test split to take them from; "
            "give it a training_split or validation_split, or set evaluation.shots to 0"
        )
    data = absolute_data_files(name, files[0], config)
    available = split_names(config)
    for key in ("training_split", "validation_split", "test_split", "fewshot_split"):
        if available is not None and config.get(key) is not None and config[key] not in available:
            raise TaskError(f"task {name}: {key} is {config[key]!r}, but its data_files have only {sorted(available)}")
    return EvalTask(
        name,
        language(name, config),
        config,
        tuple(str(file) for file in [*files, *data]),
        (config.get("metadata") or {}).get("item"),
    )


def _refuse_code(name: str, file: Path, config: dict[str, Any]) -> None:
    for value in _values(config):
        if isinstance(value, _Function):
            raise TaskError(
                f"task {name} in {file} runs code (!function {value.name}), which is not executed; write it as a "
                f"template, or leave the task out (evaluation.exclude)"
            )
    for key, what in RUNS_CODE.items():
        if config.get(key):
            raise TaskError(f"task {name} in {file} uses {what} (`{key}`), which is not supported")
    metrics = config.get("metric_list") or []
    if any(isinstance(metric, dict) and metric.get("hf_evaluate") for metric in metrics):
        raise TaskError(f"task {name} in {file} uses hf_evaluate, which fetches and runs code; name an lm-eval metric")


def _values(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for item in value.values():
            yield from _values(item)
    elif isinstance(value, list):
        for item in value:
            yield from _values(item)
    else:
        yield value


def _some(names: list[str]) -> str:
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")


def rows_of(n: int, share: float, part: str) -> list[int]:
    return list(range(n))
