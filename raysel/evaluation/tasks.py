"""The tasks of an evaluation: which are chosen, and everything that can be wrong with them.

Nothing here imports lm-eval, so that a wrong folder or a missing data file is reported before a model is loaded.
"""

import re
from collections import defaultdict
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

from raysel.errors import UserError
from raysel.evaluation.data_files import absolute_data_files, local_copy, split_names
from raysel.evaluation.parts import Part, rows_of
from raysel.evaluation.settings import EvaluationSettings
from raysel.evaluation.suites.expand import suites
from raysel.evaluation.suites.reading import read_splits
from raysel.evaluation.task_files import TaskError, find_tasks, refuse_code
from raysel.languages.codes import normalise

# `local_xcopa_sw`, `sib200_swh_Latn`, `belebele_zho-Hans`, `mmmlu_pt_BR`
LANGUAGE_SUFFIX = re.compile(r"[_-]([a-z]{2,3}(?:[_-](?:[A-Z][a-z]{3}|[A-Z]{2}))*)$")
NOT_FOR_LM_EVAL = {"tag", "group", "task_list", "data"}
Split = Literal["test", "dev"]
SPLIT_KEYS: dict[Split, str] = {"test": "test_split", "dev": "validation_split"}
# Of a task: the YAML files it was read from, its raw config.
Found = dict[str, tuple[list[Path], dict[str, Any]]]


@dataclass(frozen=True)
class EvalTask:
    """One task of one language. config is what lm-eval gets; files are all the files it was read and reads from.

    item names an item the same in all languages: a Jinja template over its fields, or `position`; None where the items
    of one language have no counterpart in another. part says which rows of the split that lm-eval scores
    (`test_split`, without one `validation_split`) are the task's, where `dev_share` divides it. split: what the items
    count as. is_heldout: its items are samples that the corpus holds out, which lm-eval has no task for.
    """

    name: str
    lang: str
    config: dict[str, Any]
    files: tuple[str, ...]
    item: str | None = None
    part: Part = "whole"
    dev_share: float | None = None
    split: Split = "test"
    is_heldout: bool = False

    @property
    def scored_split(self) -> str:
        return str(self.config.get("test_split") or self.config["validation_split"])

    def rows(self, n: int) -> list[int]:
        """Those of the n rows of `scored_split` that are the task's, ascending."""
        try:
            return rows_of(n, self.dev_share, self.part)
        except ValueError as error:
            raise TaskError(f"task {self.name}, split {self.scored_split}: {error} (evaluation.dev_share)") from error


def check(settings: EvaluationSettings) -> None:
    """Raise `TaskError` for anything that can be known to be wrong before a model is loaded."""
    tasks = load_tasks(settings)
    judged = [task.name for task in tasks if (task.config.get("metadata") or {}).get("judge")]
    if judged and settings.judge is None:
        left_out = ", ".join(_globs(judged, [task.name for task in tasks]))
        raise TaskError(
            f"the answers of {_some(judged)} are rated by a judge model, and evaluation.judge is not set: give its "
            f"path, or leave these tasks out: evaluation.exclude: [{left_out}]"
        )


def leaf_files(settings: EvaluationSettings) -> list[str]:
    """Every file that the chosen tasks read (task files, what they include, data), sorted: absolute paths."""
    return sorted({file for task in load_tasks(settings) for file in task.files})


def development_tasks(settings: EvaluationSettings) -> list[EvalTask]:
    """Those of the chosen tasks that have development items, prepared to score these. `TaskError` where none has."""
    found = _chosen(settings)
    chosen = [name for name in found if _part(found[name][1], "dev", settings.dev_share)]
    if not chosen:
        raise TaskError(
            f"none of the tasks in {settings.tasks} has development items (a validation_split); evaluation.dev_share "
            "takes a share of their test items"
        )
    return [_prepared(name, *found[name], settings, "dev") for name in chosen]


def development_files(settings: EvaluationSettings) -> list[str]:
    """The task files of `development_tasks`, what they include, and the data of their development items, sorted."""
    files: set[str] = set()
    for task in development_tasks(settings):
        data = (task.config.get("dataset_kwargs") or {}).get("data_files") or {}
        own = data.get(task.scored_split, [])
        elsewhere = {file for split in data.values() for file in split} - set(own)
        files |= set(task.files) - elsewhere
    return sorted(files)


def tasks_of_both_splits(settings: EvaluationSettings) -> list[tuple[Split, EvalTask]]:
    """The chosen tasks, prepared to score the split: first those that have test items, then those that have development
    items."""
    found = _chosen(settings)
    return [
        (split, _prepared(name, *found[name], settings, split))
        for split in SPLIT_KEYS
        for name in found
        if _part(found[name][1], split, settings.dev_share)
    ]


