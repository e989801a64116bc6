"""The development items of a task as prompt and right answer, in lm-eval's own words."""

import copy
import os
import tempfile
from collections.abc import Iterator
from typing import Any

from datasets.utils.logging import disable_progress_bar
from lm_eval.tasks import TaskManager

from raysel.evaluation.harness import sandbox_templates
from raysel.evaluation.tasks import EvalTask, TaskError


def development_items(task: EvalTask) -> Iterator[tuple[str, str]]:
    """(prompt, answer) of every item that `task` (as `development_tasks` gives it) scores; of several right answers,
    the one that examples show."""
    disable_progress_bar()
    sandbox_templates()
    config = copy.deepcopy(task.config)
    with tempfile.TemporaryDirectory(prefix="raysel-target-") as cache:
        if "data_files" in (config.get("dataset_kwargs") or {}):
            config["dataset_kwargs"]["cache_dir"] = cache
        loaded = TaskManager(include_defaults=False).load([config])["tasks"][task.name]
        items = loaded.eval_docs
        for number in task.rows(len(items)):
            yield _said(loaded, items[number], f"item {number} of task {task.name}")


def _said(loaded: Any, item: dict[str, Any], where: str) -> tuple[str, str]:
    prompt, answer = loaded.doc_to_text(item), loaded.doc_to_target(item, loaded.fewshot_cfg.doc_to_target)
    if loaded.OUTPUT_TYPE == "multiple_choice":
        choices = [str(choice) for choice in loaded.doc_to_choice(item)]
        if loaded.multiple_input:
            # The choices are beginnings, of which doc_to_text names the right one, and the target ends all of them.
            return choices[_index(prompt, choices, where)], str(answer)
        answer = choices[_index(answer, choices, where)]
        if not str(prompt).strip():
            # The choices are whole texts (XNLI): what they have in common is what is asked.
            prompt = os.path.commonprefix(choices)  # noqa: RUF071 (of characters)
            answer = answer.removeprefix(prompt)
    elif isinstance(answer, list):
        answer = answer[0] if answer else ""
    if not str(prompt).strip() or not str(answer).strip():
        raise TaskError(f"{where} has no prompt or no answer to learn from")
    return str(prompt), str(answer)


def _index(label: Any, choices: list[str], where: str) -> int:
    """Which choice is right, by a label that is its number or its text; of several labels the first."""
    first = label[0] if isinstance(label, list) else label
    index = choices.index(first) if first in choices else first
    if not isinstance(index, int) or not 0 <= index < len(choices):
        raise TaskError(f"{where}: its target {first!r} is none of its {len(choices)} choices")
    return index
