"""The memory of real training steps, measured in processes that have trained nothing before: what an earlier engine
leaves is given back in the middle of a later measurement."""

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch

from raysel.training.engine import connect, start_engine, trainable_model
from raysel.training.loss import token_losses
from raysel.training.settings import TrainingSettings
from tests.training.conftest import only_worker


def most_bytes(folder: Path, settings: TrainingSettings) -> int:
    """The most that is given out at once in two steps of three micro-batches each, with what was before."""
    context = multiprocessing.get_context("forkserver")
    # Imported once; every measurement is a fork of that.
    context.set_forkserver_preload([__name__, "deepspeed"])
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_most_bytes, folder, settings).result()


def _most_bytes(folder: Path, settings: TrainingSettings) -> int:
    ids = torch.arange(4)[None]
    batch = {"input_ids": ids, "labels": ids, "position_ids": ids}
    os.environ.update(only_worker(), DS_ACCELERATOR="cpu")
    connect(1.0)
    torch.set_num_threads(1)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        with trainable_model(folder, settings, seed=0, trust_remote_code=False) as model:
            if settings.zero != 3:  # safetensors maps the files into memory, past the allocator
                for parameter in model.parameters():
                    if not parameter.requires_grad or settings.method == "full":
                        parameter.data = parameter.data.clone()
            engine = start_engine(model, settings)
        engine.train()
        with torch.profiler.record_function("steps"):
            for _ in range(2):
                for last in (False, False, True):
                    engine.set_gradient_accumulation_boundary(last)
                    losses, _ = token_losses(engine, batch)
                    engine.backward(losses.sum(), scale_wrt_gas=False)
                engine.step()
    events = sorted(profile.profiler.kineto_results.events(), key=lambda event: event.start_ns())
    start = next(event.start_ns() for event in events if event.name() == "steps")
    running = most = 0
    for event in events:
        running += event.nbytes() if event.name() == "[memory]" else 0
        most = max(most, running) if event.start_ns() > start else 0
    return most
