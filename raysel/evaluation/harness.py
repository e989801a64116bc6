"""lm-eval on a model that is already in memory: one task in, its metrics and its items out."""

import copy
import math
import random
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Any

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

from raysel.evaluation.intervals import bootstrap_interval, mean_interval
from raysel.evaluation.metrics import register_metrics
from raysel.evaluation.tasks import EvalTask, TaskError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# A statistic that is no mean (BLEU, chrF, F1) is computed anew on every resample.
STATISTIC_RESAMPLES = 300


@dataclass(frozen=True)
class MetricScore:
    """A metric over the items of a task. metric is lm-eval's name, with `,<filter>` unless the filter is `none`."""

    metric: str
    value: float
    ci_low: float
    ci_high: float
    n: int


@dataclass(frozen=True)
class ItemScore:
    """One metric of one item. value is NaN where the metric has none for a single item (F1, BLEU, perplexity).

    prompt is what stood before the answer; answer is the model's: the likeliest choice, the generated text after
    the filter, or the log-likelihood of a text that was only scored. target is the right answer.
    """

    item: int
    metric: str
    value: float
    prompt: str
    answer: str
    target: str


def harness_model(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", *, batch_size: int) -> HFLM:
    """`model` as lm-eval wants it, and lm-eval in the state that the tasks are run in: templates sandboxed, no bars."""
    disable_progress_bar()
    sandbox_templates()
    return HFLM(pretrained=model, tokenizer=tokenizer, backend="causal", batch_size=batch_size)


def sandbox_templates() -> None:
    """From now on the templates of task files can reach nothing of Python's."""
    sandboxed = SandboxedEnvironment(
        loader=lm_eval.utils.env.loader, undefined=lm_eval.utils.env.undefined, keep_trailing_newline=True
    )
    sandboxed.filters.update(lm_eval.utils.env.filters)
    lm_eval.utils.env = sandboxed


def evaluate_task(
    lm: HFLM, task: EvalTask, *, limit: int | None, seed: int
) -> tuple[list[MetricScore], list[ItemScore]]:
    """Score the first `limit` items of `task` (all where None). Metric values are lm-eval's own.

    Raises `TaskError` for a metric that lm-eval does not have or an item whose target is none of its choices: lm-eval
    would look for the first on the hub and count the second as a wrong answer.
    """
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
        output = evaluate(lm, loaded, limit=limit, log_samples=True, bootstrap_iters=0)
    samples = output["samples"][task.name]
    items = [item for sample in samples for item in _item_scores(lm_task, sample)]
    aggregations = lm_task.aggregation()
    scores = []
    for metric, filtered in dict.fromkeys((metric, s["filter"]) for s in samples for metric in s["metrics"]):
        values = [s[metric] for s in samples if s["filter"] == filtered and metric in s["metrics"]]
        aggregation = aggregations.get(metric, mean)
        if aggregation is mean:
            low, high = mean_interval([float(value) for value in values], seed=seed)
        else:
            low, high = bootstrap_interval(values, aggregation, seed=seed, resamples=STATISTIC_RESAMPLES)
        value = float(output["results"][task.name][f"{metric},{filtered}"])
        scores.append(MetricScore(_shown(metric, filtered), value, low, high, len(values)))
    return scores, items


def _shown(metric: str, filtered: str) -> str:
    return metric if filtered == "none" else f"{metric},{filtered}"


def _item_scores(task: Any, sample: dict[str, Any]) -> list[ItemScore]:
    prompt, answer, target = _texts(task, sample)
    return [
        ItemScore(
            item=int(sample["doc_id"]),
            metric=_shown(metric, sample["filter"]),
            value=float(sample[metric]) if isinstance(sample[metric], Real) else math.nan,
            prompt=prompt,
            answer=answer,
            target=target,
        )
        for metric in sample["metrics"]
    ]


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
