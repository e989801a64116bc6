"""What lm-eval gives for one task, without Ray."""

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from raysel.errors import UserError
from raysel.evaluation import harness
from raysel.evaluation.harness import Answered, evaluate_task, harness_model
from raysel.evaluation.intervals import wilson_interval
from raysel.evaluation.scores import ItemScore
from raysel.evaluation.settings import EvaluationSettings
from raysel.evaluation.tasks import EvalTask, load_tasks
from raysel.models.loading import load_causal_lm, load_tokenizer
from tests.evaluation.task_folder import METRICS, choice_config, write_choice_tasks, write_task

BATCH = 4


@pytest.fixture(scope="module")
def lm(tiny_llama: Path) -> Any:
    return harness_model(load_causal_lm(tiny_llama), load_tokenizer(tiny_llama, "plain"), batch_size=BATCH)


def one(folder: Path, **settings: Any) -> EvalTask:
    return load_tasks(EvaluationSettings(tasks=str(folder), **settings))[0]


def plain(tiny_llama: Path, tasks: list[EvalTask], limit: int | None, **changes: Any) -> dict[str, Any]:
    """The results of lm-eval itself, which loads the model from its path and scores all tasks in one go."""
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    return simple_evaluate(
        model="hf",
        model_args={"pretrained": str(tiny_llama), "dtype": "float32"} | changes,
        tasks=[copy.deepcopy(task.config) for task in tasks],
        task_manager=TaskManager(include_defaults=False),
        device="cpu",
        batch_size=BATCH,
        limit=limit,
        bootstrap_iters=0,
    )["results"]


def test_a_choice_task_is_lm_evals_cell_by_cell(tmp_path: Path, tiny_llama: Path, lm: Any) -> None:
    tasks = load_tasks(EvaluationSettings(tasks=str(write_choice_tasks(tmp_path))))
    expected = plain(tiny_llama, tasks, None)
    for task in tasks:
        scores, items = evaluate_task(lm, task, limit=None, seed=0)
        assert [score.metric for score in scores] == list(METRICS)
        for score in scores:
            values = [item.value for item in items if item.metric == score.metric]
            assert score.value == expected[task.name][f"{score.metric},none"] == sum(values) / 9
            assert (score.ci_low, score.ci_high) == wilson_interval(int(sum(values)), 9)
            assert score.n == 9
        assert len(items) == 18


def test_items_say_what_was_asked_answered_and_right(tmp_path: Path, lm: Any) -> None:
    folder = write_choice_tasks(tmp_path, ("sw",))
    items = [item for item in evaluate_task(lm, one(folder), limit=4, seed=0)[1] if item.metric == "acc"]
    assert [item.item for item in items] == [0, 1, 2, 3]
    assert items[1].prompt == "Swali: 1. Samaki huishi wapi?\nJibu:"
    assert [item.target for item in items] == ["majini", "mtini", "mwezini", "majini"]
    assert all((item.answer == item.target) == (item.value == 1) for item in items)


def test_dev_scores_the_development_items_and_shots_come_from_it(tmp_path: Path, lm: Any) -> None:
    folder = write_choice_tasks(tmp_path, ("en",))
    scores, _ = evaluate_task(lm, one(folder, split="dev"), limit=None, seed=0)
    assert scores[0].n == 5
    shot = evaluate_task(lm, one(folder, shots=2), limit=3, seed=0)[1]
    assert shot[0].prompt.count("Answer:") == 3
    assert evaluate_task(lm, one(folder, shots=2), limit=3, seed=0)[1] == shot


def test_real_tasks_are_lm_evals(shared_data: Path, tiny_llama: Path, lm: Any) -> None:
    """Likelihoods, several inputs (Winograd) and text that is generated and filtered (MGSM)."""
    names = ["local_xcopa_sw", "local_xwinograd_jp", "local_mgsm_direct_th"]
    folder = str(shared_data / "eval" / "lm_eval_tasks")
    tasks = load_tasks(EvaluationSettings(tasks=folder, include=names))
    for task in tasks:
        if task.config["output_type"] == "generate_until":
            task.config["generation_kwargs"]["max_gen_toks"] = 8
    expected = plain(tiny_llama, tasks, 6)
    for task in tasks:
        scores, items = evaluate_task(lm, task, limit=6, seed=0)
        for score in scores:
            assert score.value == expected[task.name][score.metric if "," in score.metric else f"{score.metric},none"]
        assert len(items) == 6
        assert all(item.prompt and item.target for item in items)


def test_a_chat_template_is_applied_as_lm_eval_does(tmp_path: Path, tiny_llama: Path) -> None:
    """With shots as turns of a conversation, as lm-eval has it where a template is applied."""
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    task = one(write_choice_tasks(tmp_path, ("en",)), shots=1)
    chatting = harness_model(load_causal_lm(tiny_llama), load_tokenizer(tiny_llama, "chatml"), batch_size=BATCH)
    scores, items = evaluate_task(chatting, task, limit=None, seed=0, chat_template=True)
    assert items[0].prompt.count("<|im_start|>") == 4
    again = harness_model(load_causal_lm(tiny_llama), load_tokenizer(tiny_llama, "chatml"), batch_size=BATCH)
    expected = simple_evaluate(
        model=again,
        tasks=[copy.deepcopy(task.config)],
        task_manager=TaskManager(include_defaults=False),
        apply_chat_template=True,
        fewshot_random_seed=0,
        log_samples=True,
    )
    samples = expected["samples"][task.name]
    assert [item.prompt for item in items if item.metric == "acc"] == [
        sample["arguments"][int(np.argmax([response[0] for response in sample["filtered_resps"]]))][0]
        for sample in samples
    ]
    assert scores[0].value == expected["results"][task.name]["acc,none"]


