"""The suites that ship: their tasks, what these read, and that prompts are lm-eval's where they say so."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from raysel.errors import UserError
from raysel.evaluation.items import item_sources, read_items
from raysel.evaluation.settings import EvaluationSettings
from raysel.evaluation.suites.expand import expanded
from raysel.evaluation.suites.reading import read_splits
from raysel.evaluation.tasks import EvalTask, check, development_files, development_tasks, leaf_files, load_tasks
from raysel.experiment import load_experiment
from raysel.pipeline import expand
from raysel.store import Store
from tests.conftest import REPOSITORY
from tests.evaluation.suite_data import row_of, write_suite_data
from tests.evaluation.task_folder import choice_config, write_choice_tasks, write_task

FLORES: dict[str, Any] = {"tasks": "flores", "exclude_metrics": ["spbleu"]}


def suite(name: str, **changes: Any) -> list[EvalTask]:
    return load_tasks(EvaluationSettings(tasks=name, **changes))


def by_dataset(tasks: list[EvalTask]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for task in tasks:
        found.setdefault(task.name.rpartition("_")[0], set()).add(task.lang)
    return found


def test_langgps_is_six_benchmarks_in_ten_languages_each() -> None:
    tasks = suite("langgps")
    langs = by_dataset(tasks)
    assert langs == {
        "xnli": {"en", "ar", "el", "hi", "ru", "sw", "th", "tr", "ur", "zh"},
        "xstorycloze": {"ar", "en", "es", "eu", "hi", "id", "ru", "sw", "te", "zh"},
        "mmmlu": {"en", "ar", "bn", "es", "hi", "id", "ko", "pt", "sw", "yo"},
        "xquad": {"ar", "de", "el", "en", "hi", "ru", "th", "tr", "vi", "zh"},
        "mkqa": {"en", "ar", "de", "ja", "ko", "pt", "ru", "tr", "vi", "zh"},
        "xlsum": {"en", "ar", "fr", "hi", "id", "ru", "sw", "tr", "ur", "vi"},
    }
    assert len(set.union(*langs.values())) == 22
    assert all(task.config["generation_kwargs"]["max_gen_toks"] == 40 for task in tasks)
    assert not any(task.config.get("num_fewshot") for task in tasks)


def test_ling_informed_is_five_groups() -> None:
    counts = {name: len(langs) for name, langs in by_dataset(suite("ling-informed")).items()}
    assert counts == {"xnli": 15, "pawsx": 7, "xcopa": 11, "xstorycloze": 11, "xwinograd": 6}


def test_transfer_dynamics_is_three_tasks_in_eight_languages(tmp_path: Path) -> None:
    tasks = suite("transfer-dynamics", data=str(write_suite_data(tmp_path, "transfer-dynamics", 1)))
    assert by_dataset(tasks) == {
        key: {"en", "es", "fr", "ja", "zh", "ar", "ko", "pt"} for key in ["dolly", "mgsm", "xlsum"]
    }
    assert {task.name for task in tasks if task.config["metadata"].get("judge")} == {
        task.name for task in tasks if task.name.startswith("dolly_")
    }
    assert {task.config.get("num_fewshot") for task in tasks if task.name.startswith("mgsm_")} == {8}
    with pytest.raises(
        UserError, match=r"mgsm_ko: evaluation.data, which is not set(.|\n)*\[mgsm_ar, mgsm_ko, mgsm_pt\]"
    ):
        suite("transfer-dynamics")


def test_flores_goes_both_ways() -> None:
    langs = by_dataset(suite(name="flores", exclude_metrics=["spbleu"]))
    assert langs["flores_to_en"] == langs["flores_from_en"]
    assert len(langs["flores_to_en"]) == 82
    assert "en" not in langs["flores_to_en"]


def test_massive_has_its_51_locales(tmp_path: Path) -> None:
    assert len(suite("semantic-parsing", data=str(write_suite_data(tmp_path, "semantic-parsing", 1)))) == 51
    with pytest.raises(UserError, match=r"evaluation.data, which is not set(.|\n)*exclude: \[massive_\*\]"):
        suite("semantic-parsing")


def test_items_are_named_where_languages_share_them() -> None:
    without = {"xwinograd", "xlsum"}
    for name in ("langgps", "ling-informed", "demo", "flores"):
        for task in suite(name, exclude_metrics=["spbleu"] if name == "flores" else []):
            assert (task.item is None) == (task.name.split("_")[0] in without), task.name
    assert suite("demo")[0].item == "{{group}}"
    assert suite("ling-informed", include=["xcopa_sw"])[0].item == "{{idx}}"


def test_an_unknown_suite_is_refused_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"'lang-gps'.*no such suite; suites: demo, flores, langgps, ling-informed, semantic"
    ):
        suite("lang-gps")
    with pytest.raises(UserError, match=r"evaluation.data .*there is no such folder"):
        suite("langgps", data=str(tmp_path / "gone"))
    with pytest.raises(UserError, match="none of the chosen tasks reads from it"):
        suite("demo", data=str(tmp_path))


def test_all_data_that_is_missing_is_told_at_once(shared_data: Path) -> None:
    data = str((shared_data / "eval").resolve())
    with pytest.raises(UserError) as caught:
        suite("ling-informed", data=data)
    told = str(caught.value)
    assert "the data of 33 of 50 chosen tasks is not there" in told
    assert f"xnli_sw: {data}/xnli/sw.test.jsonl" in told
    assert told.endswith("leave these tasks out: evaluation.exclude: [pawsx_*, xnli_*, xstorycloze_*]")
    exclude = told.rpartition("[")[2].rstrip("]").split(", ")
    assert len(suite("ling-informed", data=data, exclude=exclude)) == 17
    assert len(suite("ling-informed", data=data, include=["xcopa_*"])) == 11


def test_the_advice_leaves_nothing_out_that_is_there(tmp_path: Path) -> None:
    write_suite_data(tmp_path, "ling-informed", 1, {"de", "zh"})
    with pytest.raises(UserError, match=r"exclude: \[pawsx_en, pawsx_es, pawsx_fr, pawsx_ja, pawsx_ko\]"):
        suite("ling-informed", data=str(tmp_path), include=["pawsx_*"])


def test_the_shots_data_must_be_there(tmp_path: Path) -> None:
    write_suite_data(tmp_path, "transfer-dynamics", 1, {"sw", "ja"})
    (tmp_path / "mgsm" / "ja.train.jsonl").unlink()
    with pytest.raises(UserError, match=r"mgsm_ja: .*ja\.train\.jsonl"):
        suite("transfer-dynamics", data=str(tmp_path), include=["mgsm_ja"])
    assert suite("transfer-dynamics", data=str(tmp_path), include=["mgsm_ja"], shots=0)[0].config["num_fewshot"] == 0


def test_an_item_is_never_its_own_example(tmp_path: Path) -> None:
    data = str(write_suite_data(tmp_path, "ling-informed", 1, {"zh"}))
    include = ["xstorycloze_zh"]
    assert suite("ling-informed", data=data, include=include, shots=2)[0].scored_split == "eval"
    with pytest.raises(
        UserError, match=r"xstorycloze_zh: 2 shots asked for, and split train.*is the one that is scored"
    ):
        suite("ling-informed", data=data, include=include, shots=2, split="dev")


def test_shots_named_from_the_split_that_is_scored_are_refused(tmp_path: Path) -> None:
    folder = write_choice_tasks(tmp_path, ("en",))
    write_task(folder, choice_config("en", fewshot_split="validation"))
    assert load_tasks(EvaluationSettings(tasks=str(folder), shots=1))[0].config["num_fewshot"] == 1
    with pytest.raises(UserError, match=r"choice_en: 1 shots asked for, and split validation"):
        load_tasks(EvaluationSettings(tasks=str(folder), shots=1, split="dev"))


@pytest.mark.parametrize("data", [{"folder": "items"}, {"files": ["en"]}])
def test_data_of_a_task_without_words_names_folder_and_files(tmp_path: Path, data: dict[str, Any]) -> None:
    folder = write_choice_tasks(tmp_path, ("en",))
    config = choice_config("en", data=data)
    del config["dataset_kwargs"]
    write_task(folder, config)
    with pytest.raises(UserError, match=r"choice_en: data\.(files|folder) is missing"):
        load_tasks(EvaluationSettings(tasks=str(folder), data=str(tmp_path)))


def test_the_files_that_count_are_those_that_are_read(tmp_path: Path) -> None:
    data = write_suite_data(tmp_path, "flores", 2, {"sw"})
    settings = EvaluationSettings(data=str(data), include=["flores_to_en_sw"], **FLORES)
    names = {Path(file).name for file in leaf_files(settings)}
    sentences = {f"{lang}.{split}.jsonl" for lang in ("eng_Latn", "swh_Latn") for split in ("dev", "devtest")}
    assert names == {"to_en.yaml", "_flores.yaml"} | sentences
    assert {Path(file).name for file in development_files(settings)} == {
        "to_en.yaml", "_flores.yaml", "eng_Latn.dev.jsonl", "swh_Latn.dev.jsonl",
    }  # fmt: skip


def test_metrics_are_left_out_by_name() -> None:
    [task] = suite("flores", include=["flores_to_en_sw"], exclude_metrics=["spbleu"])
    assert [entry["metric"] for entry in task.config["metric_list"]] == ["chrf_pp"]
    with pytest.raises(UserError, match=r"exclude_metrics \['\*'\] leaves it no metric"):
        suite("flores", include=["flores_to_en_sw"], exclude_metrics=["*"])


# A development share.


def test_a_share_of_the_only_split_is_for_development(shared_data: Path, tmp_path: Path) -> None:
    common = {"tasks": "ling-informed", "data": str(shared_data / "eval"), "include": ["xcopa_sw", "xcopa_et"]}
    with pytest.raises(UserError, match=r"no validation_split: xcopa_et, xcopa_sw;.*evaluation\.dev_share"):
        check(EvaluationSettings(**common, split="dev"))
    rows: dict[str, list[list[int]]] = {"dev": [], "test": []}
    for split in ("dev", "test"):
        settings = EvaluationSettings(**common, split=split, dev_share=0.1)
        # Of both splits, whichever is scored: first the test items.
        sources = item_sources(settings)
        assert [source.task for source in sources] == [
            f"{name}{part}" for part in ("", " (development)") for name in ("xcopa_et", "xcopa_sw")
        ]
        for task, source in zip(load_tasks(settings), sources[2:] if split == "dev" else sources[:2], strict=True):
            assert (task.part, task.scored_split) == (split, "test")
            items = read_items(source, tmp_path)
            assert [row for row, _ in items] == task.rows(500)
            row, texts = items[0]
            assert rows_of(shared_data, f"xcopa/{task.lang}.test")[row]["premise"] in texts
            rows[split].append([row for row, _ in items])
    assert rows["dev"][0] == rows["dev"][1]
    assert len(rows["dev"][0]) == 50
    assert not set(rows["dev"][0]) & set(rows["test"][0])


def test_a_data_set_with_both_splits_keeps_them(tmp_path: Path) -> None:
    data = str(write_suite_data(tmp_path, "ling-informed", 3, {"zh"}))
    settings = {"tasks": "ling-informed", "data": data, "include": ["xcopa_zh", "xwinograd_zh"], "dev_share": 0.3}
    dev = load_tasks(EvaluationSettings(**settings, split="dev"))
    assert [(task.part, task.scored_split) for task in dev] == [("whole", "validation"), ("dev", "test")]
    test = load_tasks(EvaluationSettings(**settings))
    assert [(task.part, task.scored_split) for task in test] == [("whole", "test"), ("test", "test")]
    assert development_tasks(EvaluationSettings(**settings)) == dev
    assert test[1].rows(3) == [0, 2]
    with pytest.raises(UserError, match=r"task xwinograd_zh, split test: 1 rows cannot be divided.*dev_share"):
        test[1].rows(1)


# Reading.


def test_languages_are_joined_by_id(tmp_path: Path) -> None:
    english, swahili = tmp_path / "eng_Latn.dev.jsonl", tmp_path / "swh_Latn.dev.jsonl"
    english.write_text('{"id": 1, "sentence": "one"}\n\n{"id": 2, "sentence": "two"}\n')
    swahili.write_text('{"id": 2, "sentence": "mbili"}\n{"id": 1, "sentence": "moja"}\n')
    given: dict[str, Any] = {"path": "json", "joined": True, "data_files": {"dev": [str(english), str(swahili)]}}
    assert read_splits(**given)["dev"].to_list() == [
        {"id": 1, "sentence_eng_Latn": "one", "sentence_swh_Latn": "moja"},
        {"id": 2, "sentence_eng_Latn": "two", "sentence_swh_Latn": "mbili"},
    ]
    swahili.write_text('{"id": 1, "sentence": "moja"}\n{"id": 3, "sentence": "tatu"}\n')
    with pytest.raises(UserError, match=r"joined by id, and 2 ids are in one only: 2, 3"):
        read_splits(**given)
    for broken, told in (('{"id": 1}', "line 1: no object with id and sentence"), ("[", "line 1: no object")):
        swahili.write_text(broken)
        with pytest.raises(UserError, match=told):
            read_splits(**given)
    swahili.write_text('{"id": 1, "sentence": "a"}\n{"id": 1, "sentence": "b"}\n')
    with pytest.raises(UserError, match="line 2: id 1 is there twice"):
        read_splits(**given)


def test_items_are_left_out_and_chosen_evenly(tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    file.write_text("".join(json.dumps({"n": n, "text": "" if n % 2 else "kept"}) + "\n" for n in range(20)))
    files = {"train": [str(file)], "test": [str(file)]}
    read = read_splits(
        path="json", data_files=files, cache_dir=str(tmp_path / "c"), keep="{{text}}", items=5, shots="train"
    )
    assert read["train"]["n"] == list(range(0, 20, 2))
    assert read["test"]["n"] == [2, 6, 10, 14, 18]
    with pytest.raises(UserError, match=r"split train .*has no item that is kept"):
        read_splits(path="json", data_files=files, cache_dir=str(tmp_path / "c"), keep="{{ '' }}")


# Task files.


def test_words_make_a_task_of_each_language(tmp_path: Path) -> None:
    config = {
        "task": "ask",
        "doc_to_text": "$q {{text}} $$5 ${q}s ($lang)",
        "words": {"en": {"q": "What"}, "jp": {"q": "何"}, "zh_TW": {"q": "什麼", "lang": "zh-Hant"}},
    }
    tasks = expanded(tmp_path / "ask.yaml", config)
    assert tasks["ask_jp"]["doc_to_text"] == "何 {{text}} $5 何s (jp)"
    assert {name: task["metadata"]["lang"] for name, task in tasks.items()} == {
        "ask_en": "en", "ask_jp": "jp", "ask_zh_TW": "zh-Hant",
    }  # fmt: skip
    assert list(expanded(tmp_path / "ask.yaml", config | {"languages": ["jp"]})) == ["ask_jp"]
    for changes, told in (
        ({"languages": ["de"]}, "language de is not among its words"),
        ({"languages": [False]}, "language False is not a string; quote it"),
        ({"doc_to_text": "$r"}, "language en: 'r' is not among its words"),
        ({"doc_to_text": "5 $"}, "language en: Invalid placeholder"),
        ({"words": ["en"]}, "words is not a mapping"),
    ):
        with pytest.raises(UserError, match=f"ask.yaml.*{told}"):
            expanded(tmp_path / "ask.yaml", config | changes)


def test_own_task_files_may_have_words_and_data(tmp_path: Path) -> None:
    (tmp_path / "quiz").mkdir()
    (tmp_path / "quiz" / "sw.test.jsonl").write_text('{"q": "x", "a": "y"}\n')
    config = {
        "task": "quiz", "data": {"folder": "quiz"}, "test_split": "test", "output_type": "generate_until",
        "doc_to_text": "$swali: {{q}}", "doc_to_target": "a", "words": {"sw": {"swali": "Swali"}},
    }  # fmt: skip
    (tmp_path / "quiz.yaml").write_text(yaml.safe_dump(config))
    [task] = load_tasks(EvaluationSettings(tasks=str(tmp_path), data=str(tmp_path)))
    assert task.config["doc_to_text"] == "Swali: {{q}}"
    assert task.files == (str(tmp_path / "quiz.yaml"), str(tmp_path / "quiz" / "sw.test.jsonl"))


# lm-eval's own templates.


def lm_eval_tasks() -> Path:
    import lm_eval

    return Path(lm_eval.__file__).parent / "tasks"


class Functions(yaml.SafeLoader):
    """Reads lm-eval's files as data."""


