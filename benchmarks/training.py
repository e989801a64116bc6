"""How fast fine-tuning is.

    python benchmarks/training.py packing --corpus corpus.parquet    # packed rows on Ray and DeepSpeed against padding
    python benchmarks/training.py overhead --corpus corpus.parquet   # Ray's and DeepSpeed's own share, by ZeRO stage
    python benchmarks/training.py engine --corpus corpus.parquet     # DeepSpeed's alone, step by step in one process

Ratios hold within one run, medians over its rounds (`engine`: over the steps); seconds depend on the machine. Start-up
is left out: steps from the third on count. Random weights serve.
"""

import argparse
import json
import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from rich.console import Console
from transformers import AutoModelForCausalLM, LlamaConfig

from raysel.cluster import Cluster
from raysel.models.loading import load_causal_lm, load_tokenizer
from raysel.models.settings import ModelSettings
from raysel.progress import Progress
from raysel.stage import StageRun
from raysel.store import Artifact, Store
from raysel.tables import CORPUS, ORDER
from raysel.training import model_stage
from raysel.training.base_model import train_tokenizer
from raysel.training.batches import collate, groups, read_steps
from raysel.training.engine import connect, start_engine, trainable_model
from raysel.training.examples import IGNORED, instruction_example
from raysel.training.learner import Learner
from raysel.training.loss import token_losses
from raysel.training.settings import TokenSettings, TrainingSettings
from raysel.training.token_shards import even_steps, summarize, write_token_shard

BATCH = 16
WARM = 2
MAX_TOKENS = 512
ROWS_AT_ONCE = 4  # as training.micro_batch_tokens has them by default


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["packing", "overhead", "engine"])
    parser.add_argument("--corpus", type=Path, required=True, help="a Parquet file with lang, prompt and response")
    parser.add_argument("--steps", type=int, default=14)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--width", type=int, default=256, help="of the model, a multiple of 64")
    parser.add_argument("--zero", type=int, nargs="+", default=[0, 1, 2, 3], help="the stages of `overhead`")
    arguments = parser.parse_args()
    with TemporaryDirectory() as folder, Cluster(num_cpus=torch.get_num_threads()) as cluster:
        bench = Bench(Path(folder), cluster, arguments.corpus, arguments.steps, arguments.width)
        if arguments.what == "packing":
            compare_packing(bench, arguments.rounds)
        elif arguments.what == "overhead":
            compare_overhead(bench, arguments.zero, arguments.rounds)
        else:
            compare_engine(bench)


