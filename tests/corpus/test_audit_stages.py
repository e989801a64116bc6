"""The audit over Ray: planted faults are found, whatever the order of the rows, the shards, and after a resume."""

import json
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from raysel.corpus import audit_stage, clean_stage, contamination_stage
from raysel.corpus.settings import AuditSettings
from raysel.evaluation.items import item_sources
from raysel.evaluation.settings import EvaluationSettings
from raysel.progress import Progress
from raysel.stage import StageOutput, StageRun
from raysel.store import Artifact, Store
from tests.corpus.samples import Row, demo_rows, edited, published_corpus, scored
from tests.evaluation.task_folder import write_choice_tasks


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


def run_stage(
    stage: Any, store: Store, name: str, cluster: Any, progress: Any, settings: dict[str, Any], **inputs: Artifact
) -> Artifact:
    attempt = store.attempt(stage.__name__.rpartition(".")[2].removesuffix("_stage"), name)
    output: StageOutput = stage.run(StageRun(settings, inputs, {}, attempt, cluster, progress))
    return attempt.publish(output.records, settings={}, inputs={}, version=1, summary=output.summary)


def findings(audit: Artifact, finding: str | None = None) -> list[Row]:
    rows = audit.read("findings").to_pylist() if audit.shards("findings") else []
    return sorted((row for row in rows if finding in (None, row["finding"])), key=lambda r: (r["id"], r["finding"]))


def planted() -> tuple[list[Row], dict[str, set[str]]]:
    """The demo corpus, copies of some of its rows, and rows with the label of another language."""
    rng = random.Random(4)
    rows = demo_rows()
    long = [row for row in rows if len(row["prompt"].split()) + len(row["response"].split()) > 40]
    faults: dict[str, set[str]] = {"exact_duplicate": set(), "near_duplicate": set(), "language_mismatch": set()}
    added = []
    for row in rng.sample(rows, 20):
        text = f"  {row['prompt'].upper()}" if row["lang"] == "en" else f"{row['prompt']} \n"
        added.append({**row, "id": f"~copy of {row['id']}", "prompt": text})
        faults["exact_duplicate"].add(added[-1]["id"])
    for share in (0.02, 0.04, 0.06):
        for row in rng.sample(long, 12):
            added.append({**row, "id": f"~{share} of {row['id']}", "prompt": edited(row["prompt"], share, rng)})
            faults["near_duplicate"].add(added[-1]["id"])
    # What several languages have under one group is not the same text.
    labelled = [row for row in long if row["lang"] not in ("zh", "ja", "th")]
    for row in rng.sample(labelled, 20):
        wrong = rng.choice([lang for lang in ("de", "sw", "tr", "vi", "ru") if lang != row["lang"]])
        added.append({**row, "id": f"~as {wrong} {row['id']}", "lang": wrong})
        faults["language_mismatch"].add(added[-1]["id"])
        # The same text under another label is a duplicate too.
        faults["exact_duplicate"].add(added[-1]["id"])
    return rows + added, faults


@pytest.fixture(scope="module")
def rows_and_faults() -> tuple[list[Row], dict[str, set[str]]]:
    return planted()


@pytest.fixture
def audit(store: Store, cluster: Any, progress: Any) -> Any:
    def audit(name: str, corpus: Artifact, **settings: Any) -> Artifact:
        given = {"audit": AuditSettings(**settings)}
        return run_stage(audit_stage, store, name, cluster, progress, given, corpus=corpus)

    return audit


def test_planted_faults_are_found_and_little_else(
    audit: Any, store: Store, rows_and_faults: tuple[list[Row], dict[str, set[str]]]
) -> None:
    rows, faults = rows_and_faults
    done = audit("planted", published_corpus(store, rows, shard=300))
    found = {name: {row["id"] for row in findings(done, name)} for name in faults}
    assert scored(found["exact_duplicate"], faults["exact_duplicate"]) == (1.0, 1.0)
    precision, recall = scored(found["language_mismatch"], faults["language_mismatch"])
    assert precision >= 0.9
    assert recall >= 0.85
    # A copy that another copy is nearer to is one all the same: the demo's own items are unlike each other.
    precision, recall = scored(found["near_duplicate"], faults["near_duplicate"])
    assert precision >= 0.95
    assert recall >= 0.9
    for row in findings(done, "near_duplicate"):
        assert row["other_id"] < row["id"]
        assert row["score"] >= 0.8
    assert {row["id"] for row in findings(done, "script_mismatch")} <= faults["language_mismatch"]
    assert sum(sum(of.values()) for of in done.summary["counts"].values()) == done.rows("findings")
    [warning] = done.summary["warnings"]
    assert f"{len(found['exact_duplicate'])} exact_duplicate" in warning
    identified = done.read("identified")
    assert sorted(identified["id"].to_pylist()) == sorted(row["id"] for row in rows)
    assert identified["label_probability"].null_count == 0


