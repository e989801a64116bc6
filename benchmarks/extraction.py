"""How fast last-token states are extracted.

    python benchmarks/extraction.py encoder --corpus corpus.parquet   # against the usual loops, by size of vocabulary
    python benchmarks/extraction.py pipeline --corpus corpus.parquet  # the stage on Ray against the encoder alone
    python benchmarks/extraction.py memory                            # 10k, 100k and 1M rows through the stage
    python benchmarks/extraction.py gpu [--lengths lengths.npy]       # Llama-3.1-8B's shape on one GPU

Ratios hold within one run; seconds depend on the machine. Random weights serve: speed does not depend on them.
"""

import argparse
import contextlib
import json
import multiprocessing
import threading
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from transformers import AutoModel, AutoModelForCausalLM, LlamaConfig

from raysel.embedding.batches import batches_under_budget
from raysel.embedding.encoder import LastTokenEncoder, Tokens

REPEATS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["encoder", "pipeline", "memory", "gpu"])
    parser.add_argument("--corpus", type=Path, help="a Parquet file with prompt and response")
    parser.add_argument("--lengths", type=Path, help="gpu: a .npy of tokens per sample, else log-normal, mean 120")
    parser.add_argument("--rows", type=int)
    parser.add_argument("--repeats", type=int, default=REPEATS)
    arguments = parser.parse_args()
    if arguments.what == "encoder":
        compare_encoders(arguments.corpus, arguments.rows or 400, arguments.repeats)
    elif arguments.what == "pipeline":
        compare_pipeline(arguments.corpus, arguments.rows or 6_000)
    elif arguments.what == "memory":
        for rows in (10_000, 100_000, arguments.rows or 1_000_000):
            measure_memory(rows)
    else:
        measure_gpu(arguments.lengths, arguments.rows or 4_000, arguments.repeats)


