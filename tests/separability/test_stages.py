"""The stages over Ray: the same bits however the work is divided, and every rescoring equal to scoring from scratch."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from rich.console import Console
from sklearn.metrics import silhouette_samples as sklearn_silhouette

from raysel.progress import Progress
from raysel.separability import pool_stage, scores_stage, sums_stage
from raysel.separability.settings import PreselectSettings, SeparabilitySettings
from raysel.stage import StageOutput, StageRun
from raysel.store import Artifact, Store
from raysel.tables import IDENTIFIED, vectors_schema

ROWS, WIDTH, SHARD = 700, 12, 90
LANGS = {"ar": ("Egyptian Arabic", "Standard Arabic"), "sr": ("sr",), "sw": ("swh_Latn",), "en": ("en",)}
SCRIPTS = {"ar": ("Arab",), "sr": ("Cyrl", "Latn"), "sw": ("Latn",), "en": ("Latn",)}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


def made_vectors(store: Store, dtype: str = "float32", tasks: tuple[str | None, ...] = ("qa", "nli", None)) -> Artifact:
    rng = np.random.default_rng(5)
    lang = rng.choice(list(LANGS), size=ROWS, p=[0.4, 0.3, 0.2, 0.1])
    raw = [LANGS[name][i % len(LANGS[name])] for i, name in enumerate(lang)]
    script = [SCRIPTS[name][i // 3 % len(SCRIPTS[name])] for i, name in enumerate(lang)]
    centres = {name: rng.normal(size=WIDTH) for name in sorted({*raw, *script})}
    X = np.stack([centres[r] + 0.5 * centres[s] for r, s in zip(raw, script, strict=True)])
    X = (X + rng.normal(size=X.shape) + 5).astype(dtype)
    columns = {
        "id": [f"r{i:04d}" for i in range(ROWS)],
        "lang": lang.tolist(),
        "vector": pa.FixedSizeListArray.from_arrays(pa.array(X.reshape(-1)), WIDTH),
        "n_tokens": rng.integers(3, 200, size=ROWS).astype(np.int32),
        "truncated": [False] * ROWS,
        "lang_raw": raw,
        "task": [tasks[i % len(tasks)] for i in range(ROWS)],
        "script": script,
        "fed_hash": pa.array(range(len(script)), pa.uint64()),
    }
    table = pa.table(columns, schema=vectors_schema(WIDTH, dtype))
    attempt = store.attempt("vectors", f"made-{dtype}-{len(tasks)}")
    starts = range(0, ROWS, SHARD)
    records = [attempt.write_table("vectors", i, table.slice(start, SHARD)) for i, start in enumerate(starts)]
    summary = {"languages": {name: int((lang == name).sum()) for name in sorted(LANGS)}, "width": WIDTH}
    return attempt.publish(records, settings={}, inputs={}, version=1, summary=summary)


def run_stage(
    stage: Any,
    store: Store,
    fingerprint: str,
    cluster: Any,
    progress: Any,
    settings: Mapping[str, Any],
    **inputs: Artifact,
) -> Artifact:
    attempt = store.attempt(stage.__name__.rpartition(".")[2], fingerprint)
    output: StageOutput = stage.run(StageRun(settings, inputs, {}, attempt, cluster, progress))
    return attempt.publish(output.records, settings={}, inputs={}, version=1, summary=output.summary)


@pytest.fixture
def run(store: Store, cluster: Any, progress: Any) -> Any:
    def run(stage: Any, fingerprint: str, settings: Mapping[str, Any], **inputs: Artifact) -> Artifact:
        return run_stage(stage, store, fingerprint, cluster, progress, settings, **inputs)

    return run


def sums_of(run: Any, vectors: Artifact, name: str, **settings: Any) -> Artifact:
    return run(sums_stage, name, {"separability": SeparabilitySettings(**settings)}, vectors=vectors)


def scores_of(run: Any, sums: Artifact, label: str = "lang", **inputs: Artifact) -> pa.Table:
    clusters = "chosen" if inputs else "corpus"
    settings = {"separability": {"label": label, "clusters": clusters}}
    return run(scores_stage, f"{label}-{clusters}", settings, sums=sums, **inputs).read("scores")


def quota_of(store: Store, *languages: str) -> Artifact:
    attempt = store.attempt("quota", "-".join(languages))
    summary = {
        "counts": dict.fromkeys(languages, 1),
        "available": dict.fromkeys(languages, 50),
        "cells": [[lang, None, 1, 50] for lang in languages],
        "by_task": False,
        "binding": False,
        "parallel": False,
        "shortfall": "refuse",
    }
    return attempt.publish([], settings={}, inputs={}, version=1, summary=summary)


def of_language(vectors: Artifact, lang: str) -> set[str]:
    table = vectors.read("vectors", ["id", "lang"])
    return {i for i, of in zip(table["id"].to_pylist(), table["lang"].to_pylist(), strict=True) if of == lang}


def audit_of(store: Store, vectors: Artifact) -> Artifact:
    """What language identification might say; it does not know Swahili here. Held-out rows are there too."""
    table = vectors.read("vectors", ["id", "lang"])
    ids, langs = [*table["id"].to_pylist(), "held out"], [*table["lang"].to_pylist(), "en"]
    sure = [None if lang == "sw" else i % 97 / 97 for i, lang in enumerate(langs)]
    columns = {"id": ids, "lang": langs, "found_lang": langs, "label_probability": sure}
    attempt = store.attempt("audit", "made")
    record = attempt.write_table("identified", 0, pa.table(columns, schema=IDENTIFIED))
    return attempt.publish([record], settings={}, inputs={}, version=1, summary={})


def matrix(vectors: Artifact) -> tuple[np.ndarray, pa.Table]:
    table = vectors.read("vectors")
    flat = np.concatenate([chunk.flatten().to_numpy() for chunk in table["vector"].chunks])
    return flat.reshape(ROWS, WIDTH).astype(np.float64), table


class StoppedError(Exception):
    pass


class StopsAfterThreePairs(Progress):
    """Ends the stage in the middle of its work."""

    def __init__(self) -> None:
        super().__init__(Console(quiet=True), "sums")
        self.pairs = 0

    @contextmanager
    def track(self, *arguments: Any, **more: Any) -> Iterator[Any]:
        with super().track(*arguments, **more) as tracker:
            tracker.advance = self.count
            yield tracker

    def count(self, *_: Any) -> None:
        self.pairs += 1
        if self.pairs == 3:
            raise StoppedError


def test_the_bits_are_the_same_for_any_cores_and_after_a_resume(
    run: Any, store: Store, cluster: Any, progress: Any
) -> None:
    vectors = made_vectors(store)
    one = sums_of(run, vectors, "one-core", block_rows=200, cores=1)
    two = sums_of(run, vectors, "two-cores", block_rows=200, cores=2)
    settings = {"separability": SeparabilitySettings(block_rows=200)}
    with pytest.raises(StoppedError):
        run_stage(sums_stage, store, "resumed", cluster, StopsAfterThreePairs(), settings, vectors=vectors)
    halfway = {path: path.stat().st_mtime_ns for path in Path(store.full("sums_stage/resumed")).rglob("pair-*.done")}
    assert len(halfway) >= 3
    resumed = run_stage(sums_stage, store, "resumed", cluster, progress, settings, vectors=vectors)
    redone = [path.name for path in Path(store.full("sums_stage/resumed")).rglob("pair-*.done")]
    assert len(redone) == len({name.rsplit("-", 1)[0] for name in redone}) == 10
    assert all(path.stat().st_mtime_ns == time for path, time in halfway.items())
    assert one.read("sums").equals(two.read("sums"))
    assert one.read("sums").equals(resumed.read("sums"))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("label", ["lang", "lang_raw", "lang_script"])
def test_every_label_is_scored_as_from_scratch(run: Any, store: Store, label: str, dtype: str) -> None:
    vectors = made_vectors(store, dtype)
    scores = scores_of(run, sums_of(run, vectors, "sums", block_rows=150), label)
    X, table = matrix(vectors)
    lang, raw, script = (table[name].to_pylist() for name in ("lang", "lang_raw", "script"))
    own = {"lang": lang, "lang_raw": raw, "lang_script": [f"{a}_{b}" for a, b in zip(lang, script, strict=True)]}[label]
    assert scores["id"].to_pylist() == table["id"].to_pylist()
    assert scores["cluster"].to_pylist() == own
    np.testing.assert_allclose(scores["separability"], sklearn_silhouette(X, own), atol=1e-5)


def test_a_subset_of_languages_is_scored_as_from_scratch(run: Any, store: Store) -> None:
    vectors = made_vectors(store)
    scores = scores_of(run, sums_of(run, vectors, "sums"), quota=quota_of(store, "en", "sr", "sw"))
    X, table = matrix(vectors)
    kept = np.isin(table["lang"].to_pylist(), ["en", "sr", "sw"])
    own = np.array(table["lang"].to_pylist())[kept]
    assert scores["id"].to_pylist() == np.array(table["id"].to_pylist())[kept].tolist()
    np.testing.assert_allclose(scores["separability"], sklearn_silhouette(X[kept], own), atol=1e-5)
    assert "ar" not in scores["nearest_lang"].to_pylist()


def test_one_chosen_language_cannot_be_compared(run: Any, store: Store) -> None:
    sums = sums_of(run, made_vectors(store), "sums")
    with pytest.raises(scores_stage.ScoresError, match="leaves one cluster"):
        scores_of(run, sums, quota=quota_of(store, "en"))


def test_within_a_task_the_scores_are_those_of_its_samples_alone(run: Any, store: Store) -> None:
    vectors = made_vectors(store)
    scores = scores_of(run, sums_of(run, vectors, "sums", block_rows=300))
    X, table = matrix(vectors)
    lang, task = (np.array(table[name].to_pylist(), dtype=object) for name in ("lang", "task"))
    within = scores["separability_in_task"].to_numpy()
    for name in ("qa", "nli", None):
        rows = np.flatnonzero(task == name)
        np.testing.assert_allclose(within[rows], sklearn_silhouette(X[rows], lang[rows].tolist()), atol=1e-5)


def test_without_tasks_there_is_nothing_within_one(run: Any, store: Store) -> None:
    scores = scores_of(run, sums_of(run, made_vectors(store, tasks=(None,)), "sums"))
    assert scores["separability_in_task"].null_count == ROWS


@pytest.mark.parametrize(
    ("setting", "rows"), [({"rho": 0.2}, 140), ({"size": 100}, 100), ({"size": 50, "minimum": 9}, 50)]
)
@pytest.mark.parametrize("band", ["high", "length_matched", "lid_clean"])
def test_the_pool_has_the_rows_it_should(run: Any, store: Store, setting: dict, rows: int, band: str) -> None:
    vectors = made_vectors(store)
    settings = {"separability": {"label": "lang", "clusters": "corpus"}}
    scores = run(scores_stage, "scores", settings, sums=sums_of(run, vectors, "sums"))
    settings = {"preselect": PreselectSettings(band=band, **setting), "seed": 0}
    beside = {"length_matched": {"vectors": vectors}, "lid_clean": {"audit": audit_of(store, vectors)}}
    inputs = {"scores": scores, "quota": quota_of(store, *LANGS), **beside.get(band, {})}
    published = run(pool_stage, "pool", settings, **inputs)
    pool = published.read("pool")
    assert len(pool) == len(set(pool["id"].to_pylist())) == rows
    counts = {lang: pool["lang"].to_pylist().count(lang) for lang in LANGS}
    assert min(counts.values()) >= setting.get("minimum", 0)
    everything = np.mean(scores.read("scores")["separability"])
    assert np.mean(pool["score"]) > everything or band != "high"
    if band == "lid_clean":
        assert "drawn at random, as language identification does not know them: sw" in published.summary["warnings"][-1]
        identified = inputs["audit"].read("identified")
        sure = dict(zip(identified["id"].to_pylist(), identified["label_probability"].to_pylist(), strict=True))
        taken, english = set(pool["id"].to_pylist()), of_language(vectors, "en")
        assert min(sure[i] for i in english & taken) >= max(sure[i] for i in english - taken)
