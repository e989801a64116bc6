"""Selectors on Ray: quotas and budgets, DSIR against texts in memory, targets, selectors of a user's own."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raysel.corpus.presets import Layout
from raysel.evaluation.development import development_items
from raysel.evaluation.settings import EvaluationSettings
from raysel.evaluation.tasks import TaskError, load_tasks
from raysel.selection import dsir, importance_stage, kmc, kmc_stage, target_stage
from raysel.selection.selector import SelectorError, load_selector
from raysel.selection.settings import SelectionSettings
from raysel.separability.preselect import PoolError
from raysel.stage import StageRun
from tests.evaluation.task_folder import write_choice_tasks
from tests.selection.line import HELDOUT, LANGS, SelectionLine

MODULE = "tests.selection.own_selector"


@pytest.fixture
def line(cluster: Any, progress: Any, tmp_path: Path) -> SelectionLine:
    return SelectionLine(cluster, progress, tmp_path)


def text_of(row: dict[str, Any]) -> str:
    return f"{row['prompt']} {row['response']}"


def by_lang(rows: list[dict[str, Any]]) -> Counter:
    return Counter(row["lang"] for row in rows)


def memory_weights(line: SelectionLine, langs: tuple[str, ...] = LANGS, **how: Any) -> dict[str, float]:
    raw = {i: text_of(row) for i, row in line.rows.items() if row["lang"] in langs}
    target = [text_of(row) for row in line.heldout.values() if row["lang"] in langs]
    return dict(zip(raw, dsir.log_importance(list(raw.values()), target, **how).tolist(), strict=True))


def test_weights_over_shards_are_those_of_the_texts_in_memory(line: SelectionLine) -> None:
    line.pool()
    line.target()
    made = line.importance(tokenizer="wordpunct", buckets=500)
    found = {row["id"]: row["score"] for row in made.read("importance").to_pylist()}
    expected = memory_weights(line, tokenizer="wordpunct", buckets=500)
    assert found.keys() == expected.keys()
    np.testing.assert_allclose([found[i] for i in expected], list(expected.values()), rtol=1e-12)
    weights = np.exp(np.array(list(expected.values())))
    assert sum(made.summary["effective_samples"].values()) > 0
    assert weights.sum() ** 2 / (weights**2).sum() >= 1


def test_each_language_has_its_own_target(line: SelectionLine) -> None:
    line.pool()
    line.target()
    made = line.importance(target="lang")
    found = {row["id"]: row["score"] for row in made.read("importance").to_pylist()}
    for lang in LANGS:
        expected = memory_weights(line, (lang,))
        np.testing.assert_allclose([found[i] for i in expected], list(expected.values()), rtol=1e-12)


def test_a_language_without_a_target_of_its_own_is_refused(line: SelectionLine, tmp_path: Path) -> None:
    file = tmp_path / "target.jsonl"
    file.write_text(json.dumps({"id": "a", "lang": "de", "prompt": "Wie geht es?", "response": "Gut, danke."}) + "\n")
    line.pool()
    files = {"target": SelectionSettings(target={"of": "files", "path": str(file)}).target}
    line.run("target", target_stage, files | {"files": [str(file)], "layout": Layout()}, {})
    with pytest.raises(SelectorError, match="no sample in en, sw, th, zh"):
        line.importance(target="lang")
    # For all together a target in a language that the corpus does not have is a target like any other.
    line.importance()
    assert by_lang(line.subset(method="dsir")) == by_lang(list(line.rows.values()))


def test_killed_between_the_passes_it_carries_on(line: SelectionLine, monkeypatch: pytest.MonkeyPatch) -> None:
    line.pool()
    line.target()
    whole = line.importance(fingerprint="whole").read("importance").to_pylist()
    with monkeypatch.context() as patched:
        patched.setattr(importance_stage, "weigh_shard", _dies)
        with pytest.raises(RuntimeError, match="killed"):
            line.importance(fingerprint="killed")
    left = line.store.attempt("importance", "killed").finished()
    assert ("log_ratio", 0) in left
    with monkeypatch.context() as patched:
        patched.setattr(importance_stage, "hash_shard", _dies)
        again = line.importance(fingerprint="killed").read("importance").to_pylist()
    assert again == whole


def _dies(*_: Any) -> None:
    raise RuntimeError("killed")


def test_the_draw_fills_each_language_and_the_largest_weights_come_first(line: SelectionLine) -> None:
    line.pool(quota="counts", counts={"en": 5, "sw": 7, "zh": 3})
    line.target()
    line.importance()
    top = line.subset(method="dsir", dsir={"sampling": "top"})
    assert by_lang(top) == {"en": 5, "sw": 7, "zh": 3}
    for lang, count in {"en": 5, "sw": 7, "zh": 3}.items():
        own = sorted((row for row in top if row["lang"] == lang), key=lambda row: row["rank"])
        assert [row["rank"] for row in own] == list(range(count))
        assert [row["score"] for row in own] == sorted((row["score"] for row in own), reverse=True)
    drawn = line.subset(method="dsir")
    assert by_lang(drawn) == by_lang(top)
    assert drawn == line.subset(method="dsir")


def test_without_strata_the_budget_is_one_for_all(line: SelectionLine, tmp_path: Path) -> None:
    line.pool(quota="proportional", total=20)
    chinese = [row for row in line.heldout.values() if row["lang"] == "zh"]
    file = tmp_path / "target.jsonl"
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in chinese), encoding="utf-8")
    target = SelectionSettings(target={"of": "files", "path": str(file)}).target
    line.run("target", target_stage, {"target": target, "files": [str(file)], "layout": Layout()}, {})
    line.importance()
    chosen = line.subset(method="dsir", stratify="none", dsir={"sampling": "top"})
    scores = {row["id"]: row["score"] for row in line.made["importance"].read("importance").to_pylist()}
    assert {row["id"] for row in chosen} == set(sorted(scores, key=lambda i: (-scores[i], i))[:20])
    # A target in one language draws the whole choice there.
    assert by_lang(chosen).most_common(1)[0][0] == "zh"
    assert line.made["subset"].summary["kl_reduction"] > 0
    for method in ("random", "kmc"):
        assert sum(by_lang(line.subset(method=method, stratify="none")).values()) == 20
    for lang, rows in by_lang(chosen).items():
        assert sorted(row["rank"] for row in chosen if row["lang"] == lang) == list(range(rows))


@pytest.mark.parametrize("method", ["random", "kmc", "dsir"])
def test_a_budget_in_tokens_is_filled_and_not_passed(line: SelectionLine, method: str) -> None:
    line.pool()
    line.target()
    line.importance()
    total = sum(line.tokens.values())
    chosen = line.subset(method=method, tokens=total // 4)
    spent = sum(line.tokens[row["id"]] for row in chosen)
    longest = max(line.tokens.values())
    assert spent <= total // 4
    # k-means needs the number of rows beforehand, and takes as many as fit at their mean length.
    assert spent > total // 4 - len(LANGS) * longest or method == "kmc"
    # In proportion to what the languages have.
    for lang in LANGS if method != "kmc" else ():
        there = sum(n for i, n in line.tokens.items() if line.rows[i]["lang"] == lang)
        own = sum(line.tokens[row["id"]] for row in chosen if row["lang"] == lang)
        assert there // 4 - longest < own <= there // 4 + 1
    assert set(by_lang(chosen)) == set(LANGS)


def test_a_pool_smaller_than_the_budget_is_refused_with_the_arithmetic(line: SelectionLine) -> None:
    line.pool(rho=0.1)
    with pytest.raises(SelectorError, match=r"selection\.tokens .* is more than the .* tokens of the .* rows"):
        line.subset(tokens=sum(line.tokens.values()) // 2)
    line.target()
    line.importance(min_tokens=100_000)
    with pytest.raises(SelectorError, match=r"selection\.dsir\.min_tokens leaves the others out"):
        line.subset(method="dsir")


def test_a_budget_in_tokens_that_few_rows_fit(line: SelectionLine) -> None:
    line.pool()
    line.target()
    line.importance(min_tokens=60)
    scored = line.made["importance"].read("importance").to_pylist()
    there = sum(line.tokens[row["id"]] for row in scored)
    with pytest.raises(SelectorError, match=f"more than the {there:,} tokens of the"):
        line.subset(method="dsir", stratify="none", tokens=there + 1)
    assert len(line.subset(method="dsir", stratify="none", tokens=there)) == len(scored)
    total = sum(line.tokens.values())
    lengths = {lang: [n for i, n in line.tokens.items() if line.rows[i]["lang"] == lang] for lang in LANGS}

    def reached(tokens: int) -> int:
        """Languages whose share of so many tokens has room for a row."""
        return sum(min(own) <= tokens * sum(own) // total for own in lengths.values())

    tokens = next(tokens for tokens in range(total) if reached(tokens))
    assert reached(tokens) < len(LANGS)
    chosen = line.subset(tokens=tokens)
    assert sum(line.tokens[row["id"]] for row in chosen) <= tokens
    assert "no row fits the share of selection.tokens of" in line.made["subset"].summary["warnings"][0]
    with pytest.raises(SelectorError, match="no row fits its language's share of it"):
        line.subset(tokens=2)


def test_without_strata_a_language_may_have_less_than_its_share(line: SelectionLine) -> None:
    with pytest.raises(PoolError, match=r"raise preselect\.rho"):
        line.pool(rho=0.2, quota="counts", counts={"en": 20, "sw": 1})
    line.pool(rho=0.6, fills="total", quota="counts", counts={"en": 30, "sw": 1})
    assert sum(by_lang(line.subset(stratify="none")).values()) == 31
    with pytest.raises(PoolError, match="asks for 60 rows in all"):
        line.pool(rho=0.1, fills="total", quota="counts", counts={"en": 30, "sw": 30})


def test_clusters_with_a_quota_of_their_own(line: SelectionLine) -> None:
    line.pool(quota="even", total=40)
    chosen = line.subset(method="kmc", kmc={"clusters": 3})
    assert by_lang(chosen) == dict.fromkeys(LANGS, 10)
    assert chosen != line.subset(method="kmc")


@pytest.fixture
def in_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if each cell were too large for one task, and every shard for another."""
    monkeypatch.setattr(kmc_stage, "ROWS_OF_ONE_TASK", 10)
    monkeypatch.setattr(kmc_stage, "ROWS_OF_A_GROUP", 16)