def load_tasks(settings: EvaluationSettings) -> list[EvalTask]:
    """The chosen tasks, sorted by name, ready for lm-eval: data files absolute, the wanted split the one it scores.

    `test` scores `test_split` and `dev` scores `validation_split`. A task that has only a validation split is a dev
    task: it is never passed off as a test, unless `dev_share` divides its items.
    """
    found = _chosen(settings)
    key = SPLIT_KEYS[settings.split]
    without = [name for name in found if not _part(found[name][1], settings.split, settings.dev_share)]
    if without:
        other = "dev" if settings.split == "test" else "test"
        raise TaskError(
            f"evaluation.split is {settings.split}, but {len(without)} of {len(found)} chosen tasks have no {key}: "
            f"{_some(without)}; leave them out (evaluation.exclude), evaluate split {other}, or set "
            "evaluation.dev_share, which makes a share of the items of the other split development items"
        )
    return [_prepared(name, *found[name], settings, settings.split) for name in found]


def _chosen(settings: EvaluationSettings) -> Found:
    """The chosen tasks by name, sorted, their data where `evaluation.data` says."""
    if settings.tasks is None:
        raise TaskError(
            f"evaluation.tasks is not set: give a folder with lm-eval task files (*.yaml) or a suite ({_suites()})"
        )
    folder = _folder(settings.tasks)
    found = find_tasks(folder)
    chosen = sorted(
        name
        for name in found
        if any(fnmatchcase(name, glob) for glob in settings.include)
        and not any(fnmatchcase(name, glob) for glob in settings.exclude)
    )
    if idle := [glob for glob in settings.include if chosen and not any(fnmatchcase(name, glob) for name in found)]:
        raise TaskError(
            f"evaluation.include: no task is called {' or '.join(idle)}; the {len(found)} tasks in {folder}: "
            f"{_some(sorted(found))}"
        )
    if not chosen:
        raise TaskError(
            f"evaluation.include {settings.include} less exclude {settings.exclude} matches none of the {len(found)} "
            f"tasks in {folder}: {_some(sorted(found))}"
        )
    return _with_data({name: found[name] for name in chosen}, settings)


def _folder(tasks: str) -> Path:
    folder = suites().get(tasks) or Path(tasks).expanduser().resolve()
    if not folder.is_dir():
        raise TaskError(f"evaluation.tasks {tasks!r}: there is no such folder, and no such suite; suites: {_suites()}")
    return folder


def _suites() -> str:
    return ", ".join(suites())


def _with_data(found: Found, settings: EvaluationSettings) -> Found:
    """Raises `TaskError` naming all tasks whose data is not there, where it was looked for, and how to go without."""
    root = None if settings.data is None else Path(settings.data).expanduser().resolve()
    if root is not None and not root.is_dir():
        raise TaskError(
            f"evaluation.data {settings.data!r}: there is no such folder; put the data there (docs/evaluation.md lists "
            "the files), or leave evaluation.data out: then it is fetched from the Hugging Face hub"
        )
    if root is not None and not any("data" in raw for _, raw in found.values()):
        raise TaskError("evaluation.data is set, but none of the chosen tasks reads from it (no `data` in their files)")
    located: Found = {}
    missing: dict[str, list[str]] = defaultdict(list)
    for name, (files, raw) in found.items():
        config = raw if settings.shots is None else raw | {"num_fewshot": settings.shots}
        if "data" in raw and root is not None:
            config, lacking = local_copy(config, root)
            if lacking:
                missing[name] = [str(file) for file in lacking]
        elif "data" in raw and _only_local(raw):
            missing[name] = ["evaluation.data, which is not set (the Hugging Face hub has it not, or not readable)"]
        located[name] = (files, config)
    if missing:
        places = "\n".join(f"  {name}: {', '.join(places)}" for name, places in missing.items())
        raise TaskError(
            f"the data of {len(missing)} of {len(found)} chosen tasks is not there; looked for\n{places}\n"
            f"add it, or leave these tasks out: evaluation.exclude: [{', '.join(_globs(list(missing), list(found)))}]"
        )
    return located


def _only_local(raw: dict[str, Any]) -> bool:
    absent = raw["data"].get("not_on_hub", [])
    return absent == "all" or any(raw["task"].endswith(f"_{lang}") for lang in absent)