class Bench:
    """A model, real samples in a random order, and the ways to train on them."""

    def __init__(self, folder: Path, cluster: Cluster, corpus: Path, steps: int, width: int) -> None:
        self.folder, self.cluster, self.runs = folder, cluster, 0
        self.store = Store(str(folder / "store"))
        table = pq.read_table(corpus, columns=["lang", "prompt", "response"])
        chosen = np.random.default_rng(0).choice(table.num_rows, steps * BATCH, replace=False)
        self.samples = table.take(chosen).to_pylist()
        texts = table.take(np.random.default_rng(1).choice(table.num_rows, 4000, replace=False))
        self.model = folder / "model"
        train_tokenizer(texts["prompt"].to_pylist() + texts["response"].to_pylist(), 4096, 2048).save_pretrained(
            self.model
        )
        torch.manual_seed(0)
        # At width 256 the shape of the small base models that raysel makes.
        AutoModelForCausalLM.from_config(
            LlamaConfig(
                vocab_size=4096,
                hidden_size=width,
                intermediate_size=width * 85 // 32,
                num_hidden_layers=4,
                num_attention_heads=width // 64,
                num_key_value_heads=width // 64,
                max_position_embeddings=2048,
                tie_word_embeddings=True,
            )
        ).save_pretrained(self.model)

    def tokens(self, *, packing: bool) -> Artifact:
        rows = [
            dict.fromkeys(CORPUS.names) | sample | {"id": str(i), "lang_raw": "", "source": "", "script": ""}
            for i, sample in enumerate(self.samples)
        ]
        order = [{"id": row["id"], "position": i, "lang": row["lang"]} for i, row in enumerate(rows)]
        made = {}
        for name, schema, content in (("corpus", CORPUS, rows), ("order", ORDER, order)):
            attempt = self.store.attempt(name, "benchmark")
            record = attempt.write_table(name, 0, pa.Table.from_pylist(content, schema=schema))
            made[name] = attempt.publish([record], settings={}, inputs={}, version=1, summary={})
        data = TokenSettings(max_tokens=MAX_TOKENS, batch_samples=BATCH, packing=packing)
        attempt, starts = self.store.attempt("tokens", f"packing-{packing}"), even_steps(len(rows), data)
        steps = len(starts) - 1
        plan, tokenizer = {"steps_per_shard": steps}, load_tokenizer(self.model)
        records = [
            write_token_shard(attempt, plan, 0, starts, made["order"], made["corpus"], tokenizer, data, packing=packing)
        ]
        summary = summarize(records, steps, data) | {"template": "auto"}
        return attempt.publish(records, settings={}, inputs={}, version=1, summary=summary)

    def stage(self, tokens: Artifact, zero: int, workers: int) -> float:
        """Seconds of the counted steps in the stage `model`, on Ray and DeepSpeed."""
        self.runs += 1
        settings = TrainingSettings(
            data=TokenSettings(max_tokens=MAX_TOKENS, batch_samples=BATCH),
            method="full",
            zero=zero,
            workers=workers,
            checkpoint_steps=10_000,
        )
        attempt = self.store.attempt("model", f"run-{self.runs}")
        named = ModelSettings(path=str(self.model))
        given = {"training": settings, "seed": 0, "trust_remote_code": False, "model": named}
        progress = Progress(Console(quiet=True), "model")
        run = StageRun(given, {"tokens": tokens}, {"model": str(self.model)}, attempt, self.cluster, progress)
        output = model_stage.run(run)
        log = output.records[-1]
        lines = self.store.read_bytes(f"{attempt.address}/{log.path}").decode().splitlines()
        return sum(line["tokens"] / line["tokens_per_second"] for line in map(json.loads, lines[WARM:]))

    def padded(self) -> float:
        """Seconds of the counted steps in a plain PyTorch loop: batches padded to the longest, the model's own loss."""
        tokenizer = load_tokenizer(self.model)
        examples = [instruction_example(tokenizer, s["prompt"], s["response"], MAX_TOKENS) for s in self.samples]

        def padded(arrays: list[np.ndarray], value: int) -> torch.Tensor:
            rows = [torch.from_numpy(array).long() for array in arrays]
            return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=value)

        def steps(model: Any) -> Iterator[Iterable[torch.Tensor]]:
            for start in range(0, len(examples), BATCH):
                chosen = examples[start : start + BATCH]
                ids = padded([e.input_ids for e in chosen], 0)
                mask = padded([np.ones(len(e.input_ids)) for e in chosen], 0)
                labels = padded([e.labels for e in chosen], IGNORED)
                yield [model(input_ids=ids, attention_mask=mask, labels=labels).loss]

        return self._plain(steps)

    def same_rows(self, tokens: Artifact) -> float:
        """Seconds of the counted steps in a plain PyTorch loop over the same rows with the same loss."""
        cpu = torch.device("cpu")

        def steps(model: Any) -> Iterator[Iterable[torch.Tensor]]:
            for step in read_steps(tokens, 0):
                batches = (collate(rows, step.positions, cpu) for rows in groups(step.rows, ROWS_AT_ONCE))
                yield (token_losses(model, batch)[0].sum() / step.trained_tokens for batch in batches)

        return self._plain(steps)

    def _plain(self, steps: Callable[[Any], Iterator[Iterable[torch.Tensor]]]) -> float:
        model = load_causal_lm(self.model, dtype="float32").train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=2e-4)
        seconds, started = 0.0, time.perf_counter()
        for number, losses in enumerate(steps(model)):
            for loss in losses:
                loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            now = time.perf_counter()
            seconds += (now - started) * (number >= WARM)
            started = now
        return seconds


