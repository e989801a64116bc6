"""The texts of the evaluated items, as lm-eval reads them: what a corpus must not hold."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raysel.evaluation.settings import EvaluationSettings
from raysel.evaluation.tasks import load_tasks


@dataclass(frozen=True)
class ItemSource:
    """Where the evaluated split of a task is. options: what its task file says about reading; None for a task whose
    data lm-eval fetches by name."""

    task: str
    lang: str
    format: str
    split: str
    options: dict[str, Any] | None


def item_sources(settings: EvaluationSettings) -> list[ItemSource]:
    key = "test_split" if settings.split == "test" else "validation_split"
    sources = []
    for task in load_tasks(settings):
        options = task.config.get("dataset_kwargs") or {}
        local = "data_files" in options
        where = (str(task.config["dataset_path"]), str(task.config[key]))
        sources.append(ItemSource(task.name, task.lang, *where, options if local else None))
    return sources


def read_items(source: ItemSource, scratch: Path) -> list[list[str]]:
    """The text fields of every item, lists and nested fields too; `scratch` is for the reader's own files."""
    import datasets

    datasets.disable_progress_bars()
    rows = datasets.load_dataset(source.format, split=source.split, cache_dir=str(scratch), **(source.options or {}))
    return [list(_texts(row)) for row in rows]


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)