def test_neither_the_rows_order_nor_the_shards_change_a_finding(
    audit: Any, store: Store, rows_and_faults: tuple[list[Row], dict[str, set[str]]]
) -> None:
    rows = rows_and_faults[0]
    shuffled = rows.copy()
    random.Random(1).shuffle(shuffled)
    one = audit("one", published_corpus(store, rows, shard=1000))
    many = audit("many", published_corpus(store, shuffled, shard=61))
    assert findings(one) == findings(many)
    assert len(findings(one, "exact_duplicate")) == 40
    order = ("id", "ascending")
    assert one.read("identified").sort_by([order]).equals(many.read("identified").sort_by([order]))


class StoppedError(Exception):
    pass


class Stops(Progress):
    """Ends the stage after `steps` of its tasks were finished."""

    def __init__(self, steps: int) -> None:
        super().__init__(Console(quiet=True), "audit")
        self.left = steps

    @contextmanager
    def track(self, *arguments: Any, **more: Any) -> Iterator[Any]:
        with super().track(*arguments, **more) as tracker:
            tracker.advance = self.count
            yield tracker

    def count(self, *_: Any) -> None:
        self.left -= 1
        if not self.left:
            raise StoppedError


@pytest.mark.parametrize("steps", [2, 9])
def test_stopped_among_shards_or_bands_it_carries_on(
    store: Store, cluster: Any, progress: Any, audit: Any, steps: int,
    rows_and_faults: tuple[list[Row], dict[str, set[str]]],
) -> None:  # fmt: skip
    corpus = published_corpus(store, rows_and_faults[0][-150:], shard=40)
    whole = audit("whole", corpus)
    given = {"audit": AuditSettings()}
    with pytest.raises(StoppedError):
        run_stage(audit_stage, store, "stopped", cluster, Stops(steps), given, corpus=corpus)
    marked = ("examined", "pairs", "rank")
    halfway = {path: path.stat().st_mtime_ns for path in Path(store.full("audit/stopped")).rglob("*.done")}
    assert sum(any(name in path.name or name in path.parent.name for name in marked) for path in halfway) >= steps
    attempt = store.attempt("audit", "stopped")
    run = StageRun(given, {"corpus": corpus}, {}, attempt, cluster, progress)
    resumed = attempt.publish(audit_stage.run(run).records, settings={}, inputs={}, version=1, summary={})
    assert all(path.stat().st_mtime_ns == time for path, time in halfway.items())
    assert findings(resumed) == findings(whole)


def test_only_the_checks_that_were_asked_for(audit: Any, store: Store) -> None:
    row = {"lang": "en", "prompt": "What is a lake, and what is a river?", "response": "Water.", "id": "a"}
    system = json.dumps([{"role": "system", "content": "cut\x07 here"}])
    rows = [row, {**row, "id": "b"}, {**row, "id": "c", "history": system, "lang": "sw"}]
    corpus = published_corpus(store, rows, shard=2)
    done = audit("degenerate", corpus, checks=["degenerate"])
    assert [(one["id"], one["finding"]) for one in findings(done)] == [("c", "degenerate")]
    assert not done.shards("identified")
    assert [one["id"] for one in findings(audit("exact", corpus, checks=["exact_duplicate"]))] == ["b"]


def test_what_is_held_out_is_audited_and_the_detail_says_so(audit: Any, store: Store) -> None:
    row = {"lang": "en", "prompt": "What is a lake?", "response": "Standing water.", "id": "b"}
    corpus = published_corpus(store, [{**row, "id": "a", "lang": "sw"}], heldout=[row], shard=5)
    [found] = findings(audit("heldout", corpus), "exact_duplicate")
    assert (found["id"], found["other_id"], found["other_lang"]) == ("b", "a", "sw")
    assert found["detail"] == "the same text as a, which is not held out as this one is; that one is labelled sw"


