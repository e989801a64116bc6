"""Well-known corpora, in their published shapes, read as they are."""

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raysel.corpus.files import find_files, read_batches, split_into_parts
from raysel.corpus.presets import PRESETS, Layout, language_of_path, layout_of
from raysel.corpus.rows import standardise
from raysel.corpus.settings import CorpusSettings
from raysel.corpus.stage import find_layout
from raysel.languages.codes import normalise

AYA = """
Amharic; Basque; Bemba; Bengali; Burmese; Cebuano; Danish; Dutch; Egyptian Arabic; English; Filipino; Finnish;
French; German; Greek; Gujarati; Haitian; Hausa; Hindi; Hungarian; Igbo; Indonesian; Iranian Persian; Irish;
Italian; Japanese; Javanese; Korean; Kyrgyz; Lithuanian; Malayalam; Marathi; Moroccan Arabic; Najdi Arabic;
Nepali; Northern Sotho; Nyanja; Panjabi; Plateau Malagasy; Polish; Portuguese; Russian; Serbian; Shona;
Simplified Chinese; Sindhi; Sinhala; Somali; South Levantine Arabic; Southern Pashto; Southern Sotho; Spanish;
Standard Arabic; Standard Malay; Sundanese; Swahili; Swedish; Ta'izzi-Adeni Arabic; Tamil; Telugu; Thai;
Traditional Chinese; Turkish; Ukrainian; Urdu; Vietnamese; Wolof; Xhosa; Yoruba; Zulu
"""
ALPACA = {"instruction": "Translate this.", "input": "Habari?", "output": "How are you?"}
TURNS = [{"from": "human", "value": "Habari?"}, {"from": "gpt", "value": "Nzuri."}]


