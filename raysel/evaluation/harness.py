"""lm-eval on a model that is already in memory: one task in, its metrics and its items out."""

import copy
import math
import random
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from typing import TYPE_CHECKING, Any, Literal

import jinja2
import lm_eval.utils
import numpy as np
import torch
from datasets.utils.logging import disable_progress_bar
from jinja2.sandbox import SandboxedEnvironment
from lm_eval.api.metrics import mean
from lm_eval.api.registry import metric_registry
from lm_eval.evaluator import evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from raysel.evaluation.intervals import bootstrap_interval, is_share, mean_interval
from raysel.evaluation.judge import WORST, judge, judge_prompt, rating_of
from raysel.evaluation.language_confusion import right_language
from raysel.evaluation.metrics import register_metrics
from raysel.evaluation.scores import ItemScore, MetricScore
from raysel.evaluation.tasks import EvalTask, TaskError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# A statistic that is no mean (BLEU, chrF, F1) is computed anew on every resample.
STATISTIC_RESAMPLES = 300
# lm-eval's name for the metric of a task that is scored elsewhere.
NO_METRIC = "bypass"
NOT_ASKED = "not asked: the answer is in another language"


def harness_model(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", *, batch_size: int) -> HFLM:
    """`model` as lm-eval wants it, and lm-eval in the state that the tasks are run in: templates sandboxed, no bars."""
    disable_progress_bar()
    sandbox_templates()
    backend: Literal["seq2seq", "causal"] = "seq2seq" if model.config.is_encoder_decoder else "causal"
    return HFLM(pretrained=model, tokenizer=tokenizer, backend=backend, batch_size=batch_size)


@dataclass(frozen=True)
class Answered:
    """What a model generated on an item, before any filter, and the item's own words, without shots or template."""

    item: ItemScore
    instruction: str
    text: str


class _Templates(SandboxedEnvironment):
    """Templates that reach nothing of Python's, each compiled once.

    lm-eval compiles a task's templates anew for every item and choice: of a task of 500 items with two choices and a
    small model, 60% of the time.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.compiled: dict[str, jinja2.Template] = {}

    def from_string(self, source: Any, *more: Any, **options: Any) -> jinja2.Template:
        if more or options or not isinstance(source, str):
            return super().from_string(source, *more, **options)
        if source not in self.compiled:
            self.compiled[source] = super().from_string(source)
        return self.compiled[source]


def sandbox_templates() -> None:
    """From now on the templates of task files can reach nothing of Python's."""
    sandboxed = _Templates(
        loader=lm_eval.utils.env.loader, undefined=lm_eval.utils.env.undefined, keep_trailing_newline=True
    )
    sandboxed.filters.update(lm_eval.utils.env.filters)
    lm_eval.utils.env = sandboxed


def evaluate_task(
    lm: HFLM,
    task: EvalTask,
    *,
    limit: int | None,
    seed: int,
    chat_template: bool = False,
    judged_by: HFLM | None = None,
) -> tuple[list[MetricScore], list[ItemScore]]:
    """Score the first `limit` items of `task` (all where None). Metric values are lm-eval's own.

    Answers that are generated have the metric `right_language` beside the task's own, over those that are long enough
    to tell. A task with `metadata.judge` has the metric `rating`, from 1 to 5, by the model `judged_by`.

    Raises `TaskError` for a metric that lm-eval does not have or an item whose target is none of its choices: lm-eval
    would look for the first on the hub and count the second as a wrong answer.
    """
    lm_task, rows, results, samples = _run(lm, task, limit=limit, seed=seed, chat_template=chat_template)
    asked = [(_asked(lm_task, task, sample, rows), sample) for sample in samples]
    items = [
        replace(item, metric=_shown(metric, sample["filter"]), value=_number(sample[metric]))
        for item, sample in asked
        for metric in _metrics(sample)
    ]
    aggregations = lm_task.aggregation()
    scores = []
    for metric, filtered in dict.fromkeys(
        (metric, sample["filter"]) for sample in samples for metric in _metrics(sample)
    ):
        values = [sample[metric] for sample in samples if sample["filter"] == filtered and metric in sample["metrics"]]
        aggregation = aggregations.get(metric, mean)
        if aggregation is mean:
            low, high = mean_interval([float(value) for value in values], seed=seed, share=is_share(metric))
        else:
            low, high = bootstrap_interval(values, aggregation, seed=seed, resamples=STATISTIC_RESAMPLES)
        value = float(results[f"{metric},{filtered}"])
        scores.append(MetricScore(_shown(metric, filtered), value, low, high, len(values)))
    if lm_task.OUTPUT_TYPE == "generate_until":
        answers = {
            item.item: Answered(item, str(lm_task.doc_to_text(sample["doc"])), str(item.generated))
            for item, sample in asked
        }
        for of_answers in _of_answers(answers, task, judged_by):
            items += of_answers
            told = [item.value for item in of_answers if math.isfinite(item.value)]
            if told:
                low, high = mean_interval(told, seed=seed, share=is_share(of_answers[0].metric))
                scores.append(MetricScore(of_answers[0].metric, float(np.mean(told)), low, high, len(told)))
    return scores, items


def _run(
    lm: HFLM, task: EvalTask, *, limit: int | None, seed: int, chat_template: bool
) -> tuple[Any, list[int] | None, dict[str, Any], list[dict[str, Any]]]:
    """lm-eval's task, the rows of its split that were scored (None: all), lm-eval's results, and its logged samples."""
    register_metrics()
    config = copy.deepcopy(task.config)
    unknown = [entry["metric"] for entry in config.get("metric_list") or [] if entry["metric"] not in metric_registry]
    if unknown:
        raise TaskError(f"lm-eval has no metric {', '.join(map(repr, unknown))}")
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    with tempfile.TemporaryDirectory(prefix="raysel-eval-") as cache:
        if "data_files" in (config.get("dataset_kwargs") or {}):
            config["dataset_kwargs"]["cache_dir"] = cache
        loaded = TaskManager(include_defaults=False).load([config])
        lm_task = loaded["tasks"][task.name]
        lm_task.set_fewshot_seed(seed)
        rows = _keep_part(lm_task, task)
        output = evaluate(
            lm,
            loaded,
            limit=limit,
            log_samples=True,
            bootstrap_iters=0,
            apply_chat_template=chat_template,
            # As `lm_eval.simple_evaluate` has it: without a chat template it does nothing.
            fewshot_as_multiturn=True,
        )
    return lm_task, rows, output["results"][task.name], output["samples"][task.name]


def _metrics(sample: dict[str, Any]) -> list[str]:
    return [metric for metric in sample["metrics"] if metric != NO_METRIC]


def _keep_part(lm_task: Any, task: EvalTask) -> list[int] | None:
    """Leave in the evaluated split only the rows of the task's part; their numbers, None for the whole split."""
    if task.part == "whole":
        return None
    rows = task.rows(len(lm_task.dataset[task.scored_split]))
    lm_task.dataset[task.scored_split] = lm_task.dataset[task.scored_split].select(rows)
    return rows


def _of_answers(answers: dict[int, Answered], task: EvalTask, judged_by: HFLM | None) -> Iterator[list[ItemScore]]:
    """The items of the metrics that look at a whole generated answer, before any filter: one list for each metric.

    An answer in another language than the instruction's is rated 1, whatever the judge would say (transfer-dynamics,
    section 3); a judgement without a rating leaves the item without one.
    """
    metadata = task.config.get("metadata") or {}
    lang = metadata.get("answer_lang", task.lang)
    right = {number: right_language(answered.text, lang) for number, answered in answers.items()}
    if any(told is not None for told in right.values()):
        yield [
            replace(
                answered.item,
                metric="right_language",
                value=math.nan if (told := right[number]) is None else float(told),
            )
            for number, answered in answers.items()
        ]
    if not metadata.get("judge"):
        return
    if judged_by is None:
        raise TaskError("its answers are rated by a judge model: set evaluation.judge, or leave the task out")
    rated = [number for number in answers if right[number] is not False]
    prompts = [judge_prompt(answers[number].instruction, answers[number].text, task.lang) for number in rated]
    judgements = dict(zip(rated, judge(judged_by, prompts), strict=True))
    yield [
        replace(answered.item, metric="rating", value=float(WORST), judgement=NOT_ASKED)
        if number not in judgements
        else replace(
            answered.item,
            metric="rating",
            value=_number(rating_of(judgements[number])),
            judgement=judgements[number],
        )
        for number, answered in answers.items()
    ]


def _number(value: Any) -> float:
    return float(value) if isinstance(value, Real) else math.nan


def _shown(metric: str, filtered: str) -> str:
    return metric if filtered == "none" else f"{metric},{filtered}"


def _asked(lm_task: Any, task: EvalTask, sample: dict[str, Any], rows: list[int] | None) -> ItemScore:
    """The item of a logged sample, before any metric."""
    number = int(sample["doc_id"]) if rows is None else rows[int(sample["doc_id"])]
    prompt, answer, target = _texts(lm_task, sample)
    group = None
    if task.item is not None:
        group = str(number) if task.item == "position" else lm_eval.utils.apply_template(task.item, sample["doc"])
    generated = str(sample["resps"][0][0]) if lm_task.OUTPUT_TYPE == "generate_until" else None
    return ItemScore(number, group, "", math.nan, prompt, answer, target, generated)


def _texts(task: Any, sample: dict[str, Any]) -> tuple[str, str, str]:
    """What the model was asked, what it answered and what was right, of one logged sample."""
    arguments, responses = sample["arguments"], sample["filtered_resps"]
    if task.OUTPUT_TYPE == "multiple_choice":
        return _choice_texts(task, sample)
    if task.OUTPUT_TYPE == "generate_until":
        return str(arguments[0][0]), str(responses[0]), str(sample["target"])
    score = responses[0][0] if isinstance(responses[0], Sequence) else responses[0]
    prompt = str(arguments[0][0]) if len(arguments[0]) > 1 else ""
    return prompt, f"log-likelihood {score:.4f}", str(sample["target"])


def _choice_texts(task: Any, sample: dict[str, Any]) -> tuple[str, str, str]:
    choices = [str(choice) for choice in task.doc_to_choice(sample["doc"])]
    # With mutual information, the choices' unconditional requests follow the conditional ones.
    arguments = sample["arguments"][: len(choices)]
    best = int(np.argmax([response[0] for response in sample["filtered_resps"][: len(choices)]]))
    gold = task.doc_to_text(sample["doc"]) if task.multiple_input else sample["target"]
    right = []
    for label in gold if isinstance(gold, list) else [gold]:
        index = choices.index(label) if label in choices else label
        if not isinstance(index, int) or not 0 <= index < len(choices):
            raise TaskError(f"item {sample['doc_id']}: its target {label!r} is none of its {len(choices)} choices")
        right.append(choices[index])
    # With several inputs (Winograd), a choice is a beginning and all share one continuation, the target.
    prompt = str(sample["target"]) if task.multiple_input else str(arguments[best][0])
    return prompt, choices[best], " | ".join(right)
