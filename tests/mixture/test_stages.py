"""From a quota to an order on Ray, over a made corpus and made scores: tasks, parallel items, shortfalls, replays."""

import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raysel.languages.settings import LanguagesSettings
from raysel.mixture import order_stage, quota_stage
from raysel.mixture.order_stage import OrderError, trained_order_file
from raysel.mixture.quota import QuotaError
from raysel.mixture.settings import CurriculumSettings, MixtureSettings
from raysel.selection import stage as subset_stage
from raysel.selection.settings import SelectionSettings
from raysel.separability import pool_stage
from raysel.separability.preselect import PoolError
from raysel.separability.settings import PreselectSettings
from raysel.stage import StageRun
from raysel.store import Artifact, Store
from raysel.tables import CORPUS, SCORES, TRAINED_ORDER

ITEMS = {"en": 40, "es": 30, "ja": 20, "yo": 5}
TASKS = ("qa", "math")


class Line:
    """The stages from quota to order, each over what came before."""

    def __init__(self, cluster: Any, progress: Any, folder: Path) -> None:
        self.cluster, self.progress, self.store = cluster, progress, Store(str(folder / "store"))
        self.made: dict[str, Artifact] = {}
        rows = [
            dict.fromkeys(CORPUS.names, "x")
            | {"id": f"{lang}-{task}-{i}", "lang": lang, "task": task, "group": f"{i:02d}", "history": None}
            for lang, items in ITEMS.items()
            for task in TASKS
            for i in range(items)
        ]
        cells = sorted([lang, task, n] for (lang, task), n in Counter((r["lang"], r["task"]) for r in rows).items())
        languages = dict(Counter(row["lang"] for row in rows))
        self._publish("corpus", pa.Table.from_pylist(rows, schema=CORPUS), {"cells": cells, "languages": languages})
        values = np.random.default_rng(0).uniform(-1, 1, len(rows))
        scores = [
            dict.fromkeys(("a", "b"), 0.0)
            | {"id": row["id"], "lang": row["lang"], "nearest_lang": "x", "separability": value, "cluster": row["lang"]}
            for row, value in zip(rows, values.tolist(), strict=True)
        ]
        schema = SCORES.append(pa.field("cluster", pa.string()))
        self._publish("scores", pa.Table.from_pylist(scores, schema=schema), {})

    def _publish(self, name: str, table: pa.Table, summary: dict[str, Any]) -> None:
        attempt = self.store.attempt(name, "made")
        record = attempt.write_table(name, 0, table)
        self.made[name] = attempt.publish([record], settings={}, inputs={}, version=1, summary=summary)

    def run(self, name: str, stage: Any, settings: dict[str, Any], *inputs: str, **leaves: str) -> Artifact:
        attempt = self.store.attempt(name, f"run-{len(self.made)}-{len(list(Path(self.store.root).rglob('*')))}")
        given = {key: self.made[key] for key in inputs}
        output = stage.run(StageRun(settings | {"seed": 0}, given, leaves, attempt, self.cluster, self.progress))
        self.made[name] = attempt.publish(output.records, settings={}, inputs={}, version=1, summary=output.summary)
        return self.made[name]

    def quota(self, languages: LanguagesSettings | None = None, **mixture: Any) -> Artifact:
        settings = {"languages": languages or LanguagesSettings(), "mixture": MixtureSettings(**mixture)}
        return self.run("quota", quota_stage, settings, "corpus")

    def subset(self, rho: float = 1.0) -> list[dict]:
        self.run("pool", pool_stage, {"preselect": PreselectSettings(rho=rho)}, "scores", "quota", "corpus")
        made = self.run("subset", subset_stage, {"selection": SelectionSettings()}, "pool", "quota")
        return made.read("subset").to_pylist()

    def order(self, curriculum: CurriculumSettings, *more: str, epochs: int = 1, **leaves: str) -> Artifact:
        settings = {"curriculum": curriculum, "epochs": epochs}
        return self.run("order", order_stage, settings, "subset", "scores", "corpus", *more, **leaves)


