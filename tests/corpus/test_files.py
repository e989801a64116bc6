"""Finding and reading the user's files."""

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raysel.corpus.files import CorpusError, find_files, read_batches, split_into_parts

ROWS = [{"id": str(i), "lang": "en", "prompt": f"p{i}", "response": "r"} for i in range(10)]


def write_all_kinds(folder: Path) -> None:
    lines = "".join(json.dumps(row) + "\n" for row in ROWS)
    (folder / "deep").mkdir()
    (folder / "a.jsonl").write_text("\ufeff" + lines + "\n", encoding="utf-8")
    with gzip.open(folder / "deep" / "b.jsonl.gz", "wt") as file:
        file.write(lines)
    pq.write_table(pa.Table.from_pylist(ROWS), folder / "c.parquet", row_group_size=4)
    (folder / "README.md").write_text("not data")


def test_every_kind_gives_the_same_rows(tmp_path: Path) -> None:
    write_all_kinds(tmp_path)
    files = find_files(str(tmp_path))
    assert [Path(file).name for file in files] == ["a.jsonl", "c.parquet", "b.jsonl.gz"]
    parts = split_into_parts(files)
    assert [(part.name, part.row_group) for part in parts] == [
        ("a", None), ("c", 0), ("c", 1), ("c", 2), ("deep/b", None)
    ]  # fmt: skip
    read = {}
    for part in parts:
        for batch in read_batches(part, 3):
            assert len(batch.rows) <= 3
            read.setdefault(part.name, []).extend(batch.rows)
    assert read == {"a": ROWS, "c": ROWS, "deep/b": ROWS}


def test_unreadable_lines_are_named_by_file_and_line(tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    file.write_bytes(b'{"id": "1"}\n{"id": \n[1]\n\xff\xfe\n{"id": "2"}\n')
    (batch,) = read_batches(split_into_parts([str(file)])[0], 100)
    assert [row["id"] for row in batch.rows] == ["1", "2"]
    assert [f"{file}, line {n}" in text for n, text in zip((2, 3, 4), batch.unreadable, strict=True)] == [True] * 3


def test_a_json_file_may_be_one_array(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(ROWS))
    batches = list(read_batches(split_into_parts([str(tmp_path / "a.json")])[0], 4))
    assert [row for batch in batches for row in batch.rows] == ROWS
    assert [number for batch in batches for number in batch.numbers] == list(range(1, 11))
    (tmp_path / "b.json").write_text('[{"id": "1"}, 2]')
    [batch] = read_batches(split_into_parts([str(tmp_path / "b.json")])[0], 4)
    assert batch.rows == [{"id": "1"}]
    assert "b.json, entry 2: a JSON int, not an object" in batch.unreadable[0]
    (tmp_path / "c.json").write_text('[{"id": "1"},')
    [batch] = read_batches(split_into_parts([str(tmp_path / "c.json")])[0], 4)
    assert "c.json: not a JSON array" in batch.unreadable[0]


def test_files_that_differ_in_their_ending_only_keep_it_in_their_names(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps(ROWS[0]) + "\n")
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    assert [part.name for part in split_into_parts(find_files(str(tmp_path)))] == ["a.jsonl", "a.parquet"]


def test_what_is_not_there_or_not_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="no such file or folder"):
        find_files(str(tmp_path / "nope.jsonl"))
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(CorpusError, match="the folder holds no"):
        find_files(str(tmp_path))
    with pytest.raises(CorpusError, match=r"only \.jsonl"):
        find_files(str(tmp_path / "notes.txt"))
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(CorpusError, match="is empty"):
        find_files(str(tmp_path / "empty.jsonl"))
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(CorpusError, match="not a Parquet file"):
        split_into_parts([str(tmp_path / "broken.parquet")])
