"""How fast evaluation is, against a plain lm-eval process with one core.

    python benchmarks/evaluation.py --tasks FOLDER      # of lm-eval task files with local data

The XCOPA test and MGSM with short answers, on a small base model with random weights. Start-up is left out on both
sides: the clock begins when the (first) model is loaded. Ratios hold within one run, medians over its rounds. At the
end every metric of every task is compared.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch
import yaml
from rich.console import Console
from transformers import AutoModelForCausalLM, LlamaConfig

from raysel.cluster import Cluster
from raysel.evaluation import cell_stage, stage
from raysel.evaluation.settings import EvaluationSettings
from raysel.evaluation.tasks import EvalTask, load_tasks
from raysel.progress import Progress
from raysel.stage import StageRun
from raysel.store import Store
from raysel.training.base_model import train_tokenizer

TASKS = ["*xcopa_*", "*mgsm_direct_*"]
BATCH = 16
ANSWER_TOKENS = 16

# One core, lm-eval alone; prints the seconds from the loaded model to the results.
PLAIN = """
import json, sys, time, torch
torch.set_num_threads(1)
from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
model, tasks, limit, batch = json.loads(sys.stdin.read())
lm = HFLM(pretrained=model, dtype="float32", device="cpu", batch_size=batch)
manager = TaskManager(include_defaults=False)
started = time.time()
found = simple_evaluate(model=lm, tasks=tasks, task_manager=manager, limit=limit, bootstrap_iters=0)["results"]
print(json.dumps([time.time() - started, found], default=str))
"""


class TimedWorker(cell_stage.CellWorker):
    """Leaves the time at which its model was loaded."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.store.write_bytes(f"loaded/{time.time()}", b"")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", required=True, help="with the tasks *xcopa_* and *mgsm_direct_*")
    parser.add_argument("--limit", type=int, default=None, help="items of each task (default: all)")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    stage.CellWorker = TimedWorker  # type: ignore[misc]
    with TemporaryDirectory() as folder, Cluster(num_cpus=2) as cluster:
        bench = Bench(Path(folder), cluster, arguments.tasks, arguments.limit)
        ways = {"lm-eval, one core": bench.plain, "one worker": lambda: bench.on_ray(1), "two": lambda: bench.on_ray(2)}
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(arguments.rounds):
            for name, way in ways.items():
                seconds[name].append(way())
                print(f"{name}: {seconds[name][-1]:.1f} s", flush=True)
        first = seconds["lm-eval, one core"]
        print("| way | s | times as fast as lm-eval |\n| --- | --- | --- |")
        for name, own in seconds.items():
            ratio = median(a / b for a, b in zip(first, own, strict=True))
            print(f"| {name} | {median(own):.1f} | {ratio:.2f} |")
        bench.compare()


class Bench:
    """A small model, the tasks, and the ways to score them."""

    def __init__(self, folder: Path, cluster: Cluster, tasks: str, limit: int | None) -> None:
        self.folder, self.cluster, self.limit, self.runs = folder, cluster, limit, 0
        self.store = Store(str(folder / "store"))
        self.tasks = folder / "tasks"
        self.tasks.mkdir()
        chosen = load_tasks(EvaluationSettings(tasks=tasks, include=TASKS))
        for task in chosen:
            if task.config["output_type"] == "generate_until":
                task.config["generation_kwargs"]["max_gen_toks"] = ANSWER_TOKENS
            (self.tasks / f"{task.name}.yaml").write_text(yaml.safe_dump(task.config, sort_keys=False))
        self.configs = [task.config for task in chosen]
        self.model = save_model(folder / "model", chosen)
        self.found: dict[str, dict[str, dict[str, float]]] = {}

    def plain(self) -> float:
        given = json.dumps([str(self.model), self.configs, self.limit, BATCH])
        one_core = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, "-c", PLAIN], input=given, capture_output=True, text=True, check=True, env=one_core
        )
        seconds, self.found["lm-eval, one core"] = json.loads(done.stdout.splitlines()[-1])
        return float(seconds)

    def on_ray(self, workers: int) -> float:
        self.runs += 1
        settings = {
            "evaluation": EvaluationSettings(
                tasks=str(self.tasks), limit=self.limit, batch_size=BATCH, workers=workers
            ),
            "trust_remote_code": False,
            "seed": 0,
            "model_name": "base",
            "identity": f"run {self.runs}",
        }
        store = Store(str(self.folder / f"store-{self.runs}"))
        attempt = store.attempt("results", "benchmark")
        # One thread in each worker, however few there are.
        attempt.plan(lambda: {"batch_size": BATCH, "threads": 1, "gpus": 0}, given={"batch_size": BATCH, "gpus": None})
        progress = Progress(Console(quiet=True), "results")
        records = stage.run(StageRun(settings, {}, {"model": str(self.model)}, attempt, self.cluster, progress)).records
        finished = time.time()
        rows = attempt.unpublished(records).read("results").to_pylist()
        values: dict[str, dict[str, float]] = {}
        for row in rows:
            values.setdefault(row["task"], {})[row["metric"]] = row["value"]
        self.found[f"{workers} workers"] = values
        loaded = min(float(Path(info.path).name) for info in store.list_files("loaded"))
        return finished - loaded

    def compare(self) -> None:
        plain = self.found.pop("lm-eval, one core")
        pairs = [
            (value, plain[task][metric if "," in metric else f"{metric},none"])
            for ours in self.found.values()
            for task, values in ours.items()
            for metric, value in values.items()
            if metric != "right_language"
        ]
        print(f"{len(pairs)} metrics of {len(plain)} tasks, {sum(a == b for a, b in pairs)} equal to lm-eval's")


def save_model(folder: Path, tasks: list[EvalTask]) -> Path:
    """The shape of the small base models that raysel makes by default, with a tokenizer from the tasks' own texts."""
    texts = [Path(file).read_text(encoding="utf-8") for task in tasks for file in task.files if file.endswith(".jsonl")]
    train_tokenizer(texts, 4096, 512).save_pretrained(folder)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(
        LlamaConfig(
            vocab_size=4096,
            hidden_size=128,
            intermediate_size=344,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=512,
            tie_word_embeddings=True,
        )
    ).save_pretrained(folder)
    return folder


if __name__ == "__main__":
    main()
