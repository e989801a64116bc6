"""How fast last-token states are extracted.

    python benchmarks/extraction.py encoder --corpus corpus.parquet   # against the usual loops, by size of vocabulary
    python benchmarks/extraction.py pipeline --corpus corpus.parquet  # the stage on Ray against the encoder alone
    python benchmarks/extraction.py memory                            # 10k, 100k and 1M rows through the stage
    python benchmarks/extraction.py gpu [--lengths lengths.npy]       # Llama-3.1-8B's shape on one GPU

Ratios hold within one run; seconds depend on the machine. Random weights serve: speed does not depend on them.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from raysel.embedding.batches import batches_under_budget
from raysel.embedding.encoder import LastTokenEncoder, Tokens

ROWS = 400
REPEATS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["encoder"])
    parser.add_argument("--corpus", type=Path, help="a Parquet file with prompt and response")
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--repeats", type=int, default=REPEATS)
    arguments = parser.parse_args()
    compare_encoders(arguments.corpus, arguments.rows, arguments.repeats)


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


if __name__ == "__main__":
    main()