def test_generated_answers_are_checked_for_their_language() -> None:
    said = [("Le chat dort sur le vieux fauteuil rouge.", 1.0), ("The cat sleeps on the old red chair.", 0.0)]
    said.append(("42", math.nan))
    items = [ItemScore(i, None, "", math.nan, "Que fait le chat ?", answer, "") for i, (answer, _) in enumerate(said)]
    answers = {item.item: Answered(item, item.prompt, item.answer) for item in items}
    (told,) = harness._of_answers(answers, EvalTask("choice_fr", "fr", {}, ()), None)
    assert [item.metric for item in told] == ["right_language"] * 3
    assert [item.value for item in told] == pytest.approx([right for _, right in said], nan_ok=True)
    translated = EvalTask("to_en_fr", "fr", {"metadata": {"answer_lang": "en"}}, ())
    (told,) = harness._of_answers(answers, translated, None)
    assert [item.value for item in told] == pytest.approx([0.0, 1.0, math.nan], nan_ok=True)
    assert not list(harness._of_answers(answers, EvalTask("x", "fr", {"metadata": {"answer_lang": "none"}}, ()), None))


def test_a_share_of_the_only_split_is_scored_apart(tmp_path: Path, lm: Any) -> None:
    """Items keep their numbers in the file, and score what they do when the whole file is scored."""
    folder = write_choice_tasks(tmp_path, ("en",))
    config = choice_config("en", metadata={"item": "position"})
    del config["validation_split"]
    write_task(folder, config)
    whole = evaluate_task(lm, one(folder), limit=None, seed=0)[1]
    dev, test = (
        evaluate_task(lm, one(folder, dev_share=0.3, split=split), limit=None, seed=0) for split in ("dev", "test")
    )
    assert (dev[0][0].n, test[0][0].n) == (3, 6)
    assert sorted([*dev[1], *test[1]], key=lambda item: (item.item, item.metric)) == sorted(
        whole, key=lambda item: (item.item, item.metric)
    )
    assert {item.group for item in dev[1]} == {str(item.item) for item in dev[1]}


@pytest.mark.parametrize(("item", "groups"), [("{{id}}", ["en0", "en1"]), ("position", ["0", "1"]), (None, [None] * 2)])
def test_parallel_items_are_named(tmp_path: Path, lm: Any, item: str | None, groups: list[str | None]) -> None:
    folder = write_choice_tasks(tmp_path, ("en",))
    write_task(folder, choice_config("en", metadata={"item": item}))
    items = evaluate_task(lm, one(folder), limit=2, seed=0)[1]
    assert [item.group for item in items if item.metric == "acc"] == groups


def test_an_adapter_is_lm_evals_peft(tmp_path: Path, tiny_llama: Path) -> None:
    from peft import LoraConfig, get_peft_model

    folder = write_choice_tasks(tmp_path / "tasks", ("en",))
    torch.manual_seed(1)
    tuned = get_peft_model(load_causal_lm(tiny_llama), LoraConfig(r=4, init_lora_weights=False, lora_alpha=64))
    tuned.save_pretrained(tmp_path / "adapter")
    task = one(folder)
    # A perplexity moves with any change of the weights, as an accuracy may not.
    task.config.update(
        output_type="loglikelihood", doc_to_target="{{choices[0]}}", metric_list=[{"metric": "perplexity"}]
    )
    model = load_causal_lm(tiny_llama, adapter=tmp_path / "adapter")
    adapted = harness_model(model, load_tokenizer(tiny_llama, "plain"), batch_size=BATCH)
    score = evaluate_task(adapted, task, limit=None, seed=0)[0][0]
    expected = plain(tiny_llama, [task], None, peft=str(tmp_path / "adapter"))[task.name]["perplexity,none"]
    assert score.value == pytest.approx(expected, rel=1e-6)
    base = harness_model(load_causal_lm(tiny_llama), load_tokenizer(tiny_llama, "plain"), batch_size=BATCH)
    assert abs(score.value / evaluate_task(base, task, limit=None, seed=0)[0][0].value - 1) > 0.01


def test_a_statistic_that_is_no_mean_gets_lm_evals_value_and_a_bootstrap(tmp_path: Path, lm: Any) -> None:
    folder = write_choice_tasks(tmp_path, ("en",))
    write_task(folder, choice_config("en", metric_list=[{"metric": "mcc", "aggregation": "matthews_corrcoef"}]))
    scores, items = evaluate_task(lm, one(folder), limit=None, seed=0)
    assert scores[0].metric == "mcc"
    assert -1 <= scores[0].ci_low <= scores[0].value <= scores[0].ci_high <= 1
    assert all(math.isnan(item.value) for item in items)


def test_templates_cannot_reach_out_of_their_data(tmp_path: Path, lm: Any) -> None:
    folder = write_choice_tasks(tmp_path, ("en",))
    write_task(folder, choice_config("en", doc_to_text="{{ question.__class__.__mro__ }}"))
    with pytest.raises(Exception, match="unsafe"):
        evaluate_task(lm, one(folder), limit=1, seed=0)


def test_what_lm_eval_would_let_pass_is_refused(tmp_path: Path, lm: Any) -> None:
    folder = write_choice_tasks(tmp_path, ("en",))
    write_task(folder, choice_config("en", metric_list=[{"metric": "someones/metric"}]))
    with pytest.raises(UserError, match="no metric 'someones/metric'"):
        evaluate_task(lm, one(folder), limit=1, seed=0)
    write_task(folder, choice_config("en"))
    file = folder / "items" / "en.test.jsonl"
    file.write_text(file.read_text().replace('"answer": 1', '"answer": 3'))
    with pytest.raises(UserError, match="item 1: its target 3 is none of its 3 choices"):
        evaluate_task(lm, one(folder), limit=None, seed=0)
