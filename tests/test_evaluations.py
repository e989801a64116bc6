"""`raysel compare` of two models' results: what it reads, what it prints, what it refuses."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import yaml
from rich.console import Console

from raysel.evaluations import EvaluationError, compare_evaluations, find_both, find_results
from raysel.experiment import load_experiment
from raysel.pipeline import expand
from raysel.store import Store
from tests.evaluation.task_folder import write_choice_tasks

TASKS = {"xcopa_sw": "sw", "xcopa_th": "th", "xnli_sw": "sw"}


def published(
    folder: Path,
    name: str,
    *,
    tasks: dict[str, str] = TASKS,
    n: int = 40,
    share: float = 0.5,
    split: str = "test",
    shots: int = 0,
    answer: str = "1",
    fingerprint: str | None = None,
    metric: str = "acc",
    more: float = 0.0,
    lacking: int = 0,
) -> str:
    """The folder of results of a model that is right on the items whose luck is below `share`; more: by which the
    value is above the mean of the items; lacking: so many items, the first ones, have no value."""
    attempt = Store(str(folder)).attempt("results", fingerprint or name.encode().hex().ljust(24, "0"))
    records = []
    for cell, (task, lang) in enumerate(tasks.items()):
        right = (np.random.default_rng(cell).random(n) < share).astype(float)
        right[:lacking] = np.nan
        shared = {"model": name, "task": task, "lang": lang, "split": split, "metric": metric}
        row = {
            **shared,
            "value": np.nanmean(right) + more,
            "ci_low": 0.0,
            "ci_high": 1.0,
            "n": n,
            "seed": 0,
            "shots": shots,
        }
        items = [
            {**shared, "item": i, "value": value, "prompt": "", "answer": "", "group": f"{i}", "target": answer}
            for i, value in enumerate(right)
        ]
        for table, rows in (("results", [row]), ("items", items)):
            written = pa.Table.from_pylist(rows)
            records.append(attempt.write_table(table, cell, written))
    artifact = attempt.publish(records, settings={"evaluation": {"limit": n}}, inputs={}, version=1, summary={})
    return f"{folder}/{artifact.address}"


def printed(first: str, second: str) -> str:
    console = Console(record=True, width=80, file=io.StringIO())
    both = find_both(first, second, None)
    assert both is not None
    compare_evaluations(*both, console=console)
    return console.export_text()


def line(text: str, *starts: str) -> list[str]:
    [found] = [line.split() for line in text.splitlines() if line.split()[: len(starts)] == list(starts)]
    return found


def test_every_language_family_and_average_is_printed(tmp_path: Path) -> None:
    text = printed(published(tmp_path, "a", share=0.3), published(tmp_path, "b", share=0.8))
    assert "120 items of 3 tasks in 2 languages\n" in text
    assert line(text, "all")[:3] == ["all", "acc", "%"]
    for name in ("xcopa", "xnli", "sw", "th"):
        assert line(text, name)[-2:] in (["40", "higher"], ["80", "higher"])
    assert "< 0.001" in text
    assert "Holm" in text


def test_a_model_does_not_differ_from_itself(tmp_path: Path) -> None:
    place = published(tmp_path, "a")
    text = printed(place, place + "/")
    found = line(text, "th")
    assert "0.0" in found
    assert "1.000" in found
    assert found[-3:] == ["no", "item", "changed"]


def test_only_items_that_both_have_are_compared(tmp_path: Path) -> None:
    text = printed(published(tmp_path, "a", n=40), published(tmp_path, "b", n=25, tasks={"xcopa_sw": "sw"}, shots=2))
    assert "25 items of 1 tasks in 1 languages; of A's 120 and B's 25, those that both have" in text
    assert "warning: shots is 0 in A and 2 in B" in text
    assert line(text, "sw")[-4:] == ["25", "no", "item", "changed"]


@pytest.mark.parametrize(
    ("other", "found"),
    [
        ({"tasks": {"xquad_sw": "sw"}}, "task is xcopa_sw, xcopa_th, xnli_sw in the first and xquad_sw in the second"),
        ({"split": "dev", "n": 9}, "split is test in the first and dev in the second.*limit is 40 in the first and 9"),
        ({"split": "dev", "shots": 5}, "shots is 0 in the first and 5 in the second"),
        ({"answer": "2"}, "another right answer"),
    ],
)
def test_what_has_nothing_in_common_is_refused(tmp_path: Path, other: dict[str, Any], found: str) -> None:
    with pytest.raises(EvaluationError, match=found):
        printed(published(tmp_path, "a"), published(tmp_path, "b", **other))


def test_results_and_scores_are_told_apart(tmp_path: Path) -> None:
    place = published(tmp_path, "a")
    assert find_both(str(tmp_path / "x.parquet"), str(tmp_path / "y.parquet"), None) is None
    assert find_both(place, place, "scores") is None
    for second, of in ((str(tmp_path / "x.parquet"), None), (f"{tmp_path}/results/nothing", "results")):
        with pytest.raises(EvaluationError, match="has no published results"):
            find_both(place, second, of)
    with pytest.raises(EvaluationError, match="--of vectors"):
        find_both(place, place, "vectors")


def test_of_a_part_of_the_items_there_is_no_score_of_a_corpus(tmp_path: Path) -> None:
    first, second = (published(tmp_path, f"{n}", n=n, metric="chrf_pp", more=9.0) for n in (40, 25))
    with pytest.raises(EvaluationError, match=r"of a whole corpus \(chrf_pp\)"):
        printed(first, second)
    rating = [published(tmp_path, f"rating {n}", n=n, metric="rating") for n in (40, 25)]
    assert "25 items of 1 tasks in" not in printed(*rating)
    assert line(printed(*rating), "th")[1] == "rating"


def test_bits_per_byte_are_compared_on_all_items_or_none(tmp_path: Path) -> None:
    """What a sample adds to a language's value depends on the others."""
    asked: dict[str, Any] = {"metric": "bits_per_byte", "tasks": {"heldout_sw": "sw"}, "split": "dev"}
    sizes = ((25, 0.5), (40, 0.2), (40, 0.9))
    fewer, first, second = (published(tmp_path, f"{n} {share}", n=n, share=share, **asked) for n, share in sizes)
    text = printed(first, second)
    assert "Of bits_per_byte less is better." in text
    found = line(text, "sw")
    assert found[1] == "bits_per_byte"
    assert all(len(part.partition(".")[2]) == 3 for part in found[2:4]), "no share, and three digits"
    assert found[-1] == "higher"
    with pytest.raises(EvaluationError, match=r"with the same evaluation\.limit and heldout_samples"):
        printed(fewer, first)