ITEM = {
    "en": "A carpenter fetched nine crooked planks from behind the chapel before the snow covered the narrow road",
    "sw": "Fundi seremala alichukua mbao tisa zilizopinda kutoka nyuma ya kanisa kabla theluji haijafunika bonde",
    "zh": "木匠在大雪封住山谷的小路之前从教堂后面取来了九块弯曲的木板",
}


def contaminating_tasks(folder: Path) -> EvaluationSettings:
    """The small tasks, with one long question among their items."""
    write_choice_tasks(folder)
    for lang, text in ITEM.items():
        file = folder / "items" / f"{lang}.test.jsonl"
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        rows.append({"id": "long", "question": text, "choices": ["a", "b"], "answer": 0})
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return EvaluationSettings(tasks=str(folder))


def test_samples_with_an_items_text_are_found_and_named(
    store: Store, cluster: Any, progress: Any, tmp_path: Path
) -> None:
    evaluation = contaminating_tasks(tmp_path / "tasks")
    rows = demo_rows()[::3]
    hosts = [row for row in rows if row["lang"] in ITEM][:30]
    holding = [
        {**row, "id": f"~{row['id']}", "prompt": f"{row['prompt']} {ITEM[row['lang']].upper()}! {row['response']}"}
        for row in hosts
    ]
    # Half an item is one too; a phrase of it is not.
    half = {**hosts[0], "id": "~half", "prompt": " ".join(ITEM["en"].split()[:14]), "lang": "en"}
    phrase = {**half, "id": "phrase", "prompt": " ".join(ITEM["en"].split()[:9])}
    corpus = published_corpus(store, [*rows, *holding, half, phrase], shard=100, heldout=[{**half, "id": "~held out"}])
    settings = {"ngram": 13, "sources": item_sources(evaluation)}
    done = run_stage(contamination_stage, store, "c", cluster, progress, settings, corpus=corpus)
    found = findings(done)
    assert scored({row["id"] for row in found}, {row["id"] for row in [*holding, half]} | {"~held out"}) == (1.0, 1.0)
    by_id = {row["id"]: row for row in found}
    assert by_id["~half"]["other_id"] == "choice_en:9"
    assert 0 < by_id["~half"]["score"] < 0.5
    assert {row["score"] for row in found if row["id"] not in ("~half", "~held out")} == {1.0}
    assert "item 9 of task choice_en" in by_id["~half"]["detail"]
    assert done.summary["items"] == 30 + 15  # of the test and of the development split
    assert f"{len(found)} of " in done.summary["warnings"][0]


def test_clean_leaves_out_what_is_dropped_and_counts_anew(
    audit: Any, store: Store, cluster: Any, progress: Any, rows_and_faults: tuple[list[Row], dict[str, set[str]]]
) -> None:
    rows, _ = rows_and_faults
    corpus = published_corpus(store, rows[:-60], heldout=rows[-60:], shard=150)
    audited = audit("audited", corpus)
    drop = {"drop": ["exact_duplicate", "language_mismatch"]}
    done = run_stage(clean_stage, store, "clean", cluster, progress, drop, corpus=corpus, audit=audited)
    gone = {row["id"] for row in findings(audited) if row["finding"] in drop["drop"]}
    for table, before in (("corpus", rows[:-60]), ("heldout", rows[-60:])):
        left = [row["id"] for row in before if row["id"] not in gone]
        assert done.read(table)["id"].to_pylist() == left
    kept = corpus.read("corpus")
    assert done.read("corpus").schema == kept.schema
    langs = done.read("corpus")["lang"].to_pylist()
    assert done.summary["languages"] == {lang: langs.count(lang) for lang in sorted(set(langs))}
    assert sum(count for _, _, count in done.summary["cells"]) == len(langs)
    assert done.summary["heldout_rows"] == done.rows("heldout")
    assert done.summary["dropped"] == len(gone)
    assert sum(sum(of.values()) for of in done.summary["dropped_by_finding"].values()) == len(gone)


def test_dropping_all_but_one_language_is_refused(audit: Any, store: Store, cluster: Any, progress: Any) -> None:
    text = {"prompt": "What is a lake, and what is a river?", "response": "A lake is standing water."}
    rows = [{**text, "id": "a", "lang": "en"}, {**text, "id": "b", "lang": "sw"}]
    corpus = published_corpus(store, rows, shard=5)
    drop = {"drop": ["exact_duplicate"]}
    with pytest.raises(ValueError, match=r"leaves rows of only one language \(en\) of 2"):
        run_stage(clean_stage, store, "x", cluster, progress, drop, corpus=corpus, audit=audit("two", corpus))


