"""Made items of every data set of the suites, in the layout that docs/evaluation.md gives."""

import json
from pathlib import Path
from typing import Any

from raysel.evaluation.data_files import SPLITS
from raysel.evaluation.suites.expand import suites
from raysel.evaluation.task_files import find_tasks

STORY = {f"input_sentence_{n}": f"Sentence {n}." for n in range(1, 5)}
LETTERS = {f"option_{letter}": f"choice {letter}" for letter in "abcd"}
MKQA_LANGS = ("en", "ar", "de", "ja", "ko", "pt", "ru", "tr", "vi", "zh_cn")


def row_of(dataset: str, split: str, n: int) -> dict[str, Any]:
    """Item n of a split; the fields that the hub copies have, as far as a task reads them."""
    if dataset == "mgsm":
        worked = split == "train"
        return {
            "question": f"{'Question: ' if worked else ''}What is {n} + 1?",
            "answer": f"Step-by-Step Answer: It is {n + 1}. The answer is {n + 1}." if worked else None,
            "answer_number": n + 1,
            "equation_solution": None,
        }
    rows: dict[str, dict[str, Any]] = {
        "xnli": {"premise": f"It rains {n}.", "hypothesis": "It is wet.", "label": n % 3},
        "xstorycloze": {
            "story_id": f"s{n}",
            **STORY,
            "sentence_quiz1": "It ended well.",
            "sentence_quiz2": "It ended badly.",
            "answer_right_ending": 1 + n % 2,
        },
        "mmmlu": {"sample_id": f"law/{split}/{n}", "question": f" What is {n}? ", **LETTERS, "answer": "ABCD"[n % 4]},
        "xquad": {
            "id": f"q{n}",
            "context": f"The river is {n} miles long.",
            "question": "How long is it?",
            "answers": {"text": [f"{n} miles"], "answer_start": [13]},
        },
        "mkqa": {
            "example_id": n,
            "query": "who",
            "queries": dict.fromkeys(MKQA_LANGS, f"who is number {n}"),
            "answers": {
                lang: [
                    {"type": "entity", "text": "Ann Lee", "aliases": ["Ann", f"A. Lee {n}"]},
                    {"type": "entity", "text": "Bo", "aliases": None},
                ]
                for lang in MKQA_LANGS
            },
        },
        "xlsum": {"id": f"x{n}", "title": "News", "text": f"It rained {n} days.", "summary": "It rained."},
        "dolly": {"source_id": n, "inputs": f"Name {n} rivers.", "targets": "The Nile."},
        "pawsx": {"id": n, "sentence1": f"It was ( {n} ) red .", "sentence2": "Red it was n't .", "label": n % 2},
        "xcopa": {
            "premise": f"Rain fell for {n} days.",
            "choice1": "It was wet.",
            "choice2": "It was dry.",
            "question": "effect" if n % 2 else "cause",
            "label": 0,
            "idx": n,
        },
        "xwinograd": {
            "sentence": f"Dogs bit {n} cats because _ were angry.",
            "option1": "dogs",
            "option2": "cats",
            "answer": "1",
        },
        "flores": {"id": n, "sentence": f"We have {n} four-month-old mice."},
        "massive": {
            "id": str(n),
            "intent": "alarm_set",
            "utt": f"wake me at {n}",
            "annot_utt": f"wake me at [time : {n}]",
        },
    }
    return rows[dataset]


def write_suite_data(root: Path, suite: str, items: int, langs: set[str] | None = None) -> Path:
    """The files that `suite` reads below `root`, `items` rows in each, for all its languages or some."""
    for name, (_, config) in find_tasks(suites()[suite]).items():
        if langs is not None and name.rpartition("_")[2] not in langs:
            continue
        folder = config["data"]["folder"]
        (root / folder).mkdir(parents=True, exist_ok=True)
        for split in {config[key] for key in SPLITS if config.get(key)}:
            lines = "".join(json.dumps(row_of(folder, split, n)) + "\n" for n in range(max(items, 8)))
            if split != "train":
                lines = "".join(lines.splitlines(keepends=True)[:items])
            for stem in config["data"]["files"]:
                (root / folder / f"{stem}.{split}.jsonl").write_text(lines, encoding="utf-8")
    return root
