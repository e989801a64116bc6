"""Corpora, orders and stage runs for the training tests."""

import json
import os
import signal
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import torch
from safetensors.torch import load_file

from raysel.models.loading import decoder_start, load_tokenizer
from raysel.models.settings import ModelSettings
from raysel.progress import Progress
from raysel.stage import StageOutput, StageRun
from raysel.store import Artifact, ShardRecord, Store
from raysel.tables import CORPUS, ORDER
from raysel.training import model_stage
from raysel.training.settings import TokenSettings, TrainingSettings
from raysel.training.token_shards import (
    count_tokens,
    even_steps,
    shard_starts,
    steps_by_tokens,
    summarize,
    write_heldout_shard,
    write_token_shard,
)
from raysel.training.tokenizer_source import read_config
from tests.small_models import TEXTS

WORDS = TEXTS[0].split() + TEXTS[1].split() + TEXTS[2].split()


def write_corpus(
    store: Store,
    rows: int,
    *,
    seed: int = 0,
    words: tuple[int, int] = (3, 20),
    heldout: int = 0,
    history: str | None = None,
) -> Artifact:
    """A published corpus of `rows` short samples in three languages, in two shards, and so many held-out samples.

    `history` comes before half of the samples.
    """
    draw = np.random.default_rng(seed)
    text = lambda: " ".join(draw.choice(WORDS, draw.integers(*words)))  # noqa: E731
    samples = [
        {
            "id": f"s{i:03d}",
            "lang": ("en", "fr", "ru")[i % 3],
            "lang_raw": "x",
            "prompt": text(),
            "response": text(),
            "history": history if i % 4 < 2 else None,
            "task": None,
            "source": "test",
            "group": None,
            "script": "Latn",
        }
        for i in range(rows + heldout)
    ]
    attempt = store.attempt("corpus", f"{rows}-{seed}-{words[1]}-{heldout}")
    table = pa.Table.from_pylist(samples, schema=CORPUS)
    records = [
        attempt.write_table("corpus", 0, table.slice(0, rows // 2)),
        attempt.write_table("corpus", 1, table.slice(rows // 2, rows - rows // 2)),
        *([attempt.write_table("heldout", 0, table.slice(rows))] if heldout else []),
    ]
    return attempt.publish(records, settings={}, inputs={}, version=1, summary={})


def write_order(store: Store, ids: Sequence[str], name: str = "order") -> Artifact:
    rows = [
        {"id": i, "position": at, "lang": "en", "task": ("qa", "chat")[at % 2], "level": at % 3}
        for at, i in enumerate(ids)
    ]
    attempt = store.attempt("order", name)
    record = attempt.write_table("order", 0, pa.Table.from_pylist(rows, schema=ORDER))
    summary = {"rows": len(rows), "epochs": 1, "loss_aware": None, "levels_apart": False}
    return attempt.publish([record], settings={}, inputs={}, version=1, summary=summary)


def write_tokens(store: Store, model: Path, rows: int, data: TokenSettings, **corpus: Any) -> Artifact:
    """Published token rows of a random corpus in a shuffled order, in shards of two steps."""
    made = write_corpus(store, rows, **corpus)
    ids = made.read("corpus", ["id"])["id"].to_pylist()
    shuffled = [ids[i] for i in np.random.default_rng(1).permutation(rows)]
    order = write_order(store, shuffled, f"order-{made.fingerprint}")
    name = f"{made.fingerprint}-{data.max_tokens}-{data.packing}-{data.batch_samples}-{data.batch_tokens}-{data.epochs}"
    attempt, plan, tokenizer = store.attempt("tokens", name), {"steps_per_shard": 2}, load_tokenizer(model)
    starts, start = even_steps(rows, data), decoder_start(read_config(str(model)))
    if data.batch_tokens is not None:
        starts = steps_by_tokens(
            count_tokens(order, made, tokenizer, data, 0, rows, decoder_start=start), data.batch_tokens, data.epochs
        )
    steps = len(starts) - 1
    records = [
        write_token_shard(
            attempt,
            plan,
            i,
            shard_starts(starts, plan, i),
            order,
            made,
            tokenizer,
            data,
            packing=data.packing and start is None,
            decoder_start=start,
        )
        for i in range(-(-steps // 2))
    ]
    summary = summarize(records, steps, data, has_encoder=start is not None)
    summary |= {"template": "auto", "has_encoder": start is not None}
    how = {"packing": data.packing and start is None, "decoder_start": start}
    heldout = write_heldout_shard(attempt, made, load_tokenizer(model), data, **how)
    return attempt.publish(
        [*records, heldout] if heldout else records, settings={}, inputs={}, version=1, summary=summary
    )


def train(
    cluster: Any,
    progress: Progress,
    store: Store,
    model: Path,
    tokens: Artifact,
    settings: TrainingSettings,
    name: str,
) -> tuple[StageOutput, Artifact]:
    """Run stage `model` and publish it."""
    attempt = store.attempt("model", name)
    named = ModelSettings(path=str(model))
    given = {"training": settings, "seed": 0, "trust_remote_code": False, "model": named}
    output = model_stage.run(StageRun(given, {"tokens": tokens}, {"model": str(model)}, attempt, cluster, progress))
    return output, attempt.publish(output.records, settings={}, inputs={}, version=1, summary=output.summary)


def log_of(artifact: Artifact) -> list[dict[str, Any]]:
    [shard] = artifact.shards("log")
    content = artifact.store.read_bytes(f"{artifact.address}/{shard.path}")
    return [json.loads(line) for line in content.decode().splitlines()]


class KilledError(RuntimeError):
    """Stands for the end of the process."""


def killed_after(step: int) -> Callable[[dict[str, Any]], None]:
    """A `report` for the loop that ends it when `step` is done and not yet in a checkpoint."""

    def report(metrics: dict[str, Any]) -> None:
        if metrics["step"] == step:
            raise KilledError

    return report


@contextmanager
def worker_killed_at_a_checkpoint(store: Store, name: str) -> Iterator[list[int]]:
    """kill -9 on one of the two workers that train model `name`, as soon as a whole checkpoint of it is there.

    Gives the ids of the processes that were killed.
    """
    killed: list[int] = []

    def kill_one() -> None:
        while not list((Path(store.root) / "model" / name).glob("*/checkpoint-*/whole.json.done")):
            time.sleep(0.02)
        running = psutil.Process().children(recursive=True)
        workers = [process for process in running if "RayTrainWorker" in " ".join(process.cmdline())]
        assert len(workers) == 2
        os.kill(workers[1].pid, signal.SIGKILL)
        killed.append(workers[1].pid)

    killer = threading.Thread(target=kill_one, daemon=True)
    killer.start()
    yield killed
    killer.join(1)


def losses(log: list[dict]) -> list[float]:
    return [line["loss"] for line in log]


def assert_same_weights(one: Path, two: Path, **tolerance: float) -> None:
    [a], [b] = (list(folder.glob("*.safetensors")) for folder in (one, two))
    first, second = load_file(a), load_file(b)
    assert first.keys() == second.keys()
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, **(tolerance or {"atol": 1e-6, "rtol": 1e-5}))


def plain_losses(model: torch.nn.Module, rows: list[dict], *, by: str = "langs") -> tuple[float, dict[str, float]]:
    """The mean over the learned tokens of all rows and of each group, one sample at a time."""
    sums: dict[str, list[float]] = {}
    for row in rows:
        start = 0
        for group, length in zip(row[by], row["segment_lengths"], strict=True):
            ids, labels = (torch.tensor(row[key][start : start + length])[None] for key in ("input_ids", "labels"))
            learned = int((labels != -100).sum())
            entry = sums.setdefault(str(group), [0.0, 0])
            entry[0] += model(input_ids=ids, labels=labels.long()).loss.item() * learned
            entry[1] += learned
            start += length
    means = {group: loss / count for group, (loss, count) in sums.items()}
    return sum(loss for loss, _ in sums.values()) / sum(count for _, count in sums.values()), means


def event_scalars(folder: Path) -> dict[str, dict[int, float]]:
    """What TensorBoard shows of the event files in `folder`: by name the value at each step.

    A file is a sequence of: length (8 bytes), its checksum (4), a message of that length, its checksum (4).
    """
    from tensorboardX.proto.event_pb2 import Event, SessionLog

    scalars: dict[str, dict[int, float]] = {}
    for file in sorted(folder.iterdir()):
        content, at = file.read_bytes(), 0
        while at < len(content):
            (length,) = struct.unpack("<Q", content[at : at + 8])
            event = Event.FromString(content[at + 12 : at + 12 + length])
            at += length + 16
            if event.session_log.status == SessionLog.START:
                scalars = {name: {s: v for s, v in found.items() if s < event.step} for name, found in scalars.items()}
            for value in event.summary.value:
                scalars.setdefault(value.tag, {})[event.step] = value.simple_value
    return scalars


def newest_checkpoint(store: Store, name: str) -> dict[str, Any]:
    """What `whole.json` says in the newest checkpoint of model `name`."""
    files = (Path(store.root) / "model" / name).glob("*/checkpoint-*/whole.json")
    return json.loads(max(files, key=lambda file: file.parent.name).read_text())


def log_of_checkpoint(store: Store, name: str) -> list[dict[str, Any]]:
    """The log of all steps up to the newest checkpoint."""
    pieces = [ShardRecord(**piece) for piece in newest_checkpoint(store, name)["log"]]
    contents = [store.attempt("model", name).read_bytes(piece) for piece in pieces]
    return [json.loads(line) for content in contents for line in content.splitlines()]