@pytest.fixture
def line(cluster: Any, progress: Any, tmp_path: Path) -> Line:
    return Line(cluster, progress, tmp_path)


def cells_of(rows: list[dict]) -> Counter:
    return Counter(tuple(row["id"].split("-")[:2]) for row in rows)


def test_a_pivot_and_as_many_of_each_other_language_by_task(line: Line) -> None:
    quota = line.quota(quota="pivot", pivot_rows=30, rows_per_language=12, tasks=list(TASKS), unseen=["yo"])
    assert quota.summary["counts"] == {"en": 60, "es": 24, "ja": 24}
    assert quota.summary["unseen"] == ["yo"]
    expected = {(lang, task): 30 if lang == "en" else 12 for lang in ("en", "es", "ja") for task in TASKS}
    assert cells_of(line.subset(rho=0.8)) == expected
    pool = line.made["pool"].read("pool").to_pylist()
    # The best 80% of each language and task, not of the language.
    value = {row["id"]: row["separability"] for row in line.made["scores"].read("scores").to_pylist()}
    for lang, task in expected:
        own = sorted((i for i in value if i.startswith(f"{lang}-{task}-")), key=lambda i: -value[i])
        assert {row["id"] for row in pool if (row["lang"], row["task"]) == (lang, task)} == set(
            own[: len(own) * 4 // 5]
        )


def test_a_pool_too_small_for_one_task_is_refused_with_the_arithmetic(line: Line) -> None:
    line.quota(quota="counts", counts={"en": {"qa": 5}, "ja": {"qa": 5, "math": 12}})
    with pytest.raises(PoolError, match=r"ja, math: round\(20 rows x rho 0.5\) = 10 in the pool, quota 12"):
        line.subset(rho=0.5)


def test_one_task_alone(line: Line) -> None:
    line.quota(quota="even", total=20, tasks=["math"])
    assert cells_of(line.subset()) == {(lang, "math"): 5 for lang in ITEMS}


def test_everything_of_one_task(line: Line) -> None:
    line.quota(tasks=["qa"])
    assert cells_of(line.subset()) == {(lang, "qa"): items for lang, items in ITEMS.items()}


@pytest.mark.parametrize(("rho", "shortfall"), [(1.0, "refuse"), (0.2, "take_all"), (0.2, "repeat")])
def test_parallel_items_are_really_parallel(line: Line, rho: float, shortfall: str) -> None:
    languages = LanguagesSettings(strategy="chosen", chosen=["en", "es", "ja"])
    quota = line.quota(languages, quota="even", total=90, parallel=True, shortfall=shortfall)
    assert quota.summary["counts"] == {"en": 30, "es": 30, "ja": 30}
    items = {lang: {row["id"].split("-", 1)[1] for row in line.subset(rho) if row["lang"] == lang} for lang in ITEMS}
    assert items["en"] == items["es"] == items["ja"]
    assert len(items["en"]) == 30
    assert {item.split("-")[0] for item in items["en"]} == set(TASKS)


def test_parallel_items_are_repeated_alike(line: Line) -> None:
    quota = line.quota(quota="even", total=48, tasks=["qa"], parallel=True, shortfall="repeat")
    assert quota.summary["warnings"][0] == (
        "en, qa: wanted 12 items that all these languages have, available 5: rows are repeated"
    )
    line.subset(rho=0.2)
    ordered = line.order(CurriculumSettings(), "quota").read("order").to_pylist()
    times = {lang: Counter(row["id"][3:] for row in ordered if row["lang"] == lang) for lang in ITEMS}
    assert times["en"] == times["es"] == times["ja"] == times["yo"]
    assert times["en"].total() == 12


def test_a_language_of_which_nothing_is_wanted_limits_no_items(line: Line) -> None:
    counts = {"en": {"qa": 10}, "es": {"qa": 10}, "yo": {"qa": 0}}
    assert line.quota(quota="counts", counts=counts, parallel=True).summary["counts"] == {"en": 10, "es": 10}


def test_nothing_in_the_pool_cannot_be_repeated(line: Line) -> None:
    line.quota(quota="even", total=48, tasks=["qa"], shortfall="repeat")
    with pytest.raises(PoolError, match="takes no row of yo, qa, so there is none to repeat"):
        line.subset(rho=0.08)


def test_a_smaller_count_of_parallel_items_is_part_of_the_larger(line: Line) -> None:
    languages = LanguagesSettings(strategy="chosen", chosen=["en", "es", "ja"])
    line.quota(languages, quota="pivot", pivot_rows=15, rows_per_language=6, tasks=list(TASKS), parallel=True)
    items = {lang: {row["id"].split("-", 1)[1] for row in line.subset() if row["lang"] == lang} for lang in ITEMS}
    assert items["es"] == items["ja"] < items["en"]
    assert (len(items["en"]), len(items["es"])) == (30, 12)


def test_too_few_common_items_are_refused_with_a_table(line: Line) -> None:
    with pytest.raises(QuotaError, match=r"en, qa: wanted 6, available 5\n(.*\n)*  yo, qa: wanted 6, available 5"):
        line.quota(quota="counts", counts={lang: {"qa": 6} for lang in ITEMS}, parallel=True)


def test_all_there_is_where_that_is_less(line: Line) -> None:
    quota = line.quota(quota="even", total=80, tasks=["qa"], shortfall="take_all")
    assert quota.summary["warnings"] == ["yo, qa: wanted 20 rows, available 5: all of them are taken"]
    assert cells_of(line.subset()) == {("en", "qa"): 20, ("es", "qa"): 20, ("ja", "qa"): 20, ("yo", "qa"): 5}


def test_rows_are_repeated_to_meet_the_count(line: Line) -> None:
    quota = line.quota(quota="even", total=48, tasks=["qa"], shortfall="repeat")
    assert quota.summary["counts"] == dict.fromkeys(ITEMS, 12)
    chosen = {row["id"]: row["rank"] for row in line.subset() if row["lang"] == "yo"}
    assert len(chosen) == 5
    ordered = line.order(CurriculumSettings(kind="balanced", levels=2), "quota").read("order").to_pylist()
    assert Counter(row["lang"] for row in ordered) == dict.fromkeys(ITEMS, 12)
    assert [row["position"] for row in ordered] == list(range(48))
    times = Counter(row["id"] for row in ordered if row["lang"] == "yo")
    assert {chosen[i]: n for i, n in times.items()} == {0: 3, 1: 3, 2: 2, 3: 2, 4: 2}


def test_epochs_are_shuffled_anew_within_their_levels(line: Line) -> None:
    line.quota()
    line.subset()
    curriculum = CurriculumSettings(kind="balanced", levels=2, repetition="reshuffled")
    made = line.order(curriculum, epochs=3)
    assert made.summary["epochs"] == 3
    ids = made.read("order").sort_by("position")["id"].to_pylist()
    rows = len(ids) // 3
    epochs = [ids[start : start + rows] for start in range(0, len(ids), rows)]
    assert epochs[0] != epochs[1] != epochs[2]
    assert sorted(epochs[0]) == sorted(epochs[1]) == sorted(epochs[2])
    same = line.order(CurriculumSettings(kind="balanced", levels=2), epochs=3)
    assert (same.summary["epochs"], same.read("order").sort_by("position")["id"].to_pylist()) == (1, epochs[0])


def test_a_loss_aware_curriculum_has_queues_and_no_position(line: Line) -> None:
    line.quota()
    chosen = {row["id"] for row in line.subset()}
    made = line.order(CurriculumSettings(kind="loss_aware", levels=4))
    assert made.shards("order") == []
    rows = made.read("queues").to_pylist()
    assert {row["id"] for row in rows} == chosen
    assert [row["place"] for row in rows] == list(range(len(chosen)))
    assert [row["level"] for row in rows] == sorted(row["level"] for row in rows)
    value = {row["id"]: row["separability"] for row in line.made["scores"].read("scores").to_pylist()}
    for lang in ITEMS:
        best = {level: [value[r["id"]] for r in rows if (r["lang"], r["level"]) == (lang, level)] for level in range(4)}
        assert all(max(best[level], default=-math.inf) < min(best[level + 1]) for level in range(3))


def recorded(store: Store, ids: list[str]) -> str:
    rows = [
        {"id": i, "position": at, "lang": "en", "task": None, "level": at % 2, "step": at // 4}
        for at, i in enumerate(ids)
    ]
    attempt = store.attempt("model", "trained")
    record = attempt.write_table("trained_order", 0, pa.Table.from_pylist(rows[::-1], schema=TRAINED_ORDER))
    attempt.publish([record], settings={}, inputs={}, version=1, summary={})
    return str(Path(store.root) / "model" / "trained")


def test_a_recorded_order_is_followed(line: Line) -> None:
    line.quota(quota="even", total=16, tasks=["qa"])
    ids = sorted(row["id"] for row in line.subset())
    file = trained_order_file(recorded(line.store, ids[1:] + ids[1:]))
    made = line.order(CurriculumSettings(kind="replay", trained_order=file), trained_order=file)
    rows = made.read("order").to_pylist()
    assert [row["id"] for row in rows] == ids[1:] + ids[1:]
    assert [row["level"] for row in rows[:3]] == [0, 1, 0]
    assert {row["lang"] for row in rows} == {"en", "es", "ja", "yo"}
    assert made.summary["levels_apart"]
    assert made.summary["warnings"] == ["1 selected rows are not in the order that is replayed"]


def test_a_recorded_order_of_other_rows_is_refused(line: Line) -> None:
    line.quota(quota="even", total=16, tasks=["qa"])
    line.subset()
    file = trained_order_file(recorded(line.store, ["en-qa-1", "stranger"]))
    with pytest.raises(OrderError, match="rows that were not selected here"):
        line.order(CurriculumSettings(kind="replay", trained_order=file), trained_order=file)


@pytest.mark.parametrize("content", [b"{}", b'{"id": "x"}', None])
def test_what_is_no_recorded_order_is_refused(line: Line, tmp_path: Path, content: bytes | None) -> None:
    line.quota()
    line.subset()
    file = tmp_path / "order.parquet"
    if content is None:
        pq.write_table(pa.table({"id": ["a"]}), file)
    else:
        file.write_bytes(content)
    with pytest.raises(OrderError, match=r"is no recorded order \(Parquet with id, position, level, step\)"):
        line.order(CurriculumSettings(kind="replay", trained_order=str(file)), trained_order=str(file))


def test_a_folder_without_a_recorded_order_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OrderError, match="neither a Parquet file nor the folder of a model"):
        trained_order_file(str(tmp_path / "nowhere"))


@pytest.mark.parametrize(
    ("mixture", "message"),
    [
        ({"tasks": ["poetry"]}, "names the tasks poetry, which the corpus does not have: math, qa"),
        (
            {"unseen": ["yo"], "quota": "counts", "counts": {"yor": 3}},
            "unseen names yo, which mixture.counts",
        ),
        ({"unseen": list(ITEMS)}, "leaves no language to train on"),
        ({"quota": "pivot", "pivot": "de", "pivot_rows": 3, "rows_per_language": 1}, "'de' is not among the languages"),
        ({"quota": "even", "total": 500}, "wanted 125, available 80"),
        ({"unseen": ["sw"]}, "unseen names sw, which the corpus does not have"),
        (
            {"quota": "counts", "counts": {"sw": 3}},
            "sw, which is not among the languages to train on: en",
        ),
    ],
)
def test_what_cannot_be_mixed_is_refused(line: Line, mixture: dict, message: str) -> None:
    with pytest.raises(QuotaError, match=message):
        line.quota(**mixture)