def _globs(names: list[str], among: list[str]) -> list[str]:
    """Few globs that match `names` and no other of `among`."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name in names:
        groups[LANGUAGE_SUFFIX.sub("", name)].append(name)
    found = []
    for start, members in groups.items():
        whole = {name for name in among if fnmatchcase(name, f"{start}_*")} <= set(names)
        found += [f"{start}_*"] if whole and len(members) > 1 else members
    return found


def _part(config: dict[str, Any], split: Split, dev_share: float | None) -> Part | None:
    """Which part of the scored split is `split`; None where the task has no such items."""
    both = [key for key in SPLIT_KEYS.values() if config.get(key)]
    if len(both) == 1 and dev_share is not None:
        return split
    return "whole" if SPLIT_KEYS[split] in both else None


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


def _prepared(
    name: str, files: list[Path], raw: dict[str, Any], settings: EvaluationSettings, split: Split
) -> EvalTask:
    config = {key: value for key, value in raw.items() if key not in NOT_FOR_LM_EVAL}
    refuse_code(name, files[0], config)
    part = _part(config, split, settings.dev_share) or "whole"
    if split == "dev" and part == "whole":
        config.pop("test_split", None)
    if settings.shots is not None:
        config["num_fewshot"] = settings.shots
    _refuse_shots_without_source(name, config)
    _choose_metrics(name, config, settings)
    data = absolute_data_files(name, files[0], config)
    available = split_names(config)
    for key in ("training_split", "validation_split", "test_split", "fewshot_split"):
        if available is not None and config.get(key) is not None and config[key] not in available:
            raise TaskError(f"task {name}: {key} is {config[key]!r}, but its data_files have only {sorted(available)}")
    if "data" in raw:
        _read_by_us(raw["data"], config)
    return EvalTask(
        name,
        language(name, config),
        config,
        tuple(str(file) for file in [*files, *data]),
        _item(name, config),
        part,
        settings.dev_share,
        split,
    )


def _refuse_shots_without_source(name: str, config: dict[str, Any]) -> None:
    few_shot = config.get("fewshot_config")
    own_source = config.get("fewshot_split") or (isinstance(few_shot, dict) and few_shot.keys() & {"split", "samples"})
    if config.get("num_fewshot") and not (own_source or config.get("training_split") or config.get("validation_split")):
        raise TaskError(
            f"task {name}: {config['num_fewshot']} shots asked for, and only a test split to take them from; "
            "give it a training_split or validation_split, or set evaluation.shots to 0"
        )
    named = config.get("fewshot_split") or (few_shot.get("split") if isinstance(few_shot, dict) else None)
    source = named or (None if own_source else config.get("training_split") or config.get("validation_split"))
    # From the test split lm-eval takes no item as its own example, from any other it does.
    careful = named is not None and named == config.get("test_split")
    scored = config.get("test_split") or config.get("validation_split")
    if config.get("num_fewshot") and source == scored and not careful:
        raise TaskError(
            f"task {name}: {config['num_fewshot']} shots asked for, and split {source}, their source, "
            "is the one that is scored: an item could be its own example; set evaluation.shots to 0"
        )


def _choose_metrics(name: str, config: dict[str, Any], settings: EvaluationSettings) -> None:
    """Leave out of `config` what `exclude_metrics` names, and refuse what cannot be computed here."""
    given = config.get("metric_list")
    if not given:
        return
    kept = [
        entry
        for entry in given
        if not any(fnmatchcase(str(entry["metric"]), glob) for glob in settings.exclude_metrics)
    ]
    if not kept:
        raise TaskError(f"task {name}: evaluation.exclude_metrics {settings.exclude_metrics} leaves it no metric")
    config["metric_list"] = kept
    if any(entry["metric"] == "spbleu" for entry in kept):
        from raysel.evaluation.metrics import refuse_without_spbleu

        refuse_without_spbleu(name)


def _read_by_us(spec: dict[str, Any], config: dict[str, Any]) -> None:
    """Let lm-eval read the rows of a task as its `data` says, where it could not do so itself."""
    own: dict[str, Any] = {key: spec[key] for key in ("keep", "items") if key in spec}
    local = config["dataset_path"] == "json"
    if local and len(spec["files"]) > 1:
        own["joined"] = True
    if not own:
        return
    own |= {"path": config["dataset_path"], "name": config.get("dataset_name"), "shots": config.get("training_split")}
    config["dataset_kwargs"] = (config.get("dataset_kwargs") or {}) | own
    config["custom_dataset"] = read_splits


def _item(name: str, config: dict[str, Any]) -> str | None:
    metadata = config.get("metadata")
    item = metadata.get("item") if isinstance(metadata, dict) else None
    if item is not None and not isinstance(item, str):
        raise TaskError(f"task {name}: metadata.item is {item!r}, neither a template in quotes nor position")
    return item


def _some(names: list[str]) -> str:
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
