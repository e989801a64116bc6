"""Speed, memory and accuracy of the silhouette scores. Needs torch, NumPy and scikit-learn; Ray only for `workers`.

    python benchmarks/separability.py table       against scikit-learn and the machine's own matrix product
    python benchmarks/separability.py growth      time over N, d and K, as a figure
    python benchmarks/separability.py precision   error and top-rho overlap of each precision against float64
    python benchmarks/separability.py workers     two workers of one core against one worker of two, on a local Ray
    python benchmarks/separability.py gpu         the paper's 97,696 x 4,096 on a CUDA device, each precision

Every time is the median of `--repeats` runs; ratios are within one process, so they hold on a machine of any speed.
"""

import argparse
import json
import multiprocessing
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from raysel.separability.silhouette import silhouette_samples

CLUSTERS = 31
SHAPES = [(12_000, 1_024), (12_000, 4_096), (57_261, 256)]
PAPER = (97_696, 4_096)
# precision -> (the product whose rate bounds it, how many such products it takes)
PRECISIONS = {"float32": ("float32", 1), "tf32x3": ("tf32", 3), "bf16x3": ("bfloat16", 3), "tf32": ("tf32", 1)}


def clustered(rows: int, width: int, clusters: int = CLUSTERS, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """float32 (rows, width) around `clusters` centres, away from the origin as hidden states are, and their labels."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(clusters, size=rows)
    centres = 0.5 * rng.standard_normal(size=(clusters, width), dtype=np.float32)
    centres += 3 * rng.standard_normal(size=width, dtype=np.float32)
    X = rng.standard_normal(size=(rows, width), dtype=np.float32)
    for start in range(0, rows, 1024):
        X[start : start + 1024] += centres[labels[start : start + 1024]]
    return X, labels


def read_vectors(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """The vectors and languages of a published `vectors` artifact."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    files = [entry["path"] for entry in json.loads((folder / "manifest.json").read_text())["files"]]
    table = pa.concat_tables([pq.read_table(folder / path, columns=["lang", "vector"]) for path in files])
    flat = np.concatenate([chunk.flatten().to_numpy() for chunk in table["vector"].chunks])
    return flat.reshape(len(table), -1).astype(np.float32), np.array(table["lang"].to_pylist())


def seconds(function: Callable[[], object], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def product_rate(device: str, repeats: int, dtype: torch.dtype = torch.float32, size: int = 4_096) -> float:
    """Floating-point operations per second of a `size`^3 product."""
    A = torch.randn(size, size, device=device).to(dtype)

    def multiply() -> None:
        A @ A
        if device == "cuda":
            torch.cuda.synchronize()

    multiply()
    return 2 * size**3 / seconds(multiply, repeats)


def peak_over_input(shape: tuple[int, int], clusters: int, threads: int) -> float:
    """MiB that scoring takes at most over what a process held before it, in a process of its own (Linux)."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak_over_input, (shape, clusters, threads))


def _peak_over_input(shape: tuple[int, int], clusters: int, threads: int) -> float:
    torch.set_num_threads(threads)
    silhouette_samples(*clustered(2_000, 64))  # what is loaded once for all

    def status(key: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line.split()[1] for line in lines if line.startswith(key)))

    X, labels = clustered(*shape, clusters)
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before = status("VmRSS")
    silhouette_samples(X, labels)
    return (status("VmHWM") - before) / 1024


def table(arguments: argparse.Namespace) -> None:
    from sklearn.metrics import silhouette_samples as sklearn_silhouette

    torch.set_num_threads(arguments.threads)
    print(f"{arguments.threads} threads, torch {torch.__version__}, float32, median of {arguments.repeats}")
    print("N x d, clusters | raysel s | scikit-learn s | ratio | of the product's rate | peak over X, MB | allowed MB")
    for number, shape in enumerate(SHAPES):
        real = arguments.vectors is not None and number == len(SHAPES) - 1
        X, labels = read_vectors(arguments.vectors) if real else clustered(*shape)
        (rows, width), clusters = X.shape, len(np.unique(labels))
        rate = product_rate("cpu", arguments.repeats)
        ours = seconds(lambda X=X, labels=labels: silhouette_samples(X, labels), arguments.repeats)
        theirs = seconds(lambda X=X, labels=labels: sklearn_silhouette(X, labels), arguments.repeats)
        peak, allowed = peak_over_input(X.shape, clusters, arguments.threads), 0.5 * X.nbytes / 2**20 + 200
        print(
            f"{rows:,} x {width:,}, {clusters} | {ours:.2f} | {theirs:.2f} | {theirs / ours:.2f} | "
            f"{rows**2 * width / ours / rate:.2f} | {peak:.0f} | {allowed:.0f}",
            flush=True,
        )


def growth(arguments: argparse.Namespace) -> None:
    from matplotlib.figure import Figure

    torch.set_num_threads(arguments.threads)
    series = [
        (0, "N (d = 256, K = 31)", [(n, 256, 31) for n in (12_500, 25_000, 50_000, 100_000, 200_000)]),
        (1, "d (N = 25,000, K = 31)", [(25_000, d, 31) for d in (64, 256, 1_024, 4_096)]),
        (2, "K (N = 25,000, d = 256)", [(25_000, 256, k) for k in (4, 31, 128, 512)]),
    ]
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    for axes, (varied, name, shapes) in zip(figure.subplots(1, 3), series, strict=True):
        times = []
        for shape in shapes:
            X, labels = clustered(*shape)
            repeats = arguments.repeats if shape[0] < 100_000 else 1
            times.append(seconds(lambda X=X, labels=labels: silhouette_samples(X, labels), repeats))
            print(f"{shape[0]:,} x {shape[1]:,}, {shape[2]} clusters | {times[-1]:.2f} s", flush=True)
        values = [shape[varied] for shape in shapes]
        axes.loglog(values, times, "o-")
        axes.set(xlabel=name, ylabel="seconds", xticks=values, xticklabels=[f"{value:,}" for value in values])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    figure.savefig(arguments.figure)
    print(f"figure: {arguments.figure}")


def precision(arguments: argparse.Namespace) -> None:
    from raysel.separability import preselect

    X, labels = read_vectors(arguments.vectors) if arguments.vectors else clustered(12_000, 1_024)
    exact = silhouette_samples(X.astype(np.float64), labels, device=arguments.device)
    ids, langs = [f"{i:07d}" for i in range(len(X))], [str(label) for label in labels]
    top = set(preselect(ids, langs, exact, rho=0.2))
    print(f"{X.shape[0]:,} x {X.shape[1]:,} on {arguments.device or 'cpu'}, against float64")
    print("precision | largest error | mean error | top 20% kept")
    for name in PRECISIONS:
        scores = silhouette_samples(X, labels, precision=name, device=arguments.device)
        error = np.abs(scores - exact)
        kept = len(top & set(preselect(ids, langs, scores, rho=0.2))) / len(top)
        print(f"{name} | {error.max():.1e} | {error.mean():.1e} | {kept:.4%}", flush=True)


def gpu(arguments: argparse.Namespace) -> None:
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, {PAPER[0]:,} x {PAPER[1]:,}")
    X, labels = clustered(*PAPER)
    rows = torch.from_numpy(X).cuda()
    matmul = torch.backends.cuda.matmul
    rates = {
        "float32": product_rate("cuda", 5, size=8_192),
        "bfloat16": product_rate("cuda", 5, torch.bfloat16, 8_192),
    }
    matmul.fp32_precision = "tf32"
    rates["tf32"] = product_rate("cuda", 5, size=8_192)
    matmul.fp32_precision = "ieee"
    print(", ".join(f"{name} product {rate / 1e12:.0f} TFLOP/s" for name, rate in rates.items()))
    for name, (unit, products) in PRECISIONS.items():
        torch.cuda.reset_peak_memory_stats()
        silhouette_samples(rows, labels, precision=name)
        took = seconds(lambda name=name: silhouette_samples(rows, labels, precision=name), arguments.repeats)
        share = products * PAPER[0] ** 2 * PAPER[1] / took / rates[unit]
        peak = torch.cuda.max_memory_allocated() / 2**30
        print(f"{name} | {took:.3f} s | {share:.2f} of the {unit} product's rate | {peak:.1f} GiB", flush=True)


def workers(arguments: argparse.Namespace) -> None:
    """The stage itself, over Ray: its pairs of blocks by two workers of one core, then by one worker of two."""
    import tempfile

    import pyarrow as pa
    from rich.console import Console

    from raysel.cluster import Cluster
    from raysel.progress import Progress
    from raysel.separability import sums_stage
    from raysel.separability.settings import SeparabilitySettings
    from raysel.stage import StageRun
    from raysel.store import Store
    from raysel.tables import vectors_schema

    X, labels = clustered(*SHAPES[-1])
    rows, width = X.shape
    langs, shard = [f"l{label:02d}" for label in labels], 2_048
    columns = {
        "id": [f"{i:06d}" for i in range(rows)],
        "lang": langs,
        "vector": pa.FixedSizeListArray.from_arrays(pa.array(X.reshape(-1)), width),
        "n_tokens": np.zeros(rows, dtype=np.int32),
        "truncated": np.zeros(rows, dtype=bool),
        "lang_raw": langs,
        "task": pa.nulls(rows, pa.string()),
        "script": ["Latn"] * rows,
    }
    table = pa.table(columns, schema=vectors_schema(width, "float32"))
    print(f"{rows:,} x {width}, {CLUSTERS} clusters, over Ray, median of {arguments.repeats}")
    with tempfile.TemporaryDirectory() as folder, Cluster(num_cpus=2) as cluster:
        store = Store(folder)
        attempt = store.attempt("vectors", "made")
        records = [
            attempt.write_table("vectors", i, table.slice(start, shard))
            for i, start in enumerate(range(0, rows, shard))
        ]
        summary = {"languages": {lang: langs.count(lang) for lang in sorted(set(langs))}, "width": width}
        vectors = attempt.publish(records, settings={}, inputs={}, version=1, summary=summary)

        def sums(cores: int, name: str) -> None:
            settings = {"separability": SeparabilitySettings(cores=cores)}
            progress = Progress(Console(quiet=True), "sums")
            run = StageRun(settings, {"vectors": vectors}, {}, store.attempt("sums", name), cluster, progress)
            sums_stage.run(run)

        sums(1, "warm-up")
        times: dict[int, list[float]] = {1: [], 2: []}
        for number in range(arguments.repeats):
            for cores, taken in times.items():
                start = time.perf_counter()
                sums(cores, f"{number}-{cores}")
                taken.append(time.perf_counter() - start)
        two_workers, one_worker = (statistics.median(times[cores]) for cores in (1, 2))
        print(f"two workers of one core {two_workers:.2f} s, one worker of two cores {one_worker:.2f} s")
        print(f"two workers run at {one_worker / two_workers:.2f} of the speed of one")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = {"table": table, "growth": growth, "precision": precision, "workers": workers, "gpu": gpu}
    parser.add_argument("what", choices=what)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default=None)
    parser.add_argument("--vectors", type=Path, help="the folder of a published `vectors` artifact, for real vectors")
    parser.add_argument("--figure", type=Path, default=Path("separability-growth.svg"))
    arguments = parser.parse_args()
    what[arguments.what](arguments)


if __name__ == "__main__":
    main()
