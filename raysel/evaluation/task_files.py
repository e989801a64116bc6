"""lm-eval task files: finding them and reading them as data. What would run code is refused, not executed."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from raysel.errors import UserError
from raysel.evaluation.suites.expand import expanded

RUNS_CODE = {"class": "a Python class", "unsafe_code": "code execution", "use_prompt": "a prompt from another package"}


class TaskError(UserError):
    """A task file that cannot be used as it is."""


@dataclass(frozen=True)
class _Function:
    """Where a `!function` tag stood: an error only if the task is chosen."""

    name: str


class _Loader(yaml.SafeLoader):
    """SafeLoader that reads past `!function` without importing anything."""


_Loader.add_constructor("!function", lambda loader, node: _Function(str(node.value)))


def find_tasks(folder: Path) -> dict[str, tuple[list[Path], dict[str, Any]]]:
    """Task name -> (the YAML files it was read from, its raw config), of every task file in `folder` and below.

    A file without a `task` name (a template for `include`) or with a `group` is no task; one with `words` is a task in
    each of its languages.
    """
    if not folder.is_dir():
        raise TaskError(f"evaluation.tasks {str(folder)!r}: there is no such folder")
    found: dict[str, tuple[list[Path], dict[str, Any]]] = {}
    for file in sorted(folder.rglob("*.yaml")):
        files: list[Path] = []
        config = _read(file, files)
        task = config.get("task")
        if not isinstance(task, str) or "group" in config:
            continue
        for name, one in (expanded(file, config) if "words" in config else {task: config}).items():
            if name in found:
                raise TaskError(f"task {name!r} is defined twice: in {found[name][0][0]} and in {file}")
            found[name] = (files, one)
    if not found:
        raise TaskError(f"evaluation.tasks {str(folder)!r} holds no lm-eval task file (*.yaml with a `task` name)")
    return found


def refuse_code(name: str, file: Path, config: dict[str, Any]) -> None:
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


def _values(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for item in value.values():
            yield from _values(item)
    elif isinstance(value, list):
        for item in value:
            yield from _values(item)
    else:
        yield value