def write(file: Path, *rows: dict[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(list(rows)), file)
    elif file.name.endswith(".json.gz"):
        file.write_bytes(gzip.compress(json.dumps(list(rows)).encode()))
    else:
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def read(folder: Path, **settings: Any) -> tuple[Layout, list[dict[str, Any]]]:
    """The layout, and the rows as the corpus table has them."""
    given = CorpusSettings(path=str(folder), **settings)
    files = find_files(str(folder))
    layout = find_layout(given, files)
    rows = []
    for part in split_into_parts(files):
        for batch in read_batches(part, 2):
            about = {"location": part.location, "name": part.name, "source": "corpus", "drop_empty": False}
            table, problems, _ = standardise(batch.rows, batch.numbers, layout=layout, **about)
            assert not problems.counts, problems.lines()
            rows += table.to_pylist()
    assert len({row["id"] for row in rows}) == len(rows)
    return layout, rows


def brief(rows: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    return [(row["lang"], row["prompt"], row["response"]) for row in rows]


def test_aya(tmp_path: Path) -> None:
    names = " ".join(AYA.split()).split("; ")
    row = {"inputs": "q", "targets": "a", "language_code": "x", "annotation_type": "re-annotations", "user_id": "u"}
    write(tmp_path / "train-00000-of-00001.parquet", *({**row, "language": name} for name in names))
    layout, rows = read(tmp_path)
    assert layout.preset == "aya"
    assert [row["lang_raw"] for row in rows] == names
    assert [row["lang"] for row in rows] == [normalise(name) for name in names]
    assert sum("Arabic" in row["lang_raw"] for row in rows) == 6
    assert {row["lang"] for row in rows if row["lang_raw"].endswith("Chinese")} == {"zh"}


@pytest.mark.parametrize(
    "files", [("data/sw.json.gz", "data/th.json.gz"), ("sw/train-0.parquet", "th/train-0.parquet")]
)
def test_bactrian_x_in_files_or_folders_named_for_the_language(tmp_path: Path, files: tuple[str, ...]) -> None:
    rows = [{**ALPACA, "id": "alpaca-1"}, {**ALPACA, "input": "", "id": "dolly-2"}, {**ALPACA, "id": "alpaca-3"}]
    for name in files:
        write(tmp_path / name, *rows)
    layout, found = read(tmp_path)
    assert layout.preset == "bactrian_x"
    assert [row["lang"] for row in found] == ["sw"] * 3 + ["th"] * 3
    assert [row["group"] for row in found] == ["alpaca-1", "dolly-2", "alpaca-3"] * 2
    assert brief(found[:2]) == [
        ("sw", "Translate this.\n\nHabari?", "How are you?"), ("sw", "Translate this.", "How are you?")
    ]  # fmt: skip


def test_xp3_by_folder_and_xp3x_by_column(tmp_path: Path) -> None:
    row = {"inputs": "q", "targets": "a"}
    write(tmp_path / "xp3" / "sw" / "xp3_flores_en-sw.jsonl", row)
    write(tmp_path / "xp3" / "zh" / "merged_zh.jsonl", row)
    layout, rows = read(tmp_path / "xp3")
    assert (layout.preset, brief(rows)) == ("xp3", [("sw", "q", "a"), ("zh", "q", "a")])
    write(tmp_path / "xp3x" / "zho_Hans" / "x.jsonl", {**row, "language": "zho_Hans", "config": "c"})
    write(tmp_path / "xp3x" / "swh_Latn" / "x.jsonl", {**row, "language": "swh_Latn", "config": "c"})
    layout, rows = read(tmp_path / "xp3x")
    assert (layout.preset, [row["lang"] for row in rows]) == ("xp3", ["sw", "zh"])


def test_alpaca_sharegpt_and_messages(tmp_path: Path) -> None:
    write(tmp_path / "alpaca" / "a.jsonl", {**ALPACA, "lang": "sw", "id": "a"}, {**ALPACA, "lang": "en", "id": "b"})
    layout, rows = read(tmp_path / "alpaca")
    assert (layout.preset, [row["id"] for row in rows]) == ("alpaca", ["a", "b"])
    assert brief(rows)[0] == ("sw", "Translate this.\n\nHabari?", "How are you?")
    write(tmp_path / "sharegpt" / "a.jsonl", {"conversations": TURNS, "lang": "sw", "task": "chat"})
    layout, rows = read(tmp_path / "sharegpt")
    assert (layout.preset, brief(rows), rows[0]["task"]) == ("sharegpt", [("sw", "Habari?", "Nzuri.")], "chat")
    write(tmp_path / "messages" / "a.jsonl", {"messages": TURNS, "lang": "sw"})
    for settings in ({}, {"preset": "messages"}):
        assert brief(read(tmp_path / "messages", **settings)[1]) == [("sw", "Habari?", "Nzuri.")]


@pytest.mark.parametrize(("lang_from", "expected"), [("file", ["th", "vi"]), ("folder", ["sw", "sw"])])
def test_one_language_in_each_file_or_folder(tmp_path: Path, lang_from: str, expected: list[str]) -> None:
    for name in ("th.train.jsonl", "vi.jsonl"):
        write(tmp_path / "sw" / name, {"prompt": "q", "response": "a", "lang": "en"})
    assert [row["lang"] for row in read(tmp_path, lang_from=lang_from)[1]] == expected
    assert [row["lang"] for row in read(tmp_path)[1]] == ["en", "en"]


def test_what_the_settings_say_goes_first() -> None:
    bactrian = {"instruction", "input", "output", "id"}
    assert layout_of(CorpusSettings(), bactrian).preset == "bactrian_x"
    named = CorpusSettings(columns={"prompt": "instruction", "response": "output", "lang": "id"})
    assert layout_of(named, bactrian) == Layout(columns=named.columns)
    part = CorpusSettings(columns={"lang": "language"}, preset="alpaca")
    assert layout_of(part, bactrian).columns["lang"] == "language"
    assert layout_of(CorpusSettings(columns={"lang": "code"}), {"inputs", "targets", "code"}).lang_from == "column"
    assert layout_of(CorpusSettings(preset="bactrian_x", lang_from="folder"), set()).lang_from == "folder"
    for plain in ({"prompt", "response", "instruction", "output"}, {"messages", "conversations"}, {"text"}, set()):
        assert layout_of(CorpusSettings(), plain) == Layout()


def test_every_preset_has_its_name_and_a_place_in_the_settings() -> None:
    for name, layout in PRESETS.items():
        assert CorpusSettings(preset=name).preset == layout.preset == name


def test_a_path_with_options_names_its_language_too() -> None:
    assert language_of_path("s3://bucket/data/sw/part.jsonl?region=eu", "path") == "sw"
    assert language_of_path("s3://bucket/data/sw.jsonl.gz?region=eu", "path") == "sw"
    assert language_of_path("/data/sw.jsonl", "column") is None


def test_a_renamed_file_is_another_corpus_where_its_name_says_the_language(tmp_path: Path, tiny_llama: Path) -> None:
    from raysel.experiment import load_experiment
    from raysel.pipeline import expand
    from raysel.store import Store

    (tmp_path / "e.yaml").write_text(f"model: {{path: {tiny_llama}}}\nstorage: store\n")

    def record(folder: str) -> dict[str, Any]:
        write(tmp_path / folder / "part.jsonl", {"inputs": "q", "targets": "a"})
        loaded = load_experiment(tmp_path / "e.yaml", [f"corpus.path={tmp_path / folder}"])
        return expand(loaded, Store(loaded.storage), "corpus")[0].record()

    swahili, thai = record("sw"), record("th")
    assert swahili["leaves"] == thai["leaves"]
    assert swahili["settings"]["corpus"]["layout"]["preset"] == "xp3"
    assert [step["settings"]["corpus"]["languages"] for step in (swahili, thai)] == [["sw"], ["th"]]


def test_a_file_without_a_row_or_with_a_broken_one_is_left_to_the_reading(tmp_path: Path) -> None:
    pq.write_table(pa.table({"inputs": pa.array([], pa.string())}), tmp_path / "a.parquet")
    (tmp_path / "b.jsonl").write_text("{broken\n")
    (tmp_path / "c.jsonl.gz").write_bytes(gzip.compress(b"{}" * 100_000)[:50])
    for name in ("a.parquet", "b.jsonl", "c.jsonl.gz"):
        assert find_layout(CorpusSettings(), [str(tmp_path / name)]) == Layout()
