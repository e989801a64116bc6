"""Data sets whose rows lm-eval cannot read as they are: joined over languages, some left out, or only some read."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2.sandbox import SandboxedEnvironment

from raysel.errors import UserError
from raysel.evaluation.parts import spread


class ReadingError(UserError):
    """Data files of a task that do not fit together."""


def read_splits(
    *,
    path: str,
    name: str | None = None,
    data_files: dict[str, list[str]] | None = None,
    cache_dir: str | None = None,
    joined: bool = False,
    keep: str | None = None,
    items: int | None = None,
    shots: str | None = None,
    **_: Any,
) -> Any:
    """A `DatasetDict`: split -> rows. lm-eval calls it with a task's metadata and `dataset_kwargs`.

    path, name, data_files, cache_dir: as `datasets.load_dataset` takes them. joined: the files of a split are one per
    language and their rows one item where `id` is the same; field `sentence` of `swh_Latn.dev.jsonl` becomes
    `sentence_swh_Latn`. keep: a Jinja template; a row for which it renders nothing is left out. items: of every split
    but `shots` so many rows are read, evenly spread, all where it has no more.
    Raises `ReadingError` where files that are joined have not the same ids, or nothing is left of a split.
    """
    import datasets

    datasets.disable_progress_bars()
    if joined and data_files is not None:
        splits = {split: _joined([Path(file) for file in files]) for split, files in data_files.items()}
    else:
        splits = dict(datasets.load_dataset(path, name, data_files=data_files, cache_dir=cache_dir))
    wanted = SandboxedEnvironment().from_string(keep) if keep else None
    for split, rows in splits.items():
        if wanted is not None:
            rows = rows.select([i for i, row in enumerate(rows) if wanted.render(**row).strip()])
        if not len(rows):
            raise ReadingError(f"split {split} of {path} {name or data_files} has no item that is kept")
        if items is not None and split != shots and len(rows) > items:
            rows = rows.select(spread(len(rows), items))
        splits[split] = rows
    return datasets.DatasetDict(splits)


def _joined(files: Sequence[Path]) -> Any:
    """The rows of the first file, in its order, with the sentences of the others."""
    import datasets

    sentences = [_sentences(file) for file in files]
    for file, others in zip(files[1:], sentences[1:], strict=True):
        alone = sorted(sentences[0].keys() ^ others.keys(), key=str)
        if alone:
            raise ReadingError(
                f"data files {files[0]} and {file} are joined by id, and {len(alone)} ids are in one only: "
                f"{', '.join(map(repr, alone[:3]))}"
            )
    stems = [file.name.split(".")[0] for file in files]
    columns = {
        f"sentence_{stem}": [own[key] for key in sentences[0]] for stem, own in zip(stems, sentences, strict=True)
    }
    return datasets.Dataset.from_dict({"id": list(sentences[0]), **columns})


def _sentences(file: Path) -> dict[Any, str]:
    """id -> sentence, in the file's order."""
    found: dict[Any, str] = {}
    with file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
                key, sentence = row["id"], row["sentence"]
            except (ValueError, TypeError, KeyError) as error:
                raise ReadingError(f"data file {file}, line {number}: no object with id and sentence") from error
            if key in found:
                raise ReadingError(f"data file {file}, line {number}: id {key!r} is there twice")
            found[key] = sentence
    return found
