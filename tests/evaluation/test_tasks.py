import json
import subprocess
import sys
from pathlib import Path

import pytest

import raysel.demo
from raysel.errors import UserError
from raysel.evaluation.settings import EvaluationSettings
from raysel.evaluation.tasks import check, language, leaf_files, load_tasks
from tests.evaluation.task_folder import choice_config, write_choice_tasks, write_items, write_task


def settings(folder: Path, **changes: object) -> EvaluationSettings:
    return EvaluationSettings(tasks=str(folder), **changes)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_choice_tasks(tmp_path / "tasks")


def test_tasks_are_found_with_language_and_absolute_files(folder: Path) -> None:
    tasks = load_tasks(settings(folder))
    assert [(task.name, task.lang) for task in tasks] == [("choice_en", "en"), ("choice_sw", "sw"), ("choice_zh", "zh")]
    items = folder / "items" / "en.test.jsonl"
    assert tasks[0].config["dataset_kwargs"]["data_files"]["test"] == [str(items)]
    assert leaf_files(settings(folder, include=["*_en"])) == sorted(
        [str(folder / "choice_en.yaml"), str(items), str(folder / "items" / "en.dev.jsonl")]
    )


def test_checking_imports_neither_torch_nor_lm_eval_nor_ray(folder: Path) -> None:
    script = (
        "import sys\n"
        "from raysel.evaluation.settings import EvaluationSettings\n"
        "from raysel.evaluation.tasks import check\n"
        f"check(EvaluationSettings(tasks={str(folder)!r}))\n"
        "sys.exit(bool({'torch', 'lm_eval', 'ray', 'datasets'} & set(sys.modules)))\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_data_files_are_looked_for_in_the_folders_above(tmp_path: Path) -> None:
    write_items(tmp_path, "sw")
    below = tmp_path / "deeper" / "tasks"
    below.mkdir(parents=True)
    write_task(below, choice_config("sw"))
    assert str(tmp_path / "items" / "sw.test.jsonl") in leaf_files(settings(below))


def test_include_and_exclude_are_globs(folder: Path) -> None:
    chosen = load_tasks(settings(folder, include=["choice_[es]*", "*zh"], exclude=["*_en"]))
    assert [task.name for task in chosen] == ["choice_sw", "choice_zh"]
    with pytest.raises(UserError, match=r"nothing_\*.*matches none of the 3.*choice_en"):
        check(settings(folder, include=["nothing_*"]))


def test_dev_scores_the_validation_split(folder: Path) -> None:
    config = load_tasks(settings(folder, split="dev"))[0].config
    assert "test_split" not in config
    assert config["validation_split"] == "validation"


@pytest.mark.parametrize(("split", "missing"), [("test", "test_split"), ("dev", "validation_split")])
def test_a_task_without_the_wanted_split_is_refused(folder: Path, split: str, missing: str) -> None:
    config = choice_config("en")
    del config[missing]
    write_task(folder, config)
    with pytest.raises(UserError, match=f"1 of 3 chosen tasks have no {missing}: choice_en"):
        check(settings(folder, split=split))
    check(settings(folder, split=split, exclude=["choice_en"]))


def test_shots_reach_the_task_and_need_a_source(folder: Path) -> None:
    assert load_tasks(settings(folder, shots=2))[0].config["num_fewshot"] == 2
    config = choice_config("en")
    del config["validation_split"]
    write_task(folder, config)
    with pytest.raises(UserError, match="choice_en: 2 shots asked for, and only a test split"):
        check(settings(folder, shots=2))
    check(settings(folder, shots=0))


@pytest.mark.parametrize(
    ("name", "lang"),
    [
        ("local_xcopa_sw", "sw"),
        ("sib200_swh_Latn", "sw"),
        ("sib200_zho_Hans", "zh"),
        ("xwinograd_jp", "ja"),
        ("mmmlu_pt_BR", "pt"),
        ("belebele_quy_Latn", "qu"),
        ("x_hau", "ha"),
    ],
)
def test_language_from_the_name(name: str, lang: str) -> None:
    assert language(name, {}) == lang


def test_metadata_decides_the_language() -> None:
    assert language("arc_easy", {"metadata": {"lang": "en"}}) == "en"
    assert language("tasks_de", {"metadata": {"lang": "swh", "version": 1}}) == "sw"
    with pytest.raises(UserError, match=r"does not end in a language code; set metadata\.lang"):
        language("arc_easy", {})
    with pytest.raises(UserError, match="quote it"):
        language("tasks_no", {"metadata": {"lang": False}})
    with pytest.raises(UserError, match=r"xcopa_qq.*metadata.lang"):
        language("xcopa_qq", {})


def test_an_included_file_is_merged_and_counts_as_a_leaf(folder: Path) -> None:
    base = choice_config("sw")
    del base["task"]
    write_task(folder, base, "_base")
    write_task(folder, {"task": "other_sw", "include": "_base.yaml", "num_fewshot": 1})
    task = next(task for task in load_tasks(settings(folder)) if task.name == "other_sw")
    assert task.config["doc_to_target"] == "answer"
    assert str(folder / "_base.yaml") in task.files
    write_task(folder, {"task": "other_sw", "include": "gone.yaml"})
    with pytest.raises(UserError, match=r"other_sw.yaml includes .*gone.yaml, which is not there"):
        check(settings(folder))


def test_groups_are_no_tasks(folder: Path) -> None:
    (folder / "group.yaml").write_text("group: all\ntask: [choice_en, choice_sw]\n")
    assert len(load_tasks(settings(folder))) == 3


def test_wrong_folders(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"evaluation\.tasks is not set"):
        check(EvaluationSettings())
    with pytest.raises(UserError, match="no such folder"):
        check(settings(tmp_path / "gone"))
    with pytest.raises(UserError, match="holds no lm-eval task file"):
        check(settings(tmp_path))


@pytest.mark.parametrize("text", ["task: [unclosed", "- a list", "task: !!python/object/apply:os.system ['true']"])
def test_broken_yaml_names_the_file(folder: Path, text: str) -> None:
    (folder / "broken.yaml").write_text(text)
    with pytest.raises(UserError, match=r"broken\.yaml"):
        check(settings(folder))


def test_the_same_name_twice_is_refused(folder: Path) -> None:
    write_task(folder, choice_config("en"), "again")
    with pytest.raises(UserError, match=r"'choice_en' is defined twice: in .*again.yaml and in .*choice_en.yaml"):
        check(settings(folder))


def test_code_is_refused_where_it_is_chosen(folder: Path) -> None:
    (folder / "coded.yaml").write_text("task: coded_en\ntest_split: test\nprocess_docs: !function os.getcwd\n")
    check(settings(folder, exclude=["coded_*"]))
    with pytest.raises(UserError, match=r"coded_en .*!function os.getcwd.*not executed"):
        check(settings(folder))


@pytest.mark.parametrize(
    "changes",
    [
        {"class": "os.system"},
        {"unsafe_code": True},
        {"use_prompt": "promptsource:*"},
        {"metric_list": [{"metric": "acc", "hf_evaluate": True}]},
        {"dataset_path": "pandas"},
    ],
)
def test_whatever_would_run_code_is_refused(folder: Path, changes: dict[str, object]) -> None:
    write_task(folder, choice_config("en", **changes))
    with pytest.raises(UserError, match="choice_en"):
        check(settings(folder))


def test_missing_and_empty_data_files(folder: Path) -> None:
    items = folder / "items" / "sw.test.jsonl"
    items.write_text(" \n\n")
    with pytest.raises(UserError, match=r"choice_sw .*sw.test.jsonl is empty"):
        check(settings(folder))
    items.unlink()
    with pytest.raises(UserError, match=r"choice_sw .*'items/sw.test.jsonl' is not there; tried below") as caught:
        check(settings(folder))
    assert str(folder) in str(caught.value)
    assert str(folder.parent) in str(caught.value)


def test_a_split_that_the_data_does_not_have(folder: Path) -> None:
    write_task(folder, choice_config("en", test_split="exam"))
    with pytest.raises(UserError, match=r"test_split is 'exam', but its data_files have only \['test', 'validation'\]"):
        check(settings(folder))


def test_data_files_by_glob_and_without_splits(folder: Path) -> None:
    config = choice_config("en", dataset_kwargs={"data_files": "items/*.test.jsonl"}, test_split="train")
    del config["validation_split"]
    write_task(folder, config)
    files = load_tasks(settings(folder, include=["choice_en"]))[0].config["dataset_kwargs"]["data_files"]["train"]
    assert [Path(file).name for file in files] == ["en.test.jsonl", "sw.test.jsonl", "zh.test.jsonl"]


def test_the_shared_tasks_are_read(shared_data: Path) -> None:
    folder = shared_data / "eval" / "lm_eval_tasks"
    with pytest.raises(UserError, match="12 of 89 chosen tasks have no test_split: local_xquad_ar"):
        check(settings(folder))
    assert len(load_tasks(settings(folder, exclude=["local_xquad_*"]))) == 77
    dev = load_tasks(settings(folder, include=["local_xquad_*"], split="dev"))
    assert {task.lang for task in dev} >= {"ar", "zh", "el"}


def test_the_demos_tasks_ask_the_same_items_in_fifteen_languages() -> None:
    folder = Path(raysel.demo.__file__).parent / "eval"
    langs = {"en", "de", "fr", "es", "ru", "tr", "ar", "sw", "zh", "ja", "ko", "vi", "hi", "el", "th"}
    for split, name, n in (("test", "test", 16), ("dev", "validation", 8)):
        tasks = load_tasks(settings(folder, split=split))
        assert {task.lang for task in tasks} == langs
        for task in tasks:
            (file,) = task.config["dataset_kwargs"]["data_files"][name]
            rows = [json.loads(line) for line in Path(file).read_text(encoding="utf-8").splitlines()]
            assert len(rows) == n
            assert {row["lang"] for row in rows} == {task.lang}
            assert all(len(set(row["choices"])) == 3 and row["answer"] in range(3) for row in rows)