@pytest.mark.usefixtures("in_shards")
@pytest.mark.parametrize("stratify", ["lang", "none"])
def test_k_means_over_shards_chooses_the_nearest_free_member_of_each_centroid(
    line: SelectionLine, monkeypatch: pytest.MonkeyPatch, stratify: str
) -> None:
    line.pool(quota="even", total=40)
    chosen = line.subset(method="kmc", stratify=stratify)
    assert len({row["id"] for row in chosen}) == 40
    # No sums wait for others: the same bits.
    monkeypatch.setattr(kmc_stage, "BYTES_OF_SUMS", 1)
    assert chosen == line.subset(method="kmc", stratify=stratify)
    if stratify == "lang":
        assert by_lang(chosen) == dict.fromkeys(LANGS, 10)
    vector = dict(zip(line.rows, line.vectors, strict=True))

    # Random rows of the same number lie further from the nearest of what was chosen than k-means' do.
    def gap(ids: list[str]) -> float:
        centres = np.array([vector[identity] for identity in ids])
        return float(np.linalg.norm(line.vectors[:, None] - centres[None], axis=2).min(axis=1).mean())

    at_random = [row["id"] for row in line.subset(method="random", stratify=stratify)]
    assert gap([row["id"] for row in chosen]) < gap(at_random)


