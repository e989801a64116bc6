"""Finding and reading the user's files: JSONL, JSONL.gz, Parquet, folders of them, a Hugging Face dataset by name."""

import io
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq
from pyarrow import fs

from raysel.errors import UserError
from raysel.store import open_filesystem

JSON_LINES = (".jsonl", ".jsonl.gz", ".json", ".json.gz")
KNOWN = (*JSON_LINES, ".parquet", ".arrow")


class CorpusError(UserError):
    """A corpus that cannot be read as it is."""


@dataclass(frozen=True)
class SourcePart:
    """One task's worth of reading: a whole JSONL file, or one row group of a Parquet file.

    name is the file's path below the corpus folder without its ending: it names generated ids.
    """

    location: str
    name: str
    row_group: int | None = None
    first_row: int = 0


@dataclass
class RowBatch:
    """Rows as the source has them, the source's row number of each, and lines that could not be read."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)


def find_files(path: str, *, split: str = "train", setting: str = "corpus.path") -> list[str]:
    """Locations of the files at `path`, sorted. Raises `CorpusError`, which names the `setting` that gave the path,
    where there is nothing to read."""
    filesystem, inside = open_filesystem(path)
    info = filesystem.get_file_info(inside)
    if info.type == fs.FileType.NotFound:
        if "://" not in path and _looks_like_a_dataset_name(path):
            return _download_dataset(path, split)
        raise CorpusError(f"{setting} {path!r}: there is no such file or folder")
    if info.type == fs.FileType.File:
        found = [inside]
        if not inside.endswith(KNOWN):
            raise CorpusError(f"{setting} {path!r}: only {', '.join(KNOWN)} files and folders of them are read")
    else:
        listing = filesystem.get_file_info(fs.FileSelector(inside, recursive=True))
        found = sorted(item.path for item in listing if item.type == fs.FileType.File and item.path.endswith(KNOWN))
        if not found:
            names = ", ".join(sorted(item.base_name for item in listing)[:5]) or "nothing"
            raise CorpusError(f"{setting} {path!r}: the folder holds no {', '.join(KNOWN)} file; it holds {names}")
    for location in found:
        if filesystem.get_file_info(location).size == 0:
            raise CorpusError(f"{setting} {path!r}: the file {location} is empty (0 bytes)")
    return [_with_scheme(path, inside, location) for location in found]


def _with_scheme(path: str, inside: str, location: str) -> str:
    if "://" not in path:
        return location
    head, _, query = path.partition("?")
    return head.rstrip("/") + location.removeprefix(inside.rstrip("/")) + (f"?{query}" if query else "")


def _looks_like_a_dataset_name(path: str) -> bool:
    return path.count("/") == 1 and not path.startswith((".", "/", "~")) and not path.endswith(KNOWN)


def _download_dataset(name: str, split: str) -> list[str]:
    import datasets

    if "[" in split:
        raise CorpusError(f"corpus.dataset_split {split!r}: whole splits are read, not slices of them")

    try:
        dataset = datasets.load_dataset(name, split=split)
    except (OSError, ValueError, datasets.exceptions.DatasetNotFoundError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CorpusError(
            f"corpus.path {name!r} is neither a file or folder here nor a Hugging Face dataset that can be fetched "
            f"(split {split!r}): {first}"
        ) from error
    return sorted(entry["filename"] for entry in dataset.cache_files)


def split_into_parts(locations: list[str]) -> list[SourcePart]:
    """The parts to read, in an order that depends on nothing but the files' names and contents."""
    names = [location.partition("?")[0] for location in locations]
    folder = names[0].rpartition("/")[0] if len(names) == 1 else _common_folder(names)
    stems = Counter(_stem(name) for name in names)
    parts = []
    for location, full in zip(locations, names, strict=True):
        # a.jsonl beside a.parquet: there the ending is part of the name, or their rows would share ids.
        name = (_stem(full) if stems[_stem(full)] == 1 else full).removeprefix(folder).lstrip("/")
        if not full.endswith(".parquet"):
            parts.append(SourcePart(location, name))
            continue
        filesystem, path = open_filesystem(location)
        try:
            with filesystem.open_input_file(path) as file:
                metadata = pq.read_metadata(file)
        except pa.ArrowInvalid as error:
            raise CorpusError(f"corpus file {full} is not a Parquet file: {error}") from error
        first = 0
        for group in range(metadata.num_row_groups):
            parts.append(SourcePart(location, name, group, first))
            first += metadata.row_group(group).num_rows
    return parts


