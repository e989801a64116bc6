"""Whether training fits on given machines, and the fewest changes that make it fit where it does not."""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations, product
from math import inf
from typing import Any

from pydantic import ValidationError

from raysel.disk import readable
from raysel.embedding.placement import USABLE_SHARE
from raysel.errors import UserError
from raysel.models.shape import Shape
from raysel.planning.memory import Memory, gradient_memory, training_memory
from raysel.training.settings import AUTO, TrainingSettings

MOST_NODES = 1024
LEAST_TOKENS = 512


class FitError(UserError):
    """What the machines cannot hold."""


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


@dataclass(frozen=True)
class Asked:
    """What is to fit. name: in messages. changeable: fields of the settings that may spare memory, the least costly
    first, each with its name in the experiment file. needs: what each worker holds, by shape, settings and workers."""

    name: str
    changeable: Mapping[str, str]
    needs: Callable[[Shape, TrainingSettings, int], Memory]


def _of_training(shape: Shape, settings: TrainingSettings, workers: int) -> Memory:
    return training_memory(shape, settings, workers=workers)


# First what changes no result, then adapters.
TRAINING = Asked(
    "training",
    {key: f"training.{key}" for key in ("zero", "activation_checkpointing", "offload", "micro_batch_tokens", "method")},
    _of_training,
)
DTYPE = {"dtype": "selection.less.warmup.dtype"}
WARMUP = Asked(
    "the warm-up of LESS (selection.less.warmup)",
    {"micro_batch_tokens": "training.micro_batch_tokens"} | DTYPE,
    _of_training,
)
GRADIENTS = Asked(
    "the model whose gradients LESS takes (selection.less.warmup)",
    DTYPE,
    lambda shape, settings, _workers: gradient_memory(shape, settings),
)


def workers_on(machines: Machines, settings: TrainingSettings) -> int:
    return settings.workers or machines.nodes * machines.gpus_per_node


def fitted(shape: Shape, settings: TrainingSettings, machines: Machines, asked: Asked = TRAINING) -> Memory:
    """What each worker holds. `FitError`, with the fewest changes that are enough, where a GPU holds less, and where
    there are fewer GPUs than workers."""
    workers, gpus = workers_on(machines, settings), machines.nodes * machines.gpus_per_node
    if workers > gpus:
        raise FitError(
            f"training.workers {workers}: there are {gpus} GPUs (cluster.nodes {machines.nodes} x "
            f"cluster.gpus_per_node {machines.gpus_per_node}), one for a worker; lower it, or leave it out"
        )
    memory = asked.needs(shape, settings, workers)
    if memory.device_bytes <= machines.usable_bytes:
        return memory
    raise FitError(
        f"{asked.name} does not fit: each of {workers} GPUs needs {readable(memory.device_bytes)} "
        f"({memory.explained()}), and of {machines.gpu_memory_gb:g} GB (cluster.gpu_memory_gb) "
        f"{readable(machines.usable_bytes)} can be used; {smallest_change(shape, settings, machines, asked)}"
    )


def smallest_change(
    shape: Shape,
    settings: TrainingSettings,
    machines: Machines,
    asked: Asked,
    larger: str = "take GPUs of at least {} GB",
    *,
    is_known: bool = True,
) -> str:
    """The fewest changes that are enough, as what to set; where none are, what machines to take (`larger`).

    is_known: whether what `machines` hold is what there is, and no guess.
    """
    workers = workers_on(machines, settings)
    least, of_least = inf, ""
    for changes in range(len(asked.changeable) + 1):
        for update, changed in _variants(settings, asked.changeable, changes):
            memory = asked.needs(shape, changed, workers)
            named = _named(update, asked.changeable, memory, min(workers, machines.gpus_per_node))
            if memory.device_bytes <= machines.usable_bytes:
                if not is_known:
                    return f"{named} may be enough"
                return f"{named} is enough" if changes == 1 else f"no single change is enough, but {named} together are"
            if (needed := -(-memory.device_bytes // int(USABLE_SHARE * 1e9))) < least:
                least, of_least = needed, f", with {named} too" if named else ""
        if changes == 1 and (nodes := _nodes(shape, settings, machines, asked)) is not None:
            return f"cluster.nodes={nodes} ({nodes * machines.gpus_per_node} GPUs) is enough"
    return f"{larger.format(least)}{of_least}, or a smaller model"


def _nodes(shape: Shape, settings: TrainingSettings, machines: Machines, asked: Asked) -> int | None:
    """The fewest that are enough; None where the workers are given, or none are."""
    if settings.workers is not None:
        return None

    def holds(nodes: int) -> bool:
        memory = asked.needs(shape, settings, nodes * machines.gpus_per_node)
        return memory.device_bytes <= machines.usable_bytes

    nodes = 1 + bisect_left(range(1, MOST_NODES), True, key=holds)  # more never need more
    return nodes if nodes < MOST_NODES else None


def _variants(
    settings: TrainingSettings, changeable: Mapping[str, str], changes: int
) -> Iterator[tuple[dict[str, Any], TrainingSettings]]:
    """The settings with so many changes, one after another; those that are no valid settings are left out."""
    for keys in sorted(combinations(changeable, changes), key=lambda keys: "method" in keys):
        for values in product(*(_values(settings, key) for key in keys)):
            update = dict(zip(keys, values, strict=True))
            try:
                yield update, TrainingSettings.model_validate(settings.model_dump() | update)
            except ValidationError:  # training.deepspeed or another setting says otherwise
                continue


def _values(settings: TrainingSettings, key: str) -> list[Any]:
    """What spares memory in place of what is set, the least costly first."""
    now = getattr(settings, key)
    if now == AUTO:  # as little as can be
        return []
    if key == "micro_batch_tokens":
        # Fewer than one row are never taken at once.
        least, halves = max(settings.data.max_tokens, LEAST_TOKENS), [now]
        while halves[-1] >= 2 * least:
            halves.append(halves[-1] // 2)
        return halves[1:]
    orders: dict[str, list[Any]] = {
        "zero": [0, 1, 2, 3],
        "activation_checkpointing": [False, True],
        "offload": ["none", "optimizer", "all"],
        "method": ["full", "lora"],
        "dtype": ["float32", "bfloat16"],
    }
    order = orders[key]
    return order[order.index(now) + 1 :]


def _named(update: dict[str, Any], names: Mapping[str, str], memory: Memory, workers_here: int) -> str:
    """workers_here: on a node."""
    host = f" (which takes {readable(memory.host * workers_here)} of memory on each node)"
    return ", ".join(
        f"{names[key]}={str(value).lower()}{host if key == 'offload' else ''}" for key, value in update.items()
    )