@pytest.mark.usefixtures("in_shards")
@pytest.mark.parametrize("far_apart", [kmc_stage.MOST_FAR_APART, 0])
def test_k_means_over_shards_among_rows_that_are_the_same(
    line: SelectionLine, monkeypatch: pytest.MonkeyPatch, far_apart: int
) -> None:
    monkeypatch.setattr(kmc_stage, "MOST_FAR_APART", far_apart)
    # All but 5 rows are the same: most of what is chosen is taken from these, out of every shard.
    vectors = np.full_like(line.vectors, 0.5)
    vectors[::20][:5] = line.vectors[:5] * 100
    line.change_vectors(vectors)
    line.pool(quota="even", total=40)
    chosen = line.subset(method="kmc", stratify="none")
    assert len({row["id"] for row in chosen}) == 40
    assert chosen == line.subset(method="kmc", stratify="none")


def test_candidates_of_shards_are_merged_by_distance_and_id() -> None:
    one = kmc_stage.Candidates(np.array([[0, 1], [1, 0]]), np.array([[1.0, 4.0], [2.0, 3.0]]), [["c", "f"], ["d"]])
    two = kmc_stage.Candidates(np.array([[0], [0]]), np.array([[1.0], [2.5]]), [["b", "e"]])
    for merged in (one.merged(two, 2), two.merged(one, 2)):
        ids = [[merged.members[kind] for kind in row] for row in merged.kinds]
        assert ids == [[["b", "e"], ["c", "f"]], [["d"], ["b", "e"]]]
        assert merged.gaps.tolist() == [[1, 1], [2, 2.5]]
    # What is no longer near to any centroid is not carried along.
    assert one.merged(two, 1).members == [["d"], ["b", "e"]]


