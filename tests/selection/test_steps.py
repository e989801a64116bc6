"""Which steps a selector adds, and what of the settings and files counts towards them."""

import json
from pathlib import Path
from typing import Any

import pytest

from raysel.decisions import decide
from raysel.errors import UserError
from raysel.experiment import ExperimentError, checked, resolve_paths
from raysel.pipeline import expand
from raysel.steps import Step
from raysel.store import Store
from tests.conftest import REPOSITORY
from tests.evaluation.task_folder import write_choice_tasks


class Steps:
    def __init__(self, folder: Path, model: Path) -> None:
        self.folder, self.model = folder, model

    def __call__(self, selection: dict[str, Any], **sections: Any) -> dict[str, Step]:
        given = {
            "name": "steps",
            "storage": str(self.folder / "store"),
            "corpus": {"path": str(REPOSITORY / "raysel" / "demo" / "corpus")},
            "model": {"path": str(self.model)},
            "mixture": {"quota": "proportional", "total": 30},
            "selection": selection,
        }
        data = given | sections
        resolve_paths(data, self.folder)
        experiment = checked(data, where="test")
        return {step.name: step for step in expand(experiment, Store(experiment.storage))}


@pytest.fixture
def steps(tmp_path: Path, tiny_llama: Path) -> Steps:
    return Steps(tmp_path, tiny_llama)


def test_a_selector_adds_only_what_it_reads(steps: Steps) -> None:
    plain = steps({}).keys()
    assert steps({"method": "kmc"}).keys() == plain
    assert steps({"method": "dsir"}).keys() - plain == {"target", "importance"}
    less = {"target", "warmup", "gradients", "target_gradients", "influence"}
    assert steps({"method": "less"}).keys() - plain == less
    # The target comes before anything is embedded: what is wrong with it is found out at once.
    assert list(steps({"method": "dsir"}))[:4] == ["corpus", "audit", "quota", "target"]


def test_comparing_changes_nothing_that_is_trained_on(steps: Steps) -> None:
    for method in ("random", "kmc", "dsir", "less"):
        for candidates in ("pool", "corpus"):
            given = {"method": method, "candidates": candidates}
            alone = steps(given)
            beside = steps(given | {"compare": ["random", "kmc", "dsir", "less"]})
            for name, step in alone.items():
                if name not in ("diversity", "report"):
                    assert beside[name].fingerprint == step.fingerprint
            own = f"subset_{method}{'_corpus' if candidates == 'corpus' else ''}"
            assert beside[own].fingerprint == alone["subset"].fingerprint
            assert len({beside[name].fingerprint for name in beside if name.startswith("subset_")}) == 8


def test_diversity_is_measured_of_each_choice_once(steps: Steps) -> None:
    alone = steps({"method": "kmc"})["diversity"]
    assert alone.settings["choices"] == {"subset": ("kmc", "pool")}
    assert alone.inputs.keys() == {"corpus", "vectors", "scores", "subset"}
    beside = steps({"method": "kmc", "compare": ["random", "kmc"]})
    assert beside["diversity"].settings["choices"] == {
        "subset": ("kmc", "pool"),
        "subset_random": ("random", "pool"),
        "subset_random_corpus": ("random", "corpus"),
        "subset_kmc_corpus": ("kmc", "corpus"),
    }
    inputs = beside["diversity"].inputs
    assert len({step.fingerprint for name, step in inputs.items() if step.stage == "subset"}) == 4
    # What is trained on does not wait for it.
    assert not [name for name, step in beside.items() if "diversity" in step.inputs and name != "report"]


def test_a_step_that_another_one_makes_is_told_once(steps: Steps) -> None:
    planned = list(steps({"method": "dsir", "compare": ["dsir"]}).values())
    store = Store(str(steps.folder / "store"))
    same = {decision.step.name: decision.same_as for decision in decide(planned, store, {}) if decision.same_as}
    assert same == {"subset_dsir": "subset"}


