"""How fast the gradients of LESS are, and what memory they take.

    python benchmarks/less.py speed --corpus corpus.parquet     # against single samples and a dense projection
    python benchmarks/less.py memory --corpus corpus.parquet    # peak of a process with N rows and with 4 N
    python benchmarks/less.py gpu                               # a model of 8B parameters in bfloat16

Ratios hold within one run, medians over its rounds; seconds depend on the machine. Random weights serve. Where others
use the same cores, set OMP_WAIT_POLICY=passive: threads that spin while they wait made a run ten times as slow. `gpu`
needs no corpus: its samples are about as long as real ones.
"""

import argparse
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig

from raysel.selection.less import GradientProjector, adam_direction, normalise
from raysel.selection.projection import WIDTH, BlockSketch
from raysel.training.examples import IGNORED, Example, instruction_example

MAX_TOKENS = 512
RANK, TARGETS = 128, ["q_proj", "k_proj", "v_proj", "o_proj"]
PROJECTED_AT_ONCE = 16  # as LESS does
SIGNS_AT_ONCE = 1 << 26
# Tokens of a prompt with its response in the corpus, under a vocabulary of 4,096: the least, deciles, the most.
DECILES = (16, 36, 48, 66, 85, 103, 124, 146, 173, 225, 512)
PAPER_ROWS, PAPER_SHARE, PAPER_HOURS, CHECKPOINTS = 97_696, 0.2, 8, 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["speed", "memory", "peak", "gpu"])
    parser.add_argument("--corpus", type=Path, help="a Parquet file with prompt and response; all but gpu need it")
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--token-budget", type=int)
    arguments = parser.parse_args()
    if arguments.what == "gpu":
        measure_gpu(arguments.token_budget or 8192, max(arguments.rows, 1024))
        return
    if arguments.corpus is None:
        parser.error(f"{arguments.what} needs --corpus")
    budget = arguments.token_budget or 1024
    if arguments.what == "speed":
        compare_speed(samples(arguments.corpus, arguments.rows), budget, arguments.rounds)
    elif arguments.what == "memory":
        compare_memory(arguments.corpus, max(arguments.rows, 256), budget)
    else:
        measure_peak(samples(arguments.corpus, arguments.rows), budget)


def samples(corpus: Path, rows: int) -> list[Example]:
    """Real samples in random order, through a tokenizer trained on some of the corpus."""
    import pyarrow.parquet as pq

    from raysel.training.base_model import train_tokenizer

    table = pq.read_table(corpus, columns=["prompt", "response"])
    texts = table.take(np.random.default_rng(1).choice(table.num_rows, 4000, replace=False))
    tokenizer = train_tokenizer(texts["prompt"].to_pylist() + texts["response"].to_pylist(), 4096, 2048)
    chosen = table.take(np.random.default_rng(0).choice(table.num_rows, rows, replace=False)).to_pylist()
    return [instruction_example(tokenizer, row["prompt"], row["response"], MAX_TOKENS) for row in chosen]


def model_with_adapters(device: str, dtype: torch.dtype, **shape: int) -> Any:
    """A llama with LoRA adapters in the same numbers as its weights, as training in `dtype` has them."""
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(LlamaConfig(max_position_embeddings=2048, **shape), dtype=dtype)
        config = LoraConfig(task_type="CAUSAL_LM", r=RANK, target_modules=TARGETS)
        model = get_peft_model(model, config, autocast_adapter_dtype=False)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.02)
    return model


def small_model() -> Any:
    """The shape of the small base models that raysel makes, width 256."""
    return model_with_adapters(
        "cpu",
        torch.float32,
        vocab_size=4096,
        hidden_size=256,
        intermediate_size=680,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
    )


def projector_with_moments(model: Any, token_budget: int) -> GradientProjector:
    threads = torch.get_num_threads() if model.device.type == "cpu" else 1
    projector = GradientProjector(model, seed=0, token_budget=token_budget, threads=threads)
    weights = {name: matrix.detach().clone() for name, matrix in projector.gradients.matrices.items()}
    moments = {
        name: (
            torch.randn_like(weight, dtype=torch.float32) * 1e-5,
            torch.rand_like(weight, dtype=torch.float32) * 1e-8,
        )
        for name, weight in weights.items()
    }
    projector.load(weights, moments)
    return projector