def test_a_row_of_the_real_corpus_under_another_label(audit: Any, store: Store, shared_data: Path) -> None:
    import pyarrow.parquet as pq

    rng = random.Random(7)
    rows = [r for r in pq.read_table(shared_data / "corpus.parquet").to_pylist() if len(r["prompt"]) > 200]
    rows = rng.sample(rows, 600)
    mixed = {lang: {"hr", "sr", "bs", "mk", "bg"} for lang in ("hr", "sr", "mk", "bg")}
    wrong = {}
    for row in rows[:200]:
        others = [r["lang"] for r in rows if r["lang"] not in mixed.get(row["lang"], {row["lang"]})]
        wrong[row["id"]] = rng.choice([lang for lang in others if lang != "ha"])
    labelled = [{**row, "lang": wrong.get(row["id"], row["lang"])} for row in rows]
    checks = ["language_mismatch", "script_mismatch"]
    found = findings(audit("real", published_corpus(store, labelled, shard=100), checks=checks))
    precision, recall = scored({row["id"] for row in found}, set(wrong))
    assert precision >= 0.97
    assert recall >= 0.85


def test_the_whole_line_takes_clean_in_place_of_corpus(tmp_path: Path, tiny_llama: Path) -> None:
    from raysel.experiment import load_experiment
    from raysel.pipeline import expand

    path = tmp_path / "e.yaml"
    path.write_text(yaml.safe_dump({"model": {"path": str(tiny_llama)}, "corpus": {"path": str(tmp_path / "c.jsonl")}}))
    (tmp_path / "c.jsonl").write_text(json.dumps({"lang": "en", "prompt": "p", "response": "r"}))
    write_choice_tasks(tmp_path / "tasks")

    def steps(*overrides: str) -> dict[str, Any]:
        loaded = load_experiment(path, [f"storage={tmp_path}/store", *overrides])
        return {step.name: step for step in expand(loaded, Store(loaded.storage))}

    plain, cleaned = steps(), steps("corpus.audit.drop=[near_duplicate]")
    assert "contamination" not in plain
    readers = [name for name, step in plain.items() if "corpus" in step.inputs and name not in ("audit", "report")]
    assert readers == ["quota", "vectors", "diversity", "order", "tokens"]
    for name in readers:
        assert plain[name].inputs["corpus"].name == "corpus"
        assert cleaned[name].inputs["corpus"].name == "clean"
    assert set(cleaned["clean"].inputs) == {"corpus", "audit"}
    assert plain["corpus"].fingerprint == cleaned["corpus"].fingerprint
    assert plain["audit"].fingerprint == cleaned["audit"].fingerprint

    other = steps("corpus.audit.jaccard=0.7", "corpus.audit.checks=[degenerate]")
    changed = {name for name in plain if plain[name].fingerprint != other[name].fingerprint}
    assert changed == {"audit", "report"}
    assert "audit" not in steps("corpus.audit.checks=[]")

    tasks = f"evaluation.tasks={tmp_path}/tasks"
    both = steps(tasks, "corpus.audit.drop=[contamination, degenerate]")
    assert set(both["clean"].inputs) == {"corpus", "audit", "contamination"}
    assert set(steps(tasks, "corpus.audit.drop=[contamination]")["clean"].inputs) == {"corpus", "contamination"}
    # Without tasks there is nothing to be contaminated by, which is said.
    idle = load_experiment(path, ["corpus.audit.drop=[contamination]"])
    assert "contamination is looked for only where evaluation.tasks is set" in idle.warnings()[0]
    assert "clean" not in steps("corpus.audit.drop=[contamination]")
    idle = load_experiment(path, ["corpus.audit.jaccard=0.7", "corpus.audit.checks=[degenerate]"])
    assert "corpus.audit.jaccard: checks leaves out near_duplicate" in idle.warnings()[0]
    assert set(steps("preselect.band=lid_clean")["pool"].inputs) == {"scores", "quota", "audit"}
    with pytest.raises(ValueError, match="lid_clean needs language_mismatch among"):
        steps("preselect.band=lid_clean", "corpus.audit.checks=[degenerate]")
    with pytest.raises(ValueError, match="drop names degenerate, which checks leaves out"):
        steps("corpus.audit.checks=[near_duplicate]", "corpus.audit.drop=[degenerate]")