Functions.add_constructor("!function", lambda loader, node: None)


def theirs(folder: str, name: str) -> dict[str, Any]:
    file = lm_eval_tasks() / folder / name
    config = yaml.load(file.read_text("utf-8"), Loader=Functions)  # noqa: S506 (a SafeLoader)
    include = config.pop("include", None)
    return (theirs(folder, include) if include else {}) | config


SAME = ("doc_to_text", "doc_to_target", "doc_to_choice", "output_type", "generation_kwargs", "filter_list")


def same_templates(task: EvalTask, config: dict[str, Any]) -> None:
    for key in SAME:
        assert task.config.get(key) == config.get(key), (task.name, key)
    assert task.config.get("target_delimiter", " ") == config.get("target_delimiter", " ")
    hub = (task.config["dataset_path"], task.config["dataset_name"])
    assert hub == (config["dataset_path"], config["dataset_name"])


def test_xnli_xstorycloze_and_mgsm_are_lm_evals() -> None:
    exclude = ["mgsm_ar", "mgsm_ko", "mgsm_pt"]
    files = {"xnli": ("xnli", "xnli_{}.yaml"), "xstorycloze": ("xstorycloze", "default_{}.yaml")}
    for task in suite("ling-informed", include=["xnli_*", "xstorycloze_*"]):
        dataset, _, lang = task.name.partition("_")
        folder, file = files[dataset]
        same_templates(task, theirs(folder, file.format(lang)))
    tasks = suite("transfer-dynamics", include=["mgsm_*"], exclude=exclude)
    assert len(tasks) == 5
    for task in tasks:
        same_templates(task, theirs("mgsm/native_cot", f"mgsm_native_cot_{task.lang}.yaml"))


