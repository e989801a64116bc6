"""`raysel gc`: what no run names goes, everything else stays."""

from pathlib import Path

import pyarrow as pa
import pytest

from raysel.errors import UserError
from raysel.garbage import collect, find_garbage
from raysel.store import Artifact, Store
from raysel.tables import QUOTA

TABLE = pa.table({"lang": ["en"], "task": [None], "count": [1]}, schema=QUOTA)


def published(store: Store, fingerprint: str) -> Artifact:
    attempt = store.attempt("quota", fingerprint)
    record = attempt.write_table("quota", 0, TABLE)
    return attempt.publish([record], settings={}, inputs={}, version=1, summary={})


def name_in_a_run(store: Store, run: str, *fingerprints: str) -> None:
    steps = {f"quota{i}": {"stage": "quota", "fingerprint": f} for i, f in enumerate(fingerprints)}
    store.write_json(f"runs/{run}/run.json", {"steps": steps})


def test_removes_what_no_run_names_and_leftovers_of_attempts(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    kept, lost = published(store, "kept"), published(store, "lost")
    leftover = store.attempt("quota", "kept").write_table("quota", 0, TABLE)
    unfinished = store.attempt("quota", "unfinished").write_table("quota", 0, TABLE)
    name_in_a_run(store, "a", "kept", "unfinished")
    garbage = find_garbage(store)
    assert garbage.artifacts == ["quota/lost"]
    assert {path.split("/")[2] for path in garbage.files} == {leftover.path.split("/")[0]}
    collect(store, garbage)
    assert store.artifact("quota", "lost") is None
    assert not (tmp_path / lost.address).exists()
    assert kept.read("quota").equals(TABLE)
    assert (tmp_path / "quota" / "unfinished" / unfinished.path).exists()
    assert find_garbage(store).artifacts == find_garbage(store).files == []


def test_two_runs_that_share_an_artifact_both_keep_it(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    published(store, "shared")
    name_in_a_run(store, "a", "shared")
    name_in_a_run(store, "b", "shared")
    (tmp_path / "runs" / "a" / "run.json").unlink()
    assert find_garbage(store).artifacts == []


def test_a_folder_without_runs_is_left_alone(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    published(store, "kept")
    with pytest.raises(UserError, match="holds no run"):
        find_garbage(store)


def test_the_cells_of_results_stay_with_them(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    for cell in ("used", "unused"):
        store.attempt("cells", cell).publish([], settings={}, inputs={}, version=1, summary={})
    steps = {"results_base": {"stage": "results", "fingerprint": "r"}}
    store.write_json("runs/a/run.json", {"steps": steps})
    assert find_garbage(store).artifacts == [], "the results may still be gathered from them"
    store.attempt("results", "r").publish([], settings={}, inputs={}, version=1, summary={"cells": ["used"]})
    assert find_garbage(store).artifacts == ["cells/unused"]