def compare_packing(bench: Bench, rounds: int) -> None:
    tokens = bench.tokens(packing=True)
    print(f"{len(bench.samples)} samples, batches of {BATCH}, row fill {tokens.summary['row_fill']:.2f}")
    ways: dict[str, Callable[[], float]] = {
        "padded, plain PyTorch": bench.padded,
        "packed, 1 worker": lambda: bench.stage(tokens, 2, 1),
        "packed, 2 workers": lambda: bench.stage(tokens, 2, 2),
    }
    show(ways, rounds)


def compare_overhead(bench: Bench, stages: Sequence[int], rounds: int) -> None:
    """Each run on Ray and DeepSpeed between two plain ones: the speed of a machine changes within minutes."""
    tokens = bench.tokens(packing=True)
    print("| ZeRO | s | plain PyTorch, same rows, s | times as fast |\n| --- | --- | --- | --- |")
    for zero in stages:
        plain, seconds = [bench.same_rows(tokens)], []
        for _ in range(rounds):
            seconds.append(bench.stage(tokens, zero, 1))
            plain.append(bench.same_rows(tokens))
        ratios = [(a + b) / 2 / own for (a, b), own in zip(pairwise(plain), seconds, strict=True)]
        print(f"| {zero} | {median(seconds):.2f} | {median(plain):.2f} | {median(ratios):.2f} |", flush=True)


def compare_engine(bench: Bench) -> None:
    """A plain step and one of the engine on the same rows, in turn: what disturbs the machine disturbs both."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    group = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ.update(group, DS_ACCELERATOR="cpu")
    connect(5.0)
    tokens, cpu = bench.tokens(packing=True), torch.device("cpu")
    print("| ZeRO | engine, ms a step | plain PyTorch, ms a step | times as fast |\n| --- | --- | --- | --- |")
    for zero in (0, 1, 2, 3):
        settings = TrainingSettings(
            data=TokenSettings(max_tokens=MAX_TOKENS, batch_samples=BATCH), method="full", zero=zero
        )
        plain = load_causal_lm(bench.model, dtype="float32").train()
        optimizer = torch.optim.AdamW(plain.parameters(), lr=2e-4)
        times: list[tuple[float, float]] = []
        with trainable_model(bench.model, settings, seed=0, trust_remote_code=False) as model:
            learner = Learner(
                start_engine(model, settings),
                settings,
                seed=0,
                steps=tokens.summary["steps"],
                rows_at_once=ROWS_AT_ONCE,
                heldout=None,
                skipped=0,
                asked_to_checkpoint=lambda: False,
            )
            for step in read_steps(tokens, 0):
                started = time.perf_counter()
                for rows in groups(step.rows, ROWS_AT_ONCE):
                    batch = collate(rows, step.positions, cpu)
                    (token_losses(plain, batch)[0].sum() / step.trained_tokens).backward()
                torch.nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad()
                between = time.perf_counter()
                learner.learn(step)
                times.append((between - started, time.perf_counter() - between))
            learner.engine.destroy()
        counted = times[WARM:]
        without, own = (1000 * median(column) for column in zip(*counted, strict=True))
        print(f"| {zero} | {own:.0f} | {without:.0f} | {median(a / b for a, b in counted):.2f} |", flush=True)


def show(ways: dict[str, Callable[[], float]], rounds: int) -> None:
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            seconds[name].append(way())
    first: Sequence[float] = next(iter(seconds.values()))
    print("| way | s | times as fast as the first |\n| --- | --- | --- |")
    for name, own in seconds.items():
        ratio = median(a / b for a, b in zip(first, own, strict=True))
        print(f"| {name} | {median(own):.2f} | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main()
