"""Running out of memory: recognised in whatever form it is raised, and told as one message that says what would help.

torch raises a type of its own on GPUs and a plain RuntimeError on CPUs, numpy and Arrow subclasses of MemoryError, the
operating system an OSError; Ray's memory monitor ends the worker, and its owner gets Ray's own OutOfMemoryError.
"""

import errno
import re
import resource
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import psutil

from raysel.disk import readable
from raysel.errors import UserError

# In RuntimeErrors of torch's CPU allocator, of CUDA's libraries and of NCCL.
SAID = ("DefaultCPUAllocator", "CUBLAS_STATUS_ALLOC_FAILED", "CUDA error: out of memory", "Cuda failure 2 'out of mem")
UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40, "P": 1 << 50}
NUMBER = r"(\d+(?:\.\d+)?)\.? ?([KMGTP]?)i?(?:B|bytes)?"
ASKED = (
    rf"[Tt]ried to allocate {NUMBER}",  # torch, on GPUs and CPUs
    rf"Unable to allocate {NUMBER}",  # numpy
    rf"(?:malloc|realloc|aligned_alloc|mmap) of size {NUMBER}",  # Arrow
)
ON_GPU = rf"GPU (\d+) has a total capacity of {NUMBER} of which {NUMBER} is free"
# Ray's monitor: the node, what was used on it and where it draws the line.
ON_NODE = r"node \(IP: ([^,)]+)"
OVER = r"Memory usage (\d+)B exceeded threshold of (\d+)B"
CGROUPS = (
    ("memory.max", "memory.current", "memory.stat"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, or Ray ended a worker for its memory."""
    if isinstance(error, MemoryError) or any(kind.__name__ == "OutOfMemoryError" for kind in type(error).__mro__):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and any(words in str(error) for words in SAID)


@dataclass(frozen=True)
class Shortage:
    """Of bytes: `asked` for in vain, `free` and `total` of the place; None where that is not known.

    node: the machine's name; gpu: the number of the GPU as the process sees it, None for the machine's memory.
    said: what the error says more (which sample did not fit). killed: a worker was ended, nothing was refused.
    workers: how many of its kind ran at once. batch: what went through the model together, sequences, or in training
    tokens (of whole rows). checkpointing: whether activations were made again in the backward pass. devices: what the
    training ran on.
    """

    asked: int | None
    free: int | None
    total: int | None
    node: str
    gpu: int | None = None
    said: str = ""
    killed: bool = False
    workers: int | None = None
    batch: int | None = None
    checkpointing: bool | None = None
    devices: Literal["gpu", "cpu"] | None = None

    def told(self) -> str:
        """One clause, without what would help."""
        gpu = f"GPU {self.gpu} of node {self.node}" if self.gpu is not None else ""
        room = [
            *([f"{readable(self.free)} free"] if self.free is not None else []),
            *([f"of {readable(self.total)}"] if self.total is not None else []),
        ]
        there = f" ({' '.join(room)})" if room else ""
        if self.killed:
            return f"out of memory: a worker on node {self.node} was killed for its memory{there}"
        tried = f"tried to allocate {readable(self.asked)} " if self.asked is not None else "an allocation failed "
        said = f": {self.said}" if self.said else ""
        return f"out of memory: {tried}on {gpu or f'node {self.node}'}{there}{said}"


class MemoryShortError(UserError):
    """Memory that was not enough. stage: where; help: what would be."""

    def __init__(self, shortage: Shortage, *, stage: str = "", help: str = "") -> None:
        self.shortage = shortage
        where = f"{stage}: " if stage else ""
        super().__init__(f"{where}{shortage.told()}{f'; {help}' if help else ''}")


def shortage_of(error: BaseException) -> Shortage:
    """What `error` says of the shortage, and what is free here now. Call it where the error was raised."""
    own, node = str(error), socket.gethostname()
    # Of a sample that does not fit alone, what refused it is the cause.
    text = f"{own} {error.__cause__ or ''}"
    asked = next((_bytes(found, 1) for pattern in ASKED if (found := re.search(pattern, text))), None)
    said = own if type(error) is MemoryError else ""
    if over := re.search(OVER, text):
        used, line = (int(number) for number in over.groups())
        found = re.search(ON_NODE, text)
        return Shortage(None, max(0, line - used), line, found[1] if found else node, killed=True)
    if on_gpu := re.search(ON_GPU, text):
        free, total = _bytes(on_gpu, 4), _bytes(on_gpu, 2)
        return Shortage(asked, free, total, node, gpu=int(on_gpu[1]), said=said)
    torch: Any = sys.modules.get("torch")
    if torch is not None and "CU" in text.upper() and torch.cuda.is_initialized():
        free, total = torch.cuda.mem_get_info()
        return Shortage(asked, free, total, node, gpu=torch.cuda.current_device(), said=said)
    return Shortage(asked, available_bytes(), psutil.virtual_memory().total, node, said=said)


def _bytes(found: re.Match[str], group: int) -> int:
    return int(float(found[group]) * UNITS[found[group + 1]])


@contextmanager
def told_shortage(**facts: Any) -> Iterator[None]:
    """What runs out of memory in the block raises `MemoryShortError`; facts: fields of the `Shortage`."""
    try:
        yield
    except (MemoryError, RuntimeError, OSError) as error:
        if not is_out_of_memory(error):
            raise
        raise MemoryShortError(replace(shortage_of(error), **facts)) from error


def available_bytes() -> int:
    """What this process can still allocate: of the machine, of its cgroup, of its own limit, the least."""
    machine = psutil.virtual_memory()
    room = [machine.available]
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY:
        room.append(limit - psutil.Process().memory_info().vms)
    for names in CGROUPS:
        with suppress(OSError, ValueError, KeyError):  # "max", or no such controller here
            most, used, stat = ((Path("/sys/fs/cgroup") / name).read_text() for name in names)
            # Files that were read are in the cgroup's use, and are let go when memory is wanted.
            cached = int(dict(line.split() for line in stat.splitlines())["inactive_file"])
            if int(most) < machine.total:
                room.append(int(most) - int(used) + cached)
    return max(0, min(room))


def kernel_kills() -> int | None:
    """How many processes of this machine (of this container) the kernel has ended for their memory; None: not told."""
    for file in ("/sys/fs/cgroup/memory.events", "/proc/vmstat"):
        with suppress(OSError, KeyError):
            return int(dict(line.split() for line in Path(file).read_text().splitlines())["oom_kill"])
    return None