def compare_encoders(corpus: Path, rows: int, repeats: int) -> None:
    tokenizer, texts = trained_tokenizer(corpus, 4096), sample_of_texts(corpus, rows)
    print(f"{rows} rows of {corpus.name}, {torch.get_num_threads()} threads, medians of {repeats}")
    print("| vocabulary | budget | (a) batch 1 s | (b) by 16 s | ideal s | raysel s | x (a) | x (b) | of ideal |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for vocabulary in (4096, 64_000):
        print(f"| {vocabulary:,} | {compare_on(small_llama(vocabulary), tokenizer, texts, repeats)} |", flush=True)


def compare_on(model: Any, tokenizer: Any, texts: list[str], repeats: int) -> str:
    encoder = LastTokenEncoder(model, tokenizer)
    tokens = encoder.tokenise(texts)
    encoder.token_budget = encoder.measure_token_budget(tokens)
    routes: dict[str, Callable[[], object]] = {
        "a": lambda: one_at_a_time(model, tokens),
        "b": lambda: unsorted_batches(model, tokens),
        "ideal": lambda: ideal_batches(model, tokens, encoder.token_budget),
        "raysel": lambda: encoder.encode(texts),
    }
    seconds: dict[str, list[float]] = {name: [] for name in routes}
    for _ in range(repeats):
        for name, route in routes.items():
            start = time.perf_counter()
            route()
            seconds[name].append(time.perf_counter() - start)
    took = [f"{median(seconds[name]):.2f}" for name in routes]
    times = [median(x / y for x, y in zip(seconds[n], seconds["raysel"], strict=True)) for n in ("a", "b", "ideal")]
    return " | ".join([f"{encoder.token_budget:,}", *took, *(f"{ratio:.2f}" for ratio in times)])


@torch.inference_mode()
def one_at_a_time(model: torch.nn.Module, tokens: Tokens) -> np.ndarray:
    """The reference's way: batch 1, the causal LM, every hidden state."""
    rows = []
    for ids in tokens.ids:
        output = model(torch.from_numpy(ids)[None], output_hidden_states=True)
        rows.append(output.hidden_states[-1][0, -1].numpy())
    return np.stack(rows)


@torch.inference_mode()
def unsorted_batches(model: torch.nn.Module, tokens: Tokens, size: int = 16) -> np.ndarray:
    """The common way: 16 texts in the order given, padded to the longest, the causal LM, every hidden state."""
    rows = []
    for start in range(0, len(tokens.ids), size):
        batch = [torch.from_numpy(ids) for ids in tokens.ids[start : start + size]]
        padded = torch.nn.utils.rnn.pad_sequence(batch, batch_first=True, padding_side="left")
        mask = torch.nn.utils.rnn.pad_sequence(
            [torch.ones_like(ids) for ids in batch], batch_first=True, padding_side="left"
        )
        output = model(padded, attention_mask=mask, output_hidden_states=True)
        rows.append(output.hidden_states[-1][:, -1].numpy())
    return np.concatenate(rows)


@torch.inference_mode()
def ideal_batches(model: torch.nn.Module, tokens: Tokens, budget: int) -> None:
    """As many tokens in batches of the same shape as ours, but without padding: what the base model takes at best."""
    lengths = tokens.lengths
    due = 0.0
    for rows in batches_under_budget(lengths, budget):
        due += int(lengths[rows].sum()) / int(lengths[rows].max())
        whole = int(due)
        due -= whole
        if whole:
            ids = torch.zeros(whole, int(lengths[rows].max()), dtype=torch.long)
            model.model(input_ids=ids, use_cache=False)


def small_llama(vocabulary: int) -> Any:
    """The shape of the small base models that raysel makes (`model.base`), width 256."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=256,
        intermediate_size=680,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
    )
    return AutoModelForCausalLM.from_config(config).eval()


def sample_of_texts(corpus: Path, rows: int) -> list[str]:
    import pyarrow.parquet as pq

    table = pq.read_table(corpus, columns=["prompt", "response"])
    chosen = np.random.default_rng(0).choice(table.num_rows, rows, replace=False)
    table = table.take(chosen)
    return [f"{p}\n\n{r}" for p, r in zip(table["prompt"].to_pylist(), table["response"].to_pylist(), strict=True)]


def trained_tokenizer(corpus: Path, vocabulary: int) -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocabulary, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(sample_of_texts(corpus, 4000), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def compare_pipeline(corpus: Path, rows: int) -> None:
    """The stage over Ray against `encode` in one process, after start-up: the rate from its first finished shard on."""
    import pyarrow.parquet as pq

    from raysel.models.templates import NAMED_TEMPLATES, sample_text

    with TemporaryDirectory() as folder:
        model, tokenizer = small_llama(4200), trained_tokenizer(corpus, 4096)
        tokenizer.bos_token = tokenizer.eos_token = "<s>"
        tokenizer.chat_template = NAMED_TEMPLATES["plain"]
        for part in (model, tokenizer):
            part.save_pretrained(Path(folder) / "model")
        table = pq.read_table(corpus)
        table = table.take(np.random.default_rng(0).choice(table.num_rows, rows, replace=False))
        pq.write_table(table, Path(folder) / "corpus.parquet")
        vectors, wall = run_vectors(Path(folder), {"path": "corpus.parquet", "heldout": 0})
        found = Path(vectors.store.full(vectors.address)).rglob("*.parquet.done")
        marks = sorted(found, key=lambda mark: mark.stat().st_mtime)
        times = [mark.stat().st_mtime for mark in marks]
        after_first = sum(json.loads(mark.read_text())["rows"] for mark in marks[1:])
        pipeline = after_first / (times[-1] - times[0])
        read = table.select(["prompt", "response"]).to_pylist()
        texts = [sample_text(tokenizer, row["prompt"], row["response"]) for row in read]
        encoder = LastTokenEncoder(model, tokenizer, token_budget=vectors.summary["token_budget"])
        start = time.perf_counter()
        encoder.encode(texts)
        alone = rows / (time.perf_counter() - start)
    print(f"{rows:,} rows: stage {pipeline:,.0f} rows/s after start-up, encoder alone {alone:,.0f} rows/s with ")
    print(f"{torch.get_num_threads()} threads: {pipeline / alone:.2f}; whole stage {wall:.1f} s, ", end="")
    print(f"start-up and end {wall - rows / pipeline:.1f} s")


def write_short_rows(path: Path, rows: int) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    langs = pa.array([("en", "fr", "de", "zh")[i % 4] for i in range(rows)])
    said = pa.array([f"row {i}" for i in range(rows)])
    pq.write_table(pa.table({"lang": langs, "prompt": said, "response": said}), path, row_group_size=10_000)


def measure_memory(rows: int) -> None:
    """Peak resident memory of the driver and of the largest actor, on short synthetic rows and a tiny model."""
    import psutil

    from tests.small_models import save_tiny_llama

    with TemporaryDirectory() as folder:
        save_tiny_llama(Path(folder) / "model", width=16, layers=1)
        # In a process of its own: the driver, which is this one, must not be measured with what it leaves behind.
        writer = multiprocessing.get_context("spawn").Process(
            target=write_short_rows, args=(Path(folder) / "corpus.parquet", rows)
        )
        writer.start()
        writer.join()
        peaks = {"driver": 0, "actor": 0}
        done = threading.Event()

        def watch() -> None:
            me = psutil.Process()
            while not done.wait(0.5):
                for process in [me, *me.children(recursive=True)]:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        kind = "driver" if process == me else "actor" if "MapWorker" in process.name() else ""
                        kind = kind or ("actor" if "MapWorker" in " ".join(process.cmdline()) else "")
                        if kind:
                            info = process.memory_info()
                            peaks[kind] = max(peaks[kind], info.rss - info.shared)

        watcher = threading.Thread(target=watch)
        watcher.start()
        start = time.perf_counter()
        run_vectors(Path(folder), {"path": "corpus.parquet", "heldout": 0}, token_budget=4096)
        done.set()
        watcher.join()
        took = time.perf_counter() - start
    print(
        f"{rows:>9,} rows: driver {peaks['driver'] / 1e6:,.0f} MB, largest actor {peaks['actor'] / 1e6:,.0f} MB at "
        f"most (less shared memory); {took:.0f} s",
        flush=True,
    )


def run_vectors(folder: Path, corpus: dict[str, Any], **embedding: Any) -> tuple[Any, float]:
    """The vectors artifact of `corpus` under the model in `folder`, and the stage's seconds."""
    import yaml

    from raysel.experiment import load_experiment
    from raysel.pipeline import expand
    from raysel.runner import run_experiment
    from raysel.store import Store

    content = {"storage": "out", "corpus": corpus, "model": {"path": "model"}, "embedding": embedding}
    (folder / "benchmark.yaml").write_text(yaml.safe_dump(content))
    experiment = load_experiment(folder / "benchmark.yaml")
    run_experiment(experiment, until="vectors")
    store = Store(experiment.storage)
    step = next(step for step in expand(experiment, store) if step.stage == "vectors")
    artifact = store.artifact(step.stage, step.fingerprint)
    assert artifact is not None
    return artifact, artifact.manifest["wall_seconds"]


def measure_gpu(lengths_file: Path | None, rows: int, repeats: int) -> None:
    """Llama-3.1-8B's shape in bfloat16: samples a second, and the share of the card's own matrix rate."""
    rng = np.random.default_rng(0)
    lengths = np.load(lengths_file) if lengths_file else rng.lognormal(4.55, 0.7, 100_000).astype(int)
    lengths = np.clip(rng.choice(lengths, rows), 1, 1024)
    config = LlamaConfig(
        vocab_size=128_256,
        hidden_size=4096,
        intermediate_size=14_336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
        max_position_embeddings=8192,
        rope_theta=500_000.0,
    )
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        model = AutoModel.from_config(config)
    torch.set_default_dtype(torch.float32)
    tokens = Tokens([rng.integers(0, 128_000, n) for n in lengths], np.zeros(rows, dtype=bool))
    rate = matrix_rate()
    parameters = sum(p.numel() for name, p in model.named_parameters() if "embed" not in name)
    # Two operations a weight and token, and causal attention's two products over half the square.
    needed = 2.0 * parameters * lengths.sum() + 2.0 * 32 * 4096 * (lengths.astype(float) ** 2).sum()
    for packed in (True, False):
        encoder = LastTokenEncoder(model, None, device="cuda", packed=packed)
        encoder.token_budget = encoder.measure_token_budget(tokens)
        seconds = []
        torch.cuda.reset_peak_memory_stats()
        for _ in range(repeats):
            torch.cuda.synchronize()
            start = time.perf_counter()
            encoder.encode_tokens(tokens)
            seconds.append(time.perf_counter() - start)
        took = median(seconds)
        minutes = 97_696 * took / rows / 60
        print(
            f"{torch.cuda.get_device_name()}, {encoder.forward.way}, budget {encoder.token_budget:,}: "
            f"{rows / took:.1f} samples/s of mean length {lengths.mean():.0f}, {lengths.sum() / took:,.0f} tokens/s, "
            f"{needed / took / rate:.1%} of {rate / 1e12:.0f} TFLOP/s; 97,696 samples in {minutes:.1f} min "
            f"(paper: 120 min); peak {torch.cuda.max_memory_allocated() / 1e9:.1f} GB",
            flush=True,
        )


def matrix_rate(size: int = 8192, times: int = 20) -> float:
    """bfloat16 operations a second of a large product."""
    a, b = (torch.randn(size, size, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    for _ in range(3):
        a @ b
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(times):
        a @ b
    torch.cuda.synchronize()
    return 2.0 * size**3 * times / (time.perf_counter() - start)


if __name__ == "__main__":
    main()
