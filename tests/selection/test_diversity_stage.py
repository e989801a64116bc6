"""Diversity on Ray against the whole corpus in memory: sampled or not, in groups, killed between the rounds."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import pairwise_distances
from sklearn.metrics.pairwise import cosine_similarity

from raysel.selection import diversity_stage, dsir
from raysel.selection.diversity import distinct_share, ngrams_by_order
from raysel.store import Artifact
from raysel.tables import CHOSEN
from tests.selection.line import LANGS, SelectionLine

CHOICES = {"subset": ("less", "pool"), "subset_random_corpus": ("random", "corpus")}
INPUTS = {name: name for name in ("corpus", "vectors", "scores", *CHOICES)}
Key = tuple[str, str, str | None]


@pytest.fixture
def line(cluster: Any, progress: Any, tmp_path: Path) -> SelectionLine:
    """Two choices: some rows of three languages, and of English alone but one row of Swahili."""
    made = SelectionLine(cluster, progress, tmp_path)
    by_lang = {lang: [i for i in sorted(made.rows) if made.rows[i]["lang"] == lang] for lang in LANGS}
    chosen = {
        "subset": [i for lang in ("en", "sw", "zh") for i in by_lang[lang][::3]],
        "subset_random_corpus": [*by_lang["en"][::2], by_lang["sw"][0]],
    }
    for name, rows in chosen.items():
        publish(made, name, rows)
    return made


def publish(line: SelectionLine, name: str, ids: list[str]) -> None:
    rows = [{"id": i, "lang": line.rows[i]["lang"], "rank": 0, "score": 0.0, "method": "made"} for i in ids]
    attempt = line.store.attempt("subset", f"{name}-{len(ids)}")
    records = [attempt.write_table("subset", 0, pa.Table.from_pylist(rows, schema=CHOSEN))]
    line.made[name] = attempt.publish(records, settings={}, inputs={}, version=1, summary={})


def measure(line: SelectionLine, fingerprint: str = "", **settings: Any) -> Artifact:
    return line.run("diversity", diversity_stage, {"choices": CHOICES} | settings, INPUTS, fingerprint=fingerprint)


def lines_of(made: Artifact) -> dict[Key, dict[str, Any]]:
    return {(row["method"], row["candidates"], row["lang"]): row for row in made.read("diversity").to_pylist()}


def expected(line: SelectionLine, chosen: set[str], lang: str) -> dict[str, Any]:
    ids = list(line.rows)
    own = np.array([line.rows[i]["lang"] == lang for i in ids])
    picked = own & np.array([i in chosen for i in ids])
    vectors = line.vectors.astype(np.float64)
    return {
        "n": int(picked.sum()),
        "corpus_rows": int(own.sum()),
        "separability": np.mean([line.separability[i] for i, has in zip(ids, picked, strict=True) if has]),
        "mean_tokens": np.mean([line.tokens[i] for i, has in zip(ids, picked, strict=True) if has]),
        "similarity": cosine_similarity(vectors[picked])[np.triu_indices(picked.sum(), 1)].mean()
        if picked.sum() > 1
        else None,
        "coverage": pairwise_distances(vectors[own], vectors[picked]).min(axis=1).mean(),
    }


def ngrams(line: SelectionLine, ids: set[str], lang: str) -> tuple[np.ndarray, np.ndarray]:
    rows = [row for i, row in line.rows.items() if i in ids and row["lang"] == lang]
    texts = [f"{row['prompt']} {row['response']}" for row in rows]
    return ngrams_by_order(*dsir.hashed_ngrams(texts, buckets=1 << 32))


def check(line: SelectionLine, made: Artifact) -> None:
    found = lines_of(made)
    chosen = {CHOICES[name]: set(line.made[name].read("subset")["id"].to_pylist()) for name in CHOICES}
    chosen[("everything", "corpus")] = set(line.rows)
    # Nobody chose a row in Thai.
    assert found.keys() == {(*kind, lang) for kind in chosen for lang in ("en", "sw", "zh", None)}
    for lang in ("en", "sw", "zh"):
        there = {kind: ngrams(line, ids, lang) for kind, ids in chosen.items()}
        for order in (1, 2):
            size = min(len(both[order - 1]) for both in there.values() if len(both[order - 1]))
            for kind, both in there.items():
                row = found[*kind, lang]
                assert row[f"ngrams_{order}"] == size
                if len(both[order - 1]):
                    share = distinct_share(both[order - 1], size)
                    assert row[f"distinct_{order}"] == pytest.approx(share, rel=1e-12)
                else:
                    assert row[f"distinct_{order}"] is None
        for kind, ids in chosen.items():
            row = found[*kind, lang]
            if (kind, lang) == (("random", "corpus"), "zh"):
                assert (row["n"], row["similarity"], row["coverage"], row["separability"]) == (0, None, None, None)
                continue
            for name, value in expected(line, ids, lang).items():
                assert row[name] == (value if value is None else pytest.approx(value, rel=1e-5, abs=1e-6)), name
    for kind in chosen:
        rows = [found[*kind, lang] for lang in ("en", "sw", "zh")]
        there = [row for row in rows if row["n"]]
        over_all = found[*kind, None]
        n, corpus_rows = ([row[name] for row in there] for name in ("n", "corpus_rows"))
        assert (over_all["n"], over_all["corpus_rows"]) == (sum(n), sum(corpus_rows))
        paired = [(row["similarity"], row["n"]) for row in there if row["similarity"] is not None]
        values, weights = zip(*paired, strict=True)
        assert over_all["similarity"] == pytest.approx(np.average(values, weights=weights))
        coverage = [row["coverage"] for row in there]
        assert over_all["coverage"] == pytest.approx(np.average(coverage, weights=corpus_rows))
        assert over_all["separability"] == pytest.approx(np.average([row["separability"] for row in there], weights=n))
    assert found["everything", "corpus", None]["coverage"] == 0


def test_every_line_is_that_of_the_corpus_in_memory(line: SelectionLine, monkeypatch: pytest.MonkeyPatch) -> None:
    made = measure(line)
    check(line, made)
    assert made.summary["sampled"] == []
    assert not any(row["sampled"] for row in lines_of(made).values())
    monkeypatch.setattr(diversity_stage, "ROWS_OF_A_GROUP", 40)
    in_groups = measure(line)
    check(line, in_groups)
    # In as many tasks and again: the same bits.
    assert measure(line).read("diversity").equals(in_groups.read("diversity"))


def test_of_a_large_language_only_some_rows_are_looked_at(line: SelectionLine, monkeypatch: pytest.MonkeyPatch) -> None:
    exact = lines_of(measure(line))
    monkeypatch.setattr(diversity_stage, "SAMPLED_ROWS", 20)
    made = measure(line)
    few = lines_of(made)
    assert made.summary["sampled"] == ["en", "sw", "zh"]
    for key, row in few.items():
        assert row["sampled"]
        # Of these every row counts, whatever was sampled.
        for name in ("n", "corpus_rows", "separability", "similarity", "mean_tokens"):
            assert row[name] == exact[key][name]
    sampled = few["less", "pool", "en"]
    assert sampled["coverage"] != exact["less", "pool", "en"]["coverage"]
    assert sampled["coverage"] == pytest.approx(exact["less", "pool", "en"]["coverage"], rel=0.5)
    assert lines_of(measure(line)) == few
    assert lines_of(measure(line, seed=1))["less", "pool", "en"]["coverage"] != sampled["coverage"]


def test_all_chosen_is_as_the_corpus(line: SelectionLine) -> None:
    publish(line, "subset", list(line.rows))
    found = lines_of(measure(line))
    for lang in (*LANGS, None):
        own, whole = found["less", "pool", lang], found["everything", "corpus", lang]
        assert own == whole | {"method": "less", "candidates": "pool"}
        assert own["coverage"] == 0


@pytest.mark.parametrize(
    "dies",
    [
        pytest.param("measure_group", marks=pytest.mark.slow),
        "reduce_groups",
        pytest.param("describe_language", marks=pytest.mark.slow),
    ],
)
def test_killed_between_the_rounds_it_carries_on(
    line: SelectionLine, monkeypatch: pytest.MonkeyPatch, dies: str
) -> None:
    whole = measure(line, fingerprint=f"whole-{dies}").read("diversity")
    with monkeypatch.context() as patched:
        patched.setattr(diversity_stage, dies, _dies)
        with pytest.raises(RuntimeError, match="killed"):
            measure(line, fingerprint=f"killed-{dies}")
    with monkeypatch.context() as patched:
        for done in ("find_members", "add_up_group"):
            patched.setattr(diversity_stage, done, _dies)
        again = measure(line, fingerprint=f"killed-{dies}").read("diversity")
    assert again.equals(whole)


def _dies(*_: Any) -> None:
    raise RuntimeError("killed")
