"""`raysel compare`: what it reads, what it prints, what it refuses."""

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from raysel.scorings import ScoringError, compare_scorings, read_scoring
from raysel.store import Store
from raysel.tables import SCORES


def table_of(rows: int, seed: int, start: int = 0) -> pa.Table:
    rng = np.random.default_rng(seed)
    columns = {
        "id": [f"r{i:03d}" for i in range(start, start + rows)],
        "lang": [("sw", "en", "th")[i % 3] for i in range(start, start + rows)],
        "separability": rng.uniform(-1, 1, rows),
        "a": np.ones(rows),
        "b": np.ones(rows),
        "nearest_lang": ["en"] * rows,
    }
    return pa.table(columns, schema=SCORES)


def published(uri: str, table: pa.Table) -> str:
    store = Store(uri)
    attempt = store.attempt("scores", "f" * 24)
    records = [attempt.write_table("scores", 0, table.slice(0, 20)), attempt.write_table("scores", 1, table.slice(20))]
    attempt.publish(records, settings={}, inputs={}, version=1, summary={})
    store.attempt("scores", "f" * 24).write_table("scores", 0, table)  # a later attempt that never published
    return f"scores/{'f' * 24}"


def printed(first: str, second: str, figure: Path, rho: float = 0.2) -> str:
    console = Console(record=True, width=100, file=io.StringIO())
    compare_scorings(first, second, rho=rho, figure=figure, console=console)
    return console.export_text()


def test_published_scores_and_parquet_files_are_read_anywhere(tmp_path: Path, s3_bucket: str) -> None:
    table = table_of(60, seed=1)
    folder = f"{tmp_path}/store/{published(str(tmp_path / 'store'), table)}"
    pq.write_table(table, tmp_path / "scores.parquet")
    place, _, options = s3_bucket.format("compare").partition("?")
    remote = f"{place}/{published(s3_bucket.format('compare'), table)}?{options}"
    for location in (folder, f"{folder}/", str(tmp_path / "scores.parquet"), remote):
        found = read_scoring(location)
        assert found.ids == table["id"].to_pylist()
        assert found.scores.tolist() == table["separability"].to_pylist()


def test_the_table_has_every_language_and_the_figure_is_drawn(tmp_path: Path) -> None:
    pq.write_table(table_of(60, seed=1), tmp_path / "a.parquet")
    pq.write_table(table_of(60, seed=2, start=10), tmp_path / "b.parquet")
    text = printed(str(tmp_path / "a.parquet"), str(tmp_path / "b.parquet"), tmp_path / "new" / "figure.svg", rho=0.25)
    assert "50 samples in 3 languages; 20 samples that only one of them has are left out" in text
    assert [line.split()[0] for line in text.splitlines() if line[:3].strip() in ("all", "en", "sw", "th")] == [
        *("all", "en", "sw", "th")
    ]
    assert "top 25% Jaccard" in text
    assert (tmp_path / "new" / "figure.svg").read_text().count("<svg") == 1
    same = printed(str(tmp_path / "a.parquet"), str(tmp_path / "a.parquet"), tmp_path / "figure.png")
    assert same.count("1.000") == 12


@pytest.mark.parametrize(
    ("columns", "found"),
    [
        ({"id": ["a"], "lang": ["sw"]}, "lacks the column separability"),
        ({"id": ["a", "a"], "lang": ["sw"] * 2, "separability": [0.1, 0.2]}, "1 ids more than once"),
        ({"id": ["a"], "lang": ["sw"], "separability": [np.nan]}, "no number"),
        ({"id": ["x"], "lang": ["sw"], "separability": [0.5]}, "no id in common"),
        ({"id": ["x"], "lang": [None], "separability": [0.5]}, "empty values in lang"),
        ({"id": ["x"], "lang": ["sw"], "separability": ["high"]}, "separability a number"),
    ],
)
def test_what_cannot_be_compared_is_refused(tmp_path: Path, columns: dict, found: str) -> None:
    pq.write_table(table_of(30, seed=1), tmp_path / "a.parquet")
    pq.write_table(pa.table(columns), tmp_path / "b.parquet")
    with pytest.raises(ScoringError, match=found):
        printed(str(tmp_path / "a.parquet"), str(tmp_path / "b.parquet"), tmp_path / "f.svg")


def test_names_that_mean_something_elsewhere_are_just_names(tmp_path: Path) -> None:
    names = ["all", "[/q]", "[red]x", "$x_{"]
    columns = {"id": [f"{i}" for i in range(40)], "lang": names * 10, "separability": np.linspace(0, 1, 40)}
    (tmp_path / "scores").mkdir()
    pq.write_table(pa.table(columns), tmp_path / "scores" / "a.parquet")
    path = str(tmp_path / "scores" / "a.parquet")
    text = printed(path, path, tmp_path / "f.svg")
    assert all(f"\n{name} " in text for name in names)
    assert text.count("\nall ") == 2


def test_places_without_scores_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.txt").write_text("no scores")
    for name, found in (("nowhere", "there is nothing"), ("empty", "without Parquet"), ("text.txt", "is not Parquet")):
        with pytest.raises(ScoringError, match=found):
            read_scoring(str(tmp_path / name))
    with pytest.raises(ScoringError, match="rho 2"):
        compare_scorings("a", "b", rho=2, figure=tmp_path / "f.svg", console=Console(quiet=True))