def corpus_name(path: str) -> str:
    """What rows without a source are said to come from: the same for all files of a corpus, so that items which the
    files share (one language each) are held out together."""
    return _stem(path.partition("?")[0].rstrip("/").rpartition("/")[2])


def _stem(name: str) -> str:
    ending = next((ending for ending in sorted(KNOWN, key=len, reverse=True) if name.endswith(ending)), "")
    return name.removesuffix(ending)


def _common_folder(names: list[str]) -> str:
    split = [name.split("/")[:-1] for name in names]
    common = []
    for pieces in zip(*split, strict=False):
        if len(set(pieces)) > 1:
            break
        common.append(pieces[0])
    return "/".join(common)


def read_batches(part: SourcePart, batch_rows: int) -> Iterator[RowBatch]:
    """The rows of `part`, at most `batch_rows` at a time."""
    filesystem, path = open_filesystem(part.location)
    if path.endswith(".parquet"):
        with filesystem.open_input_file(path) as file:
            number = part.first_row
            for batch in pq.ParquetFile(file).iter_batches(batch_rows, row_groups=[part.row_group]):
                yield RowBatch(batch.to_pylist(), list(range(number, number + batch.num_rows)))
                number += batch.num_rows
    elif path.endswith(".arrow"):
        with filesystem.open_input_file(path) as file:
            number = 0
            for whole in pyarrow.ipc.open_stream(file):
                for start in range(0, whole.num_rows, batch_rows):
                    batch = whole.slice(start, batch_rows)
                    yield RowBatch(batch.to_pylist(), list(range(number, number + batch.num_rows)))
                    number += batch.num_rows
    else:
        with filesystem.open_input_stream(path, compression="detect") as stream:
            lines = io.BufferedReader(stream, 1 << 20)
            if path.removesuffix(".gz").endswith(".json") and lines.peek(1)[:1] == b"[":
                yield from _json_array(lines, part, batch_rows)
            else:
                yield from _json_lines(lines, part, batch_rows)


def _json_array(stream: io.BufferedReader, part: SourcePart, batch_rows: int) -> Iterator[RowBatch]:
    """One array of objects, as small corpora are often published; it is held whole."""
    try:
        rows = json.load(stream)
    except ValueError as error:
        yield RowBatch(unreadable=[f"{part.location}: not a JSON array ({error})"])
        return
    for start in range(0, len(rows), batch_rows):
        batch = RowBatch()
        for number, row in enumerate(rows[start : start + batch_rows], start=start + 1):
            if isinstance(row, dict):
                batch.rows.append(row)
                batch.numbers.append(number)
            else:
                batch.unreadable.append(f"{part.location}, entry {number}: a JSON {type(row).__name__}, not an object")
        yield batch


def _json_lines(lines: io.BufferedReader, part: SourcePart, batch_rows: int) -> Iterator[RowBatch]:
    batch = RowBatch()
    for number, line in enumerate(lines, start=1):
        text = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
        if not text.strip():
            continue
        try:
            row = json.loads(text)
            if not isinstance(row, dict):
                raise ValueError(f"a JSON {type(row).__name__}, not an object")
        except ValueError as error:
            hint = "; a JSON array is not read: write one object a line" if text.lstrip().startswith(b"[") else ""
            batch.unreadable.append(f"{part.location}, line {number}: not a JSON object ({error}){hint}")
            continue
        batch.rows.append(row)
        batch.numbers.append(number)
        if len(batch.rows) == batch_rows:
            yield batch
            batch = RowBatch()
    yield batch
