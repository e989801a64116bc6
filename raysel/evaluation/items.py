"""The texts of the evaluated items, as lm-eval reads them: what a corpus must not hold."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raysel.evaluation.settings import EvaluationSettings
from raysel.evaluation.tasks import EvalTask, tasks_of_both_splits


@dataclass(frozen=True)
class ItemSource:
    """Where the evaluated items of a task are. options: what its task file says about reading; None for a task whose
    data lm-eval fetches by name."""

    task: str
    lang: str
    format: str
    split: str
    options: dict[str, Any] | None
    of: EvalTask


def item_sources(settings: EvaluationSettings) -> list[ItemSource]:
    """Of test and development items alike: what a model is chosen by must be no more in the corpus than what it is
    judged by, and the corpus must not change with the split that is scored."""
    sources = []
    for split, task in tasks_of_both_splits(settings):
        options = task.config.get("dataset_kwargs") or {}
        if files := options.get("data_files"):
            options = options | {"data_files": {task.scored_split: files[task.scored_split]}}
        where = (str(task.config["dataset_path"]), task.scored_split)
        name = task.name if split == "test" else f"{task.name} (development)"
        sources.append(ItemSource(name, task.lang, *where, options if files else None, task))
    return sources


def read_items(source: ItemSource, scratch: Path) -> list[tuple[int, list[str]]]:
    """Of every item that is scored, its row in the split and its text fields, those of lists and nested fields too.

    `scratch` is for the reader's own files.
    """
    import datasets

    datasets.disable_progress_bars()
    options = (source.options or {}) | {"cache_dir": str(scratch)}
    if read := source.of.config.get("custom_dataset"):
        rows = read(**options)[source.split]
    else:
        rows = datasets.load_dataset(source.format, split=source.split, **options)
    return [(row, list(_texts(rows[row]))) for row in source.of.rows(len(rows))]


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)