def said(task: EvalTask, row: dict[str, Any]) -> tuple[str, Any]:
    """Prompt and choices of an item by lm-eval's own rendering."""
    import ast

    from lm_eval.utils import apply_template

    text = apply_template(task.config["doc_to_text"], row)
    return text, ast.literal_eval(apply_template(task.config["doc_to_choice"], row))


def rows_of(shared_data: Path, name: str, n: int = 500) -> list[dict[str, Any]]:
    lines = (shared_data / "eval" / f"{name}.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line) for line in lines[:n]]


def test_xcopa_is_lm_evals(shared_data: Path) -> None:
    from lm_eval.tasks.xcopa import utils

    tasks = suite("ling-informed", include=["xcopa_*"])
    assert len(tasks) == 11
    for task in tasks:
        for row in rows_of(shared_data, f"xcopa/{task.lang}.test", 4):
            prompt = getattr(utils, f"doc_to_text_{task.lang}")(row)
            assert said(task, row) == (prompt, utils.doc_to_choice(row))
        assert task.config["dataset_path"] == theirs("xcopa", f"default_{task.lang}.yaml")["dataset_path"]


def test_xwinograd_is_lm_evals(shared_data: Path) -> None:
    from lm_eval.tasks.xwinograd import utils
    from lm_eval.utils import apply_template

    for task in suite("ling-informed", include=["xwinograd_*"]):
        for row in rows_of(shared_data, f"xwinograd/{task.name.rpartition('_')[2]}.test", 4):
            assert said(task, row) == (str(utils.doc_to_text(row)), utils.doc_to_choice(row))
            assert apply_template(task.config["doc_to_target"], row) == utils.doc_to_target(row)


PARAPHRASES = [
    ("It was ( then ) red , they said .", "He did n't say \" so \" , but she 's sure ."),
    ("Ends in ;", "A"),
    (' " Quoted " . ', "The end ..."),
    ("In 1990's ; 'x'", "Élan vital ,"),
    ("", "Left out"),
    ("Left out", ""),
]


def test_pawsx_is_lm_evals() -> None:
    import ast

    # The folder's name has a hyphen.
    import importlib

    import datasets
    from jinja2.sandbox import SandboxedEnvironment
    from lm_eval.utils import apply_template

    utils = importlib.import_module("lm_eval.tasks.paws-x.utils")
    rows = [{"id": n, "sentence1": a, "sentence2": b, "label": 0} for n, (a, b) in enumerate(PARAPHRASES)]
    for task in suite("ling-informed", include=["pawsx_*"]):
        config = theirs("paws-x", f"paws_{task.lang}.yaml")
        same = {key: value for key, value in task.config.items() if key != "doc_to_choice"}
        same_templates(EvalTask(task.name, task.lang, same, ()), config | {"doc_to_choice": None})
        kept = rows[:4]
        if "process_docs" in config:
            keep = SandboxedEnvironment().from_string(task.config["dataset_kwargs"]["keep"])
            assert [row["id"] for row in rows if keep.render(**row).strip()] == [0, 1, 2, 3]
            processed = utils.process_docs_paraphrases(datasets.Dataset.from_list(rows)).to_list()
            assert [row["id"] for row in processed] == [0, 1, 2, 3]
        else:
            processed = kept
        for row, theirs_row in zip(kept, processed, strict=True):
            expected = ast.literal_eval(apply_template(config["doc_to_choice"], theirs_row))
            assert said(task, row) == ("", expected)


def test_made_rows_have_the_fields_of_the_real_ones(shared_data: Path) -> None:
    for name, dataset in (("xcopa/sw.test", "xcopa"), ("mgsm/ja.train", "mgsm"), ("xwinograd/jp.test", "xwinograd")):
        real = rows_of(shared_data, name, 1)[0]
        assert row_of(dataset, name.rpartition(".")[2], 0).keys() <= real.keys()
    assert row_of("xquad", "validation", 0).keys() == rows_of(shared_data, "xquad/de.validation", 1)[0].keys()


# In an experiment.


def results(tmp_path: Path, *overrides: str) -> str:
    """The fingerprint of the results of the demo's base model."""
    experiment = load_experiment(REPOSITORY / "experiments" / "demo.yaml", [f"storage={tmp_path / 'out'}", *overrides])
    steps = {step.name: step for step in expand(experiment, Store(experiment.storage))}
    return steps["results_base"].fingerprint


def test_an_experiment_names_a_suite_and_its_data_counts_wherever_it_is(tmp_path: Path) -> None:
    assert results(tmp_path, "evaluation.tasks=demo") == results(tmp_path)
    data = write_suite_data(tmp_path / "here", "ling-informed", 2, {"zh"})
    chosen = ("evaluation.tasks=ling-informed", "evaluation.include=[xcopa_zh]", "evaluation.dev_share=0.5")
    first = results(tmp_path, *chosen, f"evaluation.data={data}")
    there = tmp_path / "deeper" / "there"
    shutil.copytree(data, there)
    assert results(tmp_path, *chosen, f"evaluation.data={there}") == first
    assert results(tmp_path, *chosen, f"evaluation.data={there}", "evaluation.dev_share=0.4") != first
    file = there / "xcopa" / "zh.test.jsonl"
    file.write_text(file.read_text().replace("wet", "dry"))
    assert results(tmp_path, *chosen, f"evaluation.data={there}") != first
    assert results(tmp_path, *chosen) != first
    with pytest.raises(UserError, match=r"/langgsp'.*no such suite"):
        results(tmp_path, "evaluation.tasks=langgsp")
