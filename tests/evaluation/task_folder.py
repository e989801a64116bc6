"""Small lm-eval task folders for tests."""

import json
from pathlib import Path
from typing import Any

import yaml

QUESTIONS = {
    "en": ("Question: {{question}}\nAnswer:", "Where do fish live?", ["in water", "in trees", "on the moon"]),
    "sw": ("Swali: {{question}}\nJibu:", "Samaki huishi wapi?", ["majini", "mtini", "mwezini"]),
    "zh": ("问题：{{question}}\n回答：", "鱼住在哪里？", ["水里", "树上", "月亮上"]),
}


def choice_config(lang: str, **changes: Any) -> dict[str, Any]:
    config = {
        "task": f"choice_{lang}",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"validation": f"items/{lang}.dev.jsonl", "test": f"items/{lang}.test.jsonl"}},
        "validation_split": "validation",
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": QUESTIONS[lang][0],
        "doc_to_target": "answer",
        "doc_to_choice": "choices",
        "metric_list": [{"metric": metric, "aggregation": "mean", "higher_is_better": True} for metric in METRICS],
    }
    return config | changes


METRICS = ("acc", "acc_norm")


def write_items(folder: Path, lang: str, n: int = 9) -> None:
    (folder / "items").mkdir(parents=True, exist_ok=True)
    _, question, choices = QUESTIONS[lang]
    for split, offset in (("test", 0), ("dev", 1)):
        rows = [
            {"id": f"{lang}{i}", "question": f"{i}. {question}", "choices": choices, "answer": (i + offset) % 3}
            for i in range(n - 4 * offset)
        ]
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / "items" / f"{lang}.{split}.jsonl").write_text(lines, encoding="utf-8")


def write_task(folder: Path, config: dict[str, Any], name: str | None = None) -> Path:
    file = folder / f"{name or config['task']}.yaml"
    file.write_text(yaml.safe_dump(config, allow_unicode=True), encoding="utf-8")
    return file


def write_choice_tasks(folder: Path, langs: tuple[str, ...] = ("en", "sw", "zh")) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for lang in langs:
        write_items(folder, lang)
        write_task(folder, choice_config(lang))
    return folder
