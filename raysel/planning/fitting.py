"""Whether training fits on given machines, and which single change makes it fit where it does not."""

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from raysel.disk import readable
from raysel.embedding.placement import USABLE_SHARE
from raysel.errors import UserError
from raysel.models.shape import Shape
from raysel.planning.memory import Memory, training_memory
from raysel.training.settings import TrainingSettings

MOST_NODES = 1024
LEAST_TOKENS = 512


class FitError(UserError):
    """Training that the machines cannot hold."""


@dataclass(frozen=True)
class Machines:
    """Nodes of equal GPUs. gpu_memory_gb: of each GPU, in GB (1e9 bytes)."""

    nodes: int
    gpus_per_node: int
    gpu_memory_gb: float

    @property
    def usable_bytes(self) -> int:
        """Of one GPU, less what the allocator's gaps take."""
        return int(USABLE_SHARE * self.gpu_memory_gb * 1e9)


def workers_on(machines: Machines, settings: TrainingSettings) -> int:
    return settings.workers or machines.nodes * machines.gpus_per_node


def fitted(shape: Shape, settings: TrainingSettings, machines: Machines) -> Memory:
    """What each worker holds. `FitError`, with the smallest change that is enough, where a GPU holds less."""
    workers = workers_on(machines, settings)
    memory = training_memory(shape, settings, workers=workers)
    if memory.device_bytes <= machines.usable_bytes:
        return memory
    raise FitError(
        f"training does not fit: each of {workers} GPUs needs {readable(memory.device_bytes)} ({memory.explained()}), "
        f"and of {machines.gpu_memory_gb:g} GB (cluster.gpu_memory_gb) {readable(machines.usable_bytes)} can be used; "
        f"{_change(shape, settings, machines)}"
    )


def _change(shape: Shape, settings: TrainingSettings, machines: Machines) -> str:
    for update in _changes(settings):
        changed = settings.model_copy(update=update)
        if training_memory(shape, changed, workers=workers_on(machines, changed)).device_bytes <= machines.usable_bytes:
            return f"{_named(update)} is enough"
    if settings.workers is None:

        def holds(nodes: int) -> bool:
            memory = training_memory(shape, settings, workers=nodes * machines.gpus_per_node)
            return memory.device_bytes <= machines.usable_bytes

        nodes = 1 + bisect_left(range(1, MOST_NODES), True, key=holds)  # more never need more
        if nodes < MOST_NODES:
            return f"cluster.nodes={nodes} ({nodes * machines.gpus_per_node} GPUs) is enough"
    return _all_together(shape, settings, machines)


def _changes(settings: TrainingSettings) -> Iterator[dict[str, Any]]:
    """One after another, the least costly first: those that change no result, then adapters."""
    stages = range(settings.zero + 1, 4)
    yield from ({"zero": stage} for stage in stages)
    if not settings.activation_checkpointing:
        yield {"activation_checkpointing": True}
    if settings.offload == "none" and settings.zero:
        yield {"offload": "optimizer"}
    if settings.offload != "all" and settings.zero == 3:
        yield {"offload": "all"}
    tokens = settings.micro_batch_tokens
    # Fewer than one row are never taken at once.
    while tokens >= 2 * max(settings.data.max_tokens, LEAST_TOKENS):
        tokens //= 2
        yield {"micro_batch_tokens": tokens}
    if settings.method == "full":
        yield {"method": "lora"}


def _all_together(shape: Shape, settings: TrainingSettings, machines: Machines) -> str:
    """No single change is enough."""
    update: dict[str, Any] = {"zero": 3, "activation_checkpointing": True, "offload": "all"}
    update["micro_batch_tokens"] = min(settings.micro_batch_tokens, settings.data.max_tokens)
    update = {key: value for key, value in update.items() if getattr(settings, key) != value}
    workers = workers_on(machines, settings)
    least = training_memory(shape, settings.model_copy(update=update), workers=workers).device_bytes
    if least <= machines.usable_bytes:
        return f"no single change is enough, but {_named(update)} together are"
    needed = -(-least // int(USABLE_SHARE * 1e9))
    with_all = f", with {_named(update)} too" if update else ""
    return f"take GPUs of at least {needed} GB{with_all}, or a smaller model"


def _named(update: dict[str, Any]) -> str:
    return ", ".join(f"training.{key}={str(value).lower()}" for key, value in update.items())
