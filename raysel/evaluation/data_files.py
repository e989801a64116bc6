"""The data files that a task file names: where they are, and whether they hold anything."""

import glob
from pathlib import Path
from typing import Any

from raysel.errors import UserError

LOCAL_FORMATS = {"json", "csv", "parquet", "text", "arrow"}
SPLITS = ("training_split", "validation_split", "test_split", "fewshot_split")
BINARY = {".parquet", ".arrow", ".gz", ".zst", ".bz2", ".xz"}


class DataFileError(UserError):
    """A data file of a task that is missing or empty."""


def absolute_data_files(name: str, file: Path, config: dict[str, Any]) -> list[Path]:
    """Make the `dataset_kwargs.data_files` of a task absolute in `config`; return the files in order.

    A relative path is tried from the folder of the task file `file`, then from each folder above it: task files
    are written to be run from the root of their data. Globs are expanded. Raises `DataFileError` naming the task, the
    file and the folders tried. A task without data files reads a Hugging Face dataset by name, which lm-eval fetches.
    """
    kwargs = config.get("dataset_kwargs") or {}
    path = config.get("dataset_path")
    given = kwargs.get("data_files") if isinstance(kwargs, dict) else None
    if given is None:
        if not isinstance(path, str) or path in LOCAL_FORMATS or Path(path).expanduser().exists():
            raise DataFileError(f"task {name} in {file}: dataset_kwargs.data_files is missing (dataset_path {path!r})")
        return []
    if path not in LOCAL_FORMATS:
        raise DataFileError(
            f"task {name} in {file}: dataset_path is {path!r}; with data_files it is one of {sorted(LOCAL_FORMATS)}"
        )
    by_split = given if isinstance(given, dict) else {"train": given}
    found = {
        str(split): [located for entry in _entries(value) for located in _located(name, file, entry)]
        for split, value in by_split.items()
    }
    absolute = {split: [str(item) for item in files] for split, files in found.items()}
    config["dataset_kwargs"] = kwargs | {"data_files": absolute}
    return [item for files in found.values() for item in files]


def local_copy(config: dict[str, Any], root: Path) -> tuple[dict[str, Any], list[Path]]:
    """The config of a task with `data` as it reads from below `root`, and the files it cannot do without that lack.

    `data.folder` is below `root`; a split is the file `<stem>.<split>.jsonl` of each of `data.files`. Split settings
    whose files are not there are dropped; one to score and the one for shots must stay.
    """
    spec = config["data"]
    if absent := [key for key in ("folder", "files") if not spec.get(key)]:
        raise DataFileError(
            f"task {config['task']}: data.{absent[0]} is missing; a task file without `words` names both: "
            "data: {folder: quiz, files: [sw]} reads <evaluation.data>/quiz/sw.<split>.jsonl"
        )
    # In this order: the first split decides the types, and MGSM has worked answers only where it trains.
    names = list(dict.fromkeys(config[key] for key in SPLITS if config.get(key)))
    files = {name: [root / spec["folder"] / f"{stem}.{name}.jsonl" for stem in spec["files"]] for name in names}
    lacking = {name: [file for file in files[name] if not file.is_file()] for name in names}
    there = {name: [str(file) for file in files[name]] for name in names if not lacking[name]}
    kept = {key: value for key, value in config.items() if key not in SPLITS or value in there}
    missing = []
    if not (kept.get("test_split") or kept.get("validation_split")):
        missing += lacking[config.get("test_split") or config["validation_split"]]
    if config.get("num_fewshot") and config.get("training_split") not in (None, *there):
        missing += lacking[config["training_split"]]
    return kept | {"dataset_path": "json", "dataset_name": None, "dataset_kwargs": {"data_files": there}}, missing


def split_names(config: dict[str, Any]) -> set[str] | None:
    """The splits that the data files make up; None where they are not known before the data is fetched."""
    kwargs = config.get("dataset_kwargs") or {}
    return set(kwargs["data_files"]) if "data_files" in kwargs else None


def _entries(value: Any) -> list[str]:
    return [str(entry) for entry in value] if isinstance(value, list) else [str(value)]


def _located(name: str, file: Path, entry: str) -> list[Path]:
    if "://" in entry:
        raise DataFileError(f"task {name} in {file}: data file {entry!r} is a URL; fetch it and name the local file")
    folders = [Path()] if Path(entry).is_absolute() else list(file.parents)
    for folder in folders:
        target = folder / entry
        files = [target] if target.is_file() else [Path(hit) for hit in sorted(glob.glob(str(target), recursive=True))]
        files = [item for item in files if item.is_file()]
        if files:
            for item in files:
                if _is_empty(item):
                    raise DataFileError(f"task {name} in {file}: data file {item} is empty")
            return files
    tried = "" if Path(entry).is_absolute() else f"; tried below {', '.join(str(folder) for folder in folders)}"
    raise DataFileError(f"task {name} in {file}: data file {entry!r} is not there{tried}")


def _is_empty(file: Path) -> bool:
    """Whether a file has no bytes, or is text with nothing but whitespace."""
    if file.stat().st_size == 0:
        return True
    if file.suffix in BINARY:
        return False
    with file.open("rb") as stream:
        return all(not block.strip() for block in iter(lambda: stream.read(1 << 16), b""))
