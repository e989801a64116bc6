"""What the corpus holds out as evaluation tasks: how many bits a model needs for each byte of the right responses.

Bits per byte can be had in every language that has samples, of any model: unlike a loss per token it does not depend on
the tokenizer.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from raysel.evaluation.tasks import EvalTask
from raysel.models.templates import prompt_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

METRIC = "bits_per_byte"
SPLIT = "heldout"


def heldout_task(lang: str, corpus: str, samples: int) -> EvalTask:
    """The task of one language, still without its documents. corpus: the fingerprint of the corpus; samples: at most
    so many."""
    name = f"heldout_{lang}"
    config = {
        "task": name,
        "output_type": "loglikelihood",
        "test_split": SPLIT,
        "doc_to_text": "{{context}}",
        "doc_to_target": "{{response}}",
        "metric_list": [{"metric": METRIC, "aggregation": "mean", "higher_is_better": False}],
        "metadata": {"lang": lang, "version": 1.0, "corpus": corpus, "samples": samples},
    }
    return EvalTask(name, lang, config, (), item="{{item}}", split="dev", is_heldout=True)


def with_documents(task: EvalTask, rows: Sequence[dict[str, Any]], tokenizer: Any, max_tokens: int) -> EvalTask:
    """The task with what lm-eval reads. rows: of the table `heldout`; max_tokens: what the model takes in."""
    found = documents(rows, tokenizer, max_tokens)
    return replace(
        task, config={**task.config, "custom_dataset": partial(_data_set, found), "process_results": bits_per_byte}
    )


def documents(
    rows: Sequence[dict[str, Any]], tokenizer: "PreTrainedTokenizerBase", max_tokens: int
) -> list[dict[str, Any]]:
    """One for each row: `context`, the conversation in the tokenizer's chat template up to where the response begins;
    `response`, cut at the end where it has more than `max_tokens` tokens; `item`, the same in all languages; and
    `mean_bytes`, that of all responses here."""
    responses = [_cut(row["response"], tokenizer, max_tokens) for row in rows]
    mean_bytes = sum(len(response.encode()) for response in responses) / max(1, len(rows))
    return [
        {
            "context": prompt_text(tokenizer, row["prompt"], row.get("history")),
            "response": response,
            "item": "\n".join((row["source"], row["task"] or "", row["group"])) if row["group"] else row["id"],
            "mean_bytes": mean_bytes,
        }
        for row, response in zip(rows, responses, strict=True)
    ]


def bits_per_byte(document: dict[str, Any], results: Sequence[tuple[float, bool]]) -> dict[str, float]:
    """The bits of one response over the bytes of a mean one: the mean over the documents is their bits over their
    bytes."""
    (log_likelihood, _), *_ = results
    return {METRIC: -log_likelihood / math.log(2) / document["mean_bytes"]}


def _cut(response: str, tokenizer: "PreTrainedTokenizerBase", max_tokens: int) -> str:
    while (tokens := len(tokenizer(response, add_special_tokens=False)["input_ids"])) > max_tokens:
        response = response[: min(len(response) - 1, len(response) * max_tokens // tokens)]
    return response


def _data_set(found: list[dict[str, Any]], **_: Any) -> Any:
    import datasets

    return datasets.DatasetDict({SPLIT: datasets.Dataset.from_list(found)})
