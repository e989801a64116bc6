"""Every task of every suite through lm-eval, with a tiny model."""

from pathlib import Path
from typing import Any

import pytest

from raysel.evaluation.development import development_items
from raysel.evaluation.harness import evaluate_task, harness_model
from raysel.evaluation.settings import EvaluationSettings
from raysel.evaluation.suites.expand import suites
from raysel.evaluation.tasks import EvalTask, development_tasks, load_tasks
from raysel.models.loading import load_causal_lm, load_tokenizer
from tests.evaluation.suite_data import write_suite_data

NO_SPBLEU: dict[str, Any] = {"exclude_metrics": ["spbleu"]}
# What a tiny model writes is in no language, and says nothing as a judge.
OF_ANSWERS = {"right_language", "rating"}
SHIPPED = [name for name in suites() if name != "demo"]


@pytest.fixture(scope="module")
def lm(tiny_llama: Path) -> Any:
    return harness_model(load_causal_lm(tiny_llama), load_tokenizer(tiny_llama, "plain"), batch_size=4)


def run(lm: Any, task: EvalTask, limit: int) -> Any:
    """Scores and items, with short answers: what a tiny model says is of no interest."""
    if task.config["output_type"] == "generate_until":
        task.config["generation_kwargs"]["max_gen_toks"] = 4
    scores, items = evaluate_task(lm, task, limit=limit, seed=0, judged_by=lm)
    scores = [score for score in scores if score.metric not in OF_ANSWERS]
    assert scores
    assert all(score.n == limit for score in scores)
    # One item has no interval, but where it is right or wrong.
    assert not any(score.ci_low > score.value or score.value > score.ci_high for score in scores)
    assert all(item.value == item.value or item.metric in OF_ANSWERS for item in items)
    assert all(item.target for item in items)
    assert all(item.prompt or task.config["doc_to_text"] == "" for item in items)
    assert not any("{{" in item.prompt or "{%" in item.prompt for item in items)
    assert "$" not in task.config["doc_to_text"]
    return scores, items


# One language of each suite here, all of them below.
@pytest.mark.parametrize(
    ("suite", "lang", "metrics"),
    [
        ("ling-informed", "zh", {"acc"}),
        pytest.param(
            "langgps", "en", {"exact_match,first-option", "qa_em", "qa_f1", "rouge_l"}, marks=pytest.mark.slow
        ),
        pytest.param(
            "transfer-dynamics",
            "ja",
            {"answered", "exact_match,strict-match", "exact_match,flexible-extract", "rouge_l"},
            marks=pytest.mark.slow,
        ),
        ("flores", "sw", {"chrf_pp"}),
        ("semantic-parsing", "de", {"exact_match,parse"}),
    ],
)
def test_a_language_of_each_suite_is_scored(tmp_path: Path, lm: Any, suite: str, lang: str, metrics: set[str]) -> None:
    data = write_suite_data(tmp_path, suite, 2, {lang})
    tasks = load_tasks(EvaluationSettings(tasks=suite, data=str(data), include=[f"*_{lang}"], **NO_SPBLEU))
    assert {score.metric for task in tasks for score in run(lm, task, 2)[0]} == metrics


def test_development_items_without_a_question_with_two_beginnings_with_several_answers(tmp_path: Path) -> None:
    data = write_suite_data(write_suite_data(tmp_path, "ling-informed", 2, {"zh"}), "langgps", 2, {"en"})
    said = {}
    for suite, include in (("ling-informed", ["xnli_zh", "xwinograd_zh"]), ("langgps", ["mkqa_en"])):
        settings = EvaluationSettings(tasks=suite, data=str(data), include=include, dev_share=0.5)
        said |= {task.name: list(development_items(task)) for task in development_tasks(settings)}
    assert said["xnli_zh"][1] == ("It rains 1., 正确? ", "所以, It is wet.")
    assert said["xwinograd_zh"] == [("Dogs bit 1 cats because dogs", "were angry.")]
    assert said["mkqa_en"][:1] == [("Question: who is number 1\nAnswer in a few words.\nAnswer:", "Ann Lee")]


@pytest.mark.slow
@pytest.mark.parametrize("suite", SHIPPED)
def test_every_task_is_scored_and_its_development_items_said(tmp_path: Path, lm: Any, suite: str) -> None:
    settings = EvaluationSettings(
        tasks=suite, data=str(write_suite_data(tmp_path, suite, 2)), dev_share=0.5, **NO_SPBLEU
    )
    tasks = load_tasks(settings)
    for task in tasks:
        run(lm, task, 1)
    for task in development_tasks(settings):
        assert list(development_items(task))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("suite", "include", "n"),
    [
        ("ling-informed", ["xcopa_*", "xwinograd_*"], 17),
        ("langgps", ["xquad_*"], 10),
        ("transfer-dynamics", ["mgsm_??"], 5),
    ],
)
def test_real_items(lm: Any, shared_data: Path, suite: str, include: list[str], n: int) -> None:
    exclude = ["mgsm_ar", "mgsm_ko", "mgsm_pt"]
    tasks = load_tasks(
        EvaluationSettings(tasks=suite, data=str(shared_data / "eval"), include=include, exclude=exclude)
    )
    assert len(tasks) == n
    for task in tasks:
        _, items = run(lm, task, 3)
        if task.name == "mgsm_en":
            assert items[0].prompt.count("Step-by-Step Answer:") == 9
            assert items[0].prompt.count("The answer is") == 8