def test_splits_are_those_of_what_both_have(tmp_path: Path) -> None:
    """A task that the other lacks, on other items, is no reason to refuse, nor to warn."""
    store = Store(str(tmp_path))
    parts = [published(tmp_path, "t"), published(tmp_path, "h", tasks={"heldout_sw": "sw"}, split="dev")]
    attempt = store.attempt("results", b"both".hex().ljust(24, "0"))
    records = [
        attempt.write_table(table, i, artifact.read(table))
        for i, artifact in enumerate(find_results(part) for part in parts)
        if artifact is not None
        for table in ("results", "items")
    ]
    whole = attempt.publish(records, settings={}, inputs={}, version=1, summary={})
    text = printed(f"{tmp_path}/{whole.address}", parts[1])
    assert "40 items of 1 tasks in 1 languages; of A's 160 and B's 40, those that both have" in text
    assert "warning" not in text


def test_items_that_only_one_model_has_a_value_of_are_left_out(tmp_path: Path) -> None:
    first, second = (published(tmp_path, f"{lacking}", lacking=lacking) for lacking in (0, 3))
    text = printed(first, second)
    assert line(text, "th")[-4:] == ["37", "no", "item", "changed"]
    assert "In 3 results some items have a value in one model only" in text
    assert "one model only" not in printed(first, first)


def test_only_the_folder_of_results_names_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = Path(published(tmp_path / "results", "a"))
    scores = tmp_path / "results" / "scores" / place.name
    scores.parent.mkdir()
    (tmp_path / "results" / "results" / place.name).rename(scores)
    assert find_results(str(scores)) is None
    scores.rename(place)
    monkeypatch.chdir(tmp_path / "results")
    for location in (f"results/{place.name}", f"./results/{place.name}/", str(place), place.as_uri()):
        found = find_results(location)
        assert found is not None
        assert (found.stage, found.fingerprint) == ("results", place.name)
    assert find_results(place.name) is None
    monkeypatch.chdir(tmp_path / "results" / "results")
    assert find_results(place.name) is not None


def test_experiment_files_name_the_results_of_their_tuned_model(tmp_path: Path) -> None:
    corpus = [
        {"id": f"{lang}{i}", "lang": lang, "prompt": "p", "response": "r"} for lang in ("en", "sw") for i in range(3)
    ]
    (tmp_path / "c.jsonl").write_text("".join(json.dumps(row) + "\n" for row in corpus), encoding="utf-8")
    write_choice_tasks(tmp_path / "tasks")
    evaluated = {"storage": "store", "corpus": {"path": "c.jsonl"}, "model": {"base": {}}}
    evaluated["evaluation"] = {"tasks": "tasks"}
    places = []
    for seed in (1, 2):
        path = tmp_path / f"e{seed}.yaml"
        path.write_text(yaml.safe_dump({**evaluated, "seed": seed}), encoding="utf-8")
        places.append(str(path))
        # Without results on either side, scores are meant.
        assert find_both(places[0], str(path), None) is None
        experiment = load_experiment(path, [])
        [tuned] = [step for step in expand(experiment, Store(experiment.storage)) if step.name == "results_tuned"]
        published(Path(experiment.storage), f"seed {seed}", share=0.3 * seed, fingerprint=tuned.fingerprint)
    text = printed(*places)
    assert line(text, "sw")[-1] == "higher"
    (tmp_path / "e3.yaml").write_text(yaml.safe_dump({**evaluated, "evaluation": {}}), encoding="utf-8")
    assert find_both(places[0], str(tmp_path / "e3.yaml"), None) is None