def test_what_the_method_does_not_read_does_not_count(steps: Steps) -> None:
    idle = {"kmc": {"clusters": 3}, "less": {"dimensions": 64}, "target": {"samples": 3}}
    assert steps({} | idle)["subset"].fingerprint == steps({})["subset"].fingerprint
    dsir = steps({"method": "dsir"})
    top = steps({"method": "dsir", "dsir": {"sampling": "top"}})
    assert top["importance"].fingerprint == dsir["importance"].fingerprint
    assert top["subset"].fingerprint != dsir["subset"].fingerprint
    less = {"method": "less", "less": {"token_budget": 100, "workers": 1}}
    assert steps(less)["subset"].fingerprint == steps({"method": "less"})["subset"].fingerprint
    other = steps({"method": "less", "less": {"dimensions": 64}})
    assert other["warmup"].fingerprint == steps(less)["warmup"].fingerprint
    assert other["gradients"].fingerprint != steps(less)["gradients"].fingerprint


def test_of_an_evaluation_only_development_items_count(steps: Steps, tmp_path: Path) -> None:
    folder = write_choice_tasks(tmp_path / "tasks")
    selection = {"method": "dsir", "target": {"of": "evaluation"}}

    def target(**evaluation: Any) -> str:
        return steps(selection, evaluation={"tasks": str(folder), **evaluation})["target"].fingerprint

    before = target()
    assert target(limit=3) == before
    assert target(shots=0) == before
    assert target(exclude=["choice_sw"]) != before
    for split, counts in (("test", False), ("dev", True)):
        file = folder / "items" / f"en.{split}.jsonl"
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        rows[0]["question"] += "!"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        assert (target() != before) is counts
    with pytest.raises(UserError, match=r"takes the development items of evaluation\.tasks: set it"):
        steps(selection)


def test_languages_named_by_folders_count(steps: Steps, tmp_path: Path) -> None:
    def target(lang: str) -> str:
        file = tmp_path / lang / lang / "d.jsonl"
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps({"prompt": "a", "response": "b"}) + "\n")
        files = {"of": "files", "path": str(file.parent.parent), "lang_from": "folder"}
        return steps({"method": "dsir", "target": files})["target"].fingerprint

    assert target("en") != target("sw")


@pytest.mark.parametrize(
    ("selection", "sections", "said"),
    [
        ({"method": "dsir"}, {"corpus": {"path": "x", "heldout": 0}}, "corpus.heldout is 0"),
        ({"tokens": 100}, {}, "a budget is in tokens or rows"),
        ({"stratify": "none"}, {"mixture": {"quota": "even", "total": 9, "shortfall": "repeat"}}, "cannot repeat"),
        ({"method": "best"}, {}, "selection.method"),
        ({"method": "less", "less": {"warmup": {"lora": {"dora": True}}}}, {}, "plain adapters"),
        ({"target": {"of": "files"}}, {}, "of files and path go together"),
        ({}, {"mixture": {"quota": "even", "total": 1.5}}, "a share of the corpus is above 0 and at most 1.0"),
        ({}, {"mixture": {"quota": "even", "total": 0}}, "at least 1 row"),
    ],
)
def test_what_contradicts_itself_is_refused(
    steps: Steps, selection: dict[str, Any], sections: dict[str, Any], said: str
) -> None:
    with pytest.raises(ExperimentError) as refused:
        steps(selection, **sections)
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("path", "said"),
    [("nowhere", "there is no such file"), ("empty.jsonl", "is empty (0 bytes)"), ("text.txt", "files and folders")],
)
def test_a_target_that_cannot_be_read_names_its_setting(steps: Steps, tmp_path: Path, path: str, said: str) -> None:
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "text.txt").write_text("x")
    with pytest.raises(UserError) as refused:
        steps({"method": "dsir", "target": {"of": "files", "path": str(tmp_path / path)}})
    assert "selection.target.path" in str(refused.value)
    assert said in str(refused.value)
