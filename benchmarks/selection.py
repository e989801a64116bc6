"""How fast the selectors of the second stage are.

    python benchmarks/selection.py dsir --corpus corpus.parquet    # importance weights against the authors' package
    python benchmarks/selection.py kmc                             # k-means over made vectors, 5% of 57,261 rows

`dsir` needs data-selection 1.0.3. Medians over the rounds; both sides run in one process on one core and in turn, so
the ratio holds on a machine of any speed. `kmc` takes one core; where others want it too, its seconds say more.
"""

import argparse
import os
import time
from collections.abc import Callable
from contextlib import redirect_stderr
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow.parquet as pq
from threadpoolctl import threadpool_limits

from raysel.selection import dsir, kmc

TARGET_ROWS = 1_000
VECTORS, CHOSEN = 57_261, 2_863
WIDTHS = [256, 1_024]
LANGUAGES, TOPICS = 52, 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="what", required=True)
    weighing = commands.add_parser("dsir")
    weighing.add_argument("--corpus", type=Path, required=True, help="a Parquet file with prompt and response")
    weighing.add_argument("--rows", type=int, default=10_000)
    weighing.set_defaults(run=compare_dsir)
    clustering = commands.add_parser("kmc")
    clustering.set_defaults(run=time_kmc)
    for command in (weighing, clustering):
        command.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    arguments.run(arguments)


def seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def compare_dsir(arguments: argparse.Namespace) -> None:
    table = pq.read_table(arguments.corpus, columns=["prompt", "response"])
    drawn = np.random.default_rng(0).permutation(table.num_rows)[: arguments.rows + TARGET_ROWS]
    texts = [f"{row['prompt']}\n{row['response']}" for row in table.take(drawn).to_pylist()]
    raw, target = texts[: arguments.rows], texts[arguments.rows :]
    sides: dict[str, Callable[[], np.ndarray]] = {
        "data-selection": lambda: package_weights(raw, target),
        **{
            tokenizer: lambda tokenizer=tokenizer: dsir.log_importance(raw, target, tokenizer=tokenizer)
            for tokenizer in ("wordpunct", "unicode", "characters")
        },
    }
    difference = np.abs(sides["wordpunct"]() - package_weights(raw, target)).max()
    times: dict[str, list[float]] = {name: [] for name in sides}
    with threadpool_limits(1):
        for _ in range(arguments.rounds):
            for name, weigh in sides.items():
                times[name].append(seconds(weigh))
    print(
        f"{len(raw):,} raw and {len(target):,} target texts of {np.mean([*map(len, texts)]):.0f} characters on average"
    )
    print(f"with wordpunct, the largest difference from data-selection's weights is {difference:.1e}")
    print("weights by | s | rows/s on one core | times data-selection's")
    for name, taken in times.items():
        ratios = [package / ours for package, ours in zip(times["data-selection"], taken, strict=True)]
        print(f"{name} | {median(taken):.2f} | {len(raw) / median(taken):,.0f} | {median(ratios):.2f}")


def package_weights(raw: list[str], target: list[str]) -> np.ndarray:
    from data_selection import HashedNgramDSIR

    with TemporaryDirectory() as cache, open(os.devnull, "w") as nowhere, redirect_stderr(nowhere):
        weigher = HashedNgramDSIR(
            ["raw"],
            ["target"],
            cache,
            raw_load_dataset_fn=lambda _: raw,
            raw_parse_example_fn=None,
            target_load_dataset_fn=lambda _: target,
            target_parse_example_fn=None,
            num_proc=1,
        )
        weigher.fit_importance_estimator()
        weigher.compute_importance_weights()
        return np.load(Path(cache) / "log_importance_weights" / "0.npy")


def time_kmc(arguments: argparse.Namespace) -> None:
    print(f"{VECTORS:,} float32 vectors, k = {CHOSEN:,}, medians of {arguments.rounds}")
    print("width | form | s | s of the core")
    for width in WIDTHS:
        vectors = made_vectors(width)
        forms: dict[str, Callable[[], object]] = {
            "closest": lambda vectors=vectors: kmc.select(vectors, CHOSEN, seed=0),
            "by quota": lambda vectors=vectors: kmc.select_by_quota(vectors, CHOSEN, CHOSEN // 10, seed=0),
        }
        for form, choose in forms.items():
            wall, core = [], []
            for _ in range(arguments.rounds):
                start = time.process_time()
                wall.append(seconds(choose))
                core.append(time.process_time() - start)
            print(f"{width:,} | {form} | {median(wall):.1f} | {median(core):.1f}", flush=True)


def made_vectors(width: int) -> np.ndarray:
    """float32 (VECTORS, width): topics within languages, away from the origin as hidden states are."""
    rng = np.random.default_rng(0)

    def normal(rows: int, scale: float) -> np.ndarray:
        return scale * rng.standard_normal(size=(rows, width), dtype=np.float32)

    language, topic = rng.integers(LANGUAGES, size=VECTORS), rng.integers(TOPICS, size=VECTORS)
    vectors = normal(VECTORS, 1)
    vectors += normal(1, 3)
    vectors += normal(LANGUAGES, 1)[language]
    vectors += normal(LANGUAGES * TOPICS, 0.7)[language * TOPICS + topic]
    return vectors


if __name__ == "__main__":
    main()