@pytest.mark.usefixtures("in_shards")
def test_all_of_a_large_cell_is_not_clustered(line: SelectionLine) -> None:
    line.pool()
    chosen = line.subset(method="kmc")
    assert {row["id"] for row in chosen} == set(line.rows)
    assert {row["score"] for row in chosen} == {0}
    assert not list(Path(line.store.root).rglob("centroids-*"))


@pytest.mark.usefixtures("in_shards")
def test_clusters_over_shards_give_in_proportion_to_their_sizes(
    line: SelectionLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster_of = np.resize([0, 0, 0, 0, 0, 1, 1, 1, 2, 2], len(line.rows))
    centres = np.zeros((3, line.vectors.shape[1]))
    centres[1:, :2] = [[90, 0], [0, 90]]
    line.change_vectors(line.vectors + centres[cluster_of])
    line.pool(quota="even", total=40)
    chosen = line.subset(method="kmc", kmc={"clusters": 3}, stratify="none")
    row = {identity: i for i, identity in enumerate(line.rows)}
    rows = np.array([row[each["id"]] for each in chosen])
    assert len(set(rows.tolist())) == 40
    assert np.bincount(cluster_of[rows]).tolist() == kmc.quotas(np.bincount(cluster_of), 40).tolist()
    means = np.array([line.vectors[cluster_of == cluster].mean(axis=0, dtype=np.float64) for cluster in range(3)])
    gaps = np.linalg.norm(line.vectors[rows] - means[cluster_of[rows]], axis=1)
    np.testing.assert_allclose([-each["score"] for each in chosen], gaps)
    # However the shards are grouped, the draws are the rows' own.
    monkeypatch.setattr(kmc_stage, "ROWS_OF_A_GROUP", 1_000)
    again = line.subset(method="kmc", kmc={"clusters": 3}, stratify="none")
    assert [each["id"] for each in again] == [each["id"] for each in chosen]


@pytest.mark.usefixtures("in_shards")
def test_k_means_over_shards_carries_on_from_the_centroids_of_a_run_that_was_killed(line: SelectionLine) -> None:
    line.pool(quota="even", total=40)
    cell = kmc_stage.CellVectors(line.made["vectors"], line.made["pool"], None, len(line.rows))

    def select() -> tuple[list[str], list[float], list[int]]:
        attempt = line.store.attempt("subset", "killed")
        run = StageRun({}, {}, {}, attempt, line.cluster, line.progress)
        ids, distances = kmc_stage.select(run, cell, 6, None, name="all", seed=0)
        written = [index for (_, index), record in attempt.finished().items() if record.path.startswith(attempt.name)]
        return ids, distances.tolist(), sorted(written)

    *chosen, iterations = select()
    assert iterations == list(range(len(iterations)))
    assert len(iterations) > 3
    assert select() == (*chosen, [])
    for index in iterations[-2:]:
        [marker] = Path(line.store.root).rglob(f"centroids-all-{index:05d}-*.done")
        marker.unlink()
    assert select() == (*chosen, iterations[-2:])


def test_a_selector_of_ones_own(line: SelectionLine) -> None:
    line.pool(quota="even", total=12)
    chosen = line.subset(method=f"{MODULE}:ShortestResponses", settings={"least": 8})
    assert by_lang(chosen) == dict.fromkeys(LANGS, 3)
    for lang in LANGS:
        lengths = {i: len(row["response"]) for i, row in line.rows.items() if row["lang"] == lang}
        shortest = sorted(n for n in lengths.values() if n >= 8)[:3]
        assert sorted(lengths[row["id"]] for row in chosen if row["lang"] == lang) == shortest
        assert {row["method"] for row in chosen} == {f"{MODULE}:ShortestResponses"}


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("twice", "repeat"),
        ("too few", "shape"),
        ("beyond", "not between 0 and"),
        ("halves", "not whole numbers"),
        ("nan", "not finite"),
    ],
)
def test_what_it_may_not_choose_is_refused(line: SelectionLine, how: str, said: str) -> None:
    line.pool(quota="even", total=12)
    with pytest.raises(SelectorError, match=said):
        line.subset(method=f"{MODULE}:Wrong", settings={"how": how})


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("no.such:Thing", {}, "No module named 'no'"),
        (f"{MODULE}:Missing", {}, "has no attribute 'Missing'"),
        (f"{MODULE}:np", {}, "is no class"),
        (f"{MODULE}:WithoutSelect", {}, "has no method select"),
        (f"{MODULE}:ShortestResponses", {"most": 3}, "do not suit"),
    ],
)
def test_a_selector_that_cannot_be_used(name: str, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(SelectorError, match=said):
        load_selector(name, settings)


def test_the_target_is_what_is_held_out_so_many_of_each_subtask(line: SelectionLine) -> None:
    whole = line.target()
    assert whole.summary["subtasks"] == dict.fromkeys(sorted(LANGS), HELDOUT)
    assert {row["id"] for row in whole.read("target").to_pylist()} == line.heldout.keys()
    few = line.target(samples=2, subtask="task")
    assert few.summary["subtasks"] == {"chat": 2}
    assert {row["subtask"] for row in few.read("target").to_pylist()} == {"chat"}


def test_a_target_that_is_empty_or_undivided_is_refused(line: SelectionLine, tmp_path: Path) -> None:
    file = tmp_path / "target.jsonl"
    file.write_text(json.dumps({"lang": "de", "prompt": "Hallo", "response": "Hallo"}) + "\n")
    read = {"files": [str(file)], "layout": Layout()}
    named = SelectionSettings(target={"of": "files", "path": str(file), "subtask": "task"}).target
    with pytest.raises(SelectorError, match=r"has no task, which selection\.target\.subtask"):
        line.run("target", target_stage, read | {"target": named}, {})
    file.write_text(json.dumps({"lang": "de", "prompt": "Hallo"}) + "\n")
    with pytest.raises(SelectorError, match="missing column 'response'"):
        line.run("target", target_stage, read | {"target": named}, {})
    heldout = line.made["corpus"].manifest["files"]
    heldout[:] = [entry for entry in heldout if entry["table"] != "heldout"]
    with pytest.raises(SelectorError, match="nothing is held out"):
        line.target()


def test_development_items_are_the_prompts_and_right_answers_of_lm_eval(line: SelectionLine, tmp_path: Path) -> None:
    folder = write_choice_tasks(tmp_path / "tasks")
    settings = EvaluationSettings(tasks=str(folder), split="dev")
    [english, *_] = load_tasks(settings)
    said = list(development_items(english))
    lines = (folder / "items" / "en.dev.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(text) for text in lines]
    assert said == [(f"Question: {row['question']}\nAnswer:", row["choices"][row["answer"]]) for row in rows]
    target = SelectionSettings(target={"of": "evaluation"}).target
    made = line.run("target", target_stage, {"target": target, "evaluation": settings}, {})
    assert made.summary["subtasks"] == {"en": len(rows), "sw": len(rows), "zh": len(rows)}
    lines[-1] = json.dumps(rows[-1] | {"answer": 7})
    (folder / "items" / "en.dev.jsonl").write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(TaskError, match="none of its 3 choices"):
        list(development_items(load_tasks(settings)[0]))
