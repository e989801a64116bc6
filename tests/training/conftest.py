"""A process group of one worker in the test process, so that the loop runs here without Ray."""

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from raysel.store import Artifact, Store


def only_worker() -> dict[str, str]:
    """The environment of the only worker of a group."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}


@pytest.fixture(scope="session")
def alone() -> Iterator[None]:
    """This process as the only worker of a group."""
    import torch

    from raysel.training.engine import connect

    given = only_worker()
    before = {name: os.environ.get(name) for name in [*given, "DS_ACCELERATOR"]}
    os.environ.update(given, DS_ACCELERATOR="cpu")
    connect(1.0)
    torch.set_num_threads(1)
    yield
    torch.distributed.destroy_process_group()
    for name, value in before.items():
        if value is None:
            os.environ.pop(name)
        else:
            os.environ[name] = value


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


@pytest.fixture
def learn(alone: None, store: Store, tmp_path: Path) -> Callable[..., Any]:
    """Run the loop in this process: (model, tokens, settings, name) -> Outcome, exported folder."""
    from raysel.models.loading import load_tokenizer
    from raysel.training.loop import Training, train

    def run(
        model: Path,
        tokens: Artifact,
        settings: Any,
        name: str = "m",
        report: Any = lambda metrics: None,
        asked_to_checkpoint: Callable[[], bool] = lambda: False,
        section: str = "training",
    ) -> Any:
        attempt = store.attempt("model", name)
        folder = tmp_path / "export" / attempt.name
        folder.mkdir(parents=True)
        training = Training(attempt, tokens, settings, seed=0, trust_remote_code=False, section=section)
        return train(training, model, load_tokenizer(model), folder, report, asked_to_checkpoint), folder

    return run