def compare_speed(examples: Sequence[Example], token_budget: int, rounds: int) -> None:
    """Each way on the same rows, in turn: the speed of a machine changes within minutes."""
    model = small_model()
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    projector = projector_with_moments(model, token_budget)
    numbers = sum(parameter.numel() for parameter in trained.values())
    tokens = sum(len(example.input_ids) for example in examples)
    print(f"{len(examples)} samples, {tokens:,} tokens, {numbers:,} numbers in {len(trained)} matrices")
    ways = {
        "batches and block sketch": lambda: projector.rows(examples),
        "single samples, block sketch": lambda: one_by_one(model, trained, projector, examples, dense=False),
        "single samples, dense projection": lambda: one_by_one(model, trained, projector, examples, dense=True),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    found = {}
    projector.rows(examples[:8])
    for _ in range(rounds):
        for name, way in ways.items():
            started = time.perf_counter()
            found[name] = way()
            seconds[name].append(time.perf_counter() - started)
    first, *others = ways
    print("| way | samples a second | batches and block sketch, times as fast |\n| --- | --- | --- |")
    for name in (first, *others):
        ratio = median(a / b for a, b in zip(seconds[name], seconds[first], strict=True))
        print(f"| {name} | {len(examples) / median(seconds[name]):.1f} | {ratio:.1f} |")
    apart = np.abs(found[first] - found[others[0]]).max()
    cosines, dense = (found[name].astype(float) @ found[name].astype(float).T for name in (first, others[1]))
    print(f"rows of the first two differ by at most {apart:.1g}; cosines of pairs in the first and the last by "
          f"{np.sqrt(np.square(cosines - dense).mean()):.4f} (root mean square)")  # fmt: skip


def one_by_one(
    model: Any,
    trained: dict[str, torch.nn.Parameter],
    projector: GradientProjector,
    examples: Sequence[Example],
    *,
    dense: bool,
) -> np.ndarray:
    """Plain autograd, batches of one sample; Adam's direction; projected 16 samples at a time."""
    assert projector.moments is not None
    model.requires_grad_(False)
    for parameter in trained.values():
        parameter.requires_grad_(True)
    sketch, rows, waiting = projector.lanes[0].sketch, [], []
    for at, example in enumerate(examples):
        ids, labels = (torch.from_numpy(array).long()[None] for array in (example.input_ids, example.labels))
        loss = model(input_ids=ids, labels=labels, use_cache=False).loss
        gradients = torch.autograd.grad(loss, list(trained.values()))
        directions = [
            adam_direction(gradient, *projector.moments[name]).flatten()
            for name, gradient in zip(trained, gradients, strict=True)
        ]
        waiting.append(torch.cat(directions))
        if len(waiting) < PROJECTED_AT_ONCE and at + 1 < len(examples):
            continue
        directions_BP = torch.stack(waiting)
        projected = dense_projection(directions_BP) if dense else sketched(sketch, directions_BP, trained)
        rows.append(normalise(projected).half().numpy())
        waiting = []
    model.requires_grad_(False)
    return np.concatenate(rows)


def sketched(sketch: BlockSketch, directions_BP: torch.Tensor, trained: dict[str, torch.nn.Parameter]) -> torch.Tensor:
    sizes = [parameter.numel() for parameter in trained.values()]
    for name, part in zip(trained, directions_BP.split(sizes, dim=1), strict=True):
        sketch.add(name, part)
    return sketch.result()


def dense_projection(directions_BP: torch.Tensor) -> torch.Tensor:
    """By a matrix of random signs, P x D, drawn anew in blocks from a seed: whole it would take 8 GiB and more."""
    generator = np.random.default_rng(0)
    step = SIGNS_AT_ONCE // WIDTH
    projected = directions_BP.new_zeros((len(directions_BP), WIDTH))
    for start in range(0, directions_BP.shape[1], step):
        part = directions_BP[:, start : start + step]
        bits = np.frombuffer(generator.bytes(part.shape[1] * WIDTH // 8), dtype=np.uint8)
        signs = torch.from_numpy(np.unpackbits(bits)).view(part.shape[1], WIDTH).float().mul_(2).sub_(1)
        projected.addmm_(part, signs)
    return projected / WIDTH**0.5


def compare_memory(corpus: Path, rows: int, token_budget: int) -> None:
    print("| rows | peak memory before the gradients, MiB | after, MiB |\n| --- | --- | --- |", flush=True)
    for count in (rows, 4 * rows):
        subprocess.run(
            [sys.executable, __file__, "peak", "--corpus", str(corpus), "--rows", str(count),
             "--token-budget", str(token_budget)],
            check=True,
        )  # fmt: skip


def measure_peak(examples: Sequence[Example], token_budget: int) -> None:
    projector = projector_with_moments(small_model(), token_budget)
    before = peak_mib()
    projector.rows(examples)
    print(f"| {len(examples):,} | {before:.0f} | {peak_mib():.0f} |", flush=True)


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure_gpu(token_budget: int, rows: int) -> None:
    """Samples a second under one checkpoint of a model of Llama 3.1's 8B shape, and what that makes of the paper's."""
    model = model_with_adapters(
        "cuda",
        torch.bfloat16,
        vocab_size=128_256,
        hidden_size=4096,
        intermediate_size=14_336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
    )
    projector = projector_with_moments(model, token_budget)
    rng = np.random.default_rng(0)
    lengths = np.interp(rng.random(rows), np.linspace(0, 1, len(DECILES)), DECILES).astype(int)
    examples = []
    for length in lengths:
        ids = rng.integers(0, 128_256, length).astype(np.int32)
        labels = ids.copy()
        labels[: length // 4 * 3] = IGNORED
        examples.append(Example(ids, labels, False))
    projector.rows(sorted(examples, key=lambda example: -len(example.input_ids))[:32])
    torch.cuda.reset_peak_memory_stats()
    started = time.perf_counter()
    projector.rows(examples)
    seconds = time.perf_counter() - started
    rate = rows / seconds
    numbers = sum(matrix.numel() for matrix in projector.gradients.matrices.values())
    print(
        f"{torch.cuda.get_device_name()}: {rows:,} samples, {lengths.sum():,} tokens, {numbers:,} numbers; "
        f"batched: {projector.gradients.batched}; peak {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB"
    )
    print(f"{rate:.1f} samples a second, {lengths.sum() / seconds:,.0f} tokens a second")
    print(f"| samples | one checkpoint, h | {CHECKPOINTS} checkpoints, h | the paper's whole LESS, h |")
    print("| --- | --- | --- | --- |")
    for count, paper in ((PAPER_ROWS, ""), (round(PAPER_ROWS * PAPER_SHARE), PAPER_HOURS)):
        hours = count / rate / 3600
        print(f"| {count:,} | {hours:.2f} | {CHECKPOINTS * hours:.2f} | {paper} |")


if __name__ == "__main__":
    main()
