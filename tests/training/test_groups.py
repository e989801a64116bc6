"""The loop on groups of real processes, without Ray: three workers, and checkpoints that pass between them."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load

from raysel.models.loading import load_causal_lm
from raysel.store import Artifact, ShardRecord, Store
from raysel.training.settings import TokenSettings, TrainingSettings
from tests.training.runs import assert_same_weights, log_of_checkpoint, losses, newest_checkpoint, write_tokens
from tests.training.test_gradient import first_step, reference

WORKER = """
import json, sys
from pathlib import Path
import torch
from raysel.models.loading import load_tokenizer
from raysel.store import Store
from raysel.training.engine import connect
from raysel.training.loop import Training, train
from raysel.training.settings import TrainingSettings
torch.set_num_threads(1)
connect(5.0)
for job in json.loads(sys.stdin.read()):
    store, folder = Store(job["store"]), Path(job["folder"])
    folder.mkdir(parents=True, exist_ok=True)
    settings = TrainingSettings(**job["settings"])
    tokens = store.artifact("tokens", job["tokens"])
    training = Training(store.attempt("model", job["name"]), tokens, settings, seed=0, trust_remote_code=False)
    train(training, Path(job["model"]), load_tokenizer(job["model"]), folder, lambda metrics: None, lambda: False)
"""


def environments(world: int) -> list[dict[str, str]]:
    """Of each process of a group of so many."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "DS_ACCELERATOR": "cpu"}
    return [{**os.environ, **common, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(world)]


def train_in_processes(world: int, jobs: list[dict[str, Any]]) -> None:
    """Run the loop on each of `jobs` in turn, in a group of `world` processes."""
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER],
            env=env,
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        )
        for env in environments(world)
    ]
    try:
        for worker in workers:
            worker.stdin.write(json.dumps(jobs))
            worker.stdin.close()
            worker.stdin = None
        errors = [worker.communicate()[1] for worker in workers]
        # The first to fail is the one whose last words are not about a lost peer.
        assert [worker.returncode for worker in workers] == [0] * world, "\n\n".join(e[-1500:] for e in errors)
    finally:
        for worker in workers:
            worker.kill()


def job(
    store: Store, model: Path, tokens: Artifact, settings: TrainingSettings, name: str, folder: Path
) -> dict[str, Any]:
    return {
        "store": store.uri,
        "model": str(model),
        "tokens": tokens.fingerprint,
        "settings": settings.model_dump(),
        "name": name,
        "folder": str(folder),
    }


def gradient_of(store: Store, name: str) -> dict[str, torch.Tensor]:
    """That of the first step: Adam's first moment then is a tenth of it."""
    whole = newest_checkpoint(store, name)
    assert whole["steps"] == 1
    found = {}
    for part in whole["parts"]:
        state = load(store.attempt("model", name).read_bytes(ShardRecord(**part)))
        found |= {key.partition("/")[2]: value * 10 for key, value in state.items() if key.startswith("exp_avg/")}
    return found


@pytest.mark.slow
@pytest.mark.parametrize("zero", [0, 2, 3])
def test_three_workers_packed_or_not_in_one_or_several_micro_batches_have_one_gradient(
    store: Store, tiny_llama: Path, tmp_path: Path, zero: int
) -> None:
    """The gradient of the mean over all learned tokens, computed sample by sample with the model's own loss."""
    jobs, rows = {}, {}
    for packing in (True, False):
        data = TokenSettings(max_tokens=128, batch_samples=25, packing=packing)
        tokens = write_tokens(store, tiny_llama, 25, data)
        rows[packing] = tokens.rows("tokens")
        for at_once in (1, 100):
            settings = TrainingSettings(
                data=data, zero=zero, method="full", learning_rate=0, clip_norm=None, micro_batch_tokens=at_once * 128
            )
            name = f"{packing}-{at_once}"
            jobs[name] = job(store, tiny_llama, tokens, settings, name, tmp_path / name)
    # One row each time: three workers have 9 micro-batches where nothing is packed, and several where it is.
    assert rows[False] == 25
    assert 3 < rows[True] < 25
    train_in_processes(3, list(jobs.values()))
    expected = reference(load_causal_lm(tiny_llama), first_step(store, tiny_llama, packing=False, samples=25))
    for name in jobs:
        found = gradient_of(store, name)
        assert found.keys() == expected.keys()
        for parameter, value in expected.items():
            torch.testing.assert_close(found[parameter], value, atol=2e-6, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("zero", [2, 3])
def test_what_three_workers_began_one_ends_and_the_other_way_round(
    learn, store: Store, tiny_llama: Path, tmp_path: Path, zero: int
) -> None:
    data = TokenSettings(max_tokens=128, batch_samples=5)
    tokens = write_tokens(store, tiny_llama, 35, data)
    settings = TrainingSettings(data=data, zero=zero, method="full", learning_rate=5e-3, checkpoint_steps=3)
    alone, folder = learn(tiny_llama, tokens, settings, "alone")
    train_in_processes(3, [job(store, tiny_llama, tokens, settings, "three", tmp_path / "three")])
    assert losses(log_of_checkpoint(store, "three")) == pytest.approx(losses(alone.log), abs=1e-5)
    drop_last_checkpoint(store, "three", 7)
    ended, ended_folder = learn(tiny_llama, tokens, settings, "three")
    assert ended.resumed_from == 6
    assert losses(ended.log) == pytest.approx(losses(alone.log), abs=1e-5)
    assert_same_weights(folder, ended_folder, atol=1e-4, rtol=1e-3)
    drop_last_checkpoint(store, "alone", 7)
    train_in_processes(3, [job(store, tiny_llama, tokens, settings, "alone", tmp_path / "carried on")])
    assert losses(log_of_checkpoint(store, "alone")) == pytest.approx(losses(alone.log), abs=1e-5)
    assert_same_weights(folder, tmp_path / "carried on", atol=1e-4, rtol=1e-3)


def drop_last_checkpoint(store: Store, name: str, steps: int) -> None:
    found = list((Path(store.root) / "model" / name).glob(f"*/checkpoint-{steps:08d}/whole.json*"))
    assert len(found) == 2
    for file in found:
        file.unlink()


@pytest.mark.slow
@pytest.mark.parametrize("zero", [3, 2])
def test_two_workers_find_one_number_and_train_as_with_it(
    store: Store, tiny_llama: Path, tmp_path: Path, zero: int
) -> None:
    """Under ZeRO-3 each pass gathers the weights: a worker that tried one more would wait for ever."""
    data = TokenSettings(max_tokens=128, batch_samples=12, packing=False)
    tokens = write_tokens(store, tiny_llama, 24, data)
    settings = TrainingSettings(data=data, zero=zero, method="full", micro_batch_tokens="auto")
    settings = settings.model_copy(update={"activation_checkpointing": "auto"})
    # Of twelve rows each worker has six.
    told = settings.model_copy(update={"micro_batch_tokens": 6 * 128, "activation_checkpointing": False})
    runs = {"found": settings, "told": told}
    train_in_processes(2, [job(store, tiny_llama, tokens, s, n, tmp_path / n) for n, s in runs.items()])
    [kept] = (Path(store.root) / "model" / "found").glob("micro-batch-*.json")
    assert json.loads(kept.read_text()) == {"rows": 6, "checkpointing": False}
    assert losses(log_of_checkpoint(store, "found")) == losses(log_of_checkpoint(store, "told"))
    assert_same_weights(tmp_path / "found", tmp_path / "told", rtol=0, atol=0)
